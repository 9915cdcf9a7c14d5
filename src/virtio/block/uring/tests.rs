//! The ring by itself, without a queue.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::*;
use crate::virtio::failing::{failing, interrupt, interruptible};

/// What becomes of one entry.
fn result(ring: &mut IoUring, entry: &io_uring::squeue::Entry) -> i32 {
    // SAFETY: what an entry refers to outlives this function, which waits for its end.
    unsafe { ring.submission().push(entry).expect("room") };
    ring.submit_and_wait(1).expect("the ring");
    ring.completion().next().expect("a completion").result()
}

#[test]
fn a_ring_reads_writes_and_flushes_the_image_and_nothing_else() {
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(b"image", 0).expect("written");
    let disk = Disk { file: file.into(), direct: false, write_through: false };
    let mut ring = restricted(4, &disk).expect("a ring");
    let mut bytes = [0u8; 5];
    let buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 5 };
    let other = types::Fd(disk.file.as_raw_fd());
    let path = c"/etc/passwd".as_ptr();
    for forbidden in [
        opcode::Nop::new().build(),
        opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path).build(),
        opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
        opcode::Read::new(FILE, bytes.as_mut_ptr(), 5).build(),
        opcode::Readv::new(other, &raw const buffer, 1).build(),
    ] {
        assert_eq!(result(&mut ring, &forbidden), -libc::EACCES, "{forbidden:?}");
    }
    let read = opcode::Readv::new(FILE, &raw const buffer, 1).build();
    assert_eq!(result(&mut ring, &read), 5);
    assert_eq!(&bytes, b"image");
    assert_eq!(result(&mut ring, &opcode::Fsync::new(FILE).build()), 0);
    // No more than that for good.
    assert!(ring.submitter().register_files(&[disk.file.as_raw_fd()]).is_err());
    assert!(ring.submitter().unregister_files().is_err());
}

/// Runs one request to its end; its status.
fn status(disk: &Disk, operation: Operation, buffers: Vec<libc::iovec>) -> u8 {
    let mut engine = Engine::new(4, disk, Events::NONE).unwrap();
    let mut status = 0xff;
    let to = &raw mut status;
    let flight = Flight { head: 0, operation, buffers, offset: 0, room: 1, status: to };
    assert!(engine.push(flight).is_ok());
    let mut done = false;
    while !done {
        engine.run(disk, |_, _| done = true);
    }
    // SAFETY: our own byte, which the engine has written.
    unsafe { to.read_volatile() }
}

/// A file that takes writes and can be made durable by nothing: procfs has no fsync, which the kernel
/// answers with EINVAL.
fn never_durable(write_through: bool) -> Disk {
    let file = OpenOptions::new().read(true).write(true).open("/proc/self/comm").unwrap();
    assert!(file.sync_data().is_err());
    Disk { file: file.into(), direct: false, write_through }
}

#[test]
fn a_flush_is_one() {
    assert_eq!(status(&never_durable(false), Operation::Flush, Vec::new()), Status::IoErr as u8);
}

#[test]
fn a_write_without_a_flush_to_come_is_durable() {
    let name = b"brisk-test";
    let write = |disk: &Disk| {
        let buffer = libc::iovec { iov_base: name.as_ptr() as *mut _, iov_len: name.len() };
        status(disk, Operation::Write, vec![buffer])
    };
    assert_eq!(write(&never_durable(false)), Status::Ok as u8);
    assert_eq!(write(&never_durable(true)), Status::IoErr as u8);
}

fn holding(bytes: &[u8], write_through: bool) -> Disk {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Disk { file: file.into(), direct: false, write_through }
}

