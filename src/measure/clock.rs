//! Time since the process started, for what measures a boot.

/// A call only where the host's clock is none that a process can read by itself.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::call(libc::SYS_clock_gettime)];

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// When the process started, by [`now`]'s clock. To be asked early: the process has done nothing but
/// run since it was made, so the CPU time it used so far is its age; /proc/self/stat would tell it in
/// steps of 10 ms.
pub fn process_start() -> u64 {
    now() - read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Nanoseconds of CLOCK_REALTIME, for who reads a clock once: by a call, since the way without takes two pages
/// and a search for it.
#[cfg(feature = "snapshot")]
pub fn real() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the one structure it is given.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, &raw mut time) };
    nanoseconds(time)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the one structure it is given.
    unsafe { libc::clock_gettime(clock, &mut time) };
    nanoseconds(time)
}

fn nanoseconds(time: libc::timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Microseconds with three decimals: nanoseconds without floating point.
pub struct Micros(pub u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}
