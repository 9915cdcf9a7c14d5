//! The console as a program's terminal: with a session of its own, so that Ctrl-C ends what runs there
//! and not the program that reads keys.

use crate::sys::{self, O_RDWR, Path, call, nr, open, read};

/// Makes the console the terminal of this process, which becomes the leader of a session, and its standard
/// streams. Its size is brisk's to tell.
pub fn take() {
    const TIOCSCTTY: usize = 0x540e;
    call(nr::SETSID, [0; 6]);
    let console = console();
    call(nr::IOCTL, [console, TIOCSCTTY, 0, 0, 0, 0]);
    streams(console);
}

/// Makes the console the standard streams of this process.
pub fn streams(console: usize) {
    for number in 0..3 {
        if number != console {
            call(nr::DUP2, [console, number, 0, 0, 0, 0]);
        }
    }
    if console > 2 {
        sys::close(console);
    }
}

/// Opens the last of the consoles that the kernel lists, which is the one that /dev/console stands for.
/// That name cannot be a process's terminal.
pub fn console() -> usize {
    let file = open(c"/sys/class/tty/console/active".to_bytes_with_nul(), 0);
    let mut names = [0; 64];
    let length = read(file, &mut names);
    sys::close(file);
    let names = names.get(..length).unwrap_or_default();
    let name = names.split(|byte| byte.is_ascii_whitespace()).rfind(|name| !name.is_empty());
    match name.and_then(|name| Path::join(b"/dev", name)) {
        Some(path) => open(path.bytes(), O_RDWR),
        None => open(c"/dev/console".to_bytes_with_nul(), O_RDWR),
    }
}
