//! A workload for examples, tests and `bench`: as little as a program can be. Its first instruction
//! writes 0x61 to the boot timer, where it may.
//!
//! Without arguments it greets. Otherwise the first says what to do: `args` prints the others, `env` the
//! environment, `cat` copies standard input to output, `exit N` ends with that status, `kill N` by that
//! signal, `zombies` leaves some and a daemon behind, `wait` waits for SIGTERM and ends with 7.
#![no_std]
#![no_main]
#![deny(warnings)]

#[allow(dead_code, reason = "a part of what init needs")]
mod sys;

use core::arch::global_asm;

use sys::{call, nr, number, print};

// iopl(3), then the boot timer; `main` gets the stack as the kernel made it.
global_asm!(
    ".globl _start",
    "_start:",
    "mov edi, 3",
    "mov eax, 172",
    "syscall",
    "test rax, rax",
    "jnz 2f",
    "mov al, 0x61",
    "out 0x80, al",
    "2:",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    main = sym main,
);

/// The strings of a list of pointers that ends with null.
fn strings(list: *const *const core::ffi::c_char) -> impl Iterator<Item = &'static [u8]> {
    (0..).map_while(move |index| {
        // SAFETY: the kernel made the list, and nobody looks behind its null.
        let pointer = unsafe { list.add(index).read() };
        // SAFETY: the kernel's strings end with NUL and stay.
        (!pointer.is_null()).then(|| unsafe { core::ffi::CStr::from_ptr(pointer) }.to_bytes())
    })
}

extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the stack starts with the count, the arguments, a null, and the environment.
    let (count, list) = unsafe { (stack.read(), stack.add(1).cast()) };
    let mut arguments = strings(list).skip(1);
    let verb = arguments.next().unwrap_or(b"hello");
    let value = || number(strings(list).nth(2).unwrap_or_default(), 10);
    match verb {
        b"hello" => print(b"Hello from a VM.\n"),
        b"args" => arguments.for_each(line),
        // SAFETY: as above.
        b"env" => strings(unsafe { list.add(count + 1) }).for_each(line),
        b"cat" => copy(),
        b"exit" => sys::exit(value()),
        b"kill" => {
            call(nr::KILL, [call(nr::GETPID, [0; 6]), value(), 0, 0, 0, 0]);
        }
        b"zombies" => zombies(),
        b"wait" => wait(),
        _ => sys::exit(2),
    }
    sys::exit(0)
}

fn line(text: &[u8]) {
    print(text);
    print(b"\n");
}

fn copy() {
    let mut buffer = [0; 16 << 10];
    loop {
        match sys::read(0, &mut buffer) {
            0 => return,
            count => print(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Children of children that end at once, and one that never does and holds standard output.
fn zombies() {
    for index in 0..20 {
        if call(nr::FORK, [0; 6]) == 0 {
            if call(nr::FORK, [0; 6]) == 0 && index == 0 {
                loop {
                    call(nr::PAUSE, [0; 6]);
                }
            }
            sys::exit(0);
        }
    }
    print(b"forked\n");
    sys::exit(9);
}

/// Says `ready`, and ends with 7 when a signal comes that is not to end it.
fn wait() {
    let set: u64 = 1 << 14 | 1 << 1; // SIGTERM and SIGINT
    call(nr::RT_SIGPROCMASK, [0, &raw const set as usize, 0, 8, 0, 0]);
    let signals = call(nr::SIGNALFD4, [usize::MAX, &raw const set as usize, 8, 0, 0, 0]);
    print(b"ready\n");
    let mut information = [0; 128];
    sys::read(signals, &mut information);
    print(if information[0] == 15 { b"SIGTERM\n" } else { b"other  \n" });
    sys::exit(7);
}
