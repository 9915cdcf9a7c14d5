//! A child that outlives brisk, to clear up behind it: it does what brisk's sandbox keeps it from, when it is
//! told to, or when brisk is gone.

use std::ffi::c_uint;
use std::io;

use crate::fd::Fd;

/// Makes a child, whose whole life is `life` with its end of a line; the other end is the caller's.
///
/// # Errors
/// There is no room for a process.
pub fn start(life: impl FnOnce(&Fd)) -> io::Result<Fd> {
    let [ours, theirs] = Fd::pair(0)?;
    // By its number: what the C library does around it is for processes with more threads, and 1 KB of musl's.
    // SAFETY: the process has one thread yet, so its child may do what it likes.
    match unsafe { libc::syscall(libc::SYS_fork) } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(ours);
            stays(theirs.number() as c_uint);
            life(&theirs);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(ours),
    }
}

/// Makes this child one that has nothing but `line`, the descriptor that ends with brisk, and lives on.
fn stays(line: c_uint) {
    // Nothing of the VM's lives on by this.
    // SAFETY: closes descriptors of the child's, which uses no other.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, line - 1, 0);
        libc::syscall(libc::SYS_close_range, line + 1, c_uint::MAX, 0);
    }
    // What ends brisk, at a terminal's keys for instance, is not to end this before it.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: sets a disposition, no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
