//! virtio-blk on a real file.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use brisk::events::Events;
use brisk::virtio::block::{Block, DiskConfig, MAX_QUEUES};
#[cfg(feature = "io-uring")]
use {
    crate::driver::{SIZE, areas},
    brisk::virtio::Reply,
    std::time::{Duration, Instant},
};

use crate::driver::{DATA, Driver};

pub type Disk = Driver<Block, MAX_QUEUES>;

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// The header, and after it the status.
const HEADER: u64 = DATA - 0x1000;
const STATUS: u64 = HEADER + 16;

/// A disk on a new file of `len` bytes, which is not locked for the test itself.
pub fn disk(len: u64, readonly: bool) -> (Disk, File, tempfile::TempDir) {
    open(len, DiskConfig { readonly, ..DiskConfig::default() })
}

/// One whose requests go through io_uring.
#[cfg(feature = "io-uring")]
pub fn ring_disk(len: u64) -> (Disk, File, tempfile::TempDir) {
    open(len, DiskConfig { io_uring: true, ..DiskConfig::default() })
}

fn open(len: u64, config: DiskConfig) -> (Disk, File, tempfile::TempDir) {
    open_in(tempfile::tempdir().unwrap(), len, config)
}

fn open_in(
    dir: tempfile::TempDir,
    len: u64,
    config: DiskConfig,
) -> (Disk, File, tempfile::TempDir) {
    let path = dir.path().join("disk.raw");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(len).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let config = DiskConfig { path, ..config };
    let (model, queues, _) = Block::open_image(&config, 1, Events::device(0)).unwrap();
    (Disk::started((model, queues)), file, dir)
}

impl Disk {
    /// One request with data of these lengths from `DATA` up; its status.
    pub fn request(&mut self, kind: u32, sector: u64, data: &[u32], write: bool) -> u8 {
        self.put(HEADER, &kind.to_le_bytes());
        self.put(HEADER + 4, &[0; 4]);
        self.put(HEADER + 8, &sector.to_le_bytes());
        self.put(STATUS, &[0xff]);
        let mut buffers = vec![(HEADER, 16, false)];
        let mut at = DATA;
        for &len in data {
            buffers.push((at, len, write));
            at += u64::from(len);
        }
        buffers.push((STATUS, 1, true));
        let room = if write { data.iter().sum::<u32>() } else { 0 };
        assert_eq!(self.send(0, &buffers), room + 1);
        self.take(STATUS, 1)[0]
    }

