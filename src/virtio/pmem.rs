//! virtio-pmem's host side (feature `pmem`): an image mapped into the guest's physical memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};

use brisk_devices::virtio::pmem;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use super::queue::{self, Buffers, Taken};
use super::{Backend, Found, Halt, Host, Kind, Queue};
use crate::bundle;
use crate::cli::Flags;
use crate::cli::words::os_string;
use crate::config::{on_off, pairs, unknown, usage};
use crate::descriptors;
use crate::error::{Error, Result, errno};
use crate::events::{self, Events, Timer};
use crate::image::{self, Image, Wish};
use crate::inputs::{self, Id};
use crate::memory;
#[cfg(feature = "seccomp")]
use crate::seccomp::rule::Rule;

/// Linux maps a pmem in steps of 2 MiB, on the guest's side and, where the file's pages allow it,
/// on the host's.
const ALIGN: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// What an image asks of the kernel while the guest runs: to be durable, and what [`Pmem::repair`] asks.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[Rule] = &[
    Rule::call(libc::SYS_fdatasync),
    Rule::call(libc::SYS_read),
    Rule::call(libc::SYS_lseek),
    Rule::without(libc::SYS_mmap, 2, libc::PROT_EXEC),
    Rule::madvise(libc::MADV_POPULATE_WRITE),
];

/// `--pmem file=,discard_writes=on|off`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PmemConfig {
    /// The image.
    pub path: String,
    /// What the guest writes stays in memory and is gone with the VM.
    pub discard_writes: bool,
    /// The image is this part of brisk's own file.
    pub part: Option<bundle::Part>,
}

impl PmemConfig {
    /// Of brisk's own file, to which nothing can be written.
    pub fn of_bundle(part: bundle::Part) -> PmemConfig {
        PmemConfig { path: "(bundle)".into(), discard_writes: true, part: Some(part) }
    }

    /// Parses the flag's value.
    ///
    /// # Errors
    /// An unknown key, a malformed value, or no file.
    pub fn parse(text: &str) -> Result<PmemConfig> {
        let mut config = PmemConfig { path: String::new(), discard_writes: false, part: None };
        for (key, value) in pairs(text) {
            match key {
                "file" => config.path = value.into(),
                "discard_writes" => {
                    config.discard_writes = on_off("--pmem discard_writes", value)?;
                }
                _ => return unknown("--pmem", key, "file, discard_writes"),
            }
        }
        if config.path.is_empty() {
            return usage(format!("--pmem {text}: give file=FILE"));
        }
        Ok(config)
    }
}

/// A mapped image.
pub struct Pmem {
    path: String,
    /// Which file the image is.
    file_id: Option<Id>,
    /// Where in the file it starts.
    start: u64,
    file: File,
    discard_writes: bool,
    host: u64,
    /// Bytes from `host` on that are the file's.
    mapped: u64,
    /// What the guest wrote where the image has no place for it is lost, and a flush says so.
    lost: bool,
    /// Signals that somebody else writes to the image or truncates it: where KVM resolves page faults
    /// asynchronously, it would try for ever to read what is no longer there.
    watch: Option<File>,
    /// Where it would try for ever to write what has no place, or nobody says that the image shrank.
    _second: Option<Timer>,
    buffers: Buffers,
}

impl Kind for Pmem {
    type Config = PmemConfig;

    fn configs(flags: &mut Flags<'_>) -> Result<Vec<PmemConfig>> {
        let given = flags.args.pmem.iter().map(|text| PmemConfig::parse(text));
        given
            .chain(bundle::image(flags.bundle).map(|part| Ok(PmemConfig::of_bundle(part))))
            .collect()
    }

    /// Maps the image and gives it to the guest at the next free address.
    fn open(config: &'static PmemConfig, host: &mut Host<'_>) -> Result<(pmem::Pmem, Vec<Pmem>)> {
        let guest = host.guest.next_multiple_of(ALIGN);
        let (model, mut pmem, size) = Pmem::map(config, guest)?;
        // A program that runs cannot be written to, so of its file there is nothing to watch.
        if config.part.is_none() {
            inputs::claim("--pmem", &config.path, pmem.file_id, !config.discard_writes)?;
            pmem.watch = watch(&config.path, host.event());
            if pmem.watch.is_none() {
                log::info!(
                    "--pmem {}: no inotify to see it shrink by: looks once a second",
                    config.path
                );
            }
            // Nobody else makes holes in an image that is locked.
            let lacks_room =
                !config.discard_writes && pmem.seek(0, libc::SEEK_HOLE) < Some(pmem.mapped);
            if pmem.watch.is_none() || lacks_room {
                pmem._second = Timer::every_second(Events::TICK);
            }
        }
        // SAFETY: the mapping is `size` bytes long and stays for the life of the process.
        unsafe { host.vm.set_memory(host.slot, guest, size, pmem.host) }.map_err(|error| {
            Error::failed(format!(
                "--pmem {}: {error}: this KVM has no room for {size} bytes at {guest:#x}; give a \
                 smaller image",
                config.path
            ))
        })?;
        host.memory = with_window(&host.memory, guest, size, pmem.host)
            .ok_or_else(|| Error::failed(format!("--pmem {}: no room for it", config.path)))?;
        host.slot += 1;
        host.guest = guest + size;
        Ok((model, vec![pmem]))
    }
}

