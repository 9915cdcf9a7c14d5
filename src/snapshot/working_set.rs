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
use crate::cli::words::os_string;
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
        let file = File::open(os_string(&files::below(dir, NAME))).ok()?;
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
mod tests {
    use super::*;
    use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

    const PAGES: usize = 512;
    /// The beginning of a state file.
    const STATE: &[u8] = b"brisksnp\x03\0\0\0\0\0\0\0checksum\0\0\0\0\0\0\0\0";

    /// A snapshot's memory in which each page but every fourth begins with its number, mapped as a
    /// guest's is.
    struct Guest {
        file: File,
        base: *mut u8,
        memory: GuestMemoryMmap,
    }

    impl Guest {
        fn new() -> Guest {
            let file = tempfile::tempfile_in("/dev/shm").unwrap();
            file.set_len((PAGES * PAGE) as u64).unwrap();
            for page in (0..PAGES).filter(|page| page % 4 > 0) {
                file.write_all_at(&page.to_le_bytes(), (page * PAGE) as u64).unwrap();
            }
            Guest::of(file)
        }

        fn of(file: File) -> Guest {
            let base = memory::map(&file, PAGES * PAGE).unwrap();
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: mapped just before, as long as that.
            let region = unsafe {
                MmapRegion::build_raw(base, PAGES * PAGE, protection, libc::MAP_PRIVATE).unwrap()
            };
            let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
            Guest { file, base, memory: GuestMemoryMmap::from_regions(vec![region]).unwrap() }
        }

        fn page(&self, page: usize) -> *mut usize {
            self.base.wrapping_add(page * PAGE).cast()
        }

        fn entries(&self) -> Vec<u64> {
            let mut entries = Vec::new();
            let map = PageMap::open().unwrap();
            map.walk(self.base as usize, PAGES * PAGE, |_, entry| {
                entries.push(entry);
                Ok(())
            })
            .unwrap();
            entries
        }
    }

    fn pages(runs: &[Run]) -> Vec<usize> {
        runs.iter().flat_map(|run| run.range().step_by(PAGE)).map(|at| at / PAGE).collect()
    }

    /// What is recorded where `read` are read and `written` are written to.
    fn record(dir: &str, read: &[usize], written: &[usize]) -> Guest {
        let guest = Guest::new();
        watch(guest.base as usize, PAGES * PAGE);
        for page in read {
            // SAFETY: a page of the mapping.
            unsafe { guest.page(*page).read_volatile() };
        }
        for page in written {
            // SAFETY: the same.
            unsafe { guest.page(*page).write_volatile(7) };
        }
        let recording = Recording::prepare(dir, 0).unwrap();
        recording.write(&guest.memory, STATE, &guest.file).unwrap();
        guest
    }

