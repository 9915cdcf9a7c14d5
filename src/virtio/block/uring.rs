//! Disk requests that go on while the guest runs (feature `io-uring`).
//!
//! The vCPU that notifies first does what the kernel can do without waiting, by a plain call: from the
//! page cache that is everything. What has to wait for the disk it submits to the ring. Only then does
//! a second thread come in, and all it does is to wait and to bring that vCPU out of the guest, which
//! then finishes the request itself. So the queue, like all devices, belongs to one thread at
//! a time, and there is no lock but the one that `smp` needs anyway.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use brisk_devices::virtio::block::Status;
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, register::Restriction, types};

use super::disk::Disk;
use super::flight::{Flight, Operation};
use super::{DiskConfig, Options};
use crate::error::errno;
use crate::events::{self, Events};
use crate::virtio::queue;

/// What a ring asks of the kernel while the guest runs. To set up another ring, or to change what this
/// one may do, is not among it.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] = &[
    crate::seccomp::rule::Rule::call(libc::SYS_preadv2),
    crate::seccomp::rule::Rule::call(libc::SYS_pwritev2),
    crate::seccomp::rule::Rule::call(libc::SYS_io_uring_enter),
];

/// A ring and what is on it.
pub struct Engine {
    ring: IoUring,
    flights: Vec<Option<Flight>>,
    in_flight: usize,
    /// Flags of a read and of a write (preadv2(2)) that does not wait, where there is one.
    at_once: [Option<libc::c_int>; 2],
    shared: Arc<Shared>,
}

/// What the waiting thread and the vCPUs tell one another.
struct Shared {
    /// How many requests the thread is to hand to the kernel before it waits for the ring; `None` where it
    /// does not wait.
    waits: Mutex<Option<u32>>,
    asked: Condvar,
    done: AtomicBool,
    /// Who is to be told: the vCPU that submitted last.
    vcpu: AtomicU8,
}

impl Engine {
    /// A queue's engine; none where it is not asked for, this kernel has no io_uring, or there is no room
    /// for a thread. `event` says that requests are done.
    pub fn open(
        config: &DiskConfig,
        options: &Options,
        disk: &Disk,
        event: Events,
    ) -> Option<Engine> {
        if !config.io_uring {
            return None;
        }
        /// Each queue of each disk would say so.
        static SAID: std::sync::Once = std::sync::Once::new();
        let missing = |error: &io::Error| {
            SAID.call_once(|| {
                log::info!(
                    "--disk {},engine=io_uring: {error} (see sysctl kernel.io_uring_disabled); goes on \
                     with engine=sync",
                    config.path
                );
            });
        };
        Engine::new(options.queue_size, disk, event).inspect_err(missing).ok()
    }

    /// A ring for `size` requests to `disk`; `event` says that some are done.
    ///
    /// # Errors
    /// The kernel has no io_uring, or forbids it.
    fn new(size: u16, disk: &Disk, event: Events) -> io::Result<Engine> {
        events::install_kick();
        // By O_NONBLOCK the kernel would give up where it had to wait (io_uring_enter(2), EAGAIN).
        let direct = if disk.direct { libc::O_DIRECT } else { 0 };
        // SAFETY: changes flags of our own descriptor; of those that can be changed it has no others.
        unsafe { libc::fcntl(disk.file.as_raw_fd(), libc::F_SETFL, direct) };
        let flights = std::iter::repeat_with(|| None).take(size.into()).collect();
        let flags = match disk.direct {
            // Past the page cache each request waits for the disk.
            true => None,
            false if in_memory(&disk.file) => Some(0),
            false => Some(libc::RWF_NOWAIT),
        };
        let ring = restricted(size.into(), disk)?;
        let shared = Shared::start(ring.as_raw_fd(), event)?;
        Ok(Engine { ring, flights, in_flight: 0, at_once: [flags; 2], shared })
    }

