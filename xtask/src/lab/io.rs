//! The caller's standard streams, or terminal, as those of the program in L1.
//!
//! From a terminal the program gets one of its own, L1's hvc0: keys go there as they are typed, and the
//! size of the window follows. Otherwise input, output and errors are a port each, every byte as it is,
//! with the end of the input as an end. QEMU connects to one socket for each.

use anyhow::{Context, Result};
use std::io::{self, IsTerminal, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The key that ends L1: Ctrl-], as telnet's.
const END: u8 = 0x1d;
/// QEMU connects at its start, or not at all.
const CONNECT: Duration = Duration::from_secs(20);

/// The status where the user ended L1, and where nobody reads its output any more, as shells have them.
pub const ENDED: i32 = 128 + libc::SIGINT;
const UNREAD: i32 = 128 + libc::SIGPIPE;

/// Rows and columns.
pub type Size = (u16, u16);

/// Whether a program of ours is on a terminal: what is typed comes from one, what is printed goes to one.
pub fn on_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal, where there is one that knows.
pub fn size() -> Option<Size> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the call fills `size`, which is zeroed where it does not.
    let size = unsafe {
        libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr());
        size.assume_init()
    };
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The sockets, before and while QEMU runs.
pub struct Ports {
    terminal: bool,
    dir: PathBuf,
    listeners: Vec<(&'static str, UnixListener)>,
}

/// What moves bytes while QEMU runs.
pub struct Moving {
    stop: Arc<AtomicBool>,
    /// The status that L1 is to be ended with before its own end; 0 for none.
    end: Arc<AtomicI32>,
    outputs: Vec<JoinHandle<()>>,
    control: Option<(UnixStream, Option<Size>)>,
    /// Sockets that stay open as long as QEMU runs.
    kept: Vec<UnixStream>,
    _raw: Option<Raw>,
}

impl Ports {
    /// Sockets in `dir`.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn new(dir: &Path, terminal: bool) -> Result<Self> {
        let names: &[_] =
            if terminal { &["terminal", "control"] } else { &["input", "output", "errors"] };
        let listen = |name: &&'static str| {
            let listener = UnixListener::bind(dir.join(name))?;
            listener.set_nonblocking(true)?;
            Ok((*name, listener))
        };
        let listeners = names.iter().map(listen).collect::<io::Result<_>>();
        let listeners = listeners.context("lab: sockets for the standard streams")?;
        Ok(Self { terminal, dir: dir.to_owned(), listeners })
    }

    /// What QEMU is told.
    pub fn arguments(&self) -> Vec<String> {
        let mut words = vec!["-device".to_owned(), "virtio-serial-pci".to_owned()];
        for (name, _) in &self.listeners {
            let path = self.dir.join(name).to_string_lossy().replace(',', ",,");
            let device = match *name {
                "terminal" => format!("virtconsole,chardev={name}"),
                _ => format!("virtserialport,chardev={name},name={name}"),
            };
            words.extend(["-chardev".into(), format!("socket,id={name},path={path}")]);
            words.extend(["-device".into(), device]);
        }
        words
    }

    /// Waits for QEMU to connect, and moves bytes from then on.
    ///
    /// # Errors
    /// It does not, or there is no room for threads.
    pub fn start(&self) -> Result<Moving> {
        let mut sockets = Vec::new();
        for (name, listener) in &self.listeners {
            sockets.push((*name, accept(listener).context("lab: QEMU did not connect")?));
        }
        let (stop, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
        let mut moving = Moving {
            stop: stop.clone(),
            end: end.clone(),
            outputs: Vec::new(),
            control: None,
            kept: Vec::new(),
            _raw: if self.terminal { Raw::set() } else { None },
        };
        for (name, socket) in sockets {
            let (stop, end) = (stop.clone(), end.clone());
            let end_of_output = end.clone();
            let shows = |to: Box<dyn Write + Send>, from: UnixStream| {
                thread::spawn(move || output(from, to, &end_of_output))
            };
            match name {
                "terminal" => {
                    let to = socket.try_clone()?;
                    thread::spawn(move || input(&to, &stop, Some(&end)));
                    moving.outputs.push(shows(Box::new(io::stdout()), socket));
                }
                "control" => moving.control = Some((socket, None)),
                "input" => {
                    moving.kept.push(socket.try_clone()?);
                    let wanted = in_foreground();
                    thread::spawn(move || match wanted {
                        true => input(&socket, &stop, None),
                        false => drop(writeln!(&socket, "0")),
                    });
                }
                "output" => moving.outputs.push(shows(Box::new(io::stdout()), socket)),
                _ => moving.outputs.push(shows(Box::new(io::stderr()), socket)),
            }
        }
        Ok(moving)
    }
}

