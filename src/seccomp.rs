//! The system calls that are left once the guest runs (feature `seccomp`).
//!
//! brisk opens all that it uses before the guest's first instruction. From there on it needs a few
//! calls, which the features that are compiled in tell; a guest that takes the process over gets no
//! more than these. The filter is a constant of the binary, made when it is compiled. It is installed
//! once, for all threads, right before the first vCPU runs.
//!
//! **How a device brings its rules.** In its own file, what it calls while the guest runs, and nothing
//! of what it calls to be set up:
//!
//! ```ignore
//! /// What a disk asks of the kernel while the guest runs.
//! #[cfg(feature = "seccomp")]
//! pub(crate) const RULES: &[Rule] = &[Rule::call(libc::SYS_preadv), Rule::ioctl(KVM_IRQFD)];
//! ```
//!
//! and a line in [`ALL`], behind the device's feature. A file or socket that is needed later is opened
//! before (no rule has a path in it), a thread is made before, by [`crate::threads`]. A call whose
//! argument decides what it does is allowed by that argument. What nobody may have any more is in no
//! list, so there is nothing to forbid. `cargo xtask calls --save` then writes the new list into
//! `SECURITY.md`; a test compares it with what the built programs let through.
//!
//! KVM_RUN is the first that the filter looks for, since each exit pays for it: eight instructions, and
//! the kernel's way to them, which is ten times as long.

#[cfg(any(feature = "serial", feature = "console"))]
mod forbidden;
#[cfg(not(any(feature = "serial", feature = "console")))]
#[path = "seccomp/forbidden/off.rs"]
mod forbidden;
pub(crate) mod rule;

use libc::sock_filter;

#[cfg(any(feature = "smp", feature = "io-uring", feature = "api"))]
use self::rule::OURSELVES;
use self::rule::{Only, Rule};
use crate::config::Seccomp;
use crate::error::{Error, Result};

/// The rules of all that is compiled in. KVM's first, KVM_RUN being the first of those.
const ALL: &[&[Rule]] = &[
    crate::kvm::RULES,
    ALWAYS,
    crate::descriptors::RULES,
    #[cfg(any(feature = "serial", feature = "console"))]
    crate::terminal::RULES,
    #[cfg(feature = "coalesced-serial")]
    crate::coalesced::RULES,
    #[cfg(feature = "console")]
    crate::virtio::console::RULES,
    #[cfg(feature = "streams")]
    crate::virtio::streams::RULES,
    #[cfg(feature = "streams")]
    crate::events::END_RULES,
    #[cfg(feature = "block")]
    crate::virtio::block::RULES,
    #[cfg(feature = "io-uring")]
    crate::virtio::block::RING_RULES,
    #[cfg(feature = "pmem")]
    crate::virtio::pmem::RULES,
    #[cfg(feature = "pmem")]
    crate::stuck::RULES,
    #[cfg(feature = "rng")]
    crate::virtio::rng::RULES,
    #[cfg(feature = "pci")]
    crate::virtio::PCI_RULES,
    #[cfg(any(feature = "smp", feature = "io-uring", feature = "async-loader", feature = "api"))]
    crate::threads::RULES,
    crate::events::RULES,
    #[cfg(feature = "boot-timer")]
    crate::measure::clock::RULES,
    #[cfg(feature = "exit-stats")]
    crate::measure::exit_stats::RULES,
    #[cfg(feature = "snapshot")]
    crate::snapshot::RULES,
    #[cfg(feature = "api")]
    crate::api::RULES,
];

/// What every build needs: to say something, to end, to come back from a signal's handler, memory for
/// the allocator, of which no byte can be executed.
const ALWAYS: &[Rule] = &[
    Rule::call(libc::SYS_write),
    Rule::call(libc::SYS_exit_group),
    Rule::call(libc::SYS_rt_sigreturn),
    // What goes on after a process was stopped and continued.
    Rule::call(libc::SYS_restart_syscall),
    Rule::call(libc::SYS_brk),
    Rule::without(libc::SYS_mmap, 2, libc::PROT_EXEC),
    Rule::call(libc::SYS_munmap),
    Rule::call(libc::SYS_mremap),
    // A panic's message has the thread's number in it.
    Rule::call(libc::SYS_gettid),
];

/// Where there may be a terminal to restore, a handler does that and says why the VM ended.
const DENY: u32 = if cfg!(any(feature = "serial", feature = "console")) {
    libc::SECCOMP_RET_TRAP
} else {
    libc::SECCOMP_RET_KILL_PROCESS
};

/// Offsets in `struct seccomp_data`; an argument is eight bytes, the low half first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `AUDIT_ARCH_X86_64` of linux/audit.h. Calls of the x32 kind have a bit in their number that no rule
/// has.
const X86_64: u32 = 0xc000_003e;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const HAS_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// More than any build needs. A jump reaches 255 instructions.
const MOST: usize = 200;
/// Distances that are known only when all is assembled.
const TO_DENY: u8 = 255;
const TO_ALLOW: u8 = 254;

struct Draft {
    code: [sock_filter; MOST],
    len: usize,
}

impl Draft {
    const fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.code[self.len] = sock_filter { code, jt, jf, k };
        self.len += 1;
    }
}

