//! KVM_IOEVENTFD (feature `ab-ioeventfd`).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::Vm;
use crate::error::{Error, Result};

/// `_IOW(KVMIO, 0x79, struct kvm_ioeventfd)`.
const KVM_IOEVENTFD: libc::c_ulong = 0x4040_ae79;

impl Vm {
    /// Has KVM signal `event` in place of an exit for the guest's write of the 32 bits `value` at
    /// `address`.
    ///
    /// # Errors
    /// The call that failed.
    pub fn signal_at(&self, address: u64, value: u32, event: BorrowedFd<'_>) -> Result<()> {
        let request = kvm_bindings::kvm_ioeventfd {
            datamatch: value.into(),
            addr: address,
            len: 4,
            fd: event.as_raw_fd(),
            flags: 1 << kvm_bindings::kvm_ioeventfd_flag_nr_datamatch,
            ..Default::default()
        };
        // SAFETY: reads the one structure that it is given.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_IOEVENTFD, &request) } {
            0 => Ok(()),
            _ => Err(Error::kvm("KVM_IOEVENTFD")(kvm_ioctls::Error::last())),
        }
    }
}
