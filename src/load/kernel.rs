//! Kernel and initramfs: from their files straight into guest memory.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;

use brisk_boot::{Protocol, Range, bzimage, elf, format, layout};

use crate::bundle;
use crate::cli::words::os_string;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::inputs::{self, Id};
use crate::load::pieces::{Opened, Pieces, Plan, Source};
use crate::measure::trace::Laps;
use crate::memory::Ram;

/// Enough of a kernel file to know what it is.
const HEAD: usize = if elf::HEAD > bzimage::HEAD { elf::HEAD } else { bzimage::HEAD };
/// Where an initramfs may start.
const PAGE: u64 = 4096;
/// A PT_NOTE segment larger than this is nobody's kernel.
const MAX_NOTES: u64 = 64 << 10;

/// What is in guest memory now.
pub struct Loaded {
    /// The protocol with which to enter the kernel.
    pub protocol: Protocol,
    /// Guest-physical address of its first instruction.
    pub entry: u64,
    /// The end of its memory.
    pub end: u64,
    /// Where the initramfs is.
    pub initramfs: Option<Range>,
    /// The setup header, where the kernel was a bzImage.
    pub setup_header: Option<bzimage::SetupHeader>,
}

/// Loads what `config` names into `ram`.
///
/// # Errors
/// A file that cannot be read, is no kernel, or does not fit.
pub fn load(config: &Config, ram: &mut Ram, pieces: &Pieces, laps: &mut Laps) -> Result<Loaded> {
    let path = &config.kernel;
    let opened = open("--kernel", path, bundle::kernel(config.bundle))?;
    let len = opened.len;
    let source = Arc::new(Source::new(&config.memory, "--kernel", path, opened));
    let mut head = [0; HEAD];
    let have = HEAD.min(len as usize);
    source.read(0, &mut head[..have])?;
    let head = &head[..have];

    let place = match bzimage::is_bzimage(head) {
        true => bzimage,
        false => vmlinux,
    };
    let mut plan = Plan::default();
    let mut loaded = place(config, head, len, source, ram, &mut plan)?;
    if let Some(path) = &config.initramfs {
        // Behind the kernel, where the guest will have pages mapped and huge pages touched anyway.
        let start = loaded.end.next_multiple_of(PAGE);
        loaded.initramfs = Some(add_initramfs(config, path, start, ram, &mut plan)?);
    }
    pieces.publish(plan);
    pieces.work(|name| laps.lap(name))?;
    Ok(loaded)
}

/// Where the segments of an ELF file go.
fn vmlinux(
    config: &Config,
    head: &[u8],
    len: u64,
    source: Arc<Source>,
    ram: &mut Ram,
    plan: &mut Plan,
) -> Result<Loaded> {
    let path = &config.kernel;
    let wrong = |error: elf::Error| not_a_kernel(path, &error);
    let headers = match elf::Headers::read(head, len) {
        Err(elf::Error::NotElf) if let Some(format) = format::recognise(head) => {
            return Err(not_a_kernel(path, &format));
        }
        headers => headers.map_err(wrong)?,
    };
    let programs = headers.programs();
    let mut far = Vec::new();
    let near =
        head.get(programs.start as usize..).and_then(|rest| rest.get(..programs.len as usize));
    let table = match near {
        Some(near) => near,
        None => {
            far.resize(programs.len as usize, 0);
            source.read(programs.start, &mut far)?;
            &far
        }
    };
    let image = headers.image(table).map_err(wrong)?;
    let (protocol, entry) = choose_entry(config, &image, &source)?;
    image.check_entry(entry).map_err(wrong)?;
    elf::check_fits(&image, &brisk_boot::ram(ram.size())).map_err(wrong)?;
    for segment in &image.segments {
        // SAFETY: `check_fits` found no segment to overlap another, or the boot data.
        let to = unsafe { ram.lend(segment.paddr, segment.file_size) };
        plan.add(&source, segment.offset, to.ok_or_else(|| does_not_fit(path))?);
    }
    Ok(Loaded { protocol, entry, end: image.end(), initramfs: None, setup_header: None })
}

/// Where the protected-mode kernel of a bzImage goes, which unpacks itself in the guest. On the lab's
/// stopwatch that took as long as unpacking it here, by the best libraries, within 5 % either way;
/// and the guest's kernel keeps its address random, brisk reads no packed data and is a seventh
/// smaller.
#[cfg(feature = "bzimage")]
fn bzimage(
    config: &Config,
    head: &[u8],
    len: u64,
    source: Arc<Source>,
    ram: &mut Ram,
    plan: &mut Plan,
) -> Result<Loaded> {
    let path = &config.kernel;
    if config.protocol == Some(Protocol::Pvh) {
        return Err(Error::failed(format!(
            "--kernel {path}: a bzImage has no PVH entry; leave --boot-protocol away, or give the \
             vmlinux"
        )));
    }
    let image = bzimage::parse(head, len).map_err(|error| not_a_kernel(path, &error))?;
    image.check_fits(&brisk_boot::ram(ram.size())).map_err(|error| not_a_kernel(path, &error))?;
    // SAFETY: `check_fits` found it to be above the boot data; the initramfs goes behind it.
    let to = unsafe { ram.lend(image.memory.start, image.code.len) };
    plan.add(&source, image.code.start, to.ok_or_else(|| does_not_fit(path))?);
    Ok(Loaded {
        protocol: Protocol::Linux64,
        entry: image.entry,
        end: image.memory.start + image.memory.len,
        initramfs: None,
        setup_header: Some(image.setup_header),
    })
}

