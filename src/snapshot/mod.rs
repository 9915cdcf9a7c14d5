//! A running VM as a directory, and on from there (feature `snapshot`).
//!
//! The directory has `state`, a file of [parts], and `memory`, the guest's RAM with a hole for each
//! page of zeroes, which a clone maps privately: nothing is read before it is needed, and clones share
//! what none of them writes to.

pub mod arguments;
pub mod at;
mod files;
pub mod generation;
mod keeper;
pub mod memory;
pub mod parts;
mod source;
mod working_set;

use std::fs::File;
use std::io;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::config::Config;
use crate::descriptors;
use crate::error::{Error, Result};
use crate::kvm::state::Host;
use crate::kvm::{System, Vcpu, Vm};
use crate::memory::HUGE;
use crate::paused::Paused;
#[cfg(feature = "seccomp")]
use crate::seccomp::rule::Rule;
use at::{At, Came};
use generation::Generation;
use keeper::Keeper;
use memory::{PageMap, Sink};
pub use parts::Wrong;
use parts::{Kind, Writer};
pub use source::{Restored, Source};
use working_set::Recording;

/// `--snapshot`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// The directory that is made.
    pub path: String,
    /// What the guest writes to port 0x80 to be saved; none where only a client says when.
    pub at: Option<u8>,
    /// The guest runs on afterwards.
    pub goes_on: bool,
    /// The command line without what is about this run only, each word ended by a zero byte.
    pub arguments: Vec<u8>,
}

/// What is in its directory.
const FILES: [&str; 2] = ["state", "memory"];

/// What of the machine has to be the same.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
struct Shape {
    ram_size: U64,
    cpus: U32,
    zero: U32,
}

/// What is going to be written when its code comes: a snapshot, a working set.
pub struct Snapshot {
    saves: Option<&'static mut Prepared>,
    records: Option<(&'static Recording, &'static Restored)>,
}

/// What a snapshot that is taken asks of the kernel while the guest runs: pages of memory are looked up
/// and written, and KVM is asked for the state of all that it has.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[Rule] = &[
    Rule::call(libc::SYS_pread64),
    Rule::call(libc::SYS_pwrite64),
    Rule::call(libc::SYS_ftruncate),
    Rule::call(libc::SYS_fsync),
    Rule::call(libc::SYS_fstat),
    // The keeper's answer.
    Rule::call(libc::SYS_read),
    Rule::ioctl(0x8030_ae7c), // KVM_GET_CLOCK
    Rule::ioctl(0x8004_ae98), // KVM_GET_MP_STATE
    Rule::ioctl(0xc008_ae91), // KVM_GET_CPUID2
    Rule::ioctl(0x8090_ae81), // KVM_GET_REGS
    Rule::ioctl(0x8138_ae83), // KVM_GET_SREGS
    Rule::ioctl(0x9000_aea4), // KVM_GET_XSAVE
    Rule::ioctl(0x9000_aecf), // KVM_GET_XSAVE2
    Rule::ioctl(0x8188_aea6), // KVM_GET_XCRS
    Rule::ioctl(0x8080_aea1), // KVM_GET_DEBUGREGS
    Rule::ioctl(0x8400_ae8e), // KVM_GET_LAPIC
    Rule::ioctl(0xc008_ae88), // KVM_GET_MSRS
    Rule::ioctl(0x8040_ae9f), // KVM_GET_VCPU_EVENTS
];

/// Its files are made, so that one that cannot be is known before the guest runs, and none has to be
/// opened by name later.
struct Prepared {
    config: &'static SnapshotConfig,
    host: Option<(&'static Vm, Host)>,
    keeper: Keeper,
    state: File,
    memory: File,
    pages: PageMap,
    /// Of the guest that was restored, what is in its memory file: where it has not touched a page,
    /// that is the page.
    unread: Vec<std::ops::Range<u64>>,
}

/// It is there as long as the process: nobody has to clear it away on the way to an error.
fn leak<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

/// What went wrong beside a guest that runs on.
fn say(error: &Error) {
    descriptors::say(&format!("brisk: {error}; the guest runs on\n"));
}

fn failed(path: &str) -> impl Fn(io::Error) -> Error {
    move |error| Error::file("--snapshot", path)(error)
}

impl Snapshot {
    /// Makes the files in a directory beside the one that is asked for.
    ///
    /// # Errors
    /// It cannot be made, or what is there already is not an empty directory.
    pub fn prepare(config: &'static Config) -> Result<Snapshot> {
        let restored = config.restore.as_ref();
        let mut snapshot = Snapshot { saves: None, records: None };
        if let Some(restored) = restored
            && let Some(code) = restored.record
        {
            let recording = Recording::prepare(&restored.path, code)?;
            snapshot.records = Some((leak(recording), restored));
        }
        if let Some(config) = &config.snapshot {
            snapshot.saves = Some(leak(Prepared::new(config, restored)?));
        }
        Ok(snapshot)
    }

