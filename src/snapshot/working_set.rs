//! The pages that a restored guest touches first, in a file beside the snapshot. One run that is told
//! until when records them; later ones have them before the guest's first instruction.
//!
//! A fault of the guest's costs an exit, a look-up in two page tables and a copy. Here the pages that it
//! will write to are copied in a few calls, from a file in which they lie together; those that it only reads
//! stay in the page cache, shared with all clones. Then all of them are given to KVM, in runs of both.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::files;
use super::keeper::Keeper;
use super::memory::{self, PAGE, PageMap};
use super::parts::{Kind, Parts, Writer};
use crate::error::{Error, Result};
use crate::kvm::Vcpu;
use crate::memory::HUGE;

/// The file's name in the snapshot's directory.
const NAME: &str = "working-set";
/// Bytes of it that are read at once, a page of the stack: most lists are shorter.
const HEAD: usize = PAGE;

/// Pages one after the other.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
struct Run {
    first: U32,
    count: U32,
}

impl Run {
    /// Bytes of the guest's memory.
    fn range(self) -> Range<usize> {
        let first = self.first.get() as usize * PAGE;
        first..first + self.count.get() as usize * PAGE
    }
}

/// Pages in ascending order as runs.
#[derive(Default)]
struct Runs(Vec<Run>);

impl Runs {
    fn add(&mut self, page: u32) {
        if let Some(run) = self.0.last_mut()
            && run.first.get() + run.count.get() == page
        {
            run.count += 1;
            return;
        }
        self.0.push(Run { first: U32::new(page), count: U32::new(1) });
    }
}

/// Which snapshot a list belongs to: the checksum of its state, which is right.
fn owner(state: &[u8]) -> U64 {
    U64::new(Parts::checksum(state).unwrap_or(0))
}

/// What a run that records has ready.
pub struct Recording {
    /// What the guest writes to port 0x80 when it has done what later ones are to do soon.
    pub code: u8,
    dir: String,
    file: File,
    keeper: Keeper,
    pages: PageMap,
}

impl Recording {
    /// Makes the file, under another name, for the snapshot in `dir`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(dir: &str, code: u8) -> Result<Recording> {
        let path = files::below(dir, NAME);
        let partial = files::partial(&path);
        let failed = |error| Error::file("--restore record", &partial)(error);
        let pages = PageMap::open().map_err(failed)?;
        let file = files::make(&partial).map_err(failed)?;
        let keeper = Keeper::start(&partial, &path).map_err(failed)?;
        Ok(Recording { code, dir: dir.to_owned(), file, keeper, pages })
    }

    /// Writes what was touched since [`watch`]: of a snapshot with this `state`, whose memory file is
    /// `from`.
    ///
    /// # Errors
    /// No room, for instance.
    pub fn write(&self, guest: &GuestMemoryMmap, state: &[u8], from: &File) -> Result<()> {
        self.put(guest, state, from).map_err(|error| {
            self.keeper.discard(&[&self.file]);
            Error::file("--restore record", &self.dir)(error)
        })
    }

    fn put(&self, guest: &GuestMemoryMmap, state: &[u8], from: &File) -> io::Result<()> {
        let (mut written, mut touched) = (Runs::default(), Runs::default());
        let mut page = 0;
        for region in guest.iter() {
            self.pages.walk(region.as_ptr() as usize, region.len() as usize, |_, entry| {
                if memory::private(entry) {
                    written.add(page);
                }
                if memory::present(entry) {
                    touched.add(page);
                }
                page += 1;
                Ok(())
            })?;
        }
        let mut to = Writer::default();
        to.add(Kind::Owner, 0, owner(state).as_bytes());
        to.add(Kind::WrittenPages, 0, written.0.as_bytes());
        to.add(Kind::TouchedPages, 0, touched.0.as_bytes());
        let list = to.finish();
        memory::put(&self.file, &list, 0)?;
        let mut at = pages_at(list.len());
        let mut page = [0; PAGE];
        for offset in written.0.iter().flat_map(|run| run.range().step_by(PAGE)) {
            from.read_exact_at(&mut page, offset as u64)?;
            memory::put(&self.file, &page, at)?;
            at += PAGE as u64;
        }
        self.file.sync_all()?;
        self.keeper.keep()
    }
}

