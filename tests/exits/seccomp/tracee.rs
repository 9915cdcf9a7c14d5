//! A brisk that makes the calls it is told to, and the filter that it installed.

use std::collections::BTreeSet;
use std::process::Command;

use crate::calls::{KVM_RUN, check, traced};
use crate::common::Running;

const SYSGOOD_TRAP: i32 = libc::SIGTRAP | 0x80;

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The kernel made it.
    Made,
    /// The filter raised SIGSYS in its place.
    Forbidden,
    /// The process ended, with this status.
    Ended(i32),
}

/// A brisk whose first thread stands right behind a `syscall` instruction and has its filter.
pub struct Tracee {
    pub running: Running,
    registers: libc::user_regs_struct,
    pub filter: Vec<Step>,
}

/// `struct sock_filter`
pub type Step = (u16, u8, u8, u32);

impl Tracee {
    /// Runs it until it would enter the guest. Where `trap`, a filter that would kill has its answer
    /// changed, so that one process can try all calls; nothing else of it.
    #[track_caller]
    pub fn start(command: &mut Command, trap: bool) -> Tracee {
        traced(command, 1);
        let running = Running::start(command);
        // SAFETY: plain old data, filled below.
        let registers = unsafe { std::mem::zeroed() };
        let mut tracee = Tracee { running, registers, filter: Vec::new() };
        assert_eq!(tracee.stop(), Ok(libc::SIGTRAP), "brisk stops at its exec");
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        tracee.ask(libc::PTRACE_SETOPTIONS, 0, options as u64);
        loop {
            tracee.to_call();
            let at = tracee.get();
            if at.orig_rax == libc::SYS_ioctl as u64 && at.rsi == KVM_RUN {
                break;
            }
            if at.orig_rax == libc::SYS_seccomp as u64 {
                tracee.take_filter(at.rdx, trap);
            }
            tracee.ask(libc::PTRACE_SYSCALL, 0, 0);
            assert_eq!(tracee.stop(), Ok(SYSGOOD_TRAP), "the call returns");
        }
        // A call that changes nothing instead, and on to what comes behind it.
        tracee.registers = tracee.get();
        let orig_rax = libc::SYS_gettid as u64;
        let nothing = libc::user_regs_struct { orig_rax, ..tracee.registers };
        tracee.set(&nothing);
        tracee.ask(libc::PTRACE_SYSCALL, 0, 0);
        assert_eq!(tracee.stop(), Ok(SYSGOOD_TRAP));
        tracee
    }

    fn ask(&self, request: libc::c_uint, address: u64, data: u64) -> i64 {
        // SAFETY: the thread is stopped and ours to trace; requests that fill something have their own.
        unsafe { libc::ptrace(request, self.running.id() as i32, address, data) }
    }

    /// Waits for its next stop: the signal, or the exit status.
    fn stop(&self) -> Result<i32, i32> {
        let mut status = 0;
        // SAFETY: fills the one number.
        let id = unsafe { libc::waitpid(self.running.id() as i32, &mut status, libc::__WALL) };
        assert_eq!(id, self.running.id() as i32);
        if libc::WIFSTOPPED(status) {
            Ok(libc::WSTOPSIG(status))
        } else if libc::WIFEXITED(status) {
            Err(libc::WEXITSTATUS(status))
        } else {
            Err(-libc::WTERMSIG(status))
        }
    }

    /// On to where a call begins. What was forbidden before has no other end.
    fn to_call(&self) {
        loop {
            self.ask(libc::PTRACE_SYSCALL, 0, 0);
            match self.stop() {
                Ok(SYSGOOD_TRAP) => return,
                Ok(_) => {}
                Err(status) => panic!("brisk ended: {status}"),
            }
        }
    }

    fn get(&self) -> libc::user_regs_struct {
        // SAFETY: fills the structure.
        unsafe {
            let mut registers: libc::user_regs_struct = std::mem::zeroed();
            check(self.ask(libc::PTRACE_GETREGS, 0, &raw mut registers as u64) as i32)
                .expect("regs");
            registers
        }
    }

    fn set(&self, registers: &libc::user_regs_struct) {
        check(self.ask(libc::PTRACE_SETREGS, 0, &raw const *registers as u64) as i32)
            .expect("regs");
    }

