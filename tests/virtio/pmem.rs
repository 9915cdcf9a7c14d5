//! virtio-pmem's flushes.

use std::fs::File;

use brisk::events::Events;
use brisk::virtio::Backend;
use brisk::virtio::pmem::{Pmem, PmemConfig};

use crate::driver::{DATA, Driver, Parts};

pub type Flusher = Driver<Pmem, 1>;

/// Where the guest would see it.
pub const WINDOW: u64 = 4 << 30;

pub fn image(len: u64) -> (File, PmemConfig, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pmem.raw");
    let file = File::create_new(&path).unwrap();
    file.set_len(len).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (file, PmemConfig { path, discard_writes: false, part: None }, dir)
}

/// The device on this image.
pub fn parts(config: &PmemConfig) -> Parts<Pmem> {
    let (model, pmem, size) = Pmem::map(config, WINDOW).unwrap();
    assert_eq!(size, 2 << 20);
    (model, vec![pmem])
}

impl Flusher {
    /// The response to a request of this type.
    pub fn flush(&mut self, kind: u32) -> i32 {
        self.put(DATA, &kind.to_le_bytes());
        self.put(DATA + 4, &[0x55; 4]);
        assert_eq!(self.send(0, &[(DATA, 4, false), (DATA + 4, 4, true)]), 4);
        i32::from_le_bytes(self.take(DATA + 4, 4).try_into().unwrap())
    }
}

#[test]
fn a_flush_says_how_it_went() {
    let (_file, mut config, _dir) = image(2 << 20);
    config.discard_writes = false;
    let mut driver = Flusher::started(parts(&config));
    let place = [0x100, 0x104, 0x108, 0x10c].map(|register| driver.get(register));
    assert_eq!(place, [0, 1, 2 << 20, 0]);
    assert_eq!(driver.flush(0), 0);
    assert_eq!(driver.flush(1), -1, "a request that does not exist");
    assert_eq!(driver.flush(0), 0);
    // Too short a request, and no room for the answer.
    assert_eq!(driver.send(0, &[(DATA, 3, false), (DATA + 4, 4, true)]), 4);
    assert_eq!(driver.take(DATA + 4, 4), [0xff; 4]);
    assert_eq!(driver.send(0, &[(DATA, 4, false)]), 0);
    assert_eq!(driver.send(0, &[(DATA, 4, false), (DATA + 4, 2, true)]), 2);
    assert_eq!(driver.take(DATA + 4, 2), [0xff; 2]);
}

#[test]
fn a_flush_of_an_image_that_shrank_fails() {
    let (file, config, _dir) = image(2 << 20);
    let (mut model, mut pmem, _) = Pmem::map(&config, WINDOW).unwrap();
    let mut repairs = |pmem: &mut Pmem| pmem.poll(Events::MEMORY, &mut model).repaired;
    assert!(!repairs(&mut pmem), "nothing to repair");
    file.set_len(4096).unwrap();
    assert!(repairs(&mut pmem));
    assert!(!repairs(&mut pmem), "repaired twice");
    let mut driver = Flusher::started((model, vec![pmem]));
    assert_eq!(driver.flush(0), -1);
}
