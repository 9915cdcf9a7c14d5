//! Without a workload, or a caller who wants to know, each of these ends the VM.

use super::Events;

/// What `signal` comes to, in its handler.
pub fn event(_signal: libc::c_int) -> Events {
    Events::STOP
}

/// Nobody wants to know.
#[cfg(feature = "api")]
pub fn note(_signal: libc::c_int) {}
