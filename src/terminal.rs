//! Standard input and output as a guest's character device: raw where they are a terminal, no
//! thread of its own, restored on every way out.

use std::collections::VecDeque;
use std::fs::File;
#[cfg(feature = "console")]
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
#[cfg(feature = "console")]
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::config;
use crate::events::{self, Events, Timer};
use crate::output::Output;
#[cfg(feature = "seccomp")]
use crate::seccomp::rule::Rule;

/// What is done while the guest runs: look for input and read it; put things back at the end, and
/// ask for a signal when a slow reader made room.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[Rule] = &[
    Rule::call(libc::SYS_poll),
    Rule::call(libc::SYS_read),
    Rule::fcntl(libc::F_GETFL),
    Rule::fcntl(libc::F_SETFL),
    Rule::ioctl(libc::TCSETS),
    // Whose is the terminal?
    Rule::ioctl(libc::TCGETS),
    Rule::ioctl(libc::TIOCGPGRP),
    Rule::call(libc::SYS_getpgrp),
];

/// Starts a command to brisk itself.
const ESCAPE: u8 = 1; // Ctrl-A
const QUIT: u8 = b'x';

/// What `restore` puts back.
struct Saved {
    terminal: Option<libc::termios>,
    flags: libc::c_int,
}

static SAVED: Mutex<Option<Saved>> = Mutex::new(None);

fn saved() -> MutexGuard<'static, Option<Saved>> {
    SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Where a device's output goes: `None` for nowhere. `slow` is told of a file to which writes may have to
/// wait.
pub fn output(
    flag: &'static str,
    output: &'static config::Output,
    slow: fn(&File),
) -> Option<Output> {
    match output {
        config::Output::Off | config::Output::Null => None,
        config::Output::Tty => Some(Output::standard()),
        config::Output::File(path) => Some(Output::slow_to(flag, path, slow)),
    }
}

/// Standard input, read by a vCPU's thread when [`Events::INPUT`] says that something came.
pub struct Input {
    stdin: ManuallyDrop<File>,
    /// Looks once a second whether the terminal is ours now, while it is not: a shell says nothing to a
    /// process in the background that it brings to the front.
    background: Option<Timer>,
    terminal: bool,
    escape: bool,
    /// Nothing that is typed is a command to brisk.
    #[cfg(feature = "streams")]
    plain: bool,
    /// There may be something to read.
    more: bool,
    ended: bool,
    /// Read, and not yet taken by the guest; so that a guest that takes nothing can be quit.
    waiting: VecDeque<u8>,
}

/// The most bytes that wait for the guest; more than this stay where they are.
const MAX_WAITING: usize = 64 << 10;
/// Bytes read at a time.
const READ: usize = if cfg!(feature = "streams") { 4096 } else { 256 };

impl Input {
    /// Makes a terminal raw and asks for [`Events::INPUT`].
    pub fn open() -> Input {
        let front = take_terminal();
        if front != Front::NoTerminal {
            events::install_for_raw_terminal();
        }
        let mut input = Input::watch();
        input.terminal = front != Front::NoTerminal;
        input.follow(front);
        input
    }

