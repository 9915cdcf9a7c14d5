//! `--console streams` from the first frame to the last: the guest's side is a script, ours the streams.

use std::io::{PipeReader, Read, Write, pipe};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::common::{Scratch, brisk, key, limit, wait_for};
use super::script::Do::*;
use super::script::{AREAS, COM1, DATA, Memory, Script, WINDOWS, WRITE, offer, start};

/// Kinds of frames: `brisk_devices::streams::wire`.
const READY: u8 = 0;
const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const INPUT: u8 = 0;
const SIGNAL: u8 = 1;
const TAKEN: u8 = 2;
const ARGUMENTS: u8 = 3;
const CLOSED: u8 = 4;
/// How many bytes of a stream are on their way at most, and after how many the guest is told.
const STREAM: usize = 64 << 10;
const ENOUGH: usize = STREAM / 4;

/// The queues.
const TO_GUEST: u32 = 0;
const TO_HOST: u32 = 1;
/// Descriptors of each.
const SIZE: u32 = 16;
/// Where the frames to the guest go, so far apart.
const FRAMES: u32 = DATA + 0x8_0000;
const APART: u32 = 0x2000;

fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = (content.len() as u32).to_le_bytes();
    [&[kind, a, b, c], content].concat()
}

fn ready(room: u32) -> Vec<u8> {
    frame(READY, &room.to_le_bytes())
}

fn taken(of: u8, count: usize) -> Vec<u8> {
    let [a, b, c, d] = (count as u32).to_le_bytes();
    frame(TAKEN, &[of, a, b, c, d])
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| b' ' + (at % 89) as u8).collect()
}

/// A guest in the making. What it sends is in its memory from the start.
struct Guest {
    script: Script,
    memory: Memory,
    /// Chains that it has sent, and where the next one's bytes go.
    sent: u32,
    free: u32,
    /// Bytes of each chain for frames.
    rooms: Vec<u32>,
}

impl Guest {
    /// One with these chains for what comes, each of buffers of these lengths.
    fn new(chains: &[&[u32]]) -> Guest {
        let mut script = Script::default();
        let mut memory = Memory::default();
        start(&mut script, 0, AREAS, SIZE);
        for (place, lengths) in (0..).zip(chains) {
            let mut at = FRAMES + place * APART;
            let buffers = lengths.iter().map(|len| {
                at += len;
                (at - len, *len, WRITE)
            });
            memory.chain(TO_GUEST, &buffers.collect::<Vec<_>>());
        }
        offer(&mut script, 0, TO_GUEST, chains.len() as u32);
        let rooms = chains.iter().map(|lengths| lengths.iter().sum()).collect();
        Guest { script, memory, sent: 0, free: DATA, rooms }
    }

    /// Sends a chain of these buffers, and waits until it is back.
    fn send(&mut self, buffers: &[&[u8]]) {
        let mut chain = Vec::new();
        for bytes in buffers {
            self.memory.put(self.free, bytes);
            chain.push((self.free, bytes.len() as u32, 0));
            self.free += bytes.len() as u32;
        }
        assert!(self.free <= FRAMES);
        self.memory.chain(TO_HOST, &chain);
        self.sent += 1;
        offer(&mut self.script, 0, TO_HOST, self.sent);
        self.script.until_used(TO_HOST, self.sent);
    }

    /// Waits until so many of the chains for frames have come back.
    fn wait(&mut self, count: u32) {
        self.script.until_used(TO_GUEST, count);
    }

    /// Says to the test that it is here: by a line on its serial port, and an exit, at which KVM hands it on.
    fn mark(&mut self) {
        self.script.add(Out8, COM1, b'\n'.into()).add(In8, COM1 + 5, 0);
    }

    /// Starts brisk with it, and `more`. In the end the guest shows what it got in `count` chains.
    fn run(mut self, count: u32, more: &[&str]) -> Host {
        let used = AREAS[2];
        self.script.add(Show, used, 4 + 8 * count);
        self.script.add(Show, used + 0x4000, 4 + 8 * self.sent);
        for place in 0..count {
            self.script.add(Show, FRAMES + place * APART, self.rooms[place as usize]);
        }
        let mut elf = self.script.elf();
        let heads = self.memory.heads.clone();
        elf.segments.push(self.memory.segment());
        let scratch = Scratch::new();
        let mut command = brisk();
        command.arg("--kernel").arg(scratch.file("kernel", elf.file()));
        command.args(["--memory", "size=16M", "--console", "streams"]);
        command.args(["--serial", &key("file", scratch.path("serial"))]);
        Host::start(command.args(more), scratch, self.rooms, heads)
    }
}