    fn scratch() -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        (dir, path)
    }

    #[test]
    fn what_is_touched_is_recorded_and_nothing_else() {
        let (_dir, dir) = scratch();
        let guest = record(&dir, &[4, 100, 102, 301], &[5, 6, 7, 100, 400]);
        let set = WorkingSet::open(&dir, STATE).unwrap();
        let (touched, all) = (pages(&set.touched), [4, 5, 6, 7, 100, 102, 301, 400]);
        assert_eq!(pages(&set.written), [5, 6, 7, 100, 400]);
        assert_eq!(set.written.len(), 3, "runs");
        let exact =
            userfault(UFFD_FEATURE_WP_ASYNC, UFFDIO_REGISTER_MODE_WP, guest.base as usize, PAGE);
        match exact {
            Some(_) => assert_eq!((touched, set.touched.len()), (all.into(), 5)),
            // A kernel before 6.7: those around are there too.
            None => assert!(all.iter().all(|page| touched.contains(page)), "{touched:?}"),
        }
    }

    #[test]
    fn a_clone_has_its_pages_with_what_was_saved() {
        let (_dir, dir) = scratch();
        let written = [5, 6, 7, 100, 400, 511];
        let guest = record(&dir, &[3], &written);
        let set = WorkingSet::open(&dir, STATE).unwrap();
        let clone = Guest::of(guest.file);
        set.fill(clone.base as usize, PAGES * PAGE);
        let entries = clone.entries();
        let own: Vec<usize> = (0..PAGES).filter(|page| memory::private(entries[*page])).collect();
        assert_eq!(own, written);
        for page in 0..PAGES {
            let saved = if page % 4 > 0 { page } else { 0 };
            // SAFETY: a page of the mapping.
            assert_eq!(unsafe { clone.page(page).read_volatile() }, saved);
        }
    }

    #[test]
    fn a_list_that_is_another_snapshots_or_damaged_is_none() {
        let (_dir, dir) = scratch();
        record(&dir, &[], &[5, 9]);
        assert!(WorkingSet::open(&dir, &STATE.to_ascii_uppercase()).is_none());
        let path = format!("{dir}/{NAME}");
        let whole = std::fs::read(&path).unwrap();
        let list = Parts::len(&whole).unwrap();
        for bit in 0..list * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            assert!(WorkingSet::open(&dir, STATE).is_none(), "bit {bit}");
        }
        for len in 0..list {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(WorkingSet::open(&dir, STATE).is_none(), "{len} bytes");
        }
        // The pages are cut off: those that are missing come from the snapshot itself.
        std::fs::write(&path, &whole[..list]).unwrap();
        let clone = Guest::new();
        WorkingSet::open(&dir, STATE).unwrap().fill(clone.base as usize, PAGES * PAGE);
        // SAFETY: a page of the mapping.
        assert_eq!(unsafe { clone.page(5).read_volatile() }, 5);
    }

    #[test]
    fn a_huge_page_that_is_only_read_is_given_once() {
        let (_dir, dir) = scratch();
        record(&dir, &[], &[5]);
        let run = |first, count| Run { first: U32::new(first), count: U32::new(count) };
        let set = WorkingSet {
            touched: vec![run(3, 4), run(510, 4), run(520, 1), run(1020, 8), run(2000, 2)],
            written: vec![run(5, 1), run(1025, 1)],
            ..WorkingSet::open(&dir, STATE).unwrap()
        };
        let given = |within: Range<usize>, huge| {
            let mut given = Vec::new();
            assert!(set.pieces(within.start * PAGE..within.end * PAGE, huge, |piece| {
                given.push((piece.start / PAGE, piece.end / PAGE));
                true
            }));
            given
        };
        assert_eq!(
            given(0..4096, false),
            [(3, 7), (510, 514), (520, 521), (1020, 1028), (2000, 2002)]
        );
        assert_eq!(
            given(0..4096, true),
            [(3, 7), (510, 512), (512, 513), (1024, 1028), (2000, 2001)]
        );
        // Below and above the 32-bit hole.
        assert_eq!(given(0..1024, true), [(3, 7), (510, 512), (512, 513)]);
        assert_eq!(given(1024..2001, true), [(1024, 1028), (2000, 2001)]);
        assert_eq!(given(1024..2001, false), [(1024, 1028), (2000, 2001)]);
        assert!(!set.pieces(0..4096 * PAGE, true, |piece| piece.start != 510 * PAGE));
    }

    #[test]
    fn a_long_list_is_read_whole() {
        let (_dir, dir) = scratch();
        let written: Vec<usize> = (0..PAGES).step_by(2).collect();
        let guest = record(&dir, &[], &written);
        let set = WorkingSet::open(&dir, STATE).unwrap();
        assert!(set.pages_at > HEAD as u64, "{}", set.pages_at);
        assert_eq!(pages(&set.written), written);
        let clone = Guest::of(guest.file);
        set.fill(clone.base as usize, PAGES * PAGE);
        for page in (2..PAGES).step_by(2).filter(|page| page % 4 > 0) {
            // SAFETY: a page of the mapping.
            assert_eq!(unsafe { clone.page(page).read_volatile() }, page);
        }
    }

    #[test]
    fn pages_behind_the_end_are_not_touched() {
        let (_dir, dir) = scratch();
        let guest = record(&dir, &[], &[5, 9]);
        let clone = Guest::of(guest.file);
        WorkingSet::open(&dir, STATE).unwrap().fill(clone.base as usize, 8 * PAGE);
        assert!(clone.entries().iter().all(|entry| !memory::private(*entry)));
    }
}