fn buffer(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// A write that has no flush behind it is the ring's, which makes it durable.
#[test]
fn what_need_not_wait_is_done_at_once() {
    let mut bytes = *b"seven..";
    for (write_through, written) in [(true, 0), (false, 7)] {
        let disk = holding(b"image", write_through);
        let mut engine = Engine::new(4, &disk, Events::NONE).unwrap();
        let mut list = vec![buffer(&mut bytes)];
        assert_eq!(engine.at_once(&disk, Operation::Write, &mut list, 5), written);
        assert_eq!(list.is_empty(), !write_through);
        let mut list = vec![buffer(&mut bytes[..5])];
        assert_eq!(engine.at_once(&disk, Operation::Read, &mut list, 0), 5);
        assert!(list.is_empty() && bytes.starts_with(b"image"));
        assert_eq!(engine.at_once(&disk, Operation::Flush, &mut list, 0), 0);
    }
}

/// A file system that always waits is not asked again; one that has to wait this once is.
#[test]
fn who_always_waits_is_asked_once() {
    for (error, asks) in [(libc::EOPNOTSUPP, false), (libc::EAGAIN, true)] {
        for (call, operation, at) in
            [(libc::SYS_preadv2, Operation::Read, 0), (libc::SYS_pwritev2, Operation::Write, 1)]
        {
            failing(call, error, || {
                let (disk, mut bytes) = (holding(b"image", false), [0; 5]);
                let mut engine = Engine::new(4, &disk, Events::NONE).unwrap();
                let mut list = vec![buffer(&mut bytes)];
                assert_eq!(engine.at_once(&disk, operation, &mut list, 0), 0);
                assert_eq!(list.len(), 1);
                assert_eq!(engine.at_once[at].is_some(), asks);
                assert!(engine.at_once[1 - at].is_some());
            });
        }
    }
}

/// What the kernel leaves undone is done; what the disk refuses is an error, and not tried again.
#[test]
fn what_becomes_of_a_result() {
    let disk = holding(b"image", false);
    for (result, ok) in [
        (5, true),
        (2, true),
        (0, true),
        (-libc::EINTR, true),
        (-libc::EAGAIN, true),
        (-libc::EINVAL, true),
        (-libc::EIO, false),
        (-libc::ENOSPC, false),
    ] {
        let (mut bytes, mut status) = (*b"im...", 0);
        let (operation, status) = (Operation::Read, &raw mut status);
        let buffers = vec![buffer(&mut bytes)];
        let flight = Flight { head: 0, operation, buffers, offset: 0, room: 6, status };
        assert_eq!(finish(&disk, flight, result), ok, "{result}");
        assert_eq!(&bytes == b"image", ok && result != 5, "{result}");
    }
}

/// What is on its way arrives before the driver has its buffers back.
#[test]
fn quiescing_waits_for_what_is_on_its_way() {
    let (from, mut to) = io::pipe().unwrap();
    let disk =
        Disk { file: File::from(OwnedFd::from(from)).into(), direct: false, write_through: false };
    let mut engine = Engine::new(4, &disk, Events::NONE).unwrap();
    let (mut data, mut status) = (vec![0u8; 512], 0xff);
    let buffers = vec![libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: 512 }];
    let operation = Operation::Read;
    let status = &raw mut status;
    let flight = Flight { head: 0, operation, buffers, offset: 0, room: 513, status };
    assert!(engine.push(flight).is_ok());
    engine.run(&disk, |_, _| panic!("the pipe is empty"));
    let waits = interruptible();
    let writer = std::thread::spawn(move || {
        interrupt(waits);
        to.write_all(&[7; 512]).unwrap();
    });
    engine.quiesce(&disk, |_, _| ());
    assert_eq!(engine.in_flight, 0);
    // SAFETY: nobody writes to either any more.
    unsafe { assert_eq!(status.read_volatile(), Status::Ok as u8) };
    assert!(data.iter().all(|&byte| byte == 7));
    writer.join().unwrap();
}

/// What the kernel has no memory for when the guest asks is done all the same, without another notification.
#[test]
fn what_the_kernel_could_not_take_is_not_forgotten() {
    let disk = holding(b"image", false);
    // The other thread is made before this one's calls fail.
    let mut engine = Engine::new(4, &disk, Events::NONE).unwrap();
    let (mut bytes, mut status) = ([0; 5], 0xff);
    let (operation, status) = (Operation::Read, &raw mut status);
    let buffers = vec![buffer(&mut bytes)];
    assert!(
        engine.push(Flight { head: 0, operation, buffers, offset: 0, room: 6, status }).is_ok()
    );
    failing(libc::SYS_io_uring_enter, libc::EAGAIN, || {
        engine.run(&disk, |_, _| panic!("it was not taken"));
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !engine.done() {
            assert!(std::time::Instant::now() < patience, "nobody has tried again");
            std::thread::yield_now();
        }
        let mut done = false;
        engine.run(&disk, |_, _| done = true);
        assert!(done && engine.in_flight == 0);
    });
    assert_eq!(&bytes, b"image");
}

/// A reset waits for the kernel's memory, and so for all that is on its way, unless the VM is to end.
#[test]
fn quiescing_waits_for_memory() {
    use crate::virtio::failing::{end_soon, in_a_process};
    assert!(in_a_process(|| {
        let disk = holding(b"image", false);
        let mut engine = Engine::new(4, &disk, Events::NONE).unwrap();
        let (mut bytes, mut status) = ([0; 5], 0xff);
        let (operation, status) = (Operation::Read, &raw mut status);
        let buffers = vec![buffer(&mut bytes)];
        let flight = Flight { head: 0, operation, buffers, offset: 0, room: 6, status };
        let pushed = engine.push(flight).is_ok();
        end_soon();
        failing(libc::SYS_io_uring_enter, libc::EAGAIN, || engine.quiesce(&disk, |_, _| ()));
        pushed && events::stopping()
    }));
}