/// brisk with such a guest. Killed when dropped.
struct Host {
    child: Child,
    scratch: Scratch,
    rooms: Vec<u32>,
    heads: [Vec<u32>; 2],
    output: Option<PipeReader>,
    errors: Receiver<Vec<u8>>,
}

/// All that comes, once its end has.
fn all(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (to, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = to.send(bytes);
    });
    receiver
}

impl Host {
    fn start(
        command: &mut Command,
        scratch: Scratch,
        rooms: Vec<u32>,
        heads: [Vec<u32>; 2],
    ) -> Host {
        let (output, to) = pipe().unwrap();
        command.stdin(Stdio::piped()).stdout(to).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The pipe's other end is with the command.
        command.stdout(Stdio::null());
        let errors = all(child.stderr.take().unwrap());
        Host { child, scratch, rooms, heads, output: Some(output), errors }
    }

    /// Waits until the guest has marked `count` times.
    #[track_caller]
    fn wait_for_marks(&self, count: usize) {
        wait_for("the guest's mark", || self.shown().len() >= count);
    }

    fn shown(&self) -> Vec<u8> {
        std::fs::read(self.scratch.path("serial")).unwrap_or_default()
    }

    fn terminate(&self) {
        // SAFETY: the child was not waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) }, 0);
    }

    /// The bytes of standard output, to its end.
    #[track_caller]
    fn output(&mut self) -> Vec<u8> {
        let output = self.output.take().unwrap();
        all(output).recv_timeout(limit()).expect("the end of standard output")
    }

    /// `len` bytes of standard output, by one call.
    #[track_caller]
    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let count = self.output.as_mut().unwrap().read(&mut bytes).unwrap();
        assert_eq!(count, len, "not all at once");
        bytes
    }

    /// Waits for the end. The frames that the guest got, as they were in chains, behind so many marks.
    #[track_caller]
    fn end(mut self, marks: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
        wait_for("the end", || self.child.try_wait().unwrap().is_some());
        let errors = self.errors.recv_timeout(limit()).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&errors));
        let shown = self.shown();
        let word = |at: usize| u32::from_le_bytes(shown[at..at + 4].try_into().unwrap());
        let count = (word(marks) >> 16) as usize;
        // What a used ring says of each chain.
        let lengths = |at: usize, heads: &[u32]| -> Vec<usize> {
            assert_eq!(word(at) >> 16, heads.len() as u32, "another used index");
            let element = |(place, head): (usize, &u32)| {
                assert_eq!(word(at + 4 + 8 * place), *head, "another chain");
                word(at + 8 + 8 * place) as usize
            };
            heads.iter().enumerate().map(element).collect()
        };
        let [to_guest, to_host] = &self.heads;
        let frames = lengths(marks, &to_guest[..count]);
        let sent_at = marks + 4 + 8 * count;
        assert!(lengths(sent_at, to_host).iter().all(|len| *len == 0));
        let mut at = sent_at + 4 + 8 * to_host.len();
        let mut chains = Vec::new();
        for (len, room) in frames.iter().zip(&self.rooms) {
            let (bytes, rest) = shown[at..at + *room as usize].split_at(*len);
            assert!(rest.iter().all(|byte| *byte == 0), "written behind what it says");
            chains.push(bytes.to_vec());
            at += *room as usize;
        }
        assert_eq!(at, shown.len());
        (chains, errors)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole life: arguments, input in pieces and its end, both outputs, what is told of them, an output's
