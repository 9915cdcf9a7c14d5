//! virtio's host side: the devices, and the pump that moves their queues. How the driver's accesses
//! reach a device is a transport's, `transport::mmio` or `transport::pci`; no device knows which.
//!
//! A notification is handled right in the exit that it causes, on the vCPU's own thread: no
//! eventfd, no second thread to wake, no lock. While a guest boots, each request is done by one call
//! that rarely waits; a disk that should work beside the guest has the feature `io-uring`.
//!
//! So it is for each device, because an ioeventfd with a thread that waits for it makes every boot
//! longer (`cargo xtask bench --ab ioeventfd`): KVM has to emulate the write all the same, and then the
//! thread has to be woken. On the stopwatch a console that prints all messages takes 44.2 ms for
//! 43.9 (26 notifications), console and block 46.1 for 45.8 (16), console and pmem 47.1 for 47.0 (2,
//! so that is mostly the thread's making). On two CPUs (`--ab ioeventfd-two-cpus`) there is no gain
//! either: the medians of 15 pairs are 1.02, 1.03 and 1.02 of the time.

#[cfg(feature = "block")]
pub mod block;
#[cfg(feature = "console")]
pub mod console;
mod device;
mod devices;
#[cfg(test)]
#[allow(dead_code, reason = "each build has its own tests")]
mod failing;
#[cfg(feature = "smp")]
mod jobs;
#[cfg(not(feature = "smp"))]
#[path = "jobs/off.rs"]
mod jobs;
#[cfg(feature = "pmem")]
pub mod pmem;
pub mod queue;
pub mod ring;
#[cfg(feature = "rng")]
pub mod rng;
#[cfg(feature = "streams")]
pub mod streams;
mod table;
mod transport;

use brisk_devices::virtio::Device;
use vm_memory::GuestMemoryMmap;

use crate::access::{self, End};
use crate::events::Events;
use crate::kvm::Vm;
#[cfg(feature = "snapshot")]
use crate::snapshot::parts::{Parts, Writer, Wrong};

pub use device::{Pump, Reply, VirtioDevice};
pub use devices::{Devices, MAX_VIRTIO, Polled};
pub use jobs::{Job, Lane, Served};
pub use queue::Broken;
pub use ring::Queue;
pub use table::{Configs, Kind};
pub use transport::pci::BUSES as PCI_BUSES;
#[cfg(all(feature = "pci", feature = "seccomp"))]
pub(crate) use transport::pci::RULES as PCI_RULES;

/// What became of an access to a device; what it leaves is a queue that is to be moved.
pub type Access = access::Access<Job>;

/// What a device may need to be made.
pub struct Host<'a> {
    /// All memory that the guest has so far: its RAM, and devices that are memory. A request's buffers
    /// may be in any of it.
    pub memory: GuestMemoryMmap,
    /// Gets the memory of a device that is memory.
    pub vm: &'a Vm,
    /// The next free memory slot.
    pub slot: u32,
    /// The next free guest address.
    pub guest: u64,
    /// How many vCPUs there are.
    pub cpus: u8,
    /// The device's number.
    index: usize,
}

impl Host<'_> {
    /// What the device is to signal by.
    pub fn event(&self) -> Events {
        Events::device(self.index)
    }
}

/// What stands behind one queue of a device. It has a lock of its own, so that whoever moves a queue, and
/// waits for the host, keeps nobody from the device's registers, from its other queues or from any other
/// device.
pub trait Backend {
    /// The part of the device that the driver sees.
    type Model: Device;

    /// What wakes it, apart from [`Events::device`].
    const EVENTS: Events = Events::NONE;

    /// Whether its driver is interrupted again and again, and not now and then.
    const OFTEN: bool = false;

    /// Does what the driver has put into the queue; true where the driver wants an interrupt.
    ///
    /// # Errors
    /// Why the queue cannot go on.
    fn process(&mut self, queue: &mut Queue) -> std::result::Result<bool, Halt>;

    /// Some of [`Self::EVENTS`], or what the device itself waits for, has come. What it answers is all
    /// that is done about it. It does not wait.
    fn poll(&mut self, _events: Events, _model: &mut Self::Model) -> Found {
        Found::default()
    }

    /// The driver is ready, with these features.
    fn activate(&mut self, _features: u64) {}

    /// Waits for what is on its way and gives it back, and takes nothing that is new. True where the driver
    /// wants an interrupt.
    ///
    /// # Errors
    /// Why the queue cannot go on.
    fn quiesce(&mut self, _queue: &mut Queue) -> std::result::Result<bool, Halt> {
        Ok(false)
    }

    /// The VM has ended: hands on what waits.
    fn hand_on(&mut self) {}

    /// The driver takes the queue back: nothing may touch it, nor the buffers in it, any more.
    fn stop(&mut self) {}

    /// Saves what else there is of it, as part of device `index`.
    #[cfg(feature = "snapshot")]
    fn save(&self, _index: usize, _to: &mut Writer) {}

    /// Takes back what [`Self::save`] has saved.
    ///
    /// # Errors
    /// It is no state of it.
    #[cfg(feature = "snapshot")]
    fn restore(&mut self, _index: usize, _from: &Parts<'_>) -> std::result::Result<(), Wrong> {
        Ok(())
    }

    /// Whether requests are on their way, of which the driver does not know yet that they are done.
    #[cfg(feature = "snapshot")]
    fn waits(&self) -> bool {
        false
    }

    /// Its image, which a snapshot leaves where it is and which is not to change.
    #[cfg(feature = "snapshot")]
    fn image(&self) -> Option<&std::fs::File> {
        None
    }

    /// Guest memory that is a private mapping: where it begins, and its length in bytes. What the guest
    /// wrote there is nowhere else, so a snapshot has it.
    #[cfg(feature = "snapshot")]
    fn private(&self) -> Option<(usize, usize)> {
        None
    }
}

/// Why a queue is moved no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// The driver broke the ring: the device needs a reset.
    Broken,
    /// The VM ends.
    End(End),
}

impl From<Broken> for Halt {
    fn from(_: Broken) -> Halt {
        Halt::Broken
    }
}

/// What a backend found when an event came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// The queue has used buffers, or may have: it is to be moved.
    pub queue: bool,
    /// The configuration changed.
    pub config: bool,
    /// Memory that the guest could not have is there again.
    pub repaired: bool,
    /// The VM ends.
    pub end: Option<End>,
}
