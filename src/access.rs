//! What becomes of a guest's access, and by what the VM ends.

use crate::api::Asked;

/// Why the VM ends by the guest's or the user's own wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// ACPI's S5.
    PowerOff,
    /// The reset register.
    Reset,
    /// Ctrl-A x, SIGTERM or SIGINT.
    Quit,
    /// None, if the guest is to run on: it asked to be saved.
    Snapshot,
    /// None, unless a client says so: one waits for the first vCPU's thread.
    Asked(Asked),
}

/// What became of an access.
#[must_use]
pub enum Access<J> {
    /// No device is there.
    Unclaimed,
    /// A device did it.
    Done,
    /// A device took it, and this job is left to be done, without the bus.
    Notified(J),
    /// A device did it, and the VM ends by it.
    End(End),
}

impl<J> Access<J> {
    /// Whether a device is there.
    pub fn claimed(&self) -> bool {
        !matches!(self, Access::Unclaimed)
    }

    /// Whether the VM ends.
    pub fn end(&self) -> Option<End> {
        match self {
            Access::End(end) => Some(*end),
            _ => None,
        }
    }

    /// Done, and perhaps the end.
    pub(crate) fn done(end: Option<End>) -> Access<J> {
        end.map_or(Access::Done, Access::End)
    }
}
