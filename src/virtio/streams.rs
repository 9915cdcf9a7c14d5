//! `--console streams` (feature `streams`): a workload's standard input, output and error as this
//! process's own, in frames on virtio-console; see [`brisk_devices::streams`].
//!
//! No thread and no wait: what an output does not take now is kept, at most a window of it, since the
//! guest sends no more before it is told that there is room.

#[cfg(feature = "snapshot")]
mod saved;
mod sink;

use std::collections::VecDeque;

use brisk_devices::streams::{Event, Frames, Output, wire};
use brisk_devices::virtio::console;

use super::queue::{self, Broken, Buffers, Taken};
use super::{Backend, Found, Halt, Host, Kind, Queue};
use crate::cli::Flags;
use crate::descriptors;
use crate::error::Result;
use crate::events::{self, Events};
use crate::shared::{Handle, Shared};
#[cfg(feature = "snapshot")]
use crate::snapshot::parts::{Parts, Writer, Wrong};
use crate::terminal::{self, Input};
use sink::Sink;

/// What becomes of a standard output that the workload has closed; all else is the terminal's.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] = &[
    crate::seccomp::rule::Rule::call(libc::SYS_dup2),
    crate::seccomp::rule::Rule::call(libc::SYS_close),
];

/// Tells the guest's init to wait for the workload's arguments.
const HAS_ARGUMENTS: &str = "brisk.args";

/// Bytes copied from or to the guest at a time.
const CHUNK: usize = 4096;
/// Room is told when that much of it is there: fewer frames.
const ENOUGH: usize = wire::WINDOW / 4;

/// `--console streams`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamsConfig {
    /// The workload's, where it gets any from here: a NUL behind each.
    pub arguments: Option<&'static [u8]>,
}

impl StreamsConfig {
    /// With the workload's arguments among this process's own.
    pub fn from_arguments() -> StreamsConfig {
        StreamsConfig { arguments: crate::workload::arguments() }
    }
}

/// All three, and what goes to the guest.
struct Streams {
    frames: Frames,
    input: Input,
    /// Bytes of input that the guest has room for; none before it is ready.
    room: usize,
    /// Since it was last looked at.
    more_room: bool,
    end_told: bool,
    outputs: [Sink; 2],
    /// Frames, and parts of them, for the guest.
    waiting: VecDeque<u8>,
    /// The guest's init is: it takes frames.
    ready: bool,
    /// It is told of them then.
    arguments: Option<&'static [u8]>,
    buffers: Buffers,
}

/// One of the console's two queues, which have all else in common.
pub struct Side {
    transmits: bool,
    streams: Handle<Shared<Streams>>,
}

impl Kind for Side {
    type Config = StreamsConfig;

    fn configs(flags: &mut Flags<'_>) -> Result<Vec<StreamsConfig>> {
        Ok(flags.streams.then(StreamsConfig::from_arguments).into_iter().collect())
    }

    fn parameter(config: &StreamsConfig) -> Option<&'static str> {
        config.arguments.map(|_| HAS_ARGUMENTS)
    }

    fn open(
        config: &'static StreamsConfig,
        _host: &mut Host<'_>,
    ) -> Result<(console::Console, Vec<Side>)> {
        let streams = Handle::new(Shared::new(Streams::new(config.arguments)));
        let side = |transmits| Side { transmits, streams: Handle::clone(&streams) };
        Ok((console::Console::new(None), vec![side(false), side(true)]))
    }
}

impl Streams {
    /// On the process's own standard streams.
    fn new(arguments: Option<&'static [u8]>) -> Streams {
        events::install_for_workload();
        terminal::hold_output();
        // What a workload does not say is no console that is missing.
        terminal::shown();
        Streams {
            frames: Frames::new(),
            input: Input::plain(),
            room: 0,
            more_room: false,
            end_told: false,
            outputs: [
                Sink::new(Output::Standard, libc::STDOUT_FILENO),
                Sink::new(Output::Errors, libc::STDERR_FILENO),
            ],
            waiting: VecDeque::new(),
            ready: false,
            arguments,
            buffers: Buffers::default(),
        }
    }

