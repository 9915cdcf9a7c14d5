//! virtio's host side: the devices, and the pump that moves their queues. How the driver's accesses
//! reach a device is a transport's, [`mmio`] or [`pci`]; no device knows which.
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
mod devices;
#[cfg(feature = "pmem")]
pub mod pmem;
pub mod queue;
#[cfg(feature = "rng")]
pub mod rng;
mod table;
mod transport;

use brisk_devices::virtio::{Common, Device, Effect, Interrupt};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use crate::bus::End;
use crate::events::Events;
use crate::kvm::Vm;

pub use devices::{Devices, MAX_VIRTIO};
pub use queue::Broken;
pub use table::{Configs, Kind};
#[cfg(all(feature = "pci", feature = "seccomp"))]
pub(crate) use transport::pci::RULES as PCI_RULES;

/// What a device may need to be made.
pub struct Host<'a> {
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

/// What stands behind a device: moves its queues.
pub trait Backend<const Q: usize> {
    /// Its type.
    type Model: Device;

    /// What wakes it, apart from [`Events::device`].
    const EVENTS: Events = Events::NONE;

    /// The part that the driver sees.
    fn model(&mut self) -> &mut Self::Model;

    /// Does what the driver has put into queue `index`; true where the driver wants an interrupt.
    ///
    /// # Errors
    /// Why the queue cannot go on.
    fn process(
        &mut self,
        index: u16,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
    ) -> std::result::Result<bool, Halt>;

    /// Some of [`Self::EVENTS`], or what the device itself waits for, has come. What it answers is all
    /// that is done about it.
    fn poll(&mut self, _events: Events) -> Polled {
        Polled::default()
    }

    /// The driver is ready, with these features.
    fn activate(&mut self, _features: u64) {}

    /// The driver takes a queue back: nothing may touch it, nor the buffers in it, any more.
    fn stop(&mut self) {}
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

/// What an event came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Polled {
    /// A bit for each queue that has used buffers, or may have.
    pub queues: u32,
    /// The configuration changed.
    pub config: bool,
    /// Memory that the guest could not have is there again.
    pub mended: bool,
    /// The VM ends.
    pub end: Option<End>,
}

/// One device: what was negotiated, its queues in use, and its backend.
pub struct VirtioDevice<B: Backend<Q>, const Q: usize> {
    common: Common<Q>,
    queues: [Option<Queue>; Q],
    backend: B,
}

impl<B: Backend<Q>, const Q: usize> VirtioDevice<B, Q> {
    /// A device after reset.
    pub fn new(backend: B) -> Self {
        VirtioDevice { common: Common::new(), queues: [const { None }; Q], backend }
    }

    /// How many queues the driver finds.
    #[cfg(feature = "pci")]
    fn queue_count(&mut self) -> usize {
        let model = self.backend.model();
        (0..Q as u16).filter(|&queue| model.queue_max_size(queue) > 0).count()
    }

    /// Does what a transport's register write came to.
    fn apply(&mut self, effect: Effect, memory: &GuestMemoryMmap) -> Reply {
        match effect {
            Effect::None => Reply::Nothing,
            Effect::Activate => self.activate(memory),
            Effect::Reset => {
                self.backend.stop();
                self.queues = [const { None }; Q];
                Reply::Nothing
            }
            Effect::Notify(index) => self.process(index, memory),
            Effect::QueueStop(index) => {
                self.backend.stop();
                if let Some(queue) = self.queues.get_mut(usize::from(index)) {
                    *queue = None;
                }
                Reply::Nothing
            }
        }
    }

    fn activate(&mut self, memory: &GuestMemoryMmap) -> Reply {
        let features = self.common.features();
        let mut broken = false;
        for (index, queue) in (0..).zip(&mut self.queues) {
            let Some(setup) = self.common.queue(index).filter(|setup| setup.ready()) else {
                continue;
            };
            *queue = queue::start(setup, features, memory);
            broken |= queue.is_none();
        }
        self.backend.activate(features);
        let reset = broken && self.common.needs_reset();
        Reply::config(reset || !self.common.interrupt_status().is_empty())
    }

    /// Some of `events` came, and device `own` has some of its own. Gives `tell` what the driver is to
    /// know.
    fn poll(
        &mut self,
        events: Events,
        own: Events,
        memory: &GuestMemoryMmap,
        mut tell: impl FnMut(&mut Self, Reply),
    ) -> Polled {
        if !events.intersects(B::EVENTS | own) {
            return Polled::default();
        }
        let mut polled = self.backend.poll(events);
        if polled.config && self.common.config_changed() {
            tell(self, Reply::Config);
        }
        for index in 0..Q as u16 {
            if polled.queues & 1 << index != 0 {
                match self.process(index, memory) {
                    Reply::End(end) => polled.end = Some(end),
                    reply => tell(self, reply),
                }
            }
        }
        polled
    }

    /// Moves queue `index`, if the driver has started it.
    pub fn process(&mut self, index: u16, memory: &GuestMemoryMmap) -> Reply {
        let Some(Some(queue)) = self.queues.get_mut(usize::from(index)) else {
            return Reply::Nothing;
        };
        match self.backend.process(index, queue, memory) {
            Ok(false) => Reply::Nothing,
            Ok(true) => {
                self.common.interrupt(Interrupt::VRING);
                Reply::Queue(index)
            }
            Err(Halt::End(end)) => Reply::End(end),
            Err(Halt::Broken) => {
                log::debug!("virtio device {}: broken queue {index}", B::Model::ID);
                self.backend.stop();
                self.queues = [const { None }; Q];
                Reply::config(self.common.needs_reset())
            }
        }
    }
}

/// What an access or an event came to for the driver. Over PCI each reason has a vector of its own.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It need not know.
    Nothing,
    /// The configuration changed, or the device needs a reset.
    Config,
    /// This queue has used buffers.
    Queue(u16),
    /// The VM ends.
    End(End),
}

impl Reply {
    fn config(wanted: bool) -> Reply {
        if wanted { Reply::Config } else { Reply::Nothing }
    }
}