/// A bzImage in a build that does not take it.
#[cfg(not(feature = "bzimage"))]
fn bzimage(
    config: &Config,
    _: &[u8],
    _: u64,
    _: Arc<Source>,
    _: &mut Ram,
    _: &mut Plan,
) -> Result<Loaded> {
    Err(Error::usage(format!(
        "--kernel {}: a bzImage, and this brisk was built without the feature `bzimage`; build one \
         with it, or give the vmlinux",
        config.kernel
    )))
}

/// By the kernel's notes: the 64-bit protocol for Linux, which in PVH's looks for Xen at 256 CPUID
/// leaves before it does anything else; PVH for other kernels that have it. What is neither would crash
/// at its first instructions.
fn choose_entry(config: &Config, image: &elf::Image, source: &Source) -> Result<(Protocol, u64)> {
    let refuse = |text| Err(not_a_kernel(&config.kernel, &text));
    let linux64 = Ok((Protocol::Linux64, image.entry));
    if config.protocol == Some(Protocol::Linux64) {
        return if image.is_64 { linux64 } else { refuse("is of 32 bits, which only PVH starts") };
    }
    for notes in &image.notes {
        let mut bytes = vec![0; notes.file.len.min(MAX_NOTES) as usize];
        source.read(notes.file.start, &mut bytes)?;
        let notes = elf::Notes::new(&bytes, notes.align);
        if config.protocol.is_none() && image.is_64 && notes.is_linux() {
            return linux64;
        }
        if let Some(entry) = notes.pvh_entry() {
            return Ok((Protocol::Pvh, entry.into()));
        }
    }
    if config.protocol == Some(Protocol::Pvh) {
        return refuse("has no PVH note (CONFIG_PVH); leave --boot-protocol away");
    }
    match image.is_64 {
        true if image.maps_as_linux => linux64,
        true => refuse(
            "is not Linux, and has no PVH note; if its entry is that of the 64-bit Linux protocol: \
             --boot-protocol linux64",
        ),
        false => refuse("is of 32 bits, and has no PVH note by which it could be started"),
    }
}

fn add_initramfs(
    config: &Config,
    path: &str,
    start: u64,
    ram: &mut Ram,
    plan: &mut Plan,
) -> Result<Range> {
    let opened = open("--initramfs", path, bundle::initramfs(config.bundle))?;
    let (len, size) = (opened.len, ram.size());
    // SAFETY: nothing else is behind the kernel yet.
    let Some(to) = (unsafe { ram.lend(start, len) }) else {
        let room = size.min(layout::HOLE_START).saturating_sub(start);
        return Err(Error::failed(format!(
            "--initramfs {path}: {len} bytes, and {room} are free behind the kernel; give the \
             guest more --memory"
        )));
    };
    let source = Arc::new(Source::new(&config.memory, "--initramfs", path, opened));
    plan.add(&source, 0, to);
    Ok(Range { start, len })
}

/// Opens a regular file that is not empty; without waiting for who writes to a FIFO, which is refused. Or
/// takes its place in brisk's own.
fn open(flag: &'static str, path: &str, part: Option<bundle::Part>) -> Result<Opened> {
    if let Some(part) = part {
        let (file, start, len) = bundle::open(part)?;
        return Ok(Opened { file, start, len, page: 0 });
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(os_string(path));
    let file = file.map_err(Error::file(flag, path))?;
    let meta = file.metadata().map_err(Error::file(flag, path))?;
    let wrong = |text| Err(Error::file(flag, path)(io::Error::other(text)));
    if meta.is_dir() {
        return wrong("is a directory; give a file");
    }
    if !meta.is_file() {
        return wrong("not a regular file; give one");
    }
    if meta.len() == 0 {
        return wrong("is empty");
    }
    inputs::claim(flag, path, Id::of(&meta), false)?;
    Ok(Opened { file, start: 0, len: meta.len(), page: meta.blksize() })
}

/// For what the kernel's parser found.
fn not_a_kernel(path: &str, error: &dyn std::fmt::Display) -> Error {
    Error::failed(format!("--kernel {path}: {error}"))
}

fn does_not_fit(path: &str) -> Error {
    Error::failed(format!("--kernel {path}: does not fit in memory"))
}
