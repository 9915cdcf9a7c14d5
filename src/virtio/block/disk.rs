//! The image behind a disk: what can be done to it, by one call to the kernel each where that goes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use brisk_devices::virtio::block::Segment;

use crate::events;
use crate::shared::Handle;
use crate::virtio::queue;

/// Zeroes for what the file system cannot make by itself, as a disk past the page cache wants them.
#[derive(Clone)]
#[repr(align(4096))]
#[allow(dead_code, reason = "the kernel reads it")]
struct Zeroes([u8; 4096]);
/// Bytes of zeroes that are written at once. Not a constant of so many, which would be in the binary.
const ZEROES: u64 = 64 << 10;

/// The image, as one queue has it.
#[derive(Clone)]
pub struct Disk {
    /// Open, locked, and of a length that does not change with a disk.
    pub file: Handle<File>,
    /// Past the page cache.
    pub direct: bool,
    /// The driver will never flush: each write is durable before it is done.
    pub write_through: bool,
}

/// Bytes that are moved, or zeroed, between two looks whether the VM is to end: more than any driver asks
/// for at once, and soon done.
const MOST: usize = 64 << 20;

/// How many of `buffers` one call takes: no more than [`MOST`] bytes. 0 where the first alone has more.
fn leading(buffers: &[libc::iovec]) -> usize {
    let mut left = MOST;
    let fits = |buffer: &&libc::iovec| match left.checked_sub(buffer.iov_len) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    buffers.iter().take(libc::UIO_MAXIOV as usize).take_while(fits).count()
}

type Vectored =
    unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int, libc::off_t) -> isize;

