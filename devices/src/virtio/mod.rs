//! virtio 1.3: what every device and both transports share.
//!
//! The split of work: a [`Device`] knows its identity, features, queue sizes and configuration
//! space. [`Common`] holds what the driver negotiates with any device. A transport (`mmio`, `pci`)
//! maps register accesses to the two and returns an [`Effect`], which the host acts on. Walking the
//! rings is the host's: it has the guest's memory.

#[cfg(feature = "block")]
pub mod block;
mod common;
#[cfg(feature = "console")]
pub mod console;
#[cfg(feature = "mmio")]
pub mod mmio;
#[cfg(feature = "pci")]
pub mod pci;
#[cfg(feature = "pmem")]
pub mod pmem;
#[cfg(feature = "rng")]
pub mod rng;

#[cfg(feature = "snapshot")]
pub use common::saved::{MAX_SAVED_QUEUES, Saved, SavedQueue};
pub use common::{Common, Queue, State};

use bitflags::bitflags;

/// VIRTIO_F_INDIRECT_DESC (virtio 1.3, 6): offered for every device.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX (virtio 1.3, 6): offered for every device.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1 (virtio 1.3, 6): offered for every device, and a driver has to take it.
pub const F_VERSION_1: u64 = 1 << 32;

bitflags! {
    /// Device status field (virtio 1.3, 2.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Status: u8 {
        /// The guest has noticed the device.
        const ACKNOWLEDGE = 1;
        /// The guest knows how to drive the device.
        const DRIVER = 2;
        /// The driver is set up: the device may run.
        const DRIVER_OK = 4;
        /// The driver's choice of features stands.
        const FEATURES_OK = 8;
        /// The device has met an error that only a reset fixes.
        const NEEDS_RESET = 64;
        /// The guest has given up on the device.
        const FAILED = 128;
    }

    /// Reasons for an interrupt (virtio 1.3, 4.2.2 InterruptStatus; 4.1.4.5 ISR status).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Interrupt: u8 {
        /// The device has used a buffer in at least one queue.
        const VRING = 1;
        /// The device's configuration or its NEEDS_RESET bit has changed.
        const CONFIG = 2;
    }
}

/// What a register write asks of the host.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// The driver set DRIVER_OK: take the queues that are ready and start. If
    /// [`State::interrupt_status`] is not empty now, raise the interrupt.
    Activate,
    /// The driver reset a device that was active: stop using its queues before the write returns.
    /// `Activate` and `Reset` alternate; a reset of a device that is not active is no effect.
    Reset,
    /// The driver has put buffers into this queue, which is ready, of a device that is active.
    Notify(u16),
    /// The driver took this queue back from an active device: stop using it before the write
    /// returns.
    QueueStop(u16),
}

/// The part of a virtio device that its driver sees, apart from its queues' contents.
pub trait Device {
    /// Device type (virtio 1.3, 5).
    const ID: u32;

    /// The most descriptors that queue `queue` can have: a power of two up to 32768, or 0 where
    /// there is no such queue.
    fn queue_max_size(&self, queue: u16) -> u16;

    /// Feature bits of this device type (0 to 23, 50 and up); the core adds the rest.
    fn features(&self) -> u64;

    /// Reads the configuration space from `offset`. `data` comes zeroed: bytes beyond the space
    /// stay 0.
    fn read_config(&self, offset: u32, data: &mut [u8]);

    /// Writes the configuration space from `offset`. Most devices have no writable field.
    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Another device of this type was saved, whose driver had agreed on `features`, and this one takes its
    /// place: it may offer what only another host side would have it offer.
    #[cfg(feature = "snapshot")]
    fn replaces(&mut self, features: u64) {
        let _ = features;
    }
}

/// Copies from a configuration space's bytes, leaving what lies beyond its end.
#[cfg(any(feature = "block", feature = "console", feature = "pmem"))]
fn copy_config(config: &[u8], offset: u32, data: &mut [u8]) {
    let from = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
    for (to, from) in data.iter_mut().zip(from.unwrap_or_default()) {
        *to = *from;
    }
}

/// The features that a transport offers for `device`: its own and the core's.
pub fn offered_features<D: Device>(device: &D) -> u64 {
    device.features() | F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
}
