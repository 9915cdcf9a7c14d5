//! All devices: which kinds there are, the features say; how they are reached, the transport.

use vm_memory::GuestMemoryMmap;

use super::VirtioDevice;
use super::transport::mmio;
#[cfg(feature = "pci")]
use super::transport::pci::Pci;
use super::{Polled, Reply};
use crate::config::Config;
#[cfg(feature = "pci")]
use crate::config::Transport;
use crate::error::{Error, Result};
use crate::events::Events;
#[cfg(any(feature = "block", feature = "pmem"))]
use crate::inputs;
use crate::interrupts::{Signal, Sink};
use crate::kvm::Vm;

/// The most virtio devices.
pub const MAX_VIRTIO: usize = 8;

/// A device by its kind.
#[allow(clippy::large_enum_variant, reason = "there are eight, and each access reads one")]
pub(super) enum Slot {
    #[cfg(feature = "console")]
    Console(VirtioDevice<super::console::Console, { brisk_devices::virtio::console::QUEUES }>),
    #[cfg(feature = "block")]
    Block(Box<VirtioDevice<super::block::Block, { super::block::MAX_QUEUES }>>),
    #[cfg(feature = "pmem")]
    Pmem(VirtioDevice<super::pmem::Pmem, { brisk_devices::virtio::pmem::QUEUES }>),
}

/// The same expression for a device of any kind.
macro_rules! each {
    ($slot:expr, $function:ident => $body:expr) => {
        match $slot {
            #[cfg(feature = "console")]
            $crate::virtio::slots::Slot::Console($function) => $body,
            #[cfg(feature = "block")]
            $crate::virtio::slots::Slot::Block($function) => $body,
            #[cfg(feature = "pmem")]
            $crate::virtio::slots::Slot::Pmem($function) => $body,
        }
    };
}
pub(super) use each;

/// All virtio devices, in the order of their windows or PCI device numbers.
pub struct Devices {
    pub(super) slots: Vec<Slot>,
    pub(super) memory: GuestMemoryMmap,
    #[cfg(feature = "pci")]
    pub(super) pci: Option<Pci>,
}

impl Devices {
    /// Makes the devices that `config` names, console first, then disks, then pmem, each in the
    /// order given. pmem takes memory slots of `vm` from `_free_slot` up.
    ///
    /// # Errors
    /// An image that cannot be used, or too many devices.
    pub fn open(
        config: &'static Config,
        memory: &GuestMemoryMmap,
        _vm: &Vm,
        _free_slot: u32,
        _ram_end: u64,
    ) -> Result<Devices> {
        let mut slots = Vec::new();
        #[cfg(feature = "console")]
        if let Some(console) = super::console::Console::open(&config.console) {
            slots.push(Slot::Console(VirtioDevice::new(console)));
        }
        #[cfg(feature = "block")]
        for disk in &config.disks {
            let event = Events::device(slots.len());
            let block = super::block::Block::open(disk, config.cpus, event)?;
            inputs::claim("--disk", &disk.path, block.file_id, !disk.readonly)?;
            slots.push(Slot::Block(Box::new(VirtioDevice::new(block))));
        }
        #[cfg(feature = "pmem")]
        {
            let mut place = super::pmem::Place { vm: _vm, slot: _free_slot, guest: _ram_end };
            for config in &config.pmems {
                let event = Events::device(slots.len());
                let pmem = super::pmem::Pmem::open(config, &mut place, event)?;
                inputs::claim("--pmem", &config.path, pmem.file_id, !config.discard_writes)?;
                slots.push(Slot::Pmem(VirtioDevice::new(pmem)));
            }
        }
        if slots.len() > MAX_VIRTIO {
            return Err(Error::Usage(format!(
                "--disk, --pmem, --console: {} devices, and there is room for {MAX_VIRTIO}",
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

    /// Whether the devices are PCI functions.
    #[cfg(feature = "pci")]
    pub fn over_pci(&self) -> bool {
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
