//! The guests' init: writes 0x60 to the boot timer, then does what `brisk.do=` on the kernel's
//! command line asks, then powers off. No libc, no heap; built by `xtask/src/guest/init.rs`.
//!
//! `brisk.do=` is a list of verbs with commas between, each with an argument where it takes one:
//! `brisk.do=cat=/proc/meminfo,write=/dev/vda:hello,reboot`. See [`VERBS`]. `brisk.say` prints
//! `brisk-init: userspace` first.
//!
//! Started by another init, it only writes to the boot timer.
#![no_std]
#![no_main]
#![deny(warnings)]

use core::arch::{asm, global_asm};

/// What init can be asked for: name, what it does with its argument (NUL-terminated, maybe empty).
const VERBS: &[(&str, fn(&[u8]))] = &[
    ("cat", cat),           // =FILE: prints a file
    ("echo", echo),         // copies the console's input to its output until a line `quit`
    ("hold", hold),         // sleeps for ever
    ("out", out),           // =PORT:VALUE: writes a byte to an I/O port (hexadecimal)
    ("panic", panic),       // the kernel's panic: init exits
    ("poweroff", poweroff), // powers off
    ("reboot", reboot),     // reboots
    ("say", say),           // =TEXT: prints it
    ("shell", shell),       // busybox' shell, where the initramfs has it
    ("reset", reset),       // =KIND: reboots in this way: acpi, kbd, triple
    ("touch", touch),       // =MIB: writes to each page of that much new memory
    ("write", write),       // =DEVICE:TEXT: writes to the start of a device, then fsync
];

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

/// x86-64 system calls by number, `arch/x86/entry/syscalls/syscall_64.tbl`.
mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPEN: usize = 2;
    pub const CLOSE: usize = 3;
    pub const MMAP: usize = 9;
    pub const IOCTL: usize = 16;
    pub const PAUSE: usize = 34;
    pub const GETPID: usize = 39;
    pub const FORK: usize = 57;
    pub const EXECVE: usize = 59;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const FSYNC: usize = 74;
    pub const SYNC: usize = 162;
    pub const MOUNT: usize = 165;
    pub const REBOOT: usize = 169;
}

