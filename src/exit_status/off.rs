//! Without the feature `exit-status`: 0, 1, 2 and 3, as `brisk --help` has them.

/// Nobody asks.
pub fn expect() {}

/// The status where brisk itself, or what it runs, failed with `status`.
pub fn own(status: u8) -> u8 {
    status
}

/// Nobody waits for more than the process.
pub fn leave_behind<T>(_: &T) {}

/// Nothing.
#[derive(Default)]
pub struct ExitStatus;

impl ExitStatus {
    /// Whether anybody takes what the guest writes.
    pub const LISTENS: bool = false;

    /// Never called.
    pub fn set(&mut self, _: u8) {}

    /// The guest has powered off, or was reset.
    pub fn of_guest(&self) -> u8 {
        0
    }
}

/// A signal or the user ended the VM.
pub fn of_signal() -> u8 {
    0
}
