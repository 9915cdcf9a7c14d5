//! The guest's exit status as the process's own (feature `exit-status`, `--exit-status`).
//!
//! As of docker: 125 where what was to run the workload failed, 128 and its number for a signal.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{descriptors, events};

/// brisk, the host or the guest's kernel failed.
const OWN: u8 = 125;

static EXPECTED: AtomicBool = AtomicBool::new(false);

/// From now on a status of the guest's is expected.
pub fn expect() {
    EXPECTED.store(true, Ordering::Relaxed);
}

/// The status where brisk itself, or what it runs, failed with `status`.
pub fn own(status: u8) -> u8 {
    if EXPECTED.load(Ordering::Relaxed) { OWN } else { status }
}

/// What the guest wrote.
#[derive(Default)]
pub struct ExitStatus(Option<u8>);

impl ExitStatus {
    /// Whether anybody takes what the guest writes.
    pub const LISTENS: bool = true;

    /// The guest writes it.
    pub fn set(&mut self, status: u8) {
        self.0 = Some(status);
    }

    /// The guest has powered off, or was reset.
    pub fn of_guest(&self) -> u8 {
        match (EXPECTED.load(Ordering::Relaxed), self.0) {
            (false, _) => 0,
            (true, Some(status)) => status,
            (true, None) => {
                descriptors::say("brisk: the guest ended without an exit status (port 0x84)\n");
                OWN
            }
        }
    }
}

/// A signal or the user ended the VM.
pub fn of_signal() -> u8 {
    match EXPECTED.load(Ordering::Relaxed) {
        false => 0,
        true => 128_u8.saturating_add(events::last_signal()),
    }
}
