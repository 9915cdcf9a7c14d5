//! The guests' init: writes 0x60 to the boot timer, then does what the guest is there for. No libc, no
//! heap; built by `xtask/src/guest/init.rs`.
//!
//! In an initramfs with a file `/config`, which a bundle has, that is to run a workload: see
//! [`workload`]. Otherwise it does what `brisk.do=` on the kernel's command line asks, see [`verbs`],
//! and powers off; `brisk.say` prints `brisk-init: userspace` first.
//!
//! Started by another init, it only writes to the boot timer.
#![no_std]
#![no_main]
#![deny(warnings)]

mod load;
mod root;
mod streams;
mod sys;
mod terminal;
mod verbs;
mod wire;
mod workload;

use core::arch::global_asm;

use sys::{call, nr, open, read};

// The first act: iopl(3), then the boot timer's code for userspace.
global_asm!(
    ".globl _start",
    "_start:",
    "mov edi, 3",
    "mov eax, 172",
    "syscall",
    "mov al, 0x60",
    "out 0x80, al",
    "and rsp, -16",
    "call {main}",
    main = sym main,
);

extern "C" fn main() -> ! {
    if call(nr::GETPID, [0; 6]) != 1 {
        sys::exit(0);
    }
    for (kind, at) in [
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
        // Fails where the kernel has mounted it already.
        (c"devtmpfs", c"/dev"),
    ] {
        let kind = kind.as_ptr() as usize;
        call(nr::MOUNT, [kind, at.as_ptr() as usize, kind, 0, 0, 0]);
    }
    let mut buffer = [0; 4096];
    let file = open(c"/proc/cmdline".to_bytes_with_nul(), 0);
    let length = read(file, &mut buffer);
    sys::close(file);
    let line = buffer.get(..length).unwrap_or_default();
    let mut tasks: &[u8] = b"";
    let mut has_arguments = false;
    for word in line.split(|b| b.is_ascii_whitespace()) {
        match word.strip_prefix(b"brisk.") {
            Some(b"say") => verbs::say(b"userspace"),
            Some(b"args") => has_arguments = true,
            Some(word) => tasks = word.strip_prefix(b"do=").unwrap_or(tasks),
            None => {}
        }
    }
    if let Some(config) = workload::config() {
        workload::run(config, has_arguments);
    }
    verbs::run(tasks);
    verbs::poweroff(b"");
    sys::exit(1)
}