    /// Notes what there is to save on this host.
    ///
    /// # Errors
    /// KVM failed.
    pub fn look_at(&mut self, system: &System, vm: &'static Vm, vcpu: &Vcpu) -> Result<()> {
        if let Some(prepared) = &mut self.saves {
            let (msrs, xsave_len) = (system.msr_list()?, vm.xsave_len());
            let supported = system.supported_cpuid()?;
            let host = Host { msrs, supported, xsave_len, tsc_khz: vcpu.tsc_khz() };
            prepared.host = Some((vm, host));
        }
        Ok(())
    }

    /// What tells the clones of this machine apart: none where it has no ACPI to tell, or none are to be;
    /// `gsi` is an interrupt that is free.
    pub fn generation(&self, source: &Source, acpi: bool, gsi: u32) -> Generation {
        match source.parts() {
            Some(parts) => Generation::saved(parts),
            None => Generation::new((acpi && self.saves.is_some()).then_some(gsi)),
        }
    }

    /// The codes that the guest writes for it.
    pub fn at(&self) -> At {
        let saves = self.saves.as_ref().and_then(|prepared| prepared.config.at);
        let records = self.records.as_ref().map(|(recording, _)| recording.code);
        At { saves, records, came: Came::default(), written: false }
    }

    /// Writes what the code is for, of a machine that stands still. True where the VM ends with that: it
    /// never goes on.
    ///
    /// # Errors
    /// KVM failed, or there is no room; then nothing stays. A guest that was to run on does.
    pub fn take(&self, mut paused: Paused<'_>) -> Result<bool> {
        let came = std::mem::take(&mut paused.bus().snapshot_at.came);
        if let (true, Some((recording, restored))) = (came.records, &self.records) {
            let written = recording.write(paused.memory, restored.file, &restored.memory);
            written.unwrap_or_else(|error| say(&error));
        }
        let (true, Some(prepared)) = (came.saves, &self.saves) else { return Ok(false) };
        paused.bus().snapshot_at.written = true;
        let written = prepared.write(&mut paused);
        if !prepared.config.goes_on {
            // What is behind the code is for the clones to do, on disks for instance, and for nobody where
            // there are none: another vCPU would go on while this one's thread says why.
            std::mem::forget(paused);
            return written.map(|()| true);
        }
        if let Err(error) = written {
            say(&error);
            prepared.keeper.discard(&[&prepared.memory, &prepared.state]);
        }
        Ok(false)
    }
}

/// Whether a client may have the machine written to `url`, `file://` and a directory, which is so of the
/// one that was given.
///
/// # Errors
/// None was given, or another.
#[cfg(feature = "api")]
pub fn may_write_to(config: &Config, url: &[u8]) -> std::result::Result<(), String> {
    let mut directory = url.strip_prefix(b"file://").unwrap_or_default();
    while let Some(shorter) = directory.strip_suffix(b"/") {
        directory = shorter;
    }
    let only = config.snapshot.as_ref().map(|snapshot| snapshot.path.as_str());
    let why: &[&str] = match only {
        Some(only) if only.as_bytes() == directory => return Ok(()),
        Some(only) => {
            &["vm.snapshot: can be written to file://", only, " only, as --snapshot says"]
        }
        None => &["vm.snapshot: no directory was given to write below; run brisk with --snapshot \
                   path=DIR"],
    };
    Err(why.concat())
}

/// For clients.
#[cfg(feature = "api")]
impl Snapshot {
    /// Writes a machine to the directory that was given; it stands still for that, by `pause`, if it is not
    /// `paused`.
    ///
    /// # Errors
    /// It was written already, KVM failed, or there is no room; then nothing stays.
    pub fn write<'a>(
        &self,
        pause: impl FnOnce() -> Paused<'a>,
        paused: &mut Option<Paused<'a>>,
    ) -> std::result::Result<(), String> {
        let mut now = paused.is_none().then(pause);
        let still = now.as_mut().or(paused.as_mut());
        still.map_or(Ok(()), |paused| self.write_still(paused).map_err(|why| why.to_string()))
    }

    fn write_still(&self, paused: &mut Paused<'_>) -> Result<()> {
        let Some(prepared) = &self.saves else { return Ok(()) };
        let taken = {
            let at = &mut paused.bus().snapshot_at;
            at.saves = None;
            std::mem::replace(&mut at.written, true) || at.came.saves
        };
        if taken {
            let why = "vm.snapshot: was taken or tried already; a run writes one";
            return Err(Error::failed(why.into()));
        }
        prepared.write(paused).inspect_err(|_| {
            prepared.keeper.discard(&[&prepared.memory, &prepared.state]);
        })
    }
}