impl Moving {
    /// Now and then: hands on the window's size; answers the status where L1 is to be ended.
    pub fn look(&mut self) -> Option<i32> {
        if let Some((socket, last)) = &mut self.control {
            let now = size();
            if now != *last
                && let Some((rows, columns)) = now
                && writeln!(socket, "{rows} {columns}").is_ok()
            {
                *last = now;
            }
        }
        Some(self.end.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    /// QEMU has ended: what it left is shown.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.kept);
        for output in self.outputs {
            let _ = output.join();
        }
    }
}

fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    let until = Instant::now() + CONNECT;
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false)?;
                return Ok(socket);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e),
        }
    }
}

/// Moves standard input until it or L1 ends. For a terminal as it is, and `end` is set by the key that ends
/// L1. Otherwise in pieces with their lengths in a line before each, and 0 for the end: what QEMU has not
/// handed on when a socket ends is lost.
fn input(mut to: &UnixStream, stop: &AtomicBool, end: Option<&AtomicI32>) {
    let mut bytes = [0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        // Not read before there is something: what is typed later is for whoever comes after us.
        let mut poll = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which is there.
        if unsafe { libc::poll(&raw mut poll, 1, 100) } == 0 {
            continue;
        }
        let count = match io::stdin().lock().read(&mut bytes) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let mut part = bytes.get(..count).unwrap_or_default();
        if let Some(end) = end
            && let Some(at) = part.iter().position(|byte| *byte == END)
        {
            part = part.get(..at).unwrap_or_default();
            end.store(ENDED, Ordering::Relaxed);
        }
        let framed = end.is_none();
        if (framed && writeln!(to, "{}", part.len()).is_err())
            || to.write_all(part).is_err()
            || count == 0
        {
            return;
        }
    }
}

/// Shows at once what comes, whole lines or not. Where nobody takes it L1 ends: its program would wait
/// for ever.
fn output(mut from: UnixStream, mut to: impl Write, end: &AtomicI32) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let part = bytes.get(..count).unwrap_or_default();
        if to.write_all(part).and_then(|()| to.flush()).is_err() {
            return end.store(UNREAD, Ordering::Relaxed);
        }
    }
}

/// Whether standard input may be read: in the background a terminal stops who does.
fn in_foreground() -> bool {
    // SAFETY: plain calls.
    !io::stdin().is_terminal() || unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp() }
}

/// The terminal takes and gives every byte as it is, as long as this lives.
struct Raw;

/// As the terminal was found.
static SAVED: OnceLock<libc::termios> = OnceLock::new();

impl Raw {
    fn set() -> Option<Self> {
        let fd = io::stdin().as_raw_fd();
        let mut termios = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: it is filled where the call answers 0.
        let termios = unsafe {
            if libc::tcgetattr(fd, termios.as_mut_ptr()) != 0 {
                return None;
            }
            termios.assume_init()
        };
        let _ = SAVED.set(termios);
        let mut raw = termios;
        // SAFETY: plain calls with structures that are there; the handler makes only calls that a
        // signal handler may make.
        unsafe {
            for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                libc::signal(signal, on_signal as *const () as libc::sighandler_t);
            }
            libc::cfmakeraw(&raw mut raw);
            libc::tcsetattr(fd, libc::TCSADRAIN, &raw const raw);
        }
        Some(Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(termios) = SAVED.get() {
        // SAFETY: puts back what was read from the same descriptor.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, termios) };
    }
}

/// The terminal is left as it was found, however this ends.
extern "C" fn on_signal(signal: libc::c_int) {
    restore();
    // SAFETY: ends the process at once; QEMU ends with it.
    unsafe { libc::_exit(128 + signal) };
}
