//! Whole huge pages of guest memory from a file, without zeroing them first (feature `hugepages`).
//!
//! A page of the hugetlb pool is zeroed when it is first touched, even if a file is about to be read over
//! all of it. userfaultfd's UFFDIO_COPY is the kernel's one way to put a page there with its content: a
//! third of what zeroing and reading costs. It copies from memory, so the file has to be mapped, and that
//! is cheap only where its own pages are huge: on a hugetlbfs, or a tmpfs mounted with `huge=`. In the
//! page cache's 4 KiB pages the mapping costs what the zeroing did.
//!
//! To map such a file as guest memory, copied on write, was measured too (5 pages): the guest starts 1.5
//! ms sooner, but since the kernel's copy on write is slower its userspace comes 2.7 ms later.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::memory::HUGE;

/// `_IOWR(0xaa, nr, size)` of linux/userfaultfd.h.
const fn request(number: libc::c_ulong, size: usize) -> libc::c_ulong {
    3 << 30 | (size as libc::c_ulong) << 16 | 0xaa << 8 | number
}
/// `struct uffdio_api`: api, features, ioctls.
const UFFDIO_API: libc::c_ulong = request(0x3f, size_of::<[u64; 3]>());
const UFFD_API: u64 = 0xaa;
/// `struct uffdio_register`: start, len, mode, ioctls.
const UFFDIO_REGISTER: libc::c_ulong = request(0x00, size_of::<[u64; 4]>());
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
/// `struct uffdio_copy`: dst, src, len, mode, copy.
const UFFDIO_COPY: libc::c_ulong = request(0x03, size_of::<[u64; 5]>());
/// Faults in user mode only, which anyone may ask for; nobody faults on these pages meanwhile.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;

/// Fills `to`, whole pages of the pool that nobody has touched, with the bytes of `file` from `at` on.
/// False where it cannot: then they are as they were, or some are filled, and the file is to be read.
pub fn fill(file: &File, at: u64, to: &mut [u8]) -> bool {
    let (start, len) = (to.as_mut_ptr() as u64, to.len() as u64);
    // What mmap takes of a hugetlbfs.
    if !at.is_multiple_of(HUGE as u64) {
        return false;
    }
    let Some(faults) = register(start, len) else { return false };
    // SAFETY: a mapping of its own, which nothing but the kernel reads: a file that became shorter is an
    // error of its calls, not a signal.
    unsafe {
        let from = libc::mmap(
            std::ptr::null_mut(),
            to.len(),
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            at as libc::off_t,
        );
        if from == libc::MAP_FAILED {
            return false;
        }
        let mut copy = [start, from as u64, len, 0, 0];
        // What is not mapped yet would be copied twice.
        let done = libc::madvise(from, to.len(), libc::MADV_POPULATE_READ) == 0
            && libc::ioctl(faults.as_raw_fd(), UFFDIO_COPY, copy.as_mut_ptr()) == 0;
        libc::munmap(from, to.len());
        done
    }
}

/// Has the pages left to us to fill, for as long as the descriptor is open.
fn register(start: u64, len: u64) -> Option<OwnedFd> {
    // SAFETY: a plain call, then two that read and write arrays of our own; the range is guest memory
    // that no thread but ours uses yet.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY);
        if fd < 0 {
            return None;
        }
        let fd = OwnedFd::from_raw_fd(fd as libc::c_int);
        let mut api = [UFFD_API, 0, 0];
        let mut range = [start, len, UFFDIO_REGISTER_MODE_MISSING, 0];
        let ready = libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) == 0
            && libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, range.as_mut_ptr()) == 0;
        ready.then_some(fd)
    }
}