/// Whether a rule before `ALL[list][at]` is about the same call.
const fn is_done(list: usize, at: usize) -> bool {
    let (mut l, mut a) = (0, 0);
    while l < list || a < at {
        if a == ALL[l].len() {
            (l, a) = (l + 1, 0);
        } else if ALL[l][a].call == ALL[list][at].call {
            return true;
        } else {
            a += 1;
        }
    }
    false
}

/// Adds what allows `call` as all rules about it say.
const fn allow(mut draft: Draft, call: u32) -> Draft {
    let start = draft.len;
    draft.push(EQUAL, call, 0, 0);
    let (mut list, mut at, mut argument) = (0, 0, None);
    while list < ALL.len() {
        if at == ALL[list].len() {
            (list, at) = (list + 1, 0);
            continue;
        }
        let rule = ALL[list][at];
        at += 1;
        if rule.call != call {
            continue;
        }
        let (number, value, code, jt, jf) = match rule.only {
            Only::Any => {
                draft.len = start;
                draft.push(EQUAL, call, TO_ALLOW, 0);
                return draft;
            }
            Only::Is(number, value) => (number, value, EQUAL, TO_ALLOW, 0),
            Only::Without(number, bits) => (number, bits, HAS_BIT, TO_DENY, TO_ALLOW),
        };
        match argument {
            None => draft.push(LOAD, ARGUMENTS + 8 * number, 0, 0),
            Some(other) => assert!(other == number, "rules look at two arguments of a call"),
        }
        argument = Some(number);
        draft.push(code, value, jt, jf);
    }
    // The last of several values: none of them.
    if draft.code[draft.len - 1].jf == 0 {
        draft.code[draft.len - 1].jf = TO_DENY;
    }
    draft.code[start].jf = (draft.len - start - 1) as u8;
    draft
}

const fn assemble() -> Draft {
    let nothing = sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
    let mut draft = Draft { code: [nothing; MOST], len: 0 };
    // The kernel runs a new filter for each of its calls, native and 32-bit, to know those that it need
    // not run it for. That takes 5,000 instructions for each one of the filter's, more than all the calls
    // of a boot gain by it. From a filter that begins with an argument it keeps its hands off.
    draft.push(LOAD, ARGUMENTS, 0, 0);
    draft.push(LOAD, ARCH, 0, 0);
    draft.push(EQUAL, X86_64, 0, TO_DENY);
    draft.push(LOAD, NUMBER, 0, 0);
    let mut list = 0;
    while list < ALL.len() {
        let mut at = 0;
        while at < ALL[list].len() {
            if !is_done(list, at) {
                draft = allow(draft, ALL[list][at].call);
            }
            at += 1;
        }
        list += 1;
    }
    draft.push(RETURN, DENY, 0, 0);
    draft.push(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
    let mut at = 0;
    while at < draft.len {
        draft.code[at].jt = distance(draft.code[at].jt, at, draft.len);
        draft.code[at].jf = distance(draft.code[at].jf, at, draft.len);
        at += 1;
    }
    draft
}

/// From the instruction behind `at` in a program of `len`.
const fn distance(to: u8, at: usize, len: usize) -> u8 {
    match to {
        TO_ALLOW => (len - 1 - at - 1) as u8,
        TO_DENY => (len - 2 - at - 1) as u8,
        other => other,
    }
}

const DRAFT: Draft = assemble();

/// The filter.
const PROGRAM: [sock_filter; DRAFT.len] = {
    let mut program = [DRAFT.code[0]; DRAFT.len];
    let mut at = 0;
    while at < program.len() {
        program[at] = DRAFT.code[at];
        at += 1;
    }
    program
};

/// Puts this process's number where a rule asks for it.
#[cfg(any(feature = "smp", feature = "io-uring", feature = "api"))]
fn name_ourselves(program: &mut [sock_filter]) {
    for step in program {
        if step.code == EQUAL && step.k == OURSELVES {
            step.k = std::process::id();
        }
    }
}

/// No rule does.
#[cfg(not(any(feature = "smp", feature = "io-uring", feature = "api")))]
fn name_ourselves(_: &mut [sock_filter]) {}

/// Takes all other system calls from this process for good, and the right to become more than it is by
/// exec, and others' right to look into its memory. In the mode `log` the kernel notes what would
/// have been forbidden, and lets it be.
///
/// # Errors
/// The kernel has no such filters.
pub fn install(mode: Seccomp) -> Result<()> {
    if mode == Seccomp::Off {
        return Ok(());
    }
    let failed = |what: &str| {
        let error = std::io::Error::last_os_error();
        Error::failed(format!("--seccomp: {what}: {error}; to run without: --seccomp false"))
    };
    let mut program = PROGRAM;
    name_ourselves(&mut program);
    if mode == Seccomp::Log {
        program[DRAFT.len - 2].k = libc::SECCOMP_RET_LOG;
    }
    crate::threads::settle();
    forbidden::catch();
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // Nothing that brisk executes itself is the guest's, so the host's own choice against speculation
    // is enough for it; a kernel before 5.16 would slow down every thread with a filter.
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: plain numbers, and a program that outlives the call.
    unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(failed("PR_SET_NO_NEW_PRIVS"));
        }
        if libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 {
            return Err(failed("PR_SET_DUMPABLE"));
        }
        let set = libc::SECCOMP_SET_MODE_FILTER;
        // More than 0 is a thread that has a filter of its own.
        if libc::syscall(libc::SYS_seccomp, set, flags, &raw const filter) != 0 {
            return Err(failed("no filter"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
