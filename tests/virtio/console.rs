//! virtio-console's output.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use brisk::config::Output;
use brisk::virtio::console::Console;

use crate::driver::{DATA, Driver};

pub type Terminal = Driver<Console, 2>;

pub const TX: u16 = 1;

pub fn console(path: &Path) -> Terminal {
    let output = Box::leak(Box::new(Output::File(path.to_str().unwrap().to_owned())));
    let (model, queues) = Console::to(output);
    brisk::output::open().unwrap();
    Terminal::started((model, queues.into()))
}

#[test]
fn output_goes_to_the_file_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let mut terminal = console(&path);
    terminal.put(DATA, b"Hello, world!\n");
    assert_eq!(terminal.send(TX, &[(DATA, 7, false), (DATA, 0, false), (DATA + 7, 7, false)]), 0);
    terminal.put(DATA, b"again");
    assert_eq!(terminal.send(TX, &[(DATA, 5, false)]), 0);
    assert_eq!(std::fs::read(&path).unwrap(), b"Hello, world!\nagain");
}

/// A pipe that is full never holds the guest: its chains wait in the queue.
#[test]
fn a_slow_reader_does_not_hold_the_guest() {
    const CHUNK: usize = 16 << 10;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a terminated path.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let mut reader = open.unwrap();

    let mut terminal = console(&path);
    let mut sent = Vec::new();
    // Twice what a pipe holds.
    for chunk in 0..8u8 {
        let bytes: Vec<u8> = (0..CHUNK).map(|n| (n / 7) as u8 ^ chunk).collect();
        let at = DATA + CHUNK as u64 * u64::from(chunk);
        terminal.put(at, &bytes);
        sent.extend(bytes);
        terminal.queue(TX, chunk.into(), &[(at, CHUNK as u32, false)]);
    }
    let since = Instant::now();
    assert!(terminal.notify(TX), "not told of what is back already");
    assert!(since.elapsed() < Duration::from_secs(5));
    let first = terminal.used(TX);
    assert!((1..8).contains(&first), "{first} of 8 chunks fit into a pipe of 4");

    // What SIGIO leads to, each time that the reader made room.
    let mut received = Vec::new();
    let mut buffer = [0; 5000];
    while received.len() < sent.len() {
        let count = reader.read(&mut buffer).unwrap_or(0);
        received.extend_from_slice(&buffer[..count]);
        let _ = terminal.function.process(TX);
        assert!(since.elapsed() < Duration::from_secs(30), "{} bytes came", received.len());
    }
    assert!(received == sent);
    assert_eq!(terminal.used(TX), 8);

    // A driver that begins anew begins a chain anew, of which a part was shown.
    terminal.queue(TX, 8, &[(DATA, 0x2_0000, false)]);
    terminal.notify(TX);
    assert_eq!(terminal.used(TX), 8);
    terminal.start(u64::MAX);
    while reader.read(&mut buffer).is_ok_and(|count| count > 0) {}
    terminal.queue(TX, 0, &[(DATA, 5, false)]);
    terminal.notify(TX);
    assert_eq!((terminal.used(TX), reader.read(&mut buffer).unwrap()), (1, 5));
    assert!(buffer[..5] == sent[..5]);
    terminal.start(u64::MAX);

    // A reader that went away takes nothing but the output with it.
    drop(reader);
    terminal.queue(TX, 0, &[(DATA, 100, false)]);
    terminal.notify(TX);
    assert_eq!(terminal.used(TX), 1);
}
