//! SIGTERM and SIGINT where there is a workload that they are meant for, or a caller who wants to know
//! which of them ended the VM.

#[cfg(feature = "streams")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(feature = "streams")]
use super::catch;
use super::{Events, stopping};

/// The workload's time is limited.
#[cfg(all(feature = "streams", feature = "seccomp"))]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] = &[
    crate::seccomp::rule::Rule::call(libc::SYS_alarm),
    crate::seccomp::rule::Rule::call(libc::SYS_setitimer),
];

/// The last one that came.
static LAST: AtomicU8 = AtomicU8::new(0);
/// The workload gets them.
#[cfg(feature = "streams")]
static FORWARD: AtomicBool = AtomicBool::new(false);
/// The one that it is to get.
#[cfg(feature = "streams")]
static FORWARDED: AtomicU8 = AtomicU8::new(0);
/// Seconds that it then has to end by itself, as docker gives.
#[cfg(feature = "streams")]
const GRACE: libc::c_uint = 10;

/// What `signal` comes to, in its handler.
pub fn event(signal: libc::c_int) -> Events {
    // Those that say so again until all is over.
    if stopping() {
        return Events::STOP;
    }
    // The end of the workload's time is as if it had been killed.
    let number = if signal == libc::SIGALRM { libc::SIGKILL } else { signal };
    note(number);
    if goes_on(signal) { Events::SIGNAL } else { Events::STOP }
}

/// `signal` ends the VM, or is the workload's.
pub fn note(signal: libc::c_int) {
    LAST.store(signal as u8, Ordering::Relaxed);
}

/// Whether `signal` is the workload's, which then gets it.
#[cfg(feature = "streams")]
fn goes_on(signal: libc::c_int) -> bool {
    let theirs = signal != libc::SIGALRM && FORWARD.load(Ordering::Relaxed);
    if theirs {
        FORWARDED.store(signal as u8, Ordering::Relaxed);
        // From here, and not from when the guest takes it: it may never ask for it.
        // SAFETY: a timer, whose signal is caught; a handler may set it.
        unsafe { libc::alarm(GRACE) };
    }
    theirs
}

/// There is no workload that it could be for.
#[cfg(not(feature = "streams"))]
fn goes_on(_: libc::c_int) -> bool {
    false
}

/// The number of the signal that ended the VM; 0 for none.
#[cfg(feature = "exit-status")]
pub fn last_signal() -> u8 {
    LAST.load(Ordering::Relaxed)
}

/// Whether the workload gets SIGTERM and SIGINT from now on, or they end the VM.
#[cfg(feature = "streams")]
pub fn forward(on: bool) {
    FORWARD.store(on, Ordering::Relaxed);
}

/// The signal that the workload is to get; it has `GRACE` since it came.
#[cfg(feature = "streams")]
pub fn take_forwarded() -> Option<u8> {
    let signal = FORWARDED.swap(0, Ordering::Relaxed);
    (signal != 0).then_some(signal)
}

/// Catches the signal that ends the workload's time.
#[cfg(feature = "streams")]
pub fn install() {
    catch(libc::SIGALRM);
}
