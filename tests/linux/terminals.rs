//! Characters in and out, by serial port and virtio-console.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::common::{Running, wait_for};
use super::{Guest, USERSPACE, artifact};

/// The devices of this build: flag that switches it to the terminal, and the guest's name for it.
const TERMINALS: &[(&str, &str)] = &[
    #[cfg(feature = "serial")]
    ("--serial", "ttyS0"),
    #[cfg(feature = "console")]
    ("--console", "hvc0"),
];

/// A guest whose console is `name`, on brisk's standard input and output.
fn guest(flag: &str, name: &str, doing: &str) -> Guest {
    let mut guest = Guest::doing(doing);
    guest.cmdline = guest.cmdline.replace("ttyS0", name);
    guest.serial = "off".into();
    if flag == "--serial" {
        guest.serial = "tty".into();
        guest
    } else {
        guest.with(&[flag, "tty"])
    }
}

#[test]
fn both_ways() {
    for (flag, name) in TERMINALS {
        let guest = guest(flag, name, "echo");
        let mut running = Running::start(guest.command().stdin(Stdio::piped()));
        running.wait_for_output("brisk-init: echo");
        let long = "0123456789".repeat(100);
        let mut stdin = running.child().stdin.take().expect("piped");
        stdin.write_all(format!("hello\n{long}\n").as_bytes()).expect("brisk reads its input");
        running.wait_for_output(&long);
        stdin.write_all(b"quit\n").expect("brisk reads its input");
        let ended = running.end().silent().with_status(0);
        assert!(ended.stdout.contains(USERSPACE), "{name}: {}", ended.stdout);
        assert!(ended.stdout.contains("hello\r\n"), "{name}: {}", ended.stdout);
    }
}

#[test]
fn each_kind_of_end() {
    for (flag, name) in TERMINALS {
        for end in ["null", "file"] {
            let mut guest = guest(flag, name, "cat=/proc/meminfo");
            let path = guest.scratch.path("output");
            let end = end.replace("file", &super::key("file", &path));
            if *flag == "--serial" {
                guest.serial.clone_from(&end);
            } else {
                guest.more.retain(|word| word != "tty");
                guest.more.push(end.clone());
            }
            let ended = guest.run();
            assert_eq!((ended.status, &*ended.stdout, &*ended.stderr), (Some(0), "", ""));
            let text = guest.scratch.text("output");
            assert_eq!(text.contains("MemTotal"), end != "null", "{name} {end}: {text}");
        }
    }
}

#[test]
fn ctrl_a_x() {
    for (flag, name) in TERMINALS {
        let guest = guest(flag, name, "say=asleep,hold");
        let mut running = Running::start(guest.command().stdin(Stdio::piped()));
        running.wait_for_output("asleep");
        let mut stdin = running.child().stdin.take().expect("piped");
        // More than any queue holds, and nobody in the guest reads.
        stdin.write_all(&[b'a'; 20_000]).expect("brisk reads its input");
        stdin.write_all(b"\x01x").expect("brisk reads its input");
        running.end().silent().with_status(0);
    }
}

#[cfg(feature = "console")]
#[test]
fn a_reader_that_stops_stops_nothing() {
    // The pipe is never read and holds 64 KiB; the guest prints some 30 of /proc/meminfo and goes on.
    let guest = guest("--console", "hvc0", &["cat=/proc/meminfo"; 30].join(","));
    let mut command = guest.command();
    let mut child = command.stdout(Stdio::piped()).spawn().expect("brisk");
    let held = child.stdout.take();
    let mut status = None;
    wait_for("the guest's end", || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    drop(held);
}

/// Both ends of a terminal.
pub fn terminal(columns: u16, rows: u16) -> (OwnedFd, OwnedFd) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut ours, mut theirs) = (0, 0);
    let (name, settings) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: fills two descriptors, which are then owned here.
    unsafe {
        assert_eq!(libc::openpty(&mut ours, &mut theirs, name, settings, &size), 0, "a pty");
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    }
}

/// A program on a terminal of its own.
pub struct OnTerminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<String>>,
}

impl OnTerminal {
    /// Starts it on one of 81 columns and 23 rows.
    pub fn new(command: Command) -> OnTerminal {
        let (ours, theirs) = terminal(81, 23);
        OnTerminal::start(command, ours, &theirs)
    }

    pub fn start(command: Command, ours: OwnedFd, theirs: &OwnedFd) -> OnTerminal {
        let (child, screen) = super::common::terminal::start(command, &ours, theirs);
        OnTerminal { child, keys: File::from(ours), screen }
    }

    /// What was shown so far.
    pub fn screen(&self) -> String {
        self.screen.lock().expect("screen").clone()
    }

    /// Waits until `text` was shown.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        wait_for(text, || self.screen().contains(text));
    }

    pub fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("keys");
    }

    /// Ctrl-C ends what a shell runs, and not the shell.
    ///
    /// What says that it runs is the program itself: were it the shell, the key could come between its
    /// fork and the program's becoming the foreground, and would end neither.
    #[track_caller]
    pub fn interrupts_a_program(&mut self) {
        self.types("sh -c 'echo then $((20+1)); exec sleep 1000'\n");
        self.shows("then 21");
        self.types("\x03echo still $((40+2))\n");
        self.shows("still 42");
    }

    /// The guest's shell is asked this again and again, and gives this answer before long.
    #[track_caller]
    pub fn answers(&mut self, question: &str, answer: &str) {
        wait_for(answer, || {
            self.types(&format!("{question}\n"));
            std::thread::sleep(std::time::Duration::from_millis(300));
            self.screen().contains(answer)
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Option<i32> {
        let mut status = None;
        wait_for("the program's end", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

/// Gives a terminal another size, as its window does.
pub fn resize(terminal: &OwnedFd, columns: u16, rows: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads the one structure it is given.
    assert_eq!(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }, 0);
}

/// How a terminal is set.
pub fn settings(terminal: &OwnedFd) -> (u32, u32, u32, u32) {
    // SAFETY: fills the one structure it is given.
    let termios = unsafe {
        let mut termios: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &mut termios), 0);
        termios
    };
    (termios.c_iflag, termios.c_oflag, termios.c_cflag, termios.c_lflag)
}

#[cfg(feature = "console")]
#[test]
fn a_terminal_is_raw_resized_and_restored() {
    let (ours, theirs) = terminal(81, 23);
    let before = settings(&theirs);
    let mut guest = guest("--console", "hvc0", "shell");
    guest.initramfs = Some(artifact("BRISK_SHELL_INITRAMFS"));
    let mut on = OnTerminal::start(guest.command(), ours.try_clone().expect("dup"), &theirs);
    on.shows("# ");
    assert_ne!(settings(&theirs), before, "not raw");
    on.types("stty size\n");
    on.shows("23 81");
    resize(&ours, 97, 31);
    on.answers("stty size", "31 97");
    on.interrupts_a_program();
    on.types("\x01x");
    assert_eq!(on.end(), Some(0));
    assert_eq!(settings(&theirs), before, "not restored");
}
