//! One rule of the filter, as a device brings it: a module of its own, since the filter knows the devices
//! and they the rules.

use libc::{c_int, c_long, c_ulong};

/// A system call that is needed while the guest runs.
#[derive(Clone, Copy)]
pub struct Rule {
    pub(super) call: u32,
    pub(super) only: Only,
}

/// With which arguments. Each is an `int` or a set of flags, so its low half is all of it.
#[derive(Clone, Copy)]
pub(super) enum Only {
    Any,
    /// This argument, counted from 0, is this.
    Is(u32, u32),
    /// This argument has none of these bits.
    Without(u32, u32),
}

/// Stands for our process id, which no constant can be; no process has it.
#[cfg(any(feature = "smp", feature = "io-uring", feature = "api"))]
pub(super) const OURSELVES: u32 = u32::MAX;

#[allow(dead_code, reason = "each build has its own few rules")]
impl Rule {
    /// With any arguments.
    pub const fn call(number: c_long) -> Rule {
        Rule { call: number as u32, only: Only::Any }
    }

    /// This request only.
    pub const fn ioctl(request: c_ulong) -> Rule {
        Rule { call: libc::SYS_ioctl as u32, only: Only::Is(1, request as u32) }
    }

    /// This command only.
    pub const fn fcntl(command: c_int) -> Rule {
        Rule { call: libc::SYS_fcntl as u32, only: Only::Is(1, command as u32) }
    }

    /// This advice only (madvise(2)).
    #[cfg(feature = "pmem")]
    pub const fn madvise(advice: c_int) -> Rule {
        Rule { call: libc::SYS_madvise as u32, only: Only::Is(2, advice as u32) }
    }

    /// Where argument `argument`, counted from 0, has none of `bits`.
    pub const fn without(number: c_long, argument: u32, bits: c_int) -> Rule {
        Rule { call: number as u32, only: Only::Without(argument, bits as u32) }
    }

    /// Where the first argument names our own process.
    #[cfg(any(feature = "smp", feature = "io-uring", feature = "api"))]
    pub const fn on_ourselves(number: c_long) -> Rule {
        Rule { call: number as u32, only: Only::Is(0, OURSELVES) }
    }
}
