//! An image where the host has no room, or no watch, for it.

use std::os::unix::fs::FileExt;

use super::*;
use crate::virtio::failing::failing;

/// An image of 2 MiB with holes but for these pages.
fn image(pages: &[u64]) -> (tempfile::NamedTempFile, PmemConfig) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(ALIGN).unwrap();
    for page in pages {
        file.as_file().write_all_at(&[7; PAGE as usize], page * PAGE).unwrap();
    }
    let path = file.path().to_str().unwrap().to_owned();
    (file, PmemConfig { path, discard_writes: false, part: None })
}

fn is_lost(pmem: &Pmem) -> bool {
    pmem.flush().to_bytes() == pmem::Response::Error.to_bytes()
}

/// Where the file system has no room the guest's pages are nobody's; what the image has stays its own.
#[test]
fn holes_without_room_become_memory() {
    let (file, config) = image(&[0, 1, 256]);
    let (mut model, mut pmem, _) = Pmem::map(&config, 4 << 30).unwrap();
    let mut comes = |pmem: &mut Pmem, event| pmem.poll(event, &mut model).repaired;
    // There is room, and it has been taken: the first page of the first hole is none any more.
    assert!(!comes(&mut pmem, Events::MEMORY));
    // A kernel that does not tell.
    let untold = || comes(&mut pmem, Events::MEMORY);
    assert!(!failing(libc::SYS_madvise, libc::EINVAL, untold));
    let tick = || comes(&mut pmem, Events::TICK);
    assert!(!failing(libc::SYS_madvise, libc::EFAULT, tick), "nobody wants a page");
    assert!(!is_lost(&pmem));
    let full = || comes(&mut pmem, Events::MEMORY);
    assert!(failing(libc::SYS_madvise, libc::EFAULT, full));
    assert!(is_lost(&pmem));
    for page in [0, 1, 2, 3, 255, 256, 257, 511] {
        let at = (pmem.host + page * PAGE) as *mut u8;
        let has = [0, 1, 2, 256].contains(&page);
        // SAFETY: within the mapping, and nobody else's.
        unsafe {
            assert_eq!(at.read_volatile(), if has && page != 2 { 7 } else { 0 });
            at.write_volatile(8);
        }
        let mut byte = [0];
        file.as_file().read_exact_at(&mut byte, page * PAGE).unwrap();
        assert_eq!(byte, if has { [8] } else { [0] }, "page {page}");
    }
    // An image without holes, and one to which nothing is written.
    let (_file, mut whole) = image(&(0..512).collect::<Vec<_>>());
    for discard in [false, true] {
        whole.discard_writes = discard;
        let (_file, holes) = image(&[0]);
        let config =
            if discard { PmemConfig { discard_writes: true, ..holes } } else { whole.clone() };
        let (mut model, mut pmem, _) = Pmem::map(&config, 4 << 30).unwrap();
        let full = || pmem.poll(Events::MEMORY, &mut model).repaired;
        assert!(!failing(libc::SYS_madvise, libc::EFAULT, full));
        assert!(!is_lost(&pmem));
    }
}

/// Of an image that was made longer meanwhile, no more than what is mapped is replaced.
#[test]
fn what_is_behind_the_image_stays() {
    let (file, config) = image(&[0]);
    let (mut model, mut pmem, size) = Pmem::map(&config, 4 << 30).unwrap();
    // Of the reservation, which is longer, and no image's.
    let behind = (pmem.host + size) as *mut u8;
    // SAFETY: within the reservation, and nobody else's.
    unsafe { behind.write_volatile(5) };
    file.as_file().set_len(3 * ALIGN).unwrap();
    file.as_file().write_all_at(&[7], 2 * ALIGN).unwrap();
    let full = || pmem.poll(Events::MEMORY, &mut model).repaired;
    assert!(failing(libc::SYS_madvise, libc::EFAULT, full));
    // SAFETY: as above.
    assert_eq!(unsafe { behind.read_volatile() }, 5);
}

#[test]
fn who_has_no_inotify_does_without() {
    let (file, config) = image(&[]);
    let seen = || watch(&config.path, Events::device(0)).is_some();
    assert!(seen());
    for call in [libc::SYS_inotify_init1, libc::SYS_inotify_add_watch] {
        assert!(!failing(call, libc::EMFILE, seen));
    }
    // What was changed is read off, or no further change would be told.
    let (mut model, mut pmem, _) = Pmem::map(&config, 4 << 30).unwrap();
    pmem.watch = watch(&config.path, Events::device(0));
    for _ in 0..40 {
        file.as_file().write_all_at(&[1], 0).unwrap();
        file.as_file().set_len(ALIGN).unwrap();
    }
    assert!(!pmem.poll(Events::device(0), &mut model).repaired);
    assert!(pmem.watch.as_mut().unwrap().read(&mut [0; 512]).is_err(), "something is left");
}
