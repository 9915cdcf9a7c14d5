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
#[cfg(feature = "pmem")]
pub mod pmem;
pub mod queue;
mod slots;
mod transport;

#[cfg(feature = "pci")]
use brisk_devices::ioapic::Msi;
use brisk_devices::virtio::{Common, Device, Effect, Interrupt};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

pub use queue::Broken;
pub use slots::{Devices, MAX_VIRTIO};

/// What stands behind a device: moves its queues.
pub trait Backend<const Q: usize> {
    /// Its type.
    type Model: Device;

    /// The part that the driver sees.
    fn model(&mut self) -> &mut Self::Model;

    /// Does what the driver has put into queue `index`; true where the driver wants an interrupt.
    ///
    /// # Errors
    /// The driver broke the ring: the device needs a reset.
    fn process(
        &mut self,
        index: u16,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
    ) -> std::result::Result<bool, Broken>;

    /// The driver is ready, with these features.
    fn activate(&mut self, _features: u64) {}

    /// The driver takes a queue back: nothing may touch it, nor the buffers in it, any more.
    fn stop(&mut self) {}
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
    fn apply(&mut self, effect: Effect, memory: &GuestMemoryMmap) -> Raise {
        match effect {
            Effect::None => Raise::Nothing,
            Effect::Activate => self.activate(memory),
            Effect::Reset => {
                self.backend.stop();
                self.queues = [const { None }; Q];
                Raise::Nothing
            }
            Effect::Notify(index) => self.pump(index, memory),
            Effect::QueueStop(index) => {
                self.backend.stop();
                if let Some(queue) = self.queues.get_mut(usize::from(index)) {
                    *queue = None;
                }
                Raise::Nothing
            }
        }
    }

    fn activate(&mut self, memory: &GuestMemoryMmap) -> Raise {
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
        Raise::config(reset || !self.common.interrupt_status().is_empty())
    }

    /// Moves queue `index`, if the driver has started it. True where the driver is to be
    /// interrupted.
    pub fn process(&mut self, index: u16, memory: &GuestMemoryMmap) -> bool {
        self.pump(index, memory) != Raise::Nothing
    }

    fn pump(&mut self, index: u16, memory: &GuestMemoryMmap) -> Raise {
        let Some(Some(queue)) = self.queues.get_mut(usize::from(index)) else {
            return Raise::Nothing;
        };
        match self.backend.process(index, queue, memory) {
            Ok(false) => Raise::Nothing,
            Ok(true) => {
                self.common.interrupt(Interrupt::VRING);
                Raise::Queue(index)
            }
            Err(Broken) => {
                log::debug!("virtio device {}: broken queue {index}", B::Model::ID);
                self.backend.stop();
                self.queues = [const { None }; Q];
                Raise::config(self.common.needs_reset())
            }
        }
    }
}

/// Why a device wants its driver's attention. Over PCI each reason has a vector of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Raise {
    Nothing,
    /// The configuration changed, or the device needs a reset.
    Config,
    /// This queue has used buffers.
    Queue(u16),
}

impl Raise {
    fn config(wanted: bool) -> Raise {
        if wanted { Raise::Config } else { Raise::Nothing }
    }
}

/// An interrupt on its way to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// One edge on this pin of the IOAPIC.
    Gsi(u8),
    /// A message.
    #[cfg(feature = "pci")]
    Msi(Msi),
}