    /// There may be input, or room for output.
    fn wake(&mut self, events: Events) {
        if events.intersects(Events::INPUT) {
            self.input.wake();
        }
        if events.intersects(Events::OUTPUT) {
            self.outputs.iter_mut().for_each(Sink::flush);
            self.tell();
        }
    }

    /// The VM has ended: writes out what waits, unless a signal says to leave it.
    fn hand_on(&mut self) {
        events::forward(false);
        for sink in &mut self.outputs {
            let pending = sink.pending.make_contiguous();
            let _ = descriptors::write_all(&sink.file, pending);
        }
    }

    /// Sends what the guest has room for.
    ///
    /// # Errors
    /// The driver broke the ring.
    fn receive(&mut self, queue: &mut Queue) -> std::result::Result<bool, Broken> {
        if let Some(signal) = events::take_forwarded() {
            self.frame(wire::SIGNAL, &[signal]);
        }
        if self.room > 0 {
            self.input.fill();
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        let result = queue::drain(queue, |chain| {
            if self.waiting.is_empty() {
                self.tell();
            }
            self.take_input();
            if self.waiting.is_empty() {
                return Ok(Taken::Requeue);
            }
            buffers.collect(chain)?;
            let mut written = 0;
            while written < CHUNK && !self.waiting.is_empty() {
                let part = self.waiting.as_slices().0;
                let count = queue::put_front(&mut buffers.writable, part);
                if count == 0 {
                    break;
                }
                self.waiting.drain(..count);
                written += count;
            }
            Ok(Taken::Used(written as u32))
        });
        self.buffers = buffers;
        result
    }

    /// Takes what the guest sends; all of it, at once.
    ///
    /// # Errors
    /// The driver broke the ring.
    fn send(&mut self, queue: &mut Queue) -> std::result::Result<bool, Broken> {
        let mut buffers = std::mem::take(&mut self.buffers);
        let result = queue::drain(queue, |chain| {
            buffers.collect(chain)?;
            let mut chunk = [0; CHUNK];
            loop {
                let count = queue::take_front(&mut buffers.readable, &mut chunk);
                if count == 0 {
                    return Ok(Taken::Used(0));
                }
                self.take(&chunk[..count]);
            }
        });
        self.buffers = buffers;
        self.tell();
        if !self.waiting.is_empty() || std::mem::take(&mut self.more_room) {
            // The other queue's turn, as if input had come.
            events::again(Events::INPUT);
        }
        result
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(event) = self.frames.next(&mut bytes) {
            match event {
                Event::Ready(count) => {
                    if !std::mem::replace(&mut self.ready, true)
                        && let Some(arguments) = self.arguments
                    {
                        self.frame(wire::ARGUMENTS, arguments);
                    }
                    self.room = self.room.saturating_add(count as usize).min(wire::WINDOW);
                    self.more_room = true;
                    events::forward(true);
                }
                Event::Data(output, data) => self.outputs[output as usize].put(data),
                Event::End(output) => self.outputs[output as usize].end(),
                Event::Text(text) => self.outputs[Output::Errors as usize].put(text),
            }
        }
    }

    /// A frame of input, where there is some, and its end once.
    fn take_input(&mut self) {
        if !self.waiting.is_empty() || self.room == 0 || self.end_told {
            return;
        }
        let mut bytes = [0; CHUNK - wire::HEADER];
        let count = self.room.min(bytes.len());
        let count = self.input.take(&mut bytes[..count]);
        if count == 0 && !self.input.ended() {
            return;
        }
        self.room -= count;
        self.end_told = count == 0;
        self.frame(wire::INPUT, &bytes[..count]);
    }

    /// Tells the guest what became of what it sent; later, and of all at once, where it does not take what
    /// it is told.
    fn tell(&mut self) {
        if self.waiting.len() >= wire::WINDOW {
            return;
        }
        for index in 0..self.outputs.len() {
            let sink = &mut self.outputs[index];
            let kind = sink.output.kind();
            if sink.taken >= ENOUGH {
                let [a, b, c, d] = (std::mem::take(&mut sink.taken) as u32).to_le_bytes();
                self.frame(wire::TAKEN, &[kind, a, b, c, d]);
            } else if sink.gone && !sink.ended {
                sink.ended = true;
                self.frame(wire::CLOSED, &[kind]);
            }
        }
    }

    fn frame(&mut self, kind: u8, content: &[u8]) {
        self.waiting.extend(wire::header(kind, content.len()));
        self.waiting.extend(content);
    }
}

impl Backend for Side {
    type Model = console::Console;

