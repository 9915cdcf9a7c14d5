//! What went wrong, said for the person who has to put it right.

use std::fmt;

/// Why brisk ended without (or instead of) running a guest to its end. One word, since each function on the
/// way hands it on.
#[derive(Debug)]
pub struct Error(Box<Why>);

#[derive(Debug)]
struct Why {
    /// The exit status of the process.
    status: u8,
    /// For the user.
    text: String,
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
    // Once for all who ask, and out of the way of what does not fail.
    #[cold]
    #[inline(never)]
    fn new(status: u8, text: String) -> Error {
        Error(Box::new(Why { status, text }))
    }

    /// The command line is wrong: exit status 2.
    pub fn usage(text: String) -> Error {
        Error::new(2, text)
    }

    /// The host, a file or brisk itself failed: exit status 1.
    pub fn failed(text: String) -> Error {
        Error::new(1, text)
    }

    /// A signal ended it before the guest ran: exit status 0, and nothing to say.
    pub fn stopped() -> Error {
        Error::new(0, String::new())
    }

    /// The exit status of the process: 0 where a signal ended it, 1 where the host or brisk failed, 2 for bad
    /// usage.
    pub fn status(&self) -> u8 {
        self.0.status
    }

    /// For `map_err` on what a flag's file answers.
    pub fn file(flag: &'static str, path: &str) -> impl FnOnce(std::io::Error) -> Error {
        move |error| Error::of_file(flag, path, error)
    }

    /// A file that a flag, with its dashes, names by `path` could not be used: exit status 1.
    #[cold]
    #[inline(never)]
    pub fn of_file(flag: &'static str, path: &str, error: std::io::Error) -> Error {
        Error::failed(format!("{flag} {path}: {error}"))
    }

    /// For `map_err` on a KVM call.
    pub fn kvm(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
        move |error| Error::of_kvm(call, error)
    }

    /// A KVM call, named as in the kernel's `Documentation/virt/kvm/api.rst`, failed: exit status 1.
    #[cold]
    #[inline(never)]
    pub fn of_kvm(call: &'static str, error: kvm_ioctls::Error) -> Error {
        Error::failed(format!("/dev/kvm: {call}: {error}"))
    }

    /// For a KVM call that libc made: `errno` says why it failed.
    #[cfg(feature = "snapshot")]
    #[cold]
    #[inline(never)]
    pub fn last_kvm(call: &'static str) -> Error {
        Error::of_kvm(call, kvm_ioctls::Error::last())
    }
}

#[cfg(feature = "snapshot")]
impl From<crate::snapshot::Wrong> for Error {
    #[cold]
    #[inline(never)]
    fn from(wrong: crate::snapshot::Wrong) -> Error {
        Error::failed(format!("--restore: {wrong}; {}", wrong.mend()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}
