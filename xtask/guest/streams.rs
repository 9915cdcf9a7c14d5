//! The workload's standard streams: pipes here, frames on hvc0 to brisk and back (see `wire.rs`).
//!
//! Pipes and not the terminal itself: their end can be told, a program may open `/dev/stdout` again,
//! and a reader that is slow makes nobody wait but who writes to it.

use crate::sys::{self, O_CLOEXEC, O_NOCTTY, O_NONBLOCK, O_RDWR, call, errno, nr, write_all};
use crate::wire::{
    self, ARGUMENTS, CLOSED, ERRORS, HEADER, INPUT, OUTPUT, READY, SIGNAL, TAKEN, WINDOW,
};

const POLLIN: i16 = 1;
const POLLOUT: i16 = 4;
/// Bytes of an output sent in one frame at most.
const CHUNK: usize = 16 << 10;
/// Room for input is told when that much of it is free: fewer frames.
const ENOUGH: usize = WINDOW / 4;

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Poll {
    file: i32,
    events: i16,
    happened: i16,
}

/// An output's pipe and how many bytes brisk has room for.
struct Output {
    pipe: Option<usize>,
    window: usize,
}

/// All of them.
pub struct Streams {
    tty: usize,
    /// The frame that is being read: what is known of its header, and what is left of its content.
    header: [u8; HEADER],
    have: usize,
    left: usize,
    /// The content of a frame of a few bytes.
    small: [u8; 5],
    small_len: usize,
    arguments: &'static mut [u8],
    arguments_len: usize,
    have_arguments: bool,
    /// Input on its way to the workload: `len` bytes from `start` on, around the end.
    ring: &'static mut [u8],
    start: usize,
    len: usize,
    /// Bytes that the workload took and brisk was not told of.
    freed: usize,
    end_of_input: bool,
    stdin: Option<usize>,
    outputs: [Output; 2],
    chunk: &'static mut [u8],
    /// The workload's process, once it is there.
    main: usize,
}

impl Streams {
    /// Opens hvc0 and tells brisk so. `None` where there is no console.
    pub fn open() -> Option<Self> {
        let tty = sys::open(c"/dev/hvc0".to_bytes_with_nul(), O_RDWR | O_NOCTTY | O_CLOEXEC);
        if tty.cast_signed() < 0 {
            return None;
        }
        raw(tty);
        let streams = Self {
            tty,
            header: [0; HEADER],
            have: 0,
            left: 0,
            small: [0; 5],
            small_len: 0,
            arguments: &mut [],
            arguments_len: 0,
            have_arguments: false,
            ring: sys::memory(WINDOW),
            start: 0,
            len: 0,
            freed: 0,
            end_of_input: false,
            stdin: None,
            outputs: [const { Output { pipe: None, window: WINDOW } }; 2],
            chunk: sys::memory(HEADER + CHUNK),
            main: 0,
        };
        streams.ready(WINDOW);
        Some(streams)
    }