    /// As it is: a terminal stays one, with its keys for signals.
    #[cfg(feature = "streams")]
    pub fn plain() -> Input {
        // SAFETY: asks for flags.
        let flags = unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_GETFL) };
        *saved() = Some(Saved { terminal: None, flags });
        Input { plain: true, ..Input::watch() }
    }

    /// Nothing waits, and nothing will come.
    #[cfg(feature = "streams")]
    pub fn ended(&self) -> bool {
        self.ended && self.waiting.is_empty()
    }

    fn watch() -> Input {
        events::watch(&io::stdin(), Events::INPUT);
        let flags = saved().as_ref().map_or(0, |saved| saved.flags);
        // SAFETY: plain calls on our own standard input; a failure leaves it without a signal, as for a
        // regular file, which `more` covers.
        unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_SETFL, flags | libc::O_ASYNC) };
        // SAFETY: standard input is never closed.
        Input::new(ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDIN_FILENO) }))
    }

    /// Watches for the front where we are not there.
    fn follow(&mut self, front: Front) {
        if front != Front::Background {
            self.background = None;
        } else if self.background.is_none() {
            self.background = Timer::every_second(Events::INPUT);
        }
    }

    fn new(stdin: ManuallyDrop<File>) -> Input {
        // What came before anybody asked for a signal is found by the first look.
        events::expect(Events::INPUT);
        Input {
            stdin,
            background: None,
            terminal: false,
            escape: false,
            #[cfg(feature = "streams")]
            plain: false,
            more: true,
            ended: false,
            waiting: VecDeque::new(),
        }
    }

    /// [`Events::INPUT`] came.
    pub fn wake(&mut self) {
        self.more = true;
        if self.terminal {
            let front = take_terminal();
            self.follow(front);
            // Who reads in the background is stopped.
            self.more = front != Front::Background;
        }
    }

    /// Reads what is there, without waiting; true for Ctrl-A x.
    pub fn fill(&mut self) -> bool {
        while self.more && !self.ended && self.waiting.len() < MAX_WAITING {
            if !self.readable() {
                self.more = false;
                break;
            }
            let mut bytes = [0; READ];
            match self.stdin.read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    if self.filter(&bytes[..count]) {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.more = false;
                    self.ended = error.kind() != io::ErrorKind::WouldBlock;
                }
            }
        }
        false
    }

    /// Moves what waits to the guest; how many bytes.
    pub fn take(&mut self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.waiting.len());
        for (to, byte) in to.iter_mut().zip(self.waiting.drain(..count)) {
            *to = byte;
        }
        count
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes commands to brisk out of what was typed; true for "quit". Ctrl-A twice sends one.
    fn filter(&mut self, bytes: &[u8]) -> bool {
        #[cfg(feature = "streams")]
        if self.plain {
            self.waiting.extend(bytes);
            return false;
        }
        for &byte in bytes {
            match (std::mem::take(&mut self.escape), byte) {
                (true, QUIT) => return true,
                (false, ESCAPE) => self.escape = true,
                _ => self.waiting.push_back(byte),
            }
        }
        false
    }

    fn readable(&self) -> bool {
        let mut poll =
            libc::pollfd { fd: self.stdin.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, as said; no waiting.
        unsafe { libc::poll(&mut poll, 1, 0) > 0 }
    }
}

/// Whose the terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    /// Standard input is no terminal, or none that controls us.
    NoTerminal,
    /// Ours, and raw: keys go to the guest, signals and all.
    Ours,
    /// Another process group's: it would be stopped who changed it.
    Background,
}

/// Makes a terminal on standard input raw where it is ours, and keeps how it was.
fn take_terminal() -> Front {
    let mut saved = saved();
    // SAFETY: an all-zero termios is a valid place to read into; the calls only fail cleanly.
    unsafe {
        let mut terminal: libc::termios = std::mem::zeroed();
        // Not tcgetattr and tcsetattr, whose requests to the kernel are the C library's choice. The
        // kernel's structure is the beginning of the library's.
        let is_terminal = libc::ioctl(libc::STDIN_FILENO, libc::TCGETS, &mut terminal) == 0;
        if saved.is_none() {
            let flags = libc::fcntl(libc::STDIN_FILENO, libc::F_GETFL);
            *saved = Some(Saved { terminal: None, flags });
        }
        if !is_terminal {
            return Front::NoTerminal;
        }
        if in_background() {
            return Front::Background;
        }
        if let Some(saved) = &mut *saved {
            saved.terminal.get_or_insert(terminal);
        }
        if terminal.c_lflag & (libc::ICANON | libc::ISIG) != 0 {
            libc::cfmakeraw(&mut terminal);
            libc::ioctl(libc::STDIN_FILENO, libc::TCSETS, &terminal);
        }
        Front::Ours
    }
}

/// Whether the terminal on standard input controls us, and is another process group's now.
fn in_background() -> bool {
    let mut group: libc::pid_t = 0;
    // SAFETY: writes the one number it is given.
    let status = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGPGRP, &mut group) };
    // By number, since musl's getpgrp makes another call, which is no rule's.
    // SAFETY: asks for a number.
    status == 0 && i64::from(group) != unsafe { libc::syscall(libc::SYS_getpgrp) }
}

/// Columns and rows of the terminal on standard output, if it is one.
#[cfg(feature = "console")]
pub fn size() -> Option<(u16, u16)> {
    // SAFETY: fills the one structure it is given.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        let status = libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size);
        (status == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
    }
}

/// Standard output by a file description of our own, on which no write waits. The one there is is shared
/// with whoever started us, who must not find it changed: it is opened anew, or, where that cannot be (a
/// socket) or need not be (a regular file), stays as it is.
#[cfg(feature = "console")]
pub fn nonblocking(output: Output) -> Output {
    let Some(file) = output.file() else { return output };
    if file.metadata().is_ok_and(|meta| meta.is_file()) {
        return output;
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    match OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/1") {
        Ok(own) => {
            events::watch(&own, Events::OUTPUT);
            Output::from(own)
        }
        Err(_) => {
            events::watch(file, Events::OUTPUT);
            output
        }
    }
}

