//! The guest's exit status as the process's own (feature `exit-status`, `--exit-status`).
//!
//! As of docker: 125 where what was to run the workload failed, 128 and its number for a signal.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{descriptors, events};

/// brisk, the host or the guest's kernel failed.
const OWN: u8 = 125;

static EXPECTED: AtomicBool = AtomicBool::new(false);

/// From now on a status of the guest's is expected.
pub fn expect() {
    EXPECTED.store(true, Ordering::Relaxed);
}

/// The status where brisk itself, or what it runs, failed with `status`.
pub fn own(status: u8) -> u8 {
    if EXPECTED.load(Ordering::Relaxed) { OWN } else { status }
}

/// Has the kernel take `vm` apart behind this process's back. KVM waits for RCU there, two ticks and more,
/// and whoever waits for the status would wait for that: memory, images and streams are released by then.
///
/// A file that a ring knows is put when the ring is, which a worker of the kernel's does once the process
/// is gone (io_uring_register(2)). Nothing can be submitted to this ring, which is disabled and mapped by
/// nobody. Without io_uring the status comes later.
pub fn leave_behind(vm: &impl AsRawFd) {
    /// `IORING_SETUP_R_DISABLED`, in the third word of `struct io_uring_params`, which has 30.
    const DISABLED: u32 = 1 << 6;
    /// `IORING_REGISTER_FILES`.
    const FILES: libc::c_uint = 2;
    if !EXPECTED.load(Ordering::Relaxed) {
        return;
    }
    let mut parameters = [0u32; 30];
    parameters[2] = DISABLED;
    let files = [vm.as_raw_fd()];
    // SAFETY: the calls read and write what they are given. The ring's descriptor is closed by the end of
    // the process and not before.
    unsafe {
        let ring = libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr());
        if ring >= 0 {
            libc::syscall(libc::SYS_io_uring_register, ring, FILES, files.as_ptr(), files.len());
        }
    }
}

/// What the guest wrote.
#[derive(Default)]
pub struct ExitStatus(Option<u8>);

impl ExitStatus {
    /// Whether anybody takes what the guest writes.
    pub const LISTENS: bool = true;

    /// The guest writes it.
    pub fn set(&mut self, status: u8) {
        self.0 = Some(status);
    }

    /// The guest has powered off, or was reset.
    pub fn of_guest(&self) -> u8 {
        match (EXPECTED.load(Ordering::Relaxed), self.0) {
            (false, _) => 0,
            (true, Some(status)) => status,
            (true, None) => {
                descriptors::say("brisk: the guest ended without an exit status (port 0x84)\n");
                OWN
            }
        }
    }
}

/// A signal or the user ended the VM.
pub fn of_signal() -> u8 {
    match EXPECTED.load(Ordering::Relaxed) {
        false => 0,
        true => 128_u8.saturating_add(events::last_signal()),
    }
}