    /// Waits for the arguments that brisk has; a NUL behind each.
    pub fn arguments(&mut self) -> &'static mut [u8] {
        while !self.have_arguments && self.receive() {}
        core::mem::take(&mut self.arguments)
    }

    /// Prints to brisk's standard error.
    pub fn complain(&self, text: &[u8]) {
        self.send(ERRORS, text);
    }

    /// Makes the pipes; answers the workload's ends of them: standard input, output and error.
    pub fn pipes(&mut self) -> [usize; 3] {
        let [read, write] = pipe();
        self.stdin = Some(nonblocking(write));
        let mut theirs = [read, 0, 0];
        for (output, end) in self.outputs.iter_mut().zip(&mut theirs[1..]) {
            let [read, write] = pipe();
            output.pipe = Some(nonblocking(read));
            *end = write;
        }
        theirs
    }

    /// Moves what there is to move until process `main` has ended, and then what it left; answers its
    /// status. `signals` tells of children that ended.
    pub fn serve(&mut self, main: usize, signals: usize) -> u8 {
        self.main = main;
        let mut status = None;
        loop {
            let waits = |file: Option<usize>, events, when: bool| Poll {
                file: file.filter(|_| when).map_or(-1, |file| file as i32),
                events,
                happened: 0,
            };
            let [out, err] = &self.outputs;
            let mut polls = [
                waits(Some(self.tty), POLLIN, true),
                waits(Some(signals), POLLIN, status.is_none()),
                waits(self.stdin, POLLOUT, self.len > 0),
                waits(out.pipe, POLLIN, out.window > 0),
                waits(err.pipe, POLLIN, err.window > 0),
            ];
            // With the workload gone, what its pipes still hold is to be had at once; only for brisk is
            // there something to wait for.
            let drained = status.is_some() && self.outputs.iter().all(|o| o.pipe.is_none());
            if let (Some(status), true) = (status, drained) {
                return status;
            }
            let blocked = self.outputs.iter().any(|o| o.pipe.is_some() && o.window == 0);
            let timeout = if status.is_some() && !blocked { 0 } else { usize::MAX };
            call(nr::POLL, [polls.as_mut_ptr() as usize, polls.len(), timeout, 0, 0, 0]);
            if polls[0].happened != 0 {
                self.receive();
            }
            if polls[1].happened != 0 {
                status = crate::workload::reap(signals, main);
                if status.is_some() {
                    // Whoever it left behind ends with it.
                    call(nr::KILL, [usize::MAX, 9, 0, 0, 0, 0]);
                    self.stdin.take().map(sys::close);
                }
            }
            if polls[2].happened != 0 {
                self.give();
            }
            for (index, kind) in [(0, OUTPUT), (1, ERRORS)] {
                if polls[3 + index].happened != 0 || status.is_some() {
                    self.take(index, kind, status.is_some());
                }
            }
        }
    }

    /// Reads from brisk once; false where that cannot be.
    fn receive(&mut self) -> bool {
        let mut bytes = [0; 2048];
        let count = loop {
            match sys::read_or_error(self.tty, &mut bytes) {
                errno::INTR => {}
                count => break usize::try_from(count).unwrap_or(0),
            }
        };
        let mut rest = bytes.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            if self.have < HEADER {
                let (byte, more) = rest.split_at(1);
                self.header[self.have..][..1].copy_from_slice(byte);
                self.have += 1;
                rest = more;
                if self.have == HEADER {
                    self.begin();
                }
            } else {
                let (part, more) = rest.split_at(self.left.min(rest.len()));
                self.content(part);
                self.left -= part.len();
                rest = more;
            }
            if self.have == HEADER && self.left == 0 {
                self.end();
                self.have = 0;
            }
        }
        count > 0
    }

    /// A frame's header is there.
    fn begin(&mut self) {
        let (kind, length) = wire::parse(self.header);
        self.left = length;
        self.small_len = 0;
        if kind == ARGUMENTS {
            self.arguments = sys::memory(length);
            self.arguments_len = 0;
        }
    }

    /// A part of a frame's content is there.
    fn content(&mut self, part: &[u8]) {
        match self.header[0] {
            INPUT => {
                for byte in part.iter().take(WINDOW - self.len) {
                    let at = (self.start + self.len) % WINDOW;
                    if let Some(to) = self.ring.get_mut(at) {
                        *to = *byte;
                    }
                    self.len += 1;
                }
            }
            ARGUMENTS => {
                let to = self.arguments.iter_mut().skip(self.arguments_len);
                to.zip(part).for_each(|(to, from)| *to = *from);
                self.arguments_len += part.len();
            }
            _ => {
                let to = self.small.iter_mut().skip(self.small_len);
                to.zip(part).for_each(|(to, from)| *to = *from);
                self.small_len += part.len();
            }
        }
    }

    /// A frame is whole.
    fn end(&mut self) {
        match wire::parse(self.header) {
            (INPUT, length) => {
                self.end_of_input |= length == 0;
                self.give();
            }
            (SIGNAL, _) if self.main > 0 => {
                let signal = usize::from(self.small[0]);
                // Ctrl-C is for all in the foreground, SIGTERM for the process that there is to end.
                let whom = if signal == 2 { 0usize.wrapping_sub(self.main) } else { self.main };
                call(nr::KILL, [whom, signal, 0, 0, 0, 0]);
            }
            (TAKEN, _) => {
                let [kind, count @ ..] = self.small;
                let count = u32::from_le_bytes(count) as usize;
                let index = usize::from(kind == ERRORS);
                self.outputs[index].window = (self.outputs[index].window + count).min(WINDOW);
            }
            (CLOSED, _) => {
                // Who goes on writing gets SIGPIPE, as without a VM between.
                let output = &mut self.outputs[usize::from(self.small[0] == ERRORS)];
                output.pipe.take().map(sys::close);
            }
            (ARGUMENTS, _) => self.have_arguments = true,
            _ => {}
        }
    }

    /// Gives the workload of its input what it takes now.
    fn give(&mut self) {
        let Some(stdin) = self.stdin else { return };
        while self.len > 0 {
            let end = (self.start + self.len).min(WINDOW);
            let part = self.ring.get(self.start..end).unwrap_or_default();
            match sys::write_or_error(stdin, part) {
                errno::AGAIN => break,
                errno::INTR => {}
                written if written > 0 => {
                    let written = written.cast_unsigned();
                    self.start = (self.start + written) % WINDOW;
                    self.len -= written;
                    self.freed += written;
                }
                // Nobody reads it any more; brisk keeps the rest.
                _ => {
                    self.len = 0;
                    self.freed = 0;
                    self.stdin = None;
                    return sys::close(stdin);
                }
            }
        }
        if self.freed >= ENOUGH || (self.len == 0 && self.freed > 0) {
            self.ready(self.freed);
            self.freed = 0;
        }
        if self.end_of_input && self.len == 0 {
            self.stdin = None;
            sys::close(stdin);
        }
    }

    /// Sends of an output what there is and brisk has room for. With the workload gone, an empty pipe
    /// is at its end.
    fn take(&mut self, index: usize, kind: u8, last: bool) {
        let output = &mut self.outputs[index];
        let Some(pipe) = output.pipe.filter(|_| output.window > 0) else { return };
        let room = output.window.min(CHUNK);
        let (head, content) = self.chunk.split_at_mut(HEADER);
        let Some(content) = content.get_mut(..room) else { return };
        match sys::read_or_error(pipe, content) {
            errno::INTR => {}
            errno::AGAIN if !last => {}
            count if count > 0 => {
                let count = count.cast_unsigned();
                head.copy_from_slice(&wire::header(kind, count));
                output.window -= count;
                let frame = self.chunk.get(..HEADER + count).unwrap_or_default();
                write_all(self.tty, frame);
            }
            _ => {
                output.pipe = None;
                sys::close(pipe);
                if !last {
                    self.send(kind, b"");
                }
            }
        }
    }

    fn ready(&self, count: usize) {
        self.send(READY, &(count as u32).to_le_bytes());
    }

    fn send(&self, kind: u8, content: &[u8]) {
        write_all(self.tty, &wire::header(kind, content.len()));
        write_all(self.tty, content);
    }
}

/// Every byte as it is, both ways.
fn raw(tty: usize) {
    const TCGETS: usize = 0x5401;
    const TCSETS: usize = 0x5402;
    let mut termios = [0_u32; 16];
    call(nr::IOCTL, [tty, TCGETS, termios.as_mut_ptr() as usize, 0, 0, 0]);
    // c_iflag, c_oflag and c_lflag; c_cflag stays, and a read waits for one byte as it is.
    [termios[0], termios[1], termios[3]] = [0; 3];
    call(nr::IOCTL, [tty, TCSETS, termios.as_ptr() as usize, 0, 0, 0]);
}

/// A pipe: the end to read from, and the one to write to.
fn pipe() -> [usize; 2] {
    let mut ends = [0_i32; 2];
    call(nr::PIPE2, [ends.as_mut_ptr() as usize, O_CLOEXEC, 0, 0, 0, 0]);
    ends.map(|end| end as usize)
}

/// Our end of a pipe never waits; the workload's, whose flags are its own, does.
fn nonblocking(end: usize) -> usize {
    const F_SETFL: usize = 4;
    call(nr::FCNTL, [end, F_SETFL, O_NONBLOCK, 0, 0, 0]);
    end
}
