//! A child that outlives brisk, to clear up behind it: it does what brisk's sandbox keeps it from, when it is
//! told to, or when brisk is gone.

use std::ffi::c_uint;

/// Makes this child one that has nothing but `line`, the descriptor that ends with brisk, and lives on.
pub fn stays(line: c_uint) {
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
