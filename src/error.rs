//! What went wrong, said for the person who has to put it right.

use std::fmt;

/// Why brisk ended without (or instead of) running a guest to its end.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong: exit status 2.
    Usage(String),
    /// The host, a file or brisk itself failed: exit status 1.
    Failed(String),
    /// A file that a flag names could not be used: exit status 1.
    File {
        /// The flag, with its dashes.
        flag: &'static str,
        /// The path as the user gave it.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A signal ended it before the guest ran: exit status 0, and nothing to say.
    Stopped,
    /// A KVM call failed: exit status 1.
    Kvm {
        /// The ioctl's name as in the kernel's `Documentation/virt/kvm/api.rst`.
        call: &'static str,
        /// What the system said.
        error: kvm_ioctls::Error,
    },
}

/// Why the last system call of this thread failed.
#[allow(dead_code, reason = "a build may have nobody who asks")]
pub fn errno() -> libc::c_int {
    // SAFETY: a number of this thread's.
    unsafe { *libc::__errno_location() }
}

/// What most functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The exit status of the process: 1 where the host or brisk failed, 2 for bad usage.
    pub fn status(&self) -> u8 {
        match self {
            Error::Stopped => 0,
            Error::Usage(_) => 2,
            _ => 1,
        }
    }

    /// For `map_err` on what a flag's file answers.
    pub fn file(flag: &'static str, path: &str) -> impl FnOnce(std::io::Error) -> Error {
        move |error| Error::of_file(flag, path, error)
    }

    // Once for all who ask.
    #[cold]
    #[inline(never)]
    fn of_file(flag: &'static str, path: &str, error: std::io::Error) -> Error {
        Error::File { flag, path: path.to_owned(), error }
    }

    /// For `map_err` on a KVM call.
    pub fn kvm(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
        move |error| Error::Kvm { call, error }
    }

    /// For a KVM call that libc made: `errno` says why it failed.
    #[cfg(feature = "snapshot")]
    pub fn last_kvm(call: &'static str) -> Error {
        Error::Kvm { call, error: kvm_ioctls::Error::last() }
    }
}

#[cfg(feature = "snapshot")]
impl From<crate::snapshot::Wrong> for Error {
    // Once for all who ask.
    #[cold]
    #[inline(never)]
    fn from(wrong: crate::snapshot::Wrong) -> Error {
        Error::Failed(format!("--restore: {wrong}; take the snapshot anew"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text) | Error::Failed(text) => f.write_str(text),
            Error::Stopped => f.write_str("ended by a signal"),
            Error::File { flag, path, error } => write!(f, "{flag} {path}: {error}"),
            Error::Kvm { call, error } => write!(f, "/dev/kvm: {call}: {error}"),
        }
    }
}