/// Standard output or error, by a file description of our own on which no write waits; see
/// [`nonblocking`] for when it is the one there is.
#[cfg(feature = "streams")]
pub fn standard(fd: libc::c_int) -> ManuallyDrop<File> {
    // SAFETY: a standard stream, which is never closed.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
    if file.metadata().is_ok_and(|meta| meta.is_file()) {
        return file;
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let path = if fd == libc::STDOUT_FILENO { "/proc/self/fd/1" } else { "/proc/self/fd/2" };
    let file = match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(own) => ManuallyDrop::new(own),
        Err(_) => file,
    };
    events::watch(&*file, Events::OUTPUT);
    file
}

/// What takes standard output's number when that is closed: nothing is opened once the guest runs.
#[cfg(feature = "streams")]
static NOWHERE: std::sync::OnceLock<File> = std::sync::OnceLock::new();

/// Prepares [`close_output`].
#[cfg(feature = "streams")]
pub fn hold_output() {
    if let Ok(file) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = NOWHERE.set(file);
    }
}

/// Closes standard output, which `file` is or has opened anew; no other file gets its number.
#[cfg(feature = "streams")]
pub fn close_output(file: &File) {
    let Some(nowhere) = NOWHERE.get() else { return };
    // SAFETY: plain calls; whoever holds `file` never uses it again.
    unsafe {
        libc::dup2(nowhere.as_raw_fd(), libc::STDOUT_FILENO);
        if file.as_raw_fd() != libc::STDOUT_FILENO {
            libc::close(file.as_raw_fd());
        }
    }
}

/// Asks for [`Events::OUTPUT`] whenever `output`, of [`nonblocking`], can be written to, or no longer.
#[cfg(feature = "console")]
pub fn signal_when_writable(output: &File, on: bool) {
    // SAFETY: plain calls on a descriptor that is open.
    unsafe {
        let fd = output.as_raw_fd();
        let flags = libc::fcntl(fd, libc::F_GETFL);
        let flags = if on { flags | libc::O_ASYNC } else { flags & !libc::O_ASYNC };
        libc::fcntl(fd, libc::F_SETFL, flags);
    }
}

/// Puts standard input back as it was found. Safe to call twice, and without `open` before.
pub fn restore() {
    let Some(saved) = saved().take() else { return };
    // SAFETY: puts back what was read from the same descriptor.
    unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_SETFL, saved.flags) };
    // In the background the terminal is the shell's again, which has put back what it wants.
    if let Some(terminal) = saved.terminal
        && !in_background()
    {
        // SAFETY: as above.
        unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TCSETS, &terminal) };
    }
}

/// Whether the guest printed anything.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// The guest prints.
pub fn shown() {
    SHOWN.store(true, Ordering::Relaxed);
}

/// What makes a guest print.
const HINT: &str = if cfg!(feature = "console") {
    "; nothing was shown: add --console tty, and console=hvc0 to --cmdline"
} else {
    "; nothing was shown: add --serial tty, and console=ttyS0 to --cmdline"
};

/// What is to be said where the guest failed: how to see why, if nothing was to be seen.
pub fn hint() -> &'static str {
    if SHOWN.load(Ordering::Relaxed) { "" } else { HINT }
}

/// Writes all of `bytes`, as far as the other side takes them: a closed pipe or a full disk loses
/// output and never the VM.
#[cfg(feature = "serial")]
pub fn write_all(output: Output, bytes: &[u8]) {
    shown();
    if let Err(error) = output.write_all(bytes) {
        log::debug!("guest output lost: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut input = Input::new(ManuallyDrop::new(File::open("/dev/null").unwrap()));
        let quit = parts.iter().any(|part| input.filter(part));
        (input.waiting.into(), quit)
    }

    #[test]
    fn what_waits_is_bounded_and_in_order() {
        let mut input = Input::new(ManuallyDrop::new(File::open("/dev/zero").unwrap()));
        assert!(!input.fill());
        assert!((MAX_WAITING..MAX_WAITING + READ).contains(&input.waiting.len()));
        input.waiting = b"abc".iter().copied().collect();
        let mut to = [0; 2];
        assert_eq!((input.take(&mut to), &to), (2, b"ab"));
        assert_eq!((input.take(&mut to), to[0]), (1, b'c'));
        assert!(input.is_empty());
    }

    #[test]
    fn escape_commands_are_taken_out_even_when_split() {
        assert_eq!(typed(&[b"ab\x01\x01c"]), (b"ab\x01c".to_vec(), false));
        assert_eq!(typed(&[b"a\x01", b"x"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"x\x01yz"]), (b"xyz".to_vec(), false));
    }
}