/// end, a signal, and at last a kernel that knows of no frames.
#[test]
fn all_that_streams_do() {
    let mut guest = Guest::new(&[
        &[5, 100],
        &[64],
        &[3, 50],
        &[4200],
        &[0x400],
        &[64],
        &[64],
        &[64],
        &[64],
        &[64],
    ]);
    let ten = ready(10);
    guest.send(&[&ten[..1], &ten[1..4], &ten[4..]]);
    guest.wait(2);
    guest.send(&[&ready(70_000)]);
    guest.mark();
    guest.wait(6);
    let all_at_once = [frame(OUTPUT, b"Hello"), frame(ERRORS, b"oh\n"), frame(OUTPUT, b" you")];
    let all_at_once = all_at_once.concat();
    guest.send(&[&all_at_once[..7], &all_at_once[7..20], &all_at_once[20..]]);
    let long = text(ENOUGH);
    guest.send(&[&frame(OUTPUT, &long[9..])]);
    guest.wait(7);
    guest.send(&[&frame(ERRORS, &long[3..ENOUGH - 1])]);
    guest.send(&[&frame(ERRORS, &long[ENOUGH - 1..])]);
    guest.wait(8);
    guest.send(&[&frame(OUTPUT, b"")]);
    guest.wait(9);
    guest.send(&[&frame(ERRORS, b""), b"[    1.0] panic\n"]);
    let mut host = guest.run(9, &["--", "one", "and two"]);
    let input = text(5000);
    let mut stdin = host.child.stdin.take().unwrap();
    stdin.write_all(&input[..10]).unwrap();
    // There is room, and nothing to fill it with yet.
    host.wait_for_marks(1);
    stdin.write_all(&input[10..]).unwrap();
    drop(stdin);
    // Its end comes while the guest runs.
    assert!(host.output() == [&b"Hello you"[..], &long[9..]].concat());
    host.terminate();
    let (frames, errors) = host.end(1);
    assert!(errors == [&b"oh\n"[..], &long[3..], b"[    1.0] panic\n"].concat());
    let rest = frame(INPUT, &input[10..4102]);
    let expected = [
        frame(ARGUMENTS, b"one\0and two\0"),
        frame(INPUT, &input[..10]),
        rest[..53].to_vec(),
        rest[53..].to_vec(),
        frame(INPUT, &input[4102..]),
        frame(INPUT, b""),
        taken(OUTPUT, ENOUGH),
        taken(ERRORS, ENOUGH),
        frame(SIGNAL, &[15]),
    ];
    assert_eq!(frames, expected);
}

/// A clone's streams go on where they were: in the middle of a frame, with the room that is left, and without
/// other arguments.
#[test]
#[cfg(feature = "snapshot")]
fn a_clone_has_streams_of_its_own() {
    let mut guest = Guest::new(&[&[64], &[64], &[64], &[64]]);
    guest.send(&[&ready(10)]);
    guest.wait(2);
    let bytes = [&frame(ERRORS, b"oh")[..], &frame(OUTPUT, &text(ENOUGH))].concat();
    let (before, behind) = bytes.split_at(20);
    guest.send(&[before]);
    guest.script.add(Out8, 0x80, 0x11);
    guest.send(&[behind]);
    guest.wait(4);
    let dir = Scratch::new();
    let snapshot = key("path", dir.path("snapshot")) + ",at=0x11";
    let mut first = guest.run(4, &["--snapshot", &snapshot, "--", "argument"]);
    first.child.stdin.as_mut().unwrap().write_all(b"abcdef").unwrap();
    assert!(first.output() == text(ENOUGH)[..10]);
    assert!(first.child.wait().unwrap().success());
    let (rooms, heads) = (first.rooms.clone(), first.heads.clone());

    let scratch = Scratch::new();
    let mut command = brisk();
    command.arg("--restore").arg(dir.path("snapshot"));
    command.args(["--serial", &key("file", scratch.path("serial"))]);
    let mut clone = Host::start(&mut command, scratch, rooms, heads);
    // More than there is room for.
    clone.child.stdin.as_mut().unwrap().write_all(b"123456").unwrap();
    assert!(clone.output() == text(ENOUGH)[10..]);
    let (frames, errors) = clone.end(0);
    assert!(errors.is_empty(), "{}", String::from_utf8_lossy(&errors));
    let expected = [
        frame(ARGUMENTS, b"argument\0"),
        frame(INPUT, b"abcdef"),
        frame(INPUT, b"1234"),
        taken(OUTPUT, ENOUGH),
    ];
    assert_eq!(frames, expected);
}

/// No more of the input than the guest has room for.
#[test]
fn input_waits_for_room() {
    let mut guest = Guest::new(&[&[64], &[64], &[64]]);
    guest.send(&[&ready(3)]);
    guest.wait(1);
    guest.send(&[&ready(4)]);
    guest.wait(2);
    let mut host = guest.run(2, &[]);
    let mut stdin = host.child.stdin.take().unwrap();
    stdin.write_all(b"0123456789").unwrap();
    let (frames, _) = host.end(0);
    assert_eq!(frames, [frame(INPUT, b"012"), frame(INPUT, b"3456")]);
}

