//! What stands for libc: system calls, memory, and the few functions that the compiler calls by name.

use core::arch::asm;

/// x86-64 system calls by number, `arch/x86/entry/syscalls/syscall_64.tbl`.
pub mod nr {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const OPEN: usize = 2;
    pub const CLOSE: usize = 3;
    pub const POLL: usize = 7;
    pub const MMAP: usize = 9;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const PWRITE64: usize = 18;
    pub const DUP2: usize = 33;
    pub const PAUSE: usize = 34;
    pub const SCHED_YIELD: usize = 24;
    pub const NANOSLEEP: usize = 35;
    pub const GETPID: usize = 39;
    pub const SOCKET: usize = 41;
    pub const FORK: usize = 57;
    pub const EXECVE: usize = 59;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const FCNTL: usize = 72;
    pub const FSYNC: usize = 74;
    pub const CHDIR: usize = 80;
    pub const MKDIR: usize = 83;
    pub const SYMLINK: usize = 88;
    pub const CHMOD: usize = 90;
    pub const FCHOWN: usize = 93;
    pub const SETUID: usize = 105;
    pub const SETGID: usize = 106;
    pub const SETSID: usize = 112;
    pub const SETGROUPS: usize = 116;
    pub const CHROOT: usize = 161;
    pub const SYNC: usize = 162;
    pub const MOUNT: usize = 165;
    pub const UMOUNT2: usize = 166;
    pub const REBOOT: usize = 169;
    pub const SETHOSTNAME: usize = 170;
    pub const IOPL: usize = 172;
    pub const SIGNALFD4: usize = 289;
    pub const PIPE2: usize = 293;
}

/// Errors, `include/uapi/asm-generic/errno-base.h`.
pub mod errno {
    pub const NOENT: isize = -2;
    pub const INTR: isize = -4;
    pub const NXIO: isize = -6;
    pub const AGAIN: isize = -11;
    pub const ACCES: isize = -13;
    pub const NODEV: isize = -19;
    pub const NOTDIR: isize = -20;
    pub const INVAL: isize = -22;
}

pub const O_RDWR: usize = 0o2;
pub const O_NOCTTY: usize = 0o400;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_CLOEXEC: usize = 0o2_000_000;

/// A file's name with the NUL that the kernel wants.
pub struct Path([u8; 256]);

impl Path {
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; 256];
        // The last byte stays NUL.
        bytes.iter_mut().take(255).zip(name).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    /// `directory/name`; `None` where that is too long.
    pub fn join(directory: &[u8], name: &[u8]) -> Option<Self> {
        let mut bytes = [0; 256];
        let whole = directory.iter().chain(b"/").chain(name);
        (directory.len() + 1 + name.len() < 256).then(|| {
            bytes.iter_mut().zip(whole).for_each(|(to, from)| *to = *from);
            Self(bytes)
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is before and after the first `at`.
pub fn cut(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let mut parts = text.splitn(2, |b| *b == at);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

pub fn number(text: &[u8], base: u32) -> usize {
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    let value = |b: &u8| (*b as char).to_digit(base).unwrap_or(0) as usize;
    digits.iter().fold(0, |n: usize, b| n.wrapping_mul(base as usize).wrapping_add(value(b)))
}

/// Opens a file, whose name ends with NUL.
pub fn open(name: &[u8], flags: usize) -> usize {
    call(nr::OPEN, [name.as_ptr() as usize, flags, 0, 0, 0, 0])
}

/// Reads once. 0 at the end of the file, and after an error.
pub fn read(file: usize, into: &mut [u8]) -> usize {
    usize::try_from(read_or_error(file, into)).unwrap_or(0)
}

/// Reads once. Negative for an error.
pub fn read_or_error(file: usize, into: &mut [u8]) -> isize {
    call(nr::READ, [file, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]).cast_signed()
}

/// Writes once. Negative for an error.
pub fn write_or_error(file: usize, text: &[u8]) -> isize {
    call(nr::WRITE, [file, text.as_ptr() as usize, text.len(), 0, 0, 0]).cast_signed()
}

/// Writes all of it, or as much as goes.
pub fn write_all(file: usize, mut text: &[u8]) {
    while !text.is_empty() {
        match write_or_error(file, text) {
            errno::INTR => {}
            written => match usize::try_from(written).ok().and_then(|n| text.get(n..)) {
                Some(rest) if written > 0 => text = rest,
                _ => return, // an error, or nobody who reads
            },
        }
    }
}

pub fn print(text: &[u8]) {
    write_all(1, text);
}

pub fn close(file: usize) {
    call(nr::CLOSE, [file, 0, 0, 0, 0, 0]);
}

pub fn exit(status: usize) -> ! {
    loop {
        call(nr::EXIT, [status, 0, 0, 0, 0, 0]);
    }
}

/// New memory, zeroed, that stays; empty where there is none.
pub fn memory(bytes: usize) -> &'static mut [u8] {
    // PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    let start = call(nr::MMAP, [0, bytes, 3, 0x22, usize::MAX, 0]);
    if bytes == 0 || start.cast_signed() < 0 {
        return &mut [];
    }
    // SAFETY: mmap just gave that many writable bytes, which nobody else has and nobody takes back.
    unsafe { core::slice::from_raw_parts_mut(start as *mut u8, bytes) }
}

/// Writes a byte to an I/O port.
pub fn out(port: u16, value: u8) {
    // SAFETY: iopl(3) allows it; what a port does to the machine is the caller's wish.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// A system call.
pub fn call(number: usize, arguments: [usize; 6]) -> usize {
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
    exit(1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: as strlen of C.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// core names it; a panic ends init, so nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
