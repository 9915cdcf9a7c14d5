//! All devices: which kinds there are, the features say; how they are reached, the transport.

use brisk_boot::PciHost;
use vm_memory::GuestMemoryMmap;

use super::Host;
use super::table::{Device, FLAGS, each};
use super::transport::mmio;
#[cfg(feature = "pci")]
use super::transport::pci::{HOST, Pci};
use super::{Polled, Reply};
use crate::config::Config;
#[cfg(feature = "pci")]
use crate::config::Transport;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::interrupts::{Signal, Sink};
use crate::kvm::Vm;

/// The most virtio devices.
pub const MAX_VIRTIO: usize = 8;

/// All virtio devices, in the order of their windows or PCI device numbers.
pub struct Devices {
    pub(super) slots: Vec<Device>,
    pub(super) memory: GuestMemoryMmap,
    #[cfg(feature = "pci")]
    pub(super) pci: Option<Pci>,
}

impl Devices {
    /// Makes the devices that `config` names, in the order of the [table](super::table). Those that
    /// are memory take slots of `vm` from `free_slot` up, at addresses from `ram_end` up.
    ///
    /// # Errors
    /// An image that cannot be used, or too many devices.
    pub fn open(
        config: &'static Config,
        memory: &GuestMemoryMmap,
        vm: &Vm,
        free_slot: u32,
        ram_end: u64,
    ) -> Result<Devices> {
        let mut host = Host { vm, slot: free_slot, guest: ram_end, cpus: config.cpus, index: 0 };
        #[allow(unused_mut, reason = "PCI asks each for its queues")]
        let mut slots = config.devices.open(&mut host)?;
        if slots.len() > MAX_VIRTIO {
            return Err(Error::Usage(format!(
                "{FLAGS}together: {} devices, and there is room for {MAX_VIRTIO}",
                slots.len()
            )));
        }
        Ok(Devices {
            #[cfg(feature = "pci")]
            pci: (config.transport != Transport::Mmio)
                .then(|| Pci::new(&mut slots, config.transport == Transport::PciPorts)),
            slots,
            memory: memory.clone(),
        })
    }

    /// Nothing is memory that could be an exit.
    ///
    /// # Errors
    /// None.
    #[cfg(not(feature = "pci"))]
    #[inline(always)]
    pub fn make_readable(&mut self, _: &'static Vm, _: u32) -> Result<()> {
        Ok(())
    }

    /// The bridge that the guest is to be told of.
    #[cfg(feature = "pci")]
    pub fn pci_host(&self) -> Option<PciHost> {
        self.pci.as_ref().map(|_| HOST)
    }

    /// The bridge that the guest is to be told of: none.
    #[cfg(not(feature = "pci"))]
    pub fn pci_host(&self) -> Option<PciHost> {
        None
    }

    /// Whether the devices are PCI functions.
    #[cfg(feature = "pci")]
    pub(super) const fn over_pci(&self) -> bool {
        self.pci.is_some()
    }

    /// Whether the devices are PCI functions.
    #[cfg(not(feature = "pci"))]
    pub(super) const fn over_pci(&self) -> bool {
        false
    }

    /// Hands each of `events` to the devices that it is for, and what they say to their drivers to
    /// `sink`.
    pub fn poll(&mut self, events: Events, sink: &impl Sink) -> Polled {
        let mut all = Polled::default();
        let Devices { slots, memory, .. } = self;
        for (index, slot) in slots.iter_mut().enumerate() {
            #[cfg(feature = "pci")]
            let mut function = self.pci.as_mut().and_then(|pci| pci.function_mut(index));
            let polled = each!(slot, device => {
                device.poll(events, Events::device(index), memory, |_device, reply| {
                    #[cfg(feature = "pci")]
                    if let Some(function) = &mut function {
                        return _device.tell(function, reply, sink);
                    }
                    if reply != Reply::Nothing {
                        sink.signal(Signal::Gsi(mmio::gsi(index)));
                    }
                })
            });
            all.mended |= polled.mended;
            all.end = all.end.or(polled.end);
        }
        all
    }
}