    /// Does as much of a read or write as needs no waiting, and drops it from `buffers`; how many
    /// bytes it was. All else, an error too, is the ring's.
    pub fn at_once(
        &mut self,
        disk: &Disk,
        operation: Operation,
        buffers: &mut Vec<libc::iovec>,
        offset: u64,
    ) -> u64 {
        let (call, flags) = match operation {
            Operation::Read => (libc::SYS_preadv2, &mut self.at_once[0]),
            // What is to be durable waits.
            Operation::Write if !disk.write_through => (libc::SYS_pwritev2, &mut self.at_once[1]),
            Operation::Write | Operation::Flush => return 0,
        };
        let Some(flag) = *flags else { return 0 };
        let (file, count) = (disk.file.as_raw_fd(), buffers.len() as libc::c_int);
        // By number: musl has these two since 1.2.5. The offset's upper half is for machines of 32 bits.
        // SAFETY: `collect` checked each buffer to be in guest memory, which stays mapped.
        let moved = unsafe { libc::syscall(call, file, buffers.as_ptr(), count, offset, 0, flag) };
        if moved < 0 && errno() == libc::EOPNOTSUPP {
            // This file system always waits: ext4 to write, a network's to do anything.
            *flags = None;
        }
        let moved = usize::try_from(moved).unwrap_or(0);
        queue::advance(buffers, moved);
        moved as u64
    }

    /// Puts a request on the ring.
    ///
    /// # Errors
    /// Gives the request back where the ring is full, which a driver that keeps to the queue's size
    /// cannot make happen.
    pub fn push(&mut self, flight: Flight) -> Result<(), Flight> {
        let Some(at) = self.flights.iter().position(Option::is_none) else { return Err(flight) };
        let file = FILE;
        let count = flight.buffers.len() as u32;
        let entry = match flight.operation {
            Operation::Read => opcode::Readv::new(file, flight.buffers.as_ptr(), count)
                .offset(flight.offset)
                .build(),
            Operation::Write => opcode::Writev::new(file, flight.buffers.as_ptr(), count)
                .offset(flight.offset)
                .build(),
            Operation::Flush => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        };
        // SAFETY: the list of buffers moves with the flight into `flights`, its heap block stays
        // where it is, and the flight is only dropped when its completion was seen.
        if unsafe { self.ring.submission().push(&entry.user_data(at as u64)) }.is_err() {
            return Err(flight);
        }
        self.flights[at] = Some(flight);
        self.in_flight += 1;
        Ok(())
    }

    /// Hands what was pushed to the kernel, and gives `each` what is done: the chain's head and the
    /// bytes written into it. What is left is waited for by the other thread.
    pub fn run(&mut self, disk: &Disk, mut each: impl FnMut(u16, u32)) {
        if self.in_flight == 0 {
            return;
        }
        // Without memory for them the kernel takes fewer, or none: the other thread tries again.
        if let Err(error) = self.ring.submit() {
            log::debug!("io_uring_enter: {error}");
        }
        self.reap(disk, &mut each);
        if self.in_flight > 0 {
            self.watch();
        }
    }

    /// Waits until nothing is on its way, or the VM is to end, and gives `each` what was, as
    /// [`Self::run`] does.
    pub fn quiesce(&mut self, disk: &Disk, mut each: impl FnMut(u16, u32)) {
        while self.in_flight > 0 && !events::stopping() {
            if let Err(error) = self.ring.submit_and_wait(1)
                && !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
            {
                log::error!("--disk: io_uring_enter: {error}");
                return;
            }
            self.reap(disk, &mut each);
        }
    }