/// Where the pages begin behind a list of `len` bytes.
fn pages_at(len: usize) -> u64 {
    len.next_multiple_of(PAGE) as u64
}

/// What a run recorded.
#[derive(Debug)]
pub struct WorkingSet {
    file: File,
    /// Pages that were written to, in the order in which the file has them.
    written: Vec<Run>,
    /// Where it has them.
    pages_at: u64,
    /// These, and those that were read.
    touched: Vec<Run>,
}

impl WorkingSet {
    /// The one of the snapshot in `dir` with this `state`; `None` where there is none, or one of another
    /// snapshot or version: what is only faster is not required.
    pub fn open(dir: &str, state: &[u8]) -> Option<WorkingSet> {
        let file = files::open(&files::below(dir, NAME)).ok()?;
        let set = WorkingSet::read(file, state);
        if set.is_none() {
            log::warn!("--restore: {dir}/{NAME} is not this snapshot's: record it anew");
        }
        set
    }

    fn read(file: File, state: &[u8]) -> Option<WorkingSet> {
        let (mut head, mut whole) = ([0; HEAD], Vec::new());
        let read = file.read_at(&mut head, 0).ok()?;
        let mut list = head.get(..read)?;
        let len = Parts::len(list)?;
        if len > list.len() {
            // No longer than what is there.
            whole.resize(usize::try_from(file.metadata().ok()?.len()).ok()?.min(len), 0);
            file.read_exact_at(&mut whole, 0).ok()?;
            list = &whole;
        }
        let parts = Parts::parse(list).ok()?;
        let runs = |kind| Some(<[Run]>::ref_from_bytes(parts.get(kind, 0).ok()?).ok()?.to_vec());
        let (written, touched) = (runs(Kind::WrittenPages)?, runs(Kind::TouchedPages)?);
        let pages_at = pages_at(len);
        (parts.read::<U64>(Kind::Owner, 0) == Ok(owner(state))).then_some(WorkingSet {
            file,
            written,
            pages_at,
            touched,
        })
    }

    /// Puts the pages that will be written to into the `len` bytes at `base`, a private mapping of the
    /// snapshot's memory.
    pub fn fill(&self, base: usize, len: usize) {
        let fits = self.written.iter().all(|run| run.range().end <= len);
        if self.written.is_empty() || !fits || self.copy(base, len).is_some() {
            return;
        }
        // Where the kernel cannot copy into it, it copies from it; only a hint that it is too old for.
        for run in &self.written {
            let range = run.range();
            let at = (base + range.start) as *mut libc::c_void;
            // SAFETY: inside the mapping, as was just looked at; populating changes no content.
            unsafe { libc::madvise(at, range.len(), libc::MADV_POPULATE_WRITE) };
        }
    }