impl Prepared {
    fn new(config: &'static SnapshotConfig, restored: Option<&Restored>) -> Result<Prepared> {
        let path = &config.path;
        let pages = PageMap::open().map_err(failed("/proc/self/pagemap"))?;
        let partial = files::partial(path);
        files::make_directory(&partial).map_err(failed(&partial))?;
        if let Some(why) = files::obstacle(path) {
            files::remove(&partial);
            return Err(Error::failed(format!("--snapshot {path}: {why}")));
        }
        let keeper = Keeper::start(&partial, path).map_err(failed(path))?;
        let make = |name: &str| {
            let path = files::below(&partial, name);
            files::make(&path).map_err(failed(&path))
        };
        let (state, memory) = (make(FILES[0])?, make(FILES[1])?);
        let unread = restored.map(|restored| memory::data(&restored.memory));
        let unread = unread.unwrap_or_default();
        Ok(Prepared { config, host: None, keeper, state, memory, pages, unread })
    }
}

impl Prepared {
    fn write(&self, paused: &mut Paused<'_>) -> Result<()> {
        let mut to = Writer::default();
        to.add(Kind::Arguments, 0, &self.config.arguments);
        let memory = paused.memory.clone();
        let ram_size = memory.iter().map(GuestMemoryRegion::len).sum::<u64>();
        let shape = Shape {
            ram_size: U64::new(ram_size),
            cpus: U32::new(paused.vcpus.len() as u32),
            zero: U32::ZERO,
        };
        to.add(Kind::Shape, 0, shape.as_bytes());
        let failed = failed(&self.config.path);
        self.memory.set_len(ram_size).map_err(&failed)?;
        // First the devices, which may have something to say to a vCPU and to write to memory.
        let mut bus = paused.bus();
        bus.save(&mut to);
        self.write_private(bus.virtio.private(), ram_size, &mut to).map_err(&failed)?;
        bus.generation.save(&memory, &mut to);
        drop(bus);
        if let Some(gsi) = paused.button {
            to.add(Kind::PowerButton, 0, U32::new(gsi).as_bytes());
        }
        if let Some((vm, host)) = &self.host {
            vm.save_clock(&mut to)?;
            for (number, vcpu) in paused.vcpus.iter_mut().enumerate() {
                vcpu.complete()?;
                vcpu.save(number, host, &mut to)?;
            }
        }
        self.write_ram(&memory).map_err(&failed)?;
        memory::put(&self.state, &to.finish(), 0).map_err(&failed)?;
        for file in [&self.memory, &self.state] {
            file.sync_all().map_err(&failed)?;
        }
        self.keeper.keep().map_err(&failed)
    }

    fn write_ram(&self, memory: &GuestMemoryMmap) -> io::Result<()> {
        let mut sink = Sink::new(&self.memory);
        let mut offset = 0;
        for region in memory.iter() {
            let (base, len) = (region.as_ptr() as usize, region.len() as usize);
            self.pages.walk(base, len, |address, entry| {
                let at = offset + (address - base) as u64;
                let unread = || self.unread.iter().any(|data| data.contains(&at));
                if !memory::present(entry) && !unread() {
                    return Ok(());
                }
                // SAFETY: a page of the guest's RAM, whose vCPUs stand still.
                unsafe { sink.page(address, at) }
            })?;
            offset += len as u64;
        }
        sink.flush()
    }
}

impl Prepared {
    /// What guests wrote to images that are not to change: behind the RAM, with a list of where it is.
    fn write_private(
        &self,
        devices: Vec<(usize, usize, usize)>,
        mut at: u64,
        to: &mut Writer,
    ) -> io::Result<()> {
        for (index, base, len) in devices {
            // Where they are, then which they are.
            let mut list = vec![U64::new(at)];
            self.pages.walk(base, len, |address, entry| {
                if memory::private(entry) {
                    list.push(U64::new((address - base) as u64));
                }
                Ok(())
            })?;
            // A length that a hugetlbfs has too.
            let pages = &list[1..];
            let end = at + (pages.len() * memory::PAGE).next_multiple_of(HUGE) as u64;
            self.memory.set_len(end)?;
            let mut sink = Sink::new(&self.memory);
            for (place, offset) in (at..).step_by(memory::PAGE).zip(pages) {
                // SAFETY: a page of the device's mapping, and nothing runs that writes to it.
                unsafe { sink.page(base + offset.get() as usize, place)? };
            }
            sink.flush()?;
            to.add(Kind::PrivatePages, index, list.as_bytes());
            at = end;
        }
        Ok(())
    }
}
