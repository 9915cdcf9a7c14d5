//! What a run records, and what a clone then has.

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
    assert_eq!(given(0..4096, false), [(3, 7), (510, 514), (520, 521), (1020, 1028), (2000, 2002)]);
    assert_eq!(given(0..4096, true), [(3, 7), (510, 512), (512, 513), (1024, 1028), (2000, 2001)]);
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