    const EVENTS: Events = Events::STREAMS;

    fn process(&mut self, queue: &mut Queue) -> std::result::Result<bool, Halt> {
        let mut streams = self.streams.lock();
        let moved = match self.transmits {
            true => streams.send(queue),
            false => streams.receive(queue),
        };
        Ok(moved?)
    }

    fn poll(&mut self, events: Events, _model: &mut console::Console) -> Found {
        if self.transmits {
            return Found::default();
        }
        self.streams.lock().wake(events);
        Found { queue: true, ..Found::default() }
    }

    fn hand_on(&mut self) {
        if self.transmits {
            self.streams.lock().hand_on();
        }
    }

    #[cfg(feature = "snapshot")]
    fn save(&self, index: usize, to: &mut Writer) {
        self.streams.lock().save(index, to);
    }

    #[cfg(feature = "snapshot")]
    fn restore(&mut self, index: usize, from: &Parts<'_>) -> std::result::Result<(), Wrong> {
        self.streams.lock().restore(index, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::mem::ManuallyDrop;

    /// The guest's init waits for arguments where there are some, and only there.
    #[test]
    fn the_guest_is_told_that_arguments_come() {
        let parameter = |arguments| Side::parameter(&StreamsConfig { arguments });
        assert_eq!(parameter(Some(b"one\0")), Some("brisk.args"));
        assert_eq!(parameter(Some(b"")), Some("brisk.args"));
        assert_eq!(parameter(None), None);
    }

    /// Who only sends is told no more than is kept, and the rest when it takes that.
    #[test]
    fn a_guest_that_takes_nothing_grows_nothing() {
        use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
        let mut streams = Streams::new(None);
        let nowhere = File::options().write(true).open("/dev/null").unwrap();
        streams.outputs[0].file = ManuallyDrop::new(nowhere);
        let frame = [&wire::header(wire::OUTPUT, ENOUGH)[..], &[7; ENOUGH]].concat();
        for _ in 0..wire::WINDOW / 2 {
            streams.take(&frame);
            streams.tell();
        }
        let told = wire::header(wire::TAKEN, 5).len() + 5;
        assert!((wire::WINDOW..wire::WINDOW + told).contains(&streams.waiting.len()));
        let before = streams.waiting.len() / told;

        // It takes all of that, and has one buffer more.
        streams.waiting.clear();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let mut queue = Queue::new(16, [0, 0x1000, 0x2000], false, &memory).unwrap();
        memory.write_obj([0x8000u64, 4096 | 2 << 32], GuestAddress(0)).unwrap();
        memory.write_obj([0u16, 1, 0], GuestAddress(0x1000)).unwrap();
        streams.receive(&mut queue).unwrap();
        let left = (wire::WINDOW / 2 - before) * ENOUGH;
        let mut wanted = wire::header(wire::TAKEN, 5).to_vec();
        wanted.push(wire::OUTPUT);
        wanted.extend((left as u32).to_le_bytes());
        let mut found = vec![0; wanted.len()];
        memory.read_slice(&mut found, GuestAddress(0x8000)).unwrap();
        assert_eq!(found, wanted);
    }
}