/// A guest that fills the pipe, which nobody reads yet, and the window behind it, and then sends more.
fn one_that_fills(guest: &mut Guest, bytes: &[u8]) {
    let head = [ready(0), frame(OUTPUT, bytes)[..4].to_vec()].concat();
    guest.send(&[&head]);
    guest.send(&[&bytes[..STREAM]]);
    guest.wait(1);
    let (window, more) = bytes[STREAM..].split_at(STREAM.min(bytes.len() - STREAM));
    guest.send(&[window]);
    if !more.is_empty() {
        guest.send(&[more]);
    }
    guest.mark();
}

/// What a slow reader does not take waits, a window of it; the rest is lost.
#[test]
fn a_slow_reader_gets_a_window_more_than_fits() {
    let bytes = text(2 * STREAM + 1000);
    let mut guest = Guest::new(&[&[64], &[64], &[64]]);
    one_that_fills(&mut guest, &bytes);
    guest.wait(2);
    guest.send(&[&frame(OUTPUT, b"the end")]);
    let mut host = guest.run(2, &[]);
    host.wait_for_marks(1);
    let first = host.read(STREAM);
    // What is left when the guest has ended is handed on then.
    wait_for("the guest's end", || host.shown().len() > 1);
    let all = [first, host.output()].concat();
    assert!(all == [&bytes[..2 * STREAM], b"the end"].concat(), "{} bytes", all.len());
    let (frames, errors) = host.end(1);
    assert_eq!(errors, b"");
    assert_eq!(frames, [taken(OUTPUT, STREAM), taken(OUTPUT, STREAM)]);
}

/// An output that is closed while a part of it waits ends behind that, and the guest goes on.
#[test]
fn an_end_comes_behind_what_waits() {
    let bytes = text(STREAM + 5000);
    let mut guest = Guest::new(&[&[64], &[64], &[64]]);
    one_that_fills(&mut guest, &bytes);
    guest.send(&[&frame(OUTPUT, b"")]);
    guest.wait(2);
    guest.send(&[&frame(OUTPUT, b"to nobody"), &frame(ERRORS, b"on")]);
    let mut host = guest.run(2, &[]);
    host.wait_for_marks(1);
    assert!(host.output() == bytes);
    host.terminate();
    let (frames, errors) = host.end(1);
    assert_eq!(errors, b"on");
    assert_eq!(frames, [taken(OUTPUT, STREAM), frame(SIGNAL, &[15])]);
}

/// A reader that went away takes what waits with it, and the guest is told, once.
#[test]
fn a_guest_is_told_that_nobody_reads_it() {
    let bytes = text(STREAM + 5000);
    let mut guest = Guest::new(&[&[64], &[64], &[64], &[64]]);
    one_that_fills(&mut guest, &bytes);
    guest.wait(2);
    guest.send(&[&frame(OUTPUT, b"to nobody"), &frame(ERRORS, b"on")]);
    guest.mark();
    guest.wait(3);
    let mut host = guest.run(3, &[]);
    host.wait_for_marks(1);
    host.output = None;
    host.wait_for_marks(2);
    host.terminate();
    let (frames, errors) = host.end(2);
    assert_eq!(errors, b"on");
    let expected = [taken(OUTPUT, STREAM), frame(CLOSED, &[OUTPUT]), frame(SIGNAL, &[15])];
    assert_eq!(frames, expected);
}

/// A guest whose driver stopped takes no signal. It has its ten seconds, no more.
#[test]
fn a_signal_that_nobody_takes_ends_the_guest_after_a_while() {
    let mut guest = Guest::new(&[&[64]]);
    guest.send(&[&ready(0)]);
    guest.script.add(Write32, WINDOWS + 0x70, 0);
    guest.mark();
    guest.wait(1);
    let mut host = guest.run(1, &[]);
    host.wait_for_marks(1);
    host.terminate();
    wait_for("the end", || host.child.try_wait().unwrap().is_some());
    assert_eq!(host.child.wait().unwrap().code(), Some(0));
    assert_eq!(host.shown(), b"\n");
}