    fn segment(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        self.put(DATA, &sector.to_le_bytes());
        self.put(DATA + 8, &sectors.to_le_bytes());
        self.put(DATA + 12, &flags.to_le_bytes());
        self.request(kind, 0, &[16], false)
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn bytes_go_to_the_file_and_come_back() {
    let (mut disk, file, _dir) = disk(1 << 20, false);
    let bytes = pattern(4096, 7);
    disk.put(DATA, &bytes);
    // Borders anywhere, and a buffer without length.
    assert_eq!(disk.request(OUT, 3, &[1, 511, 0, 3072, 512], false), OK);
    let mut in_file = vec![0; 4096];
    file.read_exact_at(&mut in_file, 3 * 512).unwrap();
    assert!(in_file == bytes);
    assert_eq!(disk.request(FLUSH, 0, &[], false), OK);
    disk.put(DATA, &[0; 4096]);
    assert_eq!(disk.request(IN, 3, &[4095, 1], true), OK);
    assert!(disk.take(DATA, 4096) == bytes);
    // The last sector is there, the one after is not, and neither is half a sector.
    assert_eq!(disk.request(IN, 2047, &[512], true), OK);
    assert_eq!(disk.request(IN, 2048, &[512], true), IOERR);
    assert_eq!(disk.request(IN, 2047, &[1024], true), IOERR);
    assert_eq!(disk.request(IN, u64::MAX, &[512], true), IOERR);
    assert_eq!(disk.request(OUT, 0, &[511], false), IOERR);
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
}

/// Reads and writes on a disk of 64 KiB by io_uring, in the page cache and not.
#[cfg(feature = "io-uring")]
fn reads_and_writes((mut disk, file, dir): (Disk, File, tempfile::TempDir)) {
    use std::os::fd::AsRawFd;
    let bytes = pattern(64 << 10, 9);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    // Cached are none, the first half, and all: what is left of a request has its place.
    for (first, len) in [(0, 0), (32 << 10, 0), (0, 1)] {
        // SAFETY: a hint for the cache of our own file.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), first, len, libc::POSIX_FADV_DONTNEED) };
        disk.put(DATA, &[0; 64 << 10]);
        assert_eq!(disk.request(IN, 0, &[512, 31 << 10, 1024, 32256], true), OK);
        assert!(disk.take(DATA, 64 << 10) == bytes, "{}: {first}", dir.path().display());
    }
    for features in [u64::MAX, !(1 << 9)] {
        // Without VIRTIO_BLK_F_FLUSH each write is durable.
        disk.start(features);
        let bytes = pattern(4096, features as u8);
        disk.put(DATA, &bytes);
        assert_eq!(disk.request(OUT, 8, &[1024, 3072], false), OK);
        let mut in_file = vec![0; 4096];
        file.read_exact_at(&mut in_file, 4096).unwrap();
        assert!(in_file == bytes);
    }
    file.set_len(1000).unwrap();
    assert_eq!(disk.request(IN, 0, &[512], true), OK);
    assert_eq!(disk.request(IN, 1, &[512], true), IOERR, "ends within");
    assert_eq!(disk.request(IN, 100, &[512], true), IOERR);
}

#[cfg(feature = "io-uring")]
#[test]
fn io_uring_does_the_same_requests() {
    reads_and_writes(ring_disk(64 << 10));
    reads_and_writes(open(
        64 << 10,
        DiskConfig { io_uring: true, direct: true, ..DiskConfig::default() },
    ));
    reads_and_writes(ring_disk_in_memory());
}

#[cfg(feature = "io-uring")]
fn ring_disk_in_memory() -> (Disk, File, tempfile::TempDir) {
    let config = DiskConfig { io_uring: true, ..DiskConfig::default() };
    open_in(tempfile::tempdir_in("/dev/shm").unwrap(), 64 << 10, config)
}

#[cfg(feature = "io-uring")]
#[test]
fn what_need_not_wait_is_done_at_once() {
    let (mut disk, _file, _dir) = ring_disk_in_memory();
    for (done, kind) in (1..).zip([IN, OUT]) {
        disk.put(HEADER, &kind.to_le_bytes());
        disk.put(HEADER + 4, &[0; 12]);
        let buffers = [(HEADER, 16, false), (DATA, 4096, kind == IN), (STATUS, 1, true)];
        disk.queue(0, 0, &buffers);
        disk.notify(0);
        assert_eq!(disk.used(0), done, "came later");
    }
}

/// Of a paused machine nothing is on its way, and nothing new is taken.
#[cfg(feature = "io-uring")]
#[test]
fn a_disk_that_is_quiesced_has_done_what_it_took() {
    let direct = DiskConfig { io_uring: true, direct: true, ..DiskConfig::default() };
    let (mut disk, file, _dir) = open(64 << 10, direct);
    let bytes = pattern(20 << 10, 3);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
    let headers = HEADER + 0x100;
    disk.put(headers, &[0; 16 * 5]);
    for request in 0..5u16 {
        let at = |base: u64, size: u64| base + u64::from(request) * size;
        disk.put(at(headers, 16) + 8, &[request as u8 * 8]);
        let buffers =
            [(at(headers, 16), 16, false), (at(DATA, 4096), 4096, true), (STATUS, 1, true)];
        disk.queue(0, request * 3, &buffers);
        if request < 4 {
            disk.notify(0);
        }
    }
    let mut replies = Vec::new();
    disk.function.quiesce(|reply| replies.push(reply));
    assert_eq!((disk.used(0), replies.len()), (4, 1));
    assert!(disk.take(DATA, 16 << 10) == bytes[..16 << 10]);
    assert_eq!(disk.take(STATUS, 1), [OK]);
    disk.notify(0);
    disk.function.quiesce(|_| ());
    assert_eq!(disk.used(0), 5);
    assert!(disk.take(DATA, 20 << 10) == bytes);
}

#[test]
fn a_request_in_any_cut_is_the_same_request() {
    let (mut disk, file, _dir) = disk(4096, false);
    file.write_all_at(&pattern(512, 1), 512).unwrap();
    disk.put(HEADER, &[0; 16]);
    disk.put(HEADER + 8, &[1]);
    // A header in two pieces; the status is the last byte of the data's buffer.
    let buffers = [(HEADER, 5, false), (HEADER + 5, 11, false), (DATA, 513, true)];
    disk.put(DATA + 512, &[0xff]);
    assert_eq!(disk.send(0, &buffers), 513);
    assert!(disk.take(DATA, 512) == pattern(512, 1));
    assert_eq!(disk.take(DATA + 512, 1), [OK]);
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes() {
    let (mut disk, file, _dir) = disk(1 << 20, false);
    file.write_all_at(&pattern(1 << 20, 1), 0).unwrap();
    file.sync_all().unwrap();
    let full = file.metadata().unwrap().blocks();
    assert_eq!(disk.segment(DISCARD, 0, 1024, 0), OK);
    assert!(file.metadata().unwrap().blocks() < full, "the host has no more room than before");
    assert_eq!(disk.segment(WRITE_ZEROES, 1025, 3, 0), OK);
    assert_eq!(disk.segment(WRITE_ZEROES, 1030, 1, 1), OK);
    let mut bytes = vec![0xff; 1 << 20];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let old = pattern(1 << 20, 1);
    for (sector, (new, old)) in bytes.chunks(512).zip(old.chunks(512)).enumerate() {
        let zero = sector < 1024 || (1025..1028).contains(&sector) || sector == 1030;
        assert!(if zero { new == [0; 512] } else { new == old }, "sector {sector}");
    }
    assert_eq!(disk.segment(DISCARD, 2047, 2, 0), IOERR);
    assert_eq!(disk.segment(DISCARD, 0, 1, 1), UNSUPPORTED);
    assert_eq!(disk.segment(WRITE_ZEROES, u64::MAX, u32::MAX, 0), IOERR);
    assert_eq!(disk.request(DISCARD, 0, &[15], false), IOERR);
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
}

#[test]
fn the_id_is_the_file_s_name() {
    let (mut disk, _file, _dir) = disk(512, false);
    assert_eq!(disk.request(GET_ID, 0, &[20], true), OK);
    assert_eq!(disk.take(DATA, 20), b"disk.raw\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(disk.request(GET_ID, 0, &[19], true), IOERR);
    assert_eq!(disk.request(99, 0, &[], false), UNSUPPORTED);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let (mut disk, file, _dir) = disk(4096, true);
    disk.put(DATA, &[1; 512]);
    assert_eq!(disk.request(OUT, 0, &[512], false), IOERR);
    assert_eq!(disk.segment(DISCARD, 0, 1, 0), IOERR);
    assert_eq!(disk.segment(WRITE_ZEROES, 0, 1, 0), IOERR);
    assert_eq!(disk.request(IN, 0, &[512], true), OK);
    assert_eq!(file.metadata().unwrap().blocks(), 0);
    // VIRTIO_BLK_F_RO (virtio 1.3, 5.2.3).
    disk.set(0x14, 0);
    assert!(disk.get(0x10) & 1 << 5 != 0);
}

/// What the driver is told of the disk (virtio 1.3, 5.2.4): 512-byte sectors in pages of the host's file
/// system, and as many queues as there are CPUs, up to eight.
#[test]
fn a_disk_is_of_pages_and_has_a_queue_for_each_cpu() {
    for (cpus, queues) in [(1, 1), (3, MAX_QUEUES.min(3)), (9, MAX_QUEUES)] {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(4096).unwrap();
        let path = image.path().to_str().unwrap().to_owned();
        let config = DiskConfig { path, ..DiskConfig::default() };
        let (model, backends, _) = Block::open_image(&config, cpus, Events::device(0)).unwrap();
        assert_eq!(backends.len(), queues);
        let mut disk = Disk::started((model, backends));
        let (mut exponent, mut count) = ([0], [0; 2]);
        disk.function.read(0x118, &mut exponent);
        disk.function.read(0x122, &mut count);
        assert_eq!(exponent, [3], "2 to the 3rd sectors are a page");
        assert_eq!(usize::from(u16::from_le_bytes(count)), queues);
    }
}

/// A header that is not whole is no request, whatever its type.
#[test]
fn a_short_header_is_an_io_error() {
    let (mut disk, _file, _dir) = disk(4096, false);
    disk.put(HEADER, &GET_ID.to_le_bytes());
    disk.put(HEADER + 4, &[0; 12]);
    disk.put(STATUS, &[0xff]);
    let buffers = [(HEADER, 15, false), (DATA, 20, true), (STATUS, 1, true)];
    assert_eq!(disk.send(0, &buffers), 21);
    assert_eq!(disk.take(STATUS, 1), [IOERR]);
}

/// A driver that wants no interrupt for a request gets none, and one that does gets one, when it is done
/// later too.
#[cfg(feature = "io-uring")]
#[test]
fn an_interrupt_comes_where_it_is_wanted() {
    for io_uring in [false, true] {
        let direct = DiskConfig { io_uring, direct: true, ..DiskConfig::default() };
        interrupts_where_wanted(open(64 << 10, direct));
    }
}

#[cfg(feature = "io-uring")]
fn interrupts_where_wanted((mut disk, _file, _dir): (Disk, File, tempfile::TempDir)) {
    disk.put(HEADER, &[0; 16]);
    let event = areas(0)[1] + 4 + 2 * u64::from(SIZE);
    for (place, wanted) in [(0u16, false), (1, true), (2, false)] {
        // The index behind which one is wanted: this one, or one that is far away.
        let index = if wanted { place } else { place + 5 };
        disk.put(event, &index.to_le_bytes());
        disk.queue(0, 0, &[(HEADER, 16, false), (DATA, 4096, true), (STATUS, 1, true)]);
        let mut interrupt = disk.notify(0);
        let patience = Instant::now() + Duration::from_secs(10);
        while disk.used(0) == place && Instant::now() < patience {
            interrupt |= disk.function.process(0) != Reply::Nothing;
        }
        assert_eq!((disk.used(0), interrupt), (place + 1, wanted));
        assert_eq!(disk.function.process(0), Reply::Nothing, "nothing has come");
    }
}

/// Buffers that are not aligned for O_DIRECT, and a file system that cannot zero by itself (tmpfs): slower.
#[test]
fn what_the_host_cannot_do_is_done_another_way() {
    let direct = DiskConfig { direct: true, ..DiskConfig::default() };
    let (mut disk, file, _dir) = open(64 << 10, direct);
    file.write_all_at(&pattern(64 << 10, 4), 0).unwrap();
    let buffers = [(HEADER, 16, false), (DATA + 1, 1024, true), (STATUS, 1, true)];
    for _ in 0..2 {
        disk.put(HEADER, &[0; 16]);
        disk.put(HEADER + 8, &[2]);
        assert_eq!(disk.send(0, &buffers), 1025);
        assert_eq!(disk.take(STATUS, 1), [OK]);
        assert!(disk.take(DATA + 1, 1024) == pattern(64 << 10, 4)[1024..2048]);
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (mut disk, file, _dir) = open_in(dir, 256 << 10, DiskConfig::default());
    let old = pattern(256 << 10, 5);
    file.write_all_at(&old, 0).unwrap();
    // More than is written at once, and no multiple of it.
    assert_eq!(disk.segment(WRITE_ZEROES, 3, 300, 0), OK);
    let mut bytes = vec![0; 256 << 10];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..3 * 512] == old[..3 * 512] && bytes[303 * 512..] == old[303 * 512..]);
    assert!(bytes[3 * 512..303 * 512].iter().all(|byte| *byte == 0));
}

#[test]
fn an_image_that_shrank_is_an_io_error() {
    let (mut disk, file, _dir) = disk(64 << 10, false);
    file.set_len(1000).unwrap();
    assert_eq!(disk.request(IN, 0, &[512], true), OK);
    assert_eq!(disk.request(IN, 1, &[512], true), IOERR, "ends within");
    assert_eq!(disk.request(IN, 100, &[512], true), IOERR);
    file.set_len(64 << 10).unwrap();
    assert_eq!(disk.request(IN, 100, &[512], true), OK, "the disk does not come back");
}

/// As on a full disk: the host's kernel takes a part of what is written, then nothing.
#[test]
fn a_write_that_the_host_has_no_room_for_is_an_io_error() {
    const LIMIT: u64 = 1 << 30;
    let (mut disk, file, _dir) = disk(2 << 30, false);
    let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: libc::RLIM_INFINITY };
    // As a VM does before all else: the signal that comes with the limit ends nothing.
    brisk::events::install();
    // SAFETY: a plain setting of this process; no other test has a file as long.
    unsafe { assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0) };
    disk.put(DATA, &[1; 4096]);
    assert_eq!(disk.request(OUT, LIMIT / 512, &[4096], false), IOERR);
    assert_eq!(disk.request(OUT, LIMIT / 512 - 4, &[4096], false), IOERR, "half of it fits");
    assert_eq!(disk.request(OUT, LIMIT / 512 - 8, &[4096], false), OK);
    assert_eq!(disk.request(FLUSH, 0, &[], false), OK);
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, LIMIT - 4096).unwrap();
    assert!(bytes == [1; 4096]);
}

/// A driver that takes its queue back has its buffers back: nothing is written there any more.
#[cfg(feature = "io-uring")]
#[test]
fn a_reset_waits_for_what_is_on_its_way() {
    let direct = DiskConfig { io_uring: true, direct: true, ..DiskConfig::default() };
    let (mut disk, file, _dir) = open(256 << 10, direct);
    file.write_all_at(&[7; 256 << 10], 0).unwrap();
    file.sync_all().unwrap();
    for _ in 0..10 {
        disk.start(u64::MAX);
        disk.put(HEADER, &[0; 16]);
        for request in 0..5u16 {
            let buffers = [(HEADER, 16, false), (DATA, 256 << 10, true), (STATUS, 1, true)];
            disk.queue(0, 3 * request, &buffers);
        }
        disk.notify(0);
        disk.set(0x70, 0);
        disk.put(DATA, &[9; 256 << 10]);
        disk.put(STATUS, &[9]);
        std::thread::sleep(Duration::from_millis(5));
        assert!(disk.take(DATA, 256 << 10) == [9; 256 << 10] && disk.take(STATUS, 1) == [9]);
    }
}
