//! Notifications by eventfd, for comparison only (feature `ab-ioeventfd`, virtio over MMIO): KVM takes
//! the driver's write and wakes a thread, which does what the exit would have done.

use std::fs::File;
use std::io::{Error as IoError, Read, Result as IoResult};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

use super::Devices;
use super::slots::each;
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::kvm::Vm;
use crate::shared::Shared;
use crate::signals;

/// QueueNotify (virtio 1.3, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// One queue's notification.
struct Event {
    address: u64,
    queue: u32,
    fd: File,
}

impl Devices {
    /// Where each queue of each device is notified, and the value that does it.
    fn notifications(&mut self) -> Vec<(u64, u32)> {
        let windows = self.windows();
        let all = self.slots.iter_mut().zip(windows).flat_map(|(slot, window)| {
            let count = each!(slot, device => device.queue_count());
            (0..count as u32).map(move |queue| (window.base + QUEUE_NOTIFY, queue))
        });
        all.collect()
    }
}

/// Takes the notifications of all devices of `bus` from its vCPUs.
///
/// # Errors
/// The system call that failed.
pub fn start(vm: &Vm, bus: &'static Shared<Bus>) -> Result<()> {
    let failed = |error: IoError| Error::Failed(format!("ioeventfd: {error}"));
    let mut events = Vec::new();
    // SAFETY: makes a descriptor.
    let epoll = file(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map_err(failed)?;
    for (address, queue) in bus.lock().virtio.notifications() {
        // SAFETY: makes a descriptor.
        let fd = file(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).map_err(failed)?;
        vm.signal_at(address, queue, fd.as_fd())?;
        let index = events.len() as u64;
        let mut what = libc::epoll_event { events: libc::EPOLLIN as u32, u64: index };
        // SAFETY: reads the one structure that it is given.
        let result = unsafe {
            libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut what)
        };
        if result != 0 {
            return Err(failed(IoError::last_os_error()));
        }
        events.push(Event { address, queue, fd });
    }
    let wait = move || {
        signals::block();
        loop {
            let mut what = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: fills the one structure that it is given.
            let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), &mut what, 1, -1) };
            if let Some(event) = events.get_mut(what.u64 as usize)
                && count == 1
                && event.fd.read_exact(&mut [0; 8]).is_ok()
            {
                bus.lock().mmio_write(event.address, &event.queue.to_le_bytes());
            }
        }
    };
    std::thread::Builder::new().name("notify".into()).spawn(wait).map(drop).map_err(failed)
}

fn file(fd: i32) -> IoResult<File> {
    if fd < 0 {
        return Err(IoError::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}
