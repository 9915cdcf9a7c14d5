//! `brisk.do=` on the kernel's command line: a list of verbs with commas between, each with an argument
//! where it takes one: `brisk.do=cat=/proc/meminfo,write=/dev/vda:hello,reboot`.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::load;
use crate::sys::{self, Path, call, cut, nr, number, open, print, read};
use crate::terminal;

/// What init can be asked for: name, what it does with its argument (NUL-terminated, maybe empty).
const VERBS: &[(&str, fn(&[u8]))] = &[
    ("beat", beat),         // writes 0x60 to port 0x80 by /dev/port, again and again
    ("cat", cat),           // =FILE: prints a file
    ("direct", direct),     // =FILE:DEVICE: a page of the mapped file to the device, O_DIRECT
    ("drain", drain),       // waits until the console has printed all
    ("echo", echo),         // copies the console's input to its output until a line `quit`
    ("hold", hold),         // sleeps for ever
    ("load", load::load),   // =DIRECTORY: another process writes files there, again and again
    ("mount", load::mount), // =DEVICE:DIRECTORY: mounts an ext4
    ("out", out),           // =PORT:VALUE: writes a byte to an I/O port (hexadecimal)
    ("panic", panic),       // the kernel's panic: init exits
    ("pass", pass),         // writes to each page that touch has got
    ("poweroff", poweroff), // powers off
    ("reboot", reboot),     // reboots
    ("say", say),           // =TEXT: prints it
    ("shell", shell),       // busybox' shell, where the initramfs has it
    ("reset", reset),       // =KIND: reboots in this way: acpi, kbd, triple
    ("stop", load::stop),   // =DIRECTORY: ends all `load`, and unmounts it
    ("touch", touch),       // =MIB: writes to each page of that much new memory
    ("write", write),       // =DEVICE:TEXT: writes to the start of a device, then fsync
];

/// Does what `tasks` lists, in order.
pub fn run(tasks: &[u8]) {
    for task in tasks.split(|b| *b == b',').filter(|task| !task.is_empty()) {
        let (name, argument) = cut(task, b'=');
        match VERBS.iter().find(|(verb, _)| verb.as_bytes() == name) {
            Some((_, act)) => act(argument),
            None => say(b"no such verb in brisk.do"),
        }
    }
}

pub fn poweroff(_: &[u8]) {
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

pub fn say(text: &[u8]) {
    for part in [b"brisk-init: ", text, b"\n"] {
        print(part);
    }
}

fn beat(_: &[u8]) {
    let port = open(c"/dev/port".to_bytes_with_nul(), sys::O_RDWR);
    let code = [0x60_u8];
    loop {
        call(nr::PWRITE64, [port, code.as_ptr() as usize, 1, 0x80, 0, 0]);
    }
}

/// Without waiting, so that `/dev/kmsg` ends with the last message that there is.
fn cat(name: &[u8]) {
    let file = open(Path::new(name).bytes(), sys::O_NONBLOCK);
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

/// What was written to a terminal is its driver's to print, and an interrupt's, maybe on another CPU.
fn drain(_: &[u8]) {
    const TCSBRK: usize = 0x5409;
    call(nr::IOCTL, [1, TCSBRK, 1, 0, 0, 0]);
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

/// A file that is mapped straight from a pmem is so written from there.
fn direct(argument: &[u8]) {
    const PAGE: usize = 4096;
    let (from, to) = cut(argument, b':');
    let from = open(Path::new(from).bytes(), 0);
    // PROT_READ, MAP_SHARED
    let map = call(nr::MMAP, [0, PAGE, 1, 1, from, 0]);
    let to = open(Path::new(to).bytes(), 0o40001); // O_WRONLY | O_DIRECT
    let written = call(nr::WRITE, [to, map, PAGE, 0, 0, 0]);
    say(if written == PAGE { b"written directly" } else { b"not written directly" });
    call(nr::FSYNC, [to, 0, 0, 0, 0, 0]);
}

fn out(argument: &[u8]) {
    let (port, value) = cut(argument, b':');
    sys::out(number(port, 16) as u16, number(value, 16) as u8);
}

fn shell(_: &[u8]) {
    let script = c"/bin/busybox --install -s /bin; exec sh -i".as_ptr();
    let arguments = [c"sh".as_ptr(), c"-c".as_ptr(), script, core::ptr::null()];
    let environment = [c"PATH=/bin".as_ptr(), c"HOME=/".as_ptr(), core::ptr::null()];
    if call(nr::FORK, [0; 6]) == 0 {
        terminal::take();
        let program = c"/bin/busybox".as_ptr() as usize;
        let (arguments, environment) = (arguments.as_ptr() as usize, environment.as_ptr() as usize);
        call(nr::EXECVE, [program, arguments, environment, 0, 0, 0]);
        say(b"this initramfs has no busybox");
        call(nr::EXIT, [1, 0, 0, 0, 0, 0]);
    }
    call(nr::WAIT4, [usize::MAX, 0, 0, 0, 0, 0]);
}

/// Where the memory of `touch` begins, and its bytes.
static TOUCHED: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

fn touch(mib: &[u8]) {
    let length = number(mib, 10) << 20;
    // PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    let start = call(nr::MMAP, [0, length, 3, 0x22, usize::MAX, 0]);
    if start.cast_signed() < 0 {
        return say(b"touch: no memory");
    }
    for (to, value) in TOUCHED.iter().zip([start, length]) {
        to.store(value, Ordering::Relaxed);
    }
    pass(b"");
    say(b"touched");
}

fn pass(_: &[u8]) {
    let [start, length] = TOUCHED.each_ref().map(|value| value.load(Ordering::Relaxed));
    for page in (start..start + length).step_by(4096) {
        // SAFETY: mmap gave `length` writable bytes at `start`, and nobody has them but this.
        unsafe { core::ptr::write_volatile(page as *mut u8, 1) };
    }
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