    /// Whether requests are on their way.
    #[cfg(feature = "snapshot")]
    pub fn waits(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether requests were done since this was last asked.
    pub fn done(&self) -> bool {
        self.shared.done.swap(false, Ordering::AcqRel)
    }

    fn reap(&mut self, disk: &Disk, each: &mut impl FnMut(u16, u32)) {
        let Self { ring, flights, in_flight, .. } = self;
        for entry in ring.completion() {
            let at = entry.user_data() as usize;
            let Some(flight) = flights.get_mut(at).and_then(Option::take) else { continue };
            *in_flight -= 1;
            let (head, room, status) = (flight.head, flight.room, flight.status);
            let code =
                if finish(disk, flight, entry.result()) { Status::Ok } else { Status::IoErr };
            // SAFETY: the status byte was checked to be in guest memory.
            unsafe { status.write_volatile(code as u8) };
            each(head, room);
        }
    }

    /// Has the other thread wait for the next completion.
    fn watch(&mut self) {
        self.shared.vcpu.store(events::this_vcpu(), Ordering::Relaxed);
        let left = self.ring.submission().len() as u32;
        if self.shared.waits().replace(left).is_none() {
            self.shared.asked.notify_one();
        }
    }
}

/// The image, the one file that the ring knows.
const FILE: types::Fixed = types::Fixed(0);

/// A ring that reads, writes and flushes the image and does nothing else, whoever fills it: no filter of
/// system calls sees what is on a ring.
fn restricted(size: u32, disk: &Disk) -> io::Result<IoUring> {
    let ring = IoUring::builder().setup_r_disabled().build(size)?;
    let submitter = ring.submitter();
    submitter.register_files(&[disk.file.as_raw_fd()])?;
    submitter.register_restrictions(&mut [
        Restriction::sqe_op(opcode::Readv::CODE),
        Restriction::sqe_op(opcode::Writev::CODE),
        Restriction::sqe_op(opcode::Fsync::CODE),
        Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
    ])?;
    submitter.register_enable_rings()?;
    Ok(ring)
}

/// Whether all of the file is in memory: there is no disk to wait for, and Linux has no such flag as
/// RWF_NOWAIT for these file systems.
fn in_memory(file: &File) -> bool {
    // SAFETY: an all-zero statfs is valid, and the kernel fills it.
    let kind = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        libc::fstatfs(file.as_raw_fd(), &mut stat);
        stat.f_type
    };
    [libc::TMPFS_MAGIC, libc::HUGETLBFS_MAGIC].contains(&kind)
}

/// Whether the request succeeded. What the kernel left undone (a short transfer, buffers that are
/// not aligned for O_DIRECT, an interrupted call) is done here and now.
fn finish(disk: &Disk, mut flight: Flight, result: i32) -> bool {
    let moved = match result {
        0.. => result as usize,
        _ if [libc::EINTR, libc::EAGAIN, libc::EINVAL].contains(&-result) => 0,
        _ => {
            log::debug!("--disk: {}", io::Error::from_raw_os_error(-result));
            return false;
        }
    };
    let rest = match flight.operation {
        Operation::Flush if result == 0 => Ok(()),
        Operation::Flush => disk.file.sync_data(),
        Operation::Read | Operation::Write => {
            queue::advance(&mut flight.buffers, moved);
            let call =
                if flight.operation == Operation::Read { libc::preadv } else { libc::pwritev };
            disk.transfer(&mut flight.buffers, flight.offset + moved as u64, call)
        }
    };
    let durable = match rest {
        Ok(()) if flight.operation == Operation::Write && disk.write_through => {
            disk.file.sync_data()
        }
        other => other,
    };
    durable.inspect_err(|error| log::debug!("--disk: {error}")).is_ok()
}

impl Shared {
    /// Starts the thread.
    fn start(ring: RawFd, event: Events) -> io::Result<Arc<Shared>> {
        let shared = Arc::new(Shared {
            waits: Mutex::new(None),
            asked: Condvar::new(),
            done: AtomicBool::new(false),
            vcpu: AtomicU8::new(0),
        });
        let seen = Arc::clone(&shared);
        crate::threads::start(events::block, "disk", move || {
            loop {
                let left = seen.until_asked();
                wait(ring, left);
                *seen.waits() = None;
                seen.done.store(true, Ordering::Release);
                events::raise(event, seen.vcpu.load(Ordering::Relaxed));
            }
        })?;
        Ok(shared)
    }

    fn waits(&self) -> MutexGuard<'_, Option<u32>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until_asked(&self) -> u32 {
        let mut waits = self.waits();
        loop {
            if let Some(left) = *waits {
                return left;
            }
            waits = self.asked.wait(waits).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Hands the `left` requests over that the ring still has, and returns when the completion queue is not
/// empty; at once where the kernel takes fewer.
fn wait(ring: RawFd, left: u32) {
    const GETEVENTS: libc::c_uint = 1;
    // SAFETY: what a request refers to stays until it is done; the kernel lets one thread at a time take
    // from the ring.
    unsafe {
        let none = std::ptr::null::<u8>();
        libc::syscall(libc::SYS_io_uring_enter, ring, left, 1, GETEVENTS, none, 0);
    }
}

#[cfg(test)]
mod tests;