impl Disk {
    /// Moves all of `buffers` from or to the file at `offset`. The file's end, where an image shrank
    /// under us, is an error.
    pub fn transfer(
        &self,
        buffers: &mut Vec<libc::iovec>,
        mut offset: u64,
        call: Vectored,
    ) -> io::Result<()> {
        buffers.retain(|buffer| buffer.iov_len > 0);
        while !buffers.is_empty() {
            let (count, mut all) = (leading(buffers), buffers.as_ptr());
            let part;
            if count == 0 {
                part = libc::iovec { iov_len: MOST, ..buffers[0] };
                all = &raw const part;
            }
            let count = count.max(1) as libc::c_int;
            // SAFETY: `collect` checked each buffer to be in guest memory, which stays mapped.
            let moved = unsafe { call(self.file.as_raw_fd(), all, count, offset as i64) };
            match moved {
                0 => return Err(io::Error::other("the image is shorter than it was")),
                1.. => {
                    queue::advance(buffers, moved as usize);
                    offset += moved as u64;
                    if !buffers.is_empty() && events::stopping() {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                }
                _ => {
                    let error = io::Error::last_os_error();
                    match error.raw_os_error() {
                        Some(libc::EINTR) if !events::stopping() => {}
                        // Buffers that are not aligned as O_DIRECT wants them.
                        Some(libc::EINVAL) if self.direct => self.through_cache()?,
                        _ => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes on without O_DIRECT: the guest asked for what the host's disk cannot do directly.
    fn through_cache(&self) -> io::Result<()> {
        // SAFETY: changes a flag of our own descriptor.
        unsafe {
            let flags = libc::fcntl(self.file.as_raw_fd(), libc::F_GETFL);
            if flags & libc::O_DIRECT == 0 {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            libc::fcntl(self.file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT);
        }
        log::warn!("--disk direct=on: the guest's buffers are not aligned for it; goes on without");
        Ok(())
    }

    /// Discards or zeroes a range by the cheapest way that the file system knows.
    pub fn clear(&self, segment: &Segment, discard: bool) -> io::Result<()> {
        let (offset, len) = (segment.range.offset, segment.range.len);
        if len == 0 {
            return Ok(());
        }
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let zero = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let mode = if discard || segment.unmap { punch } else { zero };
        for start in (0..len).step_by(MOST) {
            match self.fallocate(mode, offset + start, (len - start).min(MOST as u64)) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    // A discard is a hint (virtio 1.3, 5.2.6.2); zeroes are a promise.
                    return match discard {
                        true => Ok(()),
                        false => self.write_zeroes(offset + start, len - start),
                    };
                }
                result => result?,
            }
            if events::stopping() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(())
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        loop {
            // SAFETY: plain numbers; the range was checked to be within the disk.
            let status =
                unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, len as i64) };
            if status == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted || events::stopping() {
                return Err(error);
            }
        }
    }

    fn write_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        let pages = len.min(ZEROES).div_ceil(size_of::<Zeroes>() as u64) as usize;
        let mut zeroes = vec![Zeroes([0; 4096]); pages];
        while len > 0 {
            let (count, iov_base) = (len.min(ZEROES), zeroes.as_mut_ptr().cast());
            let mut buffers = vec![libc::iovec { iov_base, iov_len: count as usize }];
            self.transfer(&mut buffers, offset, libc::pwritev)?;
            if events::stopping() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            offset += count;
            len -= count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::failing::{end_soon, failing, in_a_process};

    fn buffers(lengths: &[usize]) -> Vec<libc::iovec> {
        let buffer = |len: &usize| libc::iovec { iov_base: std::ptr::null_mut(), iov_len: *len };
        lengths.iter().map(buffer).collect()
    }

    /// Between two looks whether the VM is to end no more is moved than a bound, and all of it goes by one call
    /// where it may.
    #[test]
    fn what_one_call_moves_is_bounded() {
        assert_eq!(leading(&buffers(&[1, 512, 4096])), 3);
        assert_eq!(leading(&buffers(&[MOST - 1, 1, 1])), 2);
        assert_eq!(leading(&buffers(&[MOST - 1, 2, 1])), 1);
        assert_eq!(leading(&buffers(&[MOST + 1, 1])), 0);
        let many = libc::UIO_MAXIOV as usize;
        assert_eq!(leading(&buffers(&vec![1; many + 1])), many);
    }

    /// A buffer longer than that is moved in parts, each where it belongs.
    #[test]
    fn a_long_buffer_goes_in_parts() {
        let file = tempfile::tempfile().unwrap();
        let disk = Disk { file: file.into(), direct: false, write_through: false };
        let mut bytes = vec![7u8; 2 * MOST + 10];
        (bytes[0], bytes[MOST], bytes[2 * MOST + 9]) = (1, 2, 3);
        let mut list = vec![
            libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 0 },
            libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() },
        ];
        disk.transfer(&mut list, 4096, libc::pwritev).unwrap();
        assert!(list.is_empty());
        assert_eq!(disk.file.metadata().unwrap().len(), 4096 + bytes.len() as u64);
        let mut back = vec![0u8; bytes.len()];
        let mut list =
            vec![libc::iovec { iov_base: back.as_mut_ptr().cast(), iov_len: back.len() }];
        disk.transfer(&mut list, 4096, libc::preadv).unwrap();
        assert!(back == bytes);
    }

    /// Past the cache and not: buffers that O_DIRECT does not take are not tried for ever.
    #[test]
    fn who_is_not_past_the_cache_does_not_leave_it() {
        let file = tempfile::tempfile().unwrap();
        let disk = Disk { file: file.into(), direct: true, write_through: false };
        assert_eq!(disk.through_cache().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    /// A range longer than is cleared at once, from its first byte to its last.
    #[test]
    fn a_long_range_is_cleared_in_parts() {
        use brisk_devices::virtio::block::Range;
        use std::os::unix::fs::{FileExt, MetadataExt};
        let file = tempfile::tempfile().unwrap();
        let len = 2 * MOST as u64 + 8192;
        file.set_len(len + 8192).unwrap();
        let places = [0, 4096, 4096 + MOST as u64, len, len + 4096];
        places.iter().for_each(|at| file.write_all_at(&[9; 4096], *at).unwrap());
        let disk = Disk { file: file.into(), direct: false, write_through: false };
        for discard in [true, false] {
            let range = Range { offset: 4096, len };
            disk.clear(&Segment { range, unmap: false }, discard).unwrap();
            let first = |at| {
                let mut byte = [0];
                disk.file.read_exact_at(&mut byte, at).unwrap();
                byte[0]
            };
            assert_eq!(places.map(first), [9, 0, 0, 0, 9]);
            assert_eq!(disk.file.metadata().unwrap().len(), len + 8192);
            let full = disk.file.metadata().unwrap().blocks() > 1000;
            // What is zeroed and not given up keeps its place, where the file system has such.
            assert!(!(discard && full));
        }
        disk.clear(&Segment { range: Range { offset: 0, len: 0 }, unmap: false }, false).unwrap();
    }

    /// Only a file system that has no such call is helped; a disk that fails has failed.
    #[test]
    fn a_range_that_cannot_be_cleared() {
        use brisk_devices::virtio::block::Range;
        for (error, works) in [(libc::EOPNOTSUPP, true), (libc::EIO, false), (libc::ENOSPC, false)]
        {
            for discard in [true, false] {
                let cleared = failing(libc::SYS_fallocate, error, || {
                    let file = tempfile::tempfile().unwrap();
                    file.set_len(8192).unwrap();
                    let disk = Disk { file: file.into(), direct: false, write_through: false };
                    let range = Range { offset: 0, len: 4096 };
                    disk.clear(&Segment { range, unmap: false }, discard).is_ok()
                });
                assert_eq!(cleared, works, "{error}, {discard}");
            }
        }
    }

    /// A request of many parts is left in the middle by a VM that ends.
    #[test]
    fn a_vm_that_ends_moves_one_part_more_at_most() {
        let file = tempfile::tempfile().unwrap();
        let disk = Disk { file: file.into(), direct: false, write_through: false };
        let mut bytes = vec![7u8; 3 * MOST];
        let mut list =
            vec![libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
        assert!(in_a_process(|| {
            // SAFETY: as a user would.
            unsafe { libc::raise(libc::SIGTERM) };
            disk.transfer(&mut list, 0, libc::pwritev).is_err()
        }));
        assert_eq!(disk.file.metadata().unwrap().len(), MOST as u64);
    }

    /// An image that was cut meanwhile, whatever the last failed call has left in errno.
    #[test]
    fn a_read_behind_the_end_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(512).unwrap();
        let disk = Disk { file: file.into(), direct: false, write_through: false };
        let mut bytes = [0u8; 1024];
        let mut list = vec![libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 1024 }];
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() = libc::EINTR };
        let error = disk.transfer(&mut list, 0, libc::preadv).unwrap_err();
        assert_eq!(error.to_string(), "the image is shorter than it was");
        assert_eq!(list[0].iov_len, 512);
    }

    /// A call that signals interrupt is made again until the VM is to end.
    #[test]
    fn an_interrupted_call_is_made_again() {
        let fails = || {
            let file = tempfile::tempfile().unwrap();
            let disk = Disk { file: file.into(), direct: false, write_through: false };
            let mut byte = 0u8;
            let mut list = vec![libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 }];
            disk.transfer(&mut list, 0, libc::preadv).is_err()
        };
        assert!(in_a_process(|| {
            end_soon();
            failing(libc::SYS_preadv, libc::EINTR, fails) && events::stopping()
        }));
    }

    /// Buffers that are not aligned go through the cache, where the user wanted to go past it, and nowhere
    /// else.
    #[test]
    fn buffers_that_are_not_aligned() {
        use std::os::unix::fs::{FileExt, OpenOptionsExt};
        for direct in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut options = std::fs::OpenOptions::new();
            options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT);
            let file = options.open(dir.path().join("image")).unwrap();
            if file.write_at(b"odd", 1).is_ok() {
                eprintln!("the file system of {} takes such buffers", dir.path().display());
                return;
            }
            let disk = Disk { file: file.into(), direct, write_through: false };
            let mut bytes = *b".odd.";
            let mut list =
                vec![libc::iovec { iov_base: bytes[1..].as_mut_ptr().cast(), iov_len: 3 }];
            let moved = disk.transfer(&mut list, 1, libc::pwritev);
            assert_eq!(moved.is_ok(), direct);
            let len = if direct { 4 } else { 0 };
            assert_eq!(disk.file.metadata().unwrap().len(), len);
            // SAFETY: asks for flags.
            let flags = unsafe { libc::fcntl(disk.file.as_raw_fd(), libc::F_GETFL) };
            assert_eq!(flags & libc::O_DIRECT == 0, direct);
        }
    }
}
