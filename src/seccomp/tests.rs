//! The filter, by an interpreter of its instructions.

use libc::c_long;

use super::*;

/// What the kernel would do, by its documentation of the instructions (linux/filter.h).
fn run(data: &[u32; 16]) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = PROGRAM[at];
        at += 1;
        match code {
            LOAD => accumulator = data[k as usize / 4],
            EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
            HAS_BIT => at += usize::from(if accumulator & k != 0 { jt } else { jf }),
            RETURN => return k,
            _ => unreachable!(),
        }
    }
}

fn allows(call: c_long, arguments: [u32; 6]) -> bool {
    let mut data = [0; 16];
    (data[0], data[1]) = (call as u32, X86_64);
    arguments.into_iter().enumerate().for_each(|(at, value)| data[4 + 2 * at] = value);
    run(&data) == libc::SECCOMP_RET_ALLOW
}

#[test]
fn what_is_listed_is_allowed_and_nothing_else() {
    let rules: Vec<&Rule> = ALL.iter().copied().flatten().collect();
    for call in (0..1000).chain([u32::MAX, 1 << 30, 1 << 30 | 16, 1 << 30 | 1]) {
        let about: Vec<_> = rules.iter().filter(|rule| rule.call == call).collect();
        for value in [0, 1, 2, 4, 7, 0xae80, 0x4020_aea5, 0x5402, 0x5412, u32::MAX] {
            let wanted = about.iter().any(|rule| match rule.only {
                Only::Any => true,
                Only::Is(_, only) => only == value,
                Only::Without(_, bits) => bits & value == 0,
            });
            assert_eq!(allows(call.into(), [value; 6]), wanted, "{call} {value:#x}");
        }
    }
    for rule in rules {
        if let Only::Is(argument, value) = rule.only {
            let mut arguments = [0; 6];
            arguments[argument as usize] = value;
            assert!(allows(rule.call.into(), arguments));
        }
    }
}

#[test]
fn another_architectures_numbers_are_not_ours() {
    for call in 0..500 {
        let mut data = [0; 16];
        (data[0], data[1]) = (call, 0x4000_0003); // i386
        assert_eq!(run(&data), DENY);
    }
}

#[test]
fn what_a_guest_is_to_be_kept_from() {
    for call in [
        libc::SYS_open,
        libc::SYS_openat,
        libc::SYS_execve,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_socket,
        libc::SYS_ptrace,
        libc::SYS_mprotect,
        libc::SYS_kill,
        libc::SYS_rt_sigaction,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_register,
        libc::SYS_seccomp,
    ] {
        for value in [0, 1, u32::MAX] {
            assert!(!allows(call, [value; 6]), "{call}");
        }
    }
    let executable = (libc::PROT_READ | libc::PROT_EXEC) as u32;
    assert!(!allows(libc::SYS_mmap, [0, 4096, executable, 0x22, u32::MAX, 0]));
    assert!(allows(libc::SYS_mmap, [0, 4096, 3, 0x22, u32::MAX, 0]));
    // TIOCSTI would type at the terminal that brisk was started from.
    assert!(!allows(libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0]));
}

#[test]
fn kvm_run_is_found_at_once() {
    assert_eq!(PROGRAM[4].k, libc::SYS_ioctl as u32);
    assert_eq!((PROGRAM[6].k, PROGRAM[6].code), (0xae80, EQUAL));
    // A snapshot asks KVM for all of a vCPU's state, at an instruction each.
    let most = if cfg!(feature = "snapshot") { 104 } else { 80 };
    assert!(PROGRAM.len() <= most, "{} instructions", PROGRAM.len());
}