extern "C" fn main() -> ! {
    if call(nr::GETPID, [0; 6]) != 1 {
        call(nr::EXIT, [0; 6]);
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
    let line = buffer.get(..length).unwrap_or_default();
    let mut tasks: &[u8] = b"";
    for word in line.split(|b| b.is_ascii_whitespace()) {
        match word.strip_prefix(b"brisk.") {
            Some(b"say") => say(b"userspace"),
            Some(word) => tasks = word.strip_prefix(b"do=").unwrap_or(tasks),
            None => {}
        }
    }
    for task in tasks.split(|b| *b == b',').filter(|task| !task.is_empty()) {
        let (name, argument) = cut(task, b'=');
        match VERBS.iter().find(|(verb, _)| verb.as_bytes() == name) {
            Some((_, act)) => act(argument),
            None => say(b"no such verb in brisk.do"),
        }
    }
    poweroff(b"");
    call(nr::EXIT, [1, 0, 0, 0, 0, 0]);
    loop {}
}

fn poweroff(_: &[u8]) {
    restart(0x4321_fedc); // LINUX_REBOOT_CMD_POWER_OFF
}

fn reboot(_: &[u8]) {
    restart(0x0123_4567); // LINUX_REBOOT_CMD_RESTART
}

fn restart(command: usize) {
    call(nr::SYNC, [0; 6]);
    call(nr::REBOOT, [0xfee1_dead, 0x2812_1969, command, 0, 0, 0]);
}

fn panic(_: &[u8]) {
    call(nr::EXIT, [0; 6]);
}

/// See Documentation/ABI/testing/sysfs-kernel-reboot.
fn reset(kind: &[u8]) {
    const FILE: &[u8] = b"/sys/kernel/reboot/type:";
    let mut text = [0; 64];
    text.iter_mut().zip(FILE.iter().chain(kind)).for_each(|(to, from)| *to = *from);
    write(text.get(..FILE.len() + kind.len()).unwrap_or_default());
    reboot(b"");
}

fn hold(_: &[u8]) {
    loop {
        call(nr::PAUSE, [0; 6]);
    }
}

fn say(text: &[u8]) {
    for part in [b"brisk-init: ", text, b"\n"] {
        print(part);
    }
}

fn cat(name: &[u8]) {
    let file = open(Path::new(name).bytes(), 0);
    let mut buffer = [0; 4096];
    loop {
        let length = read(file, &mut buffer);
        if length == 0 {
            break;
        }
        print(buffer.get(..length).unwrap_or_default());
    }
    call(nr::CLOSE, [file, 0, 0, 0, 0, 0]);
}

/// Input comes back once, from here: the console's own echo is switched off. Says `echo` when ready.
fn echo(_: &[u8]) {
    const TCGETS: usize = 0x5401;
    const TCSETS: usize = 0x5402;
    let mut termios = [0_u32; 16];
    call(nr::IOCTL, [0, TCGETS, termios.as_mut_ptr() as usize, 0, 0, 0]);
    termios[3] &= !0o10; // c_lflag, ECHO
    call(nr::IOCTL, [0, TCSETS, termios.as_ptr() as usize, 0, 0, 0]);
    say(b"echo");
    let mut line = [0; 4096];
    loop {
        let length = read(0, &mut line);
        let text = line.get(..length).unwrap_or_default();
        if length == 0 || text == b"quit\n" {
            return;
        }
        print(text);
    }
}

fn out(argument: &[u8]) {
    let (port, value) = cut(argument, b':');
    let (port, value) = (number(port, 16) as u16, number(value, 16) as u8);
    // SAFETY: iopl(3) allows it; what a port does to the machine is the caller's wish.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

fn shell(_: &[u8]) {
    let script = c"/bin/busybox --install -s /bin; exec sh -i".as_ptr();
    let arguments = [c"sh".as_ptr(), c"-c".as_ptr(), script, core::ptr::null()];
    let environment = [c"PATH=/bin".as_ptr(), c"HOME=/".as_ptr(), core::ptr::null()];
    if call(nr::FORK, [0; 6]) == 0 {
        let program = c"/bin/busybox".as_ptr() as usize;
        let (arguments, environment) = (arguments.as_ptr() as usize, environment.as_ptr() as usize);
        call(nr::EXECVE, [program, arguments, environment, 0, 0, 0]);
        say(b"this initramfs has no busybox");
        call(nr::EXIT, [1, 0, 0, 0, 0, 0]);
    }
    call(nr::WAIT4, [usize::MAX, 0, 0, 0, 0, 0]);
}

fn touch(mib: &[u8]) {
    let length = number(mib, 10) << 20;
    // PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    let start = call(nr::MMAP, [0, length, 3, 0x22, usize::MAX, 0]);
    if start.cast_signed() < 0 {
        return say(b"touch: no memory");
    }
    for page in (start..start + length).step_by(4096) {
        // SAFETY: mmap just gave `length` writable bytes at `start`.
        unsafe { core::ptr::write_volatile(page as *mut u8, 1) };
    }
    say(b"touched");
}

fn write(argument: &[u8]) {
    let (name, text) = cut(argument, b':');
    let file = open(Path::new(name).bytes(), 1); // O_WRONLY
    let written = call(nr::WRITE, [file, text.as_ptr() as usize, text.len(), 0, 0, 0]);
    if written != text.len() {
        say(b"write failed");
    } else if call(nr::FSYNC, [file, 0, 0, 0, 0, 0]) != 0 {
        say(b"not a file with fsync");
    } else {
        say(b"written");
    }
    call(nr::CLOSE, [file, 0, 0, 0, 0, 0]);
}

/// A file's name with the NUL that the kernel wants.
struct Path([u8; 256]);

impl Path {
    fn new(name: &[u8]) -> Self {
        let mut bytes = [0; 256];
        // The last byte stays NUL.
        bytes.iter_mut().take(255).zip(name).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is before and after the first `at`.
fn cut(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let mut parts = text.splitn(2, |b| *b == at);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn number(text: &[u8], base: u32) -> usize {
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    let value = |b: &u8| (*b as char).to_digit(base).unwrap_or(0) as usize;
    digits.iter().fold(0, |n: usize, b| n.wrapping_mul(base as usize).wrapping_add(value(b)))
}

/// Opens a file, whose name ends with NUL.
fn open(name: &[u8], flags: usize) -> usize {
    call(nr::OPEN, [name.as_ptr() as usize, flags, 0, 0, 0, 0])
}

/// Reads once. 0 at the end of the file, and after an error.
fn read(file: usize, into: &mut [u8]) -> usize {
    let length = call(nr::READ, [file, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]);
    if length.cast_signed() < 0 { 0 } else { length }
}

fn print(mut text: &[u8]) {
    while !text.is_empty() {
        let written = call(nr::WRITE, [1, text.as_ptr() as usize, text.len(), 0, 0, 0]);
        match text.get(written..) {
            Some(rest) if written > 0 => text = rest,
            _ => return, // an error, or nobody who reads
        }
    }
}

/// A system call.
fn call(number: usize, arguments: [usize; 6]) -> usize {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: callers pass pointers to memory that they own for the length that they pass. The
    // kernel changes only rax, rcx, r11 and that memory.
    unsafe {
        asm!("syscall", inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

// The compiler calls these by name.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: as memcpy of C.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") length => _,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: as memset of C.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, in("al") value as u8, inout("rcx") length => _,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for i in 0..length {
        // SAFETY: as memcmp of C.
        let (a, b) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: as memcmp of C.
    unsafe { memcmp(a, b, length) }
}

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    print(b"brisk-init: panicked\n");
    call(nr::EXIT, [1, 0, 0, 0, 0, 0]);
    loop {}
}