    /// Reads the program that is about to be installed.
    fn take_filter(&mut self, program: u64, trap: bool) {
        let word = |at| self.ask(libc::PTRACE_PEEKDATA, at, 0) as u64;
        let (len, start) = (word(program) & 0xffff, word(program + 8));
        let steps = (start..).step_by(8).take(len as usize);
        let mut filter = Vec::new();
        for at in steps {
            let mut step = word(at);
            let killing = 0x06 | u64::from(libc::SECCOMP_RET_KILL_PROCESS) << 32;
            if trap && step == killing {
                step = 0x06 | u64::from(libc::SECCOMP_RET_TRAP) << 32;
                self.ask(libc::PTRACE_POKEDATA, at, step);
            }
            filter.push((step as u16, (step >> 16) as u8, (step >> 24) as u8, (step >> 32) as u32));
        }
        assert!(self.filter.is_empty(), "two filters");
        self.filter = filter;
    }

    /// Has it make a call in the place where it stands.
    pub fn attempt(&self, number: u64, arguments: [u64; 6]) -> Fate {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        // A frame to return to from a signal is not there.
        let rsp = if number == libc::SYS_rt_sigreturn as u64 { 0 } else { self.registers.rsp };
        self.set(&libc::user_regs_struct {
            rip: self.registers.rip - 2,
            rax: number,
            orig_rax: u64::MAX,
            rsp,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.registers
        });
        self.to_call();
        self.ask(libc::PTRACE_SYSCALL, 0, 0);
        match self.stop() {
            Err(status) => return Fate::Ended(status),
            Ok(signal) => assert_eq!(signal, SYSGOOD_TRAP),
        }
        if self.pending() == Some(libc::SIGSYS) { Fate::Forbidden } else { Fate::Made }
    }

    /// The signal that it is about to get.
    fn pending(&self) -> Option<i32> {
        let what = libc::ptrace_peeksiginfo_args { off: 0, flags: 0, nr: 1 };
        // SAFETY: fills at most the one structure.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let (from, to) = (&raw const what as u64, &raw mut info as u64);
            (self.ask(libc::PTRACE_PEEKSIGINFO, from, to) == 1).then_some(info.si_signo)
        }
    }

    /// Lets it go where it stands, as if a call `number` had been there.
    pub fn leave_with(self, number: i64) -> Running {
        let rip = self.registers.rip - 2;
        let rax = number as u64;
        self.set(&libc::user_regs_struct { rip, rax, orig_rax: u64::MAX, ..self.registers });
        self.ask(libc::PTRACE_DETACH, 0, 0);
        self.running
    }

    /// What the filter says of a call, by the kernel's documentation of its instructions.
    pub fn filter_allows(&self, number: u64, arguments: [u64; 6], arch: u32) -> bool {
        let mut data = [0; 16];
        (data[0], data[1]) = (number as u32, arch);
        for (at, value) in arguments.into_iter().enumerate() {
            (data[4 + 2 * at], data[5 + 2 * at]) = (value as u32, (value >> 32) as u32);
        }
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let (code, yes, no, k) = self.filter[at];
            at += 1;
            match code {
                0x20 => accumulator = data[k as usize / 4],
                0x15 => at += usize::from(if accumulator == k { yes } else { no }),
                0x45 => at += usize::from(if accumulator & k != 0 { yes } else { no }),
                0x06 => return k == libc::SECCOMP_RET_ALLOW,
                _ => panic!("an instruction {code:#x}, which this test does not know"),
            }
        }
    }

    pub fn allows(&self, number: u64, arguments: [u64; 6]) -> bool {
        self.filter_allows(number, arguments, 0xc000_003e)
    }

    /// Values that may matter in an argument: all that the filter compares with, and their neighbours.
    pub fn candidates(&self) -> BTreeSet<u64> {
        let ours = self.running.id();
        let known = self.filter.iter().map(|step| step.3).chain([0, u32::MAX]);
        let near = |value: u32| (0..32).map(move |bit| value ^ 1 << bit).chain([value]);
        let near = known.filter(|value| *value != ours).flat_map(near);
        near.chain([ours]).map(u64::from).collect()
    }
}
