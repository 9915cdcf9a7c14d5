//! All devices: which kinds there are, the features say; how they are reached, the transport.

use vm_memory::GuestMemoryMmap;

use super::VirtioDevice;
#[cfg(feature = "pci")]
use super::transport::pci::Pci;
#[cfg(any(feature = "console", feature = "io-uring"))]
use super::{Raise, Signal, transport::mmio};
use crate::config::Config;
#[cfg(feature = "pci")]
use crate::config::Transport;
use crate::error::{Error, Result};
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
        config: &Config,
        memory: &GuestMemoryMmap,
        _vm: &Vm,
        _free_slot: u32,
        _ram_end: u64,
    ) -> Result<Devices> {
        let mut slots = Vec::new();
        #[cfg(feature = "console")]
        if let Some(console) = super::console::Console::open(&config.console)? {
            slots.push(Slot::Console(VirtioDevice::new(console)));
        }
        #[cfg(feature = "block")]
        for disk in &config.disks {
            let block = super::block::Block::open(disk, config.cpus)?;
            slots.push(Slot::Block(Box::new(VirtioDevice::new(block))));
        }
        #[cfg(feature = "pmem")]
        {
            let mut place = super::pmem::Place { vm: _vm, slot: _free_slot, guest: _ram_end };
            for pmem in &config.pmems {
                slots.push(Slot::Pmem(VirtioDevice::new(super::pmem::Pmem::open(
                    pmem, &mut place,
                )?)));
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

    /// Brings what device `index` wants to say to its driver.
    #[cfg(any(feature = "console", feature = "io-uring"))]
    fn raise(&mut self, index: usize, raise: Raise, signal: &mut impl FnMut(Signal)) {
        #[cfg(feature = "pci")]
        if let (Some(pci), Some(slot)) = (&mut self.pci, self.slots.get(index)) {
            return pci.raise(index, slot, raise, signal);
        }
        if raise != Raise::Nothing {
            signal(Signal::Gsi(mmio::gsi(index)));
        }
    }

    /// A signal came: moves what was typed to the guest, and output that had to wait. Whether the
    /// user wants out.
    #[cfg(feature = "console")]
    pub fn input(&mut self, woken: bool, mut signal: impl FnMut(Signal)) -> bool {
        use brisk_devices::virtio::console::{RX, TX};
        let Some(Slot::Console(function)) = self.slots.first_mut() else { return false };
        let resized = function.backend.resized() && function.common.config_changed();
        if woken {
            function.backend.wake();
        }
        let received = function.pump(RX, &self.memory);
        let sent = match function.backend.output_waits() {
            true => function.pump(TX, &self.memory),
            false => Raise::Nothing,
        };
        let quit = function.backend.quit();
        for raise in [Raise::config(resized), received, sent] {
            self.raise(0, raise, &mut signal);
        }
        quit
    }

    /// A signal came: finishes the requests that their disks are done with.
    #[cfg(feature = "io-uring")]
    pub fn complete(&mut self, mut signal: impl FnMut(Signal)) {
        for index in 0..self.slots.len() {
            #[allow(irrefutable_let_patterns, reason = "only where disks are the one device")]
            if let Slot::Block(function) = &mut self.slots[index]
                && function.backend.waits()
            {
                let raises: [Raise; super::block::MAX_QUEUES] =
                    std::array::from_fn(|queue| function.pump(queue as u16, &self.memory));
                for raise in raises {
                    self.raise(index, raise, &mut signal);
                }
            }
        }
    }

    /// The guest touched memory that the host could not give: mends what a pmem image that shrank
    /// left behind. False where no image did.
    #[cfg(feature = "pmem")]
    pub fn mend_memory(&mut self) -> bool {
        let mut mended = false;
        for slot in &mut self.slots {
            #[allow(irrefutable_let_patterns, reason = "only where pmem is the one device")]
            if let Slot::Pmem(function) = slot {
                mended |= function.backend.mend();
            }
        }
        mended
    }
}