impl Pmem {
    /// Maps the image for a guest that is to see it at the guest-physical address `guest`, a
    /// multiple of 2 MiB; also what its driver sees, and its length there in bytes, a multiple of
    /// 2 MiB.
    ///
    /// # Errors
    /// The image cannot be used.
    pub fn map(config: &PmemConfig, guest: u64) -> Result<(pmem::Pmem, Pmem, u64)> {
        let path = &config.path;
        let wish = Wish {
            flag: "--pmem",
            path,
            writes: !config.discard_writes,
            direct: false,
            readonly: "discard_writes=on",
        };
        let (file, start, len, file_id) = match config.part {
            Some(part) => {
                let (file, start, len) = bundle::open(part)?;
                (file, start, len, None)
            }
            None => {
                let Image { file, len, id, .. } = wish.open()?;
                (file, 0, len, id)
            }
        };
        // Behind the image's end there is no file to flush to.
        if wish.writes {
            let why =
                ", and what the guest writes behind the end would be lost; use discard_writes=on";
            wish.check_units(len, ALIGN, "2M", why)?;
        }
        let size = len.next_multiple_of(ALIGN);
        let mapped = len.next_multiple_of(PAGE);
        let host = map(&file, start, size, mapped, config.discard_writes)
            .map_err(|error| map_error(path, size, error))?;
        if config.discard_writes {
            memory::keep_from_dumps(host as *mut u8, size as usize);
        }
        let pmem = Pmem {
            path: path.clone(),
            file_id,
            start,
            file,
            discard_writes: config.discard_writes,
            host,
            mapped,
            lost: false,
            watch: None,
            _second: None,
            buffers: Buffers::default(),
        };
        Ok((pmem::Pmem::new(guest, size), pmem, size))
    }

    /// Replaces what the file no longer has by memory of its own, so that the guest can go on; true
    /// where there was something to replace.
    fn repair(&mut self) -> bool {
        if let Some(watch) = &mut self.watch {
            // Only an empty queue of events signals the next one.
            while watch.read(&mut [0; 512]).is_ok_and(|count| count > 0) {}
        }
        let Ok(len) = image::len(&self.file) else { return false };
        let have = len.saturating_sub(self.start).next_multiple_of(PAGE);
        if have < self.mapped {
            let path = &self.path;
            descriptors::say(&format!(
                "brisk: --pmem {path}: the image shrank to {len} bytes while the guest was using it; what \
                 it writes behind that is lost, and flushes fail\r\n"
            ));
            let mapped = std::mem::replace(&mut self.mapped, have);
            return self.replace(have, mapped);
        }
        false
    }

    /// The next place of this kind in the file, from `from` on.
    fn seek(&self, from: u64, kind: libc::c_int) -> Option<u64> {
        // SAFETY: plain numbers; nobody reads or writes at the descriptor's position.
        let at = unsafe { libc::lseek(self.file.as_raw_fd(), from as libc::off_t, kind) };
        u64::try_from(at).ok()
    }

    /// The same for holes of the image that its file system has no room for.
    fn fill_holes(&mut self) -> bool {
        if self.discard_writes {
            return false;
        }
        let mut holes = Vec::new();
        let mut at = 0;
        while let Some(hole) = self.seek(at, libc::SEEK_HOLE).filter(|hole| *hole < self.mapped) {
            // In an image that somebody made longer, the next data may be behind what is mapped.
            at = self.seek(hole, libc::SEEK_DATA).unwrap_or(self.mapped).min(self.mapped);
            holes.push((hole.next_multiple_of(PAGE), at / PAGE * PAGE));
        }
        // The one sure sign: no page to be had there, as the guest wants one (madvise(2): EFAULT is what
        // would be a SIGBUS). A kernel before 5.14 does not tell.
        let Some((first, _)) = holes.iter().find(|(start, end)| start < end) else { return false };
        let at = (self.host + first) as *mut libc::c_void;
        // SAFETY: a page of our own mapping; populating writes nothing.
        let status = unsafe { libc::madvise(at, PAGE as usize, libc::MADV_POPULATE_WRITE) };
        if status == 0 || errno() != libc::EFAULT {
            return false;
        }
        let path = &self.path;
        descriptors::say(&format!(
            "brisk: --pmem {path}: no room is left in its file system for what the guest writes where the \
             image has holes; that is lost, and flushes fail\r\n"
        ));
        holes.into_iter().fold(false, |any, (start, end)| self.replace(start, end) || any)
    }

