//! Signals at regular times.

#[cfg(any(feature = "serial", feature = "console", feature = "pmem"))]
use super::{Events, catch, kick_signal};

/// A signal each so many milliseconds; the timer's number, `None` where the kernel has none left. Only
/// system calls, as a handler may make them.
pub fn start(milliseconds: u32, signal: libc::c_int) -> Option<libc::c_int> {
    // SAFETY: an all-zero sigevent is valid; both calls read and write what they are given.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        let mut id: libc::c_int = 0;
        let clock = libc::CLOCK_MONOTONIC;
        if libc::syscall(libc::SYS_timer_create, clock, &raw mut event, &raw mut id) != 0 {
            return None;
        }
        let time = libc::timespec {
            tv_sec: (milliseconds / 1000).into(),
            tv_nsec: (milliseconds % 1000 * 1_000_000).into(),
        };
        let times = libc::itimerspec { it_interval: time, it_value: time };
        let none = std::ptr::null::<libc::itimerspec>();
        libc::syscall(libc::SYS_timer_settime, id, 0, &raw const times, none);
        Some(id)
    }
}

/// An event at regular times, for as long as this is kept.
#[cfg(any(feature = "serial", feature = "console", feature = "pmem"))]
pub struct Timer(libc::c_int);

#[cfg(any(feature = "serial", feature = "console", feature = "pmem"))]
impl Timer {
    /// `event`, one bit, once a second; `None` where the kernel has no timer left.
    pub fn every_second(event: Events) -> Option<Timer> {
        let signal = kick_signal() + event.0.trailing_zeros() as libc::c_int;
        catch(signal);
        start(1000, signal).map(Timer)
    }
}

#[cfg(any(feature = "serial", feature = "console", feature = "pmem"))]
impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: a timer of our own.
        unsafe { libc::syscall(libc::SYS_timer_delete, self.0) };
    }
}
