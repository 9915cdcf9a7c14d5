//! A host whose disk fails: system calls that give an error, on one thread.

use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::block::{FLUSH, IN, IOERR, OK, OUT, disk};
use crate::driver::DATA;
use crate::pmem::{Flusher, image, parts};

/// What `body` gives on a thread on which each of `calls` fails with EIO.
fn with_failing<T: Send>(calls: &[libc::c_long], body: impl FnOnce() -> T + Send) -> T {
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let fail = SeccompAction::Errno(libc::EIO as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, fail, TargetArch::x86_64);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let on_it = || {
        seccompiler::apply_filter(&program).unwrap();
        body()
    };
    thread::scope(|scope| scope.spawn(on_it).join().unwrap())
}

#[test]
fn a_disk_that_fails_gives_errors_and_goes_on() {
    let (mut disk, _file, _dir) = disk(1 << 20, false);
    assert_eq!(disk.request(OUT, 0, &[512], false), OK);
    with_failing(&[libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_fdatasync], || {
        disk.put(DATA, &[7; 512]);
        assert_eq!(disk.request(IN, 0, &[512], true), IOERR);
        assert_eq!(disk.request(OUT, 0, &[512], false), IOERR);
        assert_eq!(disk.request(FLUSH, 0, &[], false), IOERR);
    });
    // It is the disk that failed, not the device.
    assert_eq!(disk.request(IN, 0, &[512], true), OK);
    assert_eq!(disk.request(FLUSH, 0, &[], false), OK);
}

/// A write of a driver that never flushes is durable when it is done: it has failed where that has.
#[test]
fn a_write_that_did_not_become_durable_failed() {
    let (mut disk, _file, _dir) = disk(1 << 20, false);
    // Without VIRTIO_BLK_F_FLUSH (virtio 1.3, 5.2.3).
    disk.start(!(1 << 9));
    assert_eq!(disk.request(OUT, 0, &[512], false), OK);
    with_failing(&[libc::SYS_fdatasync], || {
        assert_eq!(disk.request(OUT, 0, &[512], false), IOERR);
    });
}

#[test]
fn a_flush_of_pmem_that_fails_says_so() {
    let (_file, config, _dir) = image(2 << 20);
    let mut driver = Flusher::started(parts(&config));
    let failed = with_failing(&[libc::SYS_fdatasync], || driver.flush(0));
    assert_eq!((failed, driver.flush(0)), (-1, 0));
}
