//! Bytes for the serial port's transmitter that KVM keeps in a ring instead of an exit for each (feature
//! `coalesced-serial`; Documentation/virt/kvm/api.rst 4.116).
//!
//! Only while the driver has said that it wants no interrupts, as Linux' console does for each line that
//! it prints: a byte in the ring raises none, and a driver that waits for one would wait for ever. All
//! other registers are exits, before each of which the ring is emptied, so the device sees every access
//! in its order. A last byte may stay in the ring while the guest does not leave at all.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use brisk_boot::layout;
use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_run};

use crate::kvm::Vm;
#[cfg(feature = "seccomp")]
use crate::kvm::{KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO};

/// The driver wants interrupts at times, and at times none.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] = &[
    crate::seccomp::rule::Rule::ioctl(KVM_REGISTER_COALESCED_MMIO),
    crate::seccomp::rule::Rule::ioctl(KVM_UNREGISTER_COALESCED_MMIO),
];

const PAGE: usize = 4096;
/// Entries of the ring, which has the page behind its two indices (`KVM_COALESCED_MMIO_MAX`).
const ENTRIES: usize = (PAGE - 8) / size_of::<kvm_coalesced_mmio>();

/// The ring, which all vCPUs of a VM share.
pub struct Ring {
    /// `first`, which is ours to move, and `last`, which is KVM's; entries behind.
    page: Option<NonNull<AtomicU32>>,
    on: bool,
    /// KVM has no ring, or was not asked yet.
    there: bool,
}

// SAFETY: the page is a part of a vCPU's mapping, which is never undone; who reads it has the bus.
unsafe impl Send for Ring {}

impl Ring {
    /// The ring behind a vCPU's page; nothing is kept in it yet, and never without a page.
    ///
    /// # Safety
    /// `run` must be null, or be where KVM maps a vCPU's page for as long as the process lives.
    pub unsafe fn new(run: *mut kvm_run) -> Ring {
        let page = NonNull::new(run).and_then(|run| {
            let behind = PAGE * KVM_COALESCED_MMIO_PAGE_OFFSET as usize;
            NonNull::new(run.as_ptr().cast::<u8>().wrapping_add(behind).cast())
        });
        Ring { page, on: false, there: false }
    }

    /// Has bytes for the transmitter kept, or not any more. A KVM that cannot leaves all as it is.
    pub fn set(&mut self, on: bool, vm: &Vm) {
        if self.on != on && self.page.is_some() {
            self.on = vm.coalesce_port(layout::COM1_PORT, on) && on;
            self.there |= self.on;
        }
    }

    /// The byte that waits longest.
    pub fn pop(&mut self) -> Option<u8> {
        let page = self.page.filter(|_| self.there)?;
        // SAFETY: KVM accepted a zone, so it has a ring, whose page starts with these two.
        let (first, last) = unsafe { (page.as_ref(), page.add(1).as_ref()) };
        let at = first.load(Ordering::Relaxed) as usize % ENTRIES;
        if at == last.load(Ordering::Acquire) as usize % ENTRIES {
            return None;
        }
        // SAFETY: `at` is below the number of entries, and KVM filled this one before it moved `last`.
        let entry = unsafe { page.add(2).cast::<kvm_coalesced_mmio>().add(at).read() };
        first.store(((at + 1) % ENTRIES) as u32, Ordering::Release);
        Some(entry.data[0])
    }
}
