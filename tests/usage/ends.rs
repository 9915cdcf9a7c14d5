//! What ends a VM, and what is an error of a write only.

use super::common::kernel::{BASE, Bits, Code, Elf, check_disassembly};
use super::common::{Running, has, run};
use super::harm::{before_exec, hold, wait_for_vcpu};
use super::place::{FAILED, OUTPUTS, Place, USAGE};

/// Prints a letter to the serial port, and powers off.
const PRINTS: Code = &[
    (&[0x66, 0xba, 0xf8, 0x03], "mov dx,0x3f8"),
    (&[0xb0, 0x78], "mov al,0x78"),
    (&[0xee], "out dx,al"),
    (&[0x66, 0xba, 0x00, 0x06], "mov dx,0x600"),
    (&[0xb0, 0x34], "mov al,0x34"),
    (&[0xee], "out dx,al"),
];

/// A limit on the length of files is an error of the write in every build. The signal that comes with it has
/// its default disposition, whoever runs this.
#[test]
fn a_limit_on_files_ends_nothing() {
    check_disassembly("PRINTS", PRINTS, Bits::B32, BASE);
    let place = Place::with(&Elf::new(PRINTS, &[]).file());
    let limit = || {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads the structure it is given, and sets a disposition.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        }
    };
    for (flag, value) in OUTPUTS.iter() {
        let mut command = place.command(&[flag, &value.replace("PATH", "out")]);
        before_exec(&mut command, limit);
        let ended = run(&mut command);
        assert_eq!((ended.status, ended.signal), (Some(0), None), "{flag}: {ended:?}");
    }
}

/// Nor does a reader of its output, or of its errors, that went away, as `| head` does.
#[test]
fn readers_that_are_gone_end_nothing() {
    let place = Place::with(&Elf::new(PRINTS, &[]).file());
    let gone = || std::io::pipe().expect("a pipe").1;
    let default = || {
        // SAFETY: sets a disposition.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        Ok(())
    };
    let status = |more: &[&str]| {
        let mut command = place.command(more);
        command.stdout(gone()).stderr(gone());
        before_exec(&mut command, default);
        command.status().expect("brisk")
    };
    assert_eq!(status(&["--frobnicate"]).code(), Some(USAGE));
    assert_eq!(status(&["--help"]).code(), Some(0));
    assert_eq!(status(&["--initramfs", "missing"]).code(), Some(FAILED));
    let mut more = Vec::new();
    if has("serial") {
        more.extend(["--serial", "tty"]);
    }
    if has("boot-timer") {
        more.push("--timeline");
    }
    assert_eq!(status(&more).code(), Some(0), "{more:?}");
}

#[test]
fn a_signal_ends_the_vm_cleanly() {
    let place = Place::with(&hold().file());
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let running = Running::start(&mut place.command(&[]));
        wait_for_vcpu(&running);
        running.signal(signal);
        running.end().silent().with_status(0);
    }
}