    /// Copies all from the file, which takes half of what a fault in a private mapping does. `None` where
    /// the kernel cannot, or not everything: what is missing is as it was.
    fn copy(&self, base: usize, len: usize) -> Option<()> {
        let target = userfault(0, UFFDIO_REGISTER_MODE_MISSING, base, len)?;
        let at = self.pages_at as usize;
        let pages = self.written.iter().map(|run| run.range().len()).sum::<usize>();
        // From its start and in whole huge pages: of a file that has such it is one fault for 2 MiB.
        let size = (at + pages).next_multiple_of(HUGE);
        // SAFETY: a new mapping, which nobody looks into but the kernel: a file that is too short is an
        // error of the copy.
        let source = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                self.file.as_raw_fd(),
                0,
            )
        };
        if source == libc::MAP_FAILED {
            return None;
        }
        let mut from = (source as usize + at) as u64;
        let mut all = Some(());
        for run in &self.written {
            let range = run.range();
            let (dst, len) = ((base + range.start) as u64, range.len() as u64);
            let mut copy = UffdioCopy { dst, src: from, len, mode: 0, copy: 0 };
            // SAFETY: both ranges are mapped, and the guest's is no one else's yet.
            if unsafe { libc::ioctl(target.as_raw_fd(), UFFDIO_COPY, &raw mut copy) } != 0 {
                all = None;
            }
            from += len;
        }
        // SAFETY: the mapping that was made above.
        unsafe { libc::munmap(source, size) };
        all
    }

    /// Gives KVM the pages, by `vcpu`, which then finds them in its page tables.
    pub fn give(&self, vcpu: &Vcpu, guest: &GuestMemoryMmap) {
        // The snapshot's memory is where this file is.
        let huge = self.file.metadata().is_ok_and(|file| file.blksize() >= HUGE as u64);
        let mut offset = 0;
        for region in guest.iter() {
            let (start, len) = (region.start_addr().0, region.len() as usize);
            let all = self.pieces(offset..offset + len, huge, |piece| {
                vcpu.pre_fault(start + (piece.start - offset) as u64, piece.len() as u64)
            });
            if !all {
                return;
            }
            offset += len;
        }
    }

    /// Calls `each` with what is touched of `within`, until that answers false. Where the file has `huge`
    /// pages, the guest has one too, if nothing in it is written to: of these a page of 4 KiB is enough.
    fn pieces(
        &self,
        within: Range<usize>,
        huge: bool,
        mut each: impl FnMut(Range<usize>) -> bool,
    ) -> bool {
        let (mut next, mut end, mut whole) = (within.start, within.start, false);
        for run in self.touched.iter().map(|run| run.range()) {
            next = next.max(run.start);
            let last = run.end.min(within.end);
            while next < last {
                if next >= end {
                    end = if huge { (next + 1).next_multiple_of(HUGE) } else { usize::MAX };
                    let in_it = |run: Range<usize>| run.start < end && run.end > end - HUGE;
                    whole = huge && !self.written.iter().any(|run| in_it(run.range()));
                }
                let piece = next..if whole { next + PAGE } else { last.min(end) };
                next = if whole { end } else { piece.end };
                if !each(piece) {
                    return false;
                }
            }
        }
        true
    }
}

/// Lets the kernel map single pages of `base..base + len` only, not those around each that is touched
/// as well, so that those that are there are those that were touched. Without (Linux before 6.7, or where
/// that call is forbidden) some more are recorded.
pub fn watch(base: usize, len: usize) {
    // SAFETY: advice about our own mapping, of which huge pages would be a part.
    unsafe { libc::madvise(base as *mut libc::c_void, len, libc::MADV_NOHUGEPAGE) };
    match userfault(UFFD_FEATURE_WP_ASYNC, UFFDIO_REGISTER_MODE_WP, base, len) {
        // It holds for as long as this is open.
        Some(watch) => std::mem::forget(watch),
        None => log::info!("--restore record: this kernel maps more pages than are touched"),
    }
}

// Linux' include/uapi/linux/userfaultfd.h.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFDIO_REGISTER_MODE_WP: u64 = 2;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
/// `_IOWR(0xaa, 0x03, struct uffdio_copy)`
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;

#[repr(C)]
struct UffdioCopy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// A userfaultfd for the range, which nobody ever reads from: no fault is ever handed to it.
fn userfault(features: u64, mode: u64, base: usize, len: usize) -> Option<OwnedFd> {
    let flags = libc::O_CLOEXEC | UFFD_USER_MODE_ONLY;
    // SAFETY: makes a descriptor, which is ours alone; both calls read and write what they are given.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, flags) as libc::c_int;
        if fd < 0 {
            return None;
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut api = [UFFD_API, features, 0];
        let mut register = [base as u64, len as u64, mode, 0];
        let known = libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) == 0;
        let registered =
            known && libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr()) == 0;
        registered.then_some(fd)
    }
}

#[cfg(test)]
mod tests;
