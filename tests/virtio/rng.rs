//! virtio-rng's random bytes.

use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;

use brisk::events::Events;
use brisk::virtio::Backend;
use brisk::virtio::rng::{Rng, RngConfig};
use brisk_devices::virtio::rng;

use crate::driver::{DATA, Driver, Parts};

pub type Entropy = Driver<Rng, 1>;

pub fn rng(src: &str) -> Parts<Rng> {
    let config = RngConfig { src: src.to_owned() };
    (rng::Rng, vec![Rng::open_source(&config, Events::device(0)).unwrap()])
}

impl Entropy {
    /// Random bytes into `len` bytes at `DATA`; how many the device says there are.
    pub fn ask(&mut self, len: u32) -> u32 {
        self.put(DATA, &vec![0; len as usize]);
        self.send(0, &[(DATA, len, true)])
    }
}

#[test]
fn buffers_come_back_full_of_bytes_that_differ() {
    let mut driver = Entropy::started(rng("/dev/urandom"));
    assert_eq!(driver.ask(64), 64);
    let first = driver.take(DATA, 64);
    assert_eq!(driver.ask(64), 64);
    assert_ne!(driver.take(DATA, 64), first);
    // Several buffers are filled in order, and what is behind them is left alone.
    driver.put(DATA, &[0; 0x100]);
    let buffers = [(DATA, 0x20, true), (DATA + 0x80, 0x20, true)];
    assert_eq!(driver.send(0, &buffers), 0x40);
    for (at, filled) in [(0, true), (0x20, false), (0x80, true), (0xa0, false)] {
        assert_eq!(driver.take(DATA + at, 0x20) != [0; 0x20], filled, "at {at:#x}");
    }
}

#[test]
fn a_request_has_a_bound() {
    let mut driver = Entropy::started(rng("/dev/urandom"));
    assert_eq!(driver.ask(64 << 10), 4096);
    assert_eq!(driver.take(DATA + 4096, 4096), [0; 4096]);
    assert_eq!(driver.send(0, &[(DATA, 16, false)]), 0, "nowhere to put a byte");
}

/// A raw terminal: its other end, and its name.
fn terminal() -> (File, String) {
    let mut name = [0; 64];
    // SAFETY: calls on descriptors made here, with memory of our own that is long enough.
    let host = unsafe {
        let (mut host, mut terminal) = (0, 0);
        let mut raw: libc::termios = std::mem::zeroed();
        libc::cfmakeraw(&mut raw);
        let size = std::ptr::null();
        assert_eq!(
            libc::openpty(&mut host, &mut terminal, name.as_mut_ptr(), &raw, size),
            0,
            "a terminal"
        );
        // `terminal` stays open, so that the other end stays what it is.
        File::from_raw_fd(host)
    };
    let name: Vec<u8> =
        name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    (host, String::from_utf8(name).unwrap())
}

#[test]
fn a_source_that_has_nothing_keeps_nobody_waiting() {
    let (mut host, path) = terminal();
    let mut driver = Entropy::started(rng(&path));
    driver.queue(0, 0, &[(DATA, 16, true)]);
    assert!(!driver.notify(0));
    assert_eq!(driver.used(0), 0);
    host.write_all(b"0123").unwrap();
    let (mut model, mut queues) = rng(&path);
    assert!(queues[0].poll(Events::device(0), &mut model).queue, "it is to be looked at");
    let _ = driver.function.process(0);
    assert_eq!((driver.used(0), driver.used_element(0, 0)), (1, [0, 4]));
    assert_eq!(driver.take(DATA, 5), b"0123\0");
}

#[test]
fn a_file_is_no_source() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let src = file.path().to_str().unwrap().to_owned();
    let error = Rng::open_source(&RngConfig { src }, Events::device(0)).err().unwrap().to_string();
    assert!(error.contains("use src=/dev/urandom"), "{error}");
}

#[test]
fn the_flag_has_one_key() {
    assert_eq!(RngConfig::parse("src=/dev/random").unwrap().src, "/dev/random");
    for wrong in ["", "src=", "source=/dev/random"] {
        assert_eq!(RngConfig::parse(wrong).unwrap_err().status(), 2, "{wrong}");
    }
}
