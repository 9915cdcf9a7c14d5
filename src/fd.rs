//! Descriptors by the calls that the sandbox leaves: read(2) and write(2), which are others' too, rather
//! than those of sockets; and close(2) alone, where std would first ask whether it is open, in builds that
//! are to find faults.

use std::io;
use std::os::fd::RawFd;

use crate::error::errno;

/// One that is ours.
pub struct Fd(RawFd);

/// What came of a read or write.
pub enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// None, now.
    Later,
    /// None, ever.
    Gone,
}

impl Fd {
    /// Takes `fd` over; `None` where it is -1.
    ///
    /// # Safety
    /// Nobody else closes it.
    #[cfg(feature = "api")]
    pub unsafe fn new(fd: RawFd) -> Option<Fd> {
        (fd >= 0).then(|| Fd(fd))
    }

    /// Two ends of a line, whose `flags` are those of socket(2).
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn pair(flags: libc::c_int) -> io::Result<[Fd; 2]> {
        let mut ends = [-1; 2];
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
        // By its number: musl's is for kernels too that do not know these flags.
        // SAFETY: fills both, which are then nobody else's.
        let made =
            unsafe { libc::syscall(libc::SYS_socketpair, libc::AF_UNIX, kind, 0, &raw mut ends) };
        if made == 0 { Ok(ends.map(Fd)) } else { Err(io::Error::last_os_error()) }
    }

    /// Its number.
    pub const fn number(&self) -> RawFd {
        self.0
    }

    /// Reads what is there.
    pub fn read(&self, to: &mut [u8]) -> Moved {
        // SAFETY: as many bytes as there are.
        moved(unsafe { libc::read(self.0, to.as_mut_ptr().cast(), to.len()) })
    }

    /// Writes what goes.
    pub fn write(&self, from: &[u8]) -> Moved {
        // SAFETY: as many bytes as there are.
        moved(unsafe { libc::write(self.0, from.as_ptr().cast(), from.len()) })
    }

    /// What to wait for with poll(2).
    #[cfg(feature = "api")]
    pub const fn poll(&self, events: libc::c_short) -> libc::pollfd {
        libc::pollfd { fd: self.0, events, revents: 0 }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: ours, and not used any more.
        unsafe { libc::close(self.0) };
    }
}

fn moved(count: isize) -> Moved {
    match count {
        1.. => Moved::Bytes(count as usize),
        0 => Moved::Gone,
        _ => match errno() {
            libc::EAGAIN | libc::EINTR => Moved::Later,
            _ => Moved::Gone,
        },
    }
}

/// poll(2); false where it failed.
#[cfg(feature = "api")]
pub fn poll(polls: &mut [libc::pollfd], milliseconds: libc::c_int) -> bool {
    let count = polls.len() as libc::nfds_t;
    // SAFETY: no more entries than there are.
    unsafe { libc::poll(polls.as_mut_ptr(), count, milliseconds) >= 0 }
}

#[cfg(test)]
#[cfg(feature = "api")]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_none_the_reason_stays() {
        // SAFETY: a path that ends, and what is nobody else's.
        let none = unsafe { Fd::new(libc::open(c"/nowhere/at/all".as_ptr(), libc::O_RDONLY)) };
        assert_eq!((none.is_none(), errno()), (true, libc::ENOENT));
    }
}