    /// Puts memory that belongs to no file where the guest sees these bytes of the image.
    fn replace(&mut self, start: u64, end: u64) -> bool {
        self.lost = true;
        if start >= end {
            return false;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: replaces a part of our own mapping, which no reference of ours points into.
        let at = unsafe {
            libc::mmap(
                (self.host + start) as *mut libc::c_void,
                (end - start) as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        at != libc::MAP_FAILED
    }

    fn flush(&self) -> pmem::Response {
        if self.lost {
            return pmem::Response::Error;
        }
        if self.discard_writes {
            return pmem::Response::Ok;
        }
        match self.file.sync_data() {
            Ok(()) => pmem::Response::Ok,
            Err(error) => {
                log::error!("--pmem: flush: {error}");
                pmem::Response::Error
            }
        }
    }
}

/// `memory` and, at the guest-physical address `guest`, the `size` bytes that are mapped at `host`.
fn with_window(
    memory: &GuestMemoryMmap,
    guest: u64,
    size: u64,
    host: u64,
) -> Option<GuestMemoryMmap> {
    let region = |guest, host: *mut u8, size: u64| {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: RAM and images are mapped so for the life of the process.
        let window =
            unsafe { MmapRegion::build_raw(host, size as usize, access, libc::MAP_SHARED).ok()? };
        GuestRegionMmap::new(window, guest)
    };
    // In order, as it is the highest: `insert_region` would sort them, by 4 KB of code.
    let all = memory.iter().map(|old| region(old.start_addr(), old.as_ptr(), old.len()));
    let new = region(GuestAddress(guest), host as *mut u8, size);
    let all = all.chain(std::iter::once(new)).collect::<Option<Vec<_>>>()?;
    GuestMemoryMmap::from_regions(all).ok()
}

/// Asks for `event` when the image at `path` is changed by a call of somebody's (the guest's own
/// writes, through the mapping, are none). `None` where that cannot be had.
fn watch(path: &str, event: Events) -> Option<File> {
    let path = std::ffi::CString::new(os_string(path).into_encoded_bytes()).ok()?;
    // SAFETY: plain calls on a descriptor made here, and a terminated path.
    unsafe {
        let fd = libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK);
        if fd < 0 {
            return None;
        }
        let file = File::from_raw_fd(fd);
        if libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_MODIFY) < 0 {
            return None;
        }
        events::watch(&file, event);
        libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC);
        Some(file)
    }
}

/// An image that cannot be mapped, by what most likely keeps it from that.
fn map_error(path: &str, size: u64, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::OutOfMemory => Error::failed(format!(
            "--pmem {path}: {size} bytes: {error}: {}, or give a smaller image",
            memory::why_not_mapped()
        )),
        _ => Error::of_file("--pmem", path, error),
    }
}

/// Maps the `mapped` bytes of `file` from `start`, a page's, on at a multiple of 2 MiB; up to `size` bytes the rest is
/// memory that belongs to no file.
fn map(file: &File, start: u64, size: u64, mapped: u64, private: bool) -> io::Result<u64> {
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let call = |at: u64, len: u64, flags, fd, from: u64| {
        // SAFETY: places memory anywhere, or (MAP_FIXED) within the reservation made just before.
        let address = unsafe {
            libc::mmap(at as *mut _, len as usize, writable, flags, fd, from as libc::off_t)
        };
        if address == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(address as u64)
        }
    };
    let host = call(0, size + ALIGN, anonymous, -1, 0)?.next_multiple_of(ALIGN);
    let sharing = if private { libc::MAP_PRIVATE | libc::MAP_NORESERVE } else { libc::MAP_SHARED };
    call(host, mapped, sharing | libc::MAP_FIXED, file.as_raw_fd(), start)
}

impl Backend for Pmem {
    type Model = pmem::Pmem;

    const EVENTS: Events = Events::MEMORY;

    #[cfg(feature = "snapshot")]
    fn image(&self) -> Option<&File> {
        Some(&self.file)
    }

    #[cfg(feature = "snapshot")]
    fn private(&self) -> Option<(usize, usize)> {
        self.discard_writes.then_some((self.host as usize, self.mapped as usize))
    }

    fn process(&mut self, queue: &mut Queue) -> std::result::Result<bool, Halt> {
        let mut buffers = std::mem::take(&mut self.buffers);
        let result = queue::drain(queue, |chain| {
            buffers.collect(chain)?;
            let mut request = [0; pmem::REQUEST_LEN];
            let have = queue::take_front(&mut buffers.readable, &mut request);
            let room = queue::len(&buffers.writable);
            let response = match pmem::Pmem::parse(&request[..have], room) {
                Ok(pmem::Request::Flush) => self.flush(),
                Err(response) => response,
            };
            let written = queue::put_front(&mut buffers.writable, &response.to_bytes());
            Ok(Taken::Used(written as u32))
        });
        self.buffers = buffers;
        Ok(result?)
    }

    fn poll(&mut self, events: Events, _model: &mut pmem::Pmem) -> Found {
        let repaired = self.repair() || events.intersects(Events::MEMORY) && self.fill_holes();
        Found { repaired, ..Found::default() }
    }
}

#[cfg(test)]
mod tests;
