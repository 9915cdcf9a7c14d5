//! The one description of the machine from which everything is computed.

use crate::{Error, layout};

/// A range of guest-physical addresses, or of bytes in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Range {
    /// One past the last address; `None` where that is more than 64 bits.
    #[must_use]
    pub const fn end(&self) -> Option<u64> {
        self.start.checked_add(self.len)
    }

    /// Whether all of `other` is inside.
    #[must_use]
    pub fn contains(&self, other: &Range) -> bool {
        match (self.end(), other.end()) {
            (Some(end), Some(other_end)) => other.start >= self.start && other_end <= end,
            _ => false,
        }
    }

    /// Whether at least one address is in both. A range that wraps around overlaps everything.
    #[must_use]
    pub fn overlaps(&self, other: &Range) -> bool {
        match (self.end(), other.end()) {
            (Some(end), Some(other_end)) => {
                self.len > 0 && other.len > 0 && self.start < other_end && other.start < end
            }
            _ => true,
        }
    }
}

/// A virtio-mmio device (virtio 1.3, 4.2), announced as `LNRO0005`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Guest-physical address of the registers; below 4 GiB.
    pub base: u64,
    /// Number of bytes that the registers take.
    pub size: u32,
    /// Interrupt: edge triggered, active high, not shared.
    pub gsi: u32,
}

/// A PCI Express host bridge, segment 0, first bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciHost {
    /// Guest-physical address of the enhanced configuration space, 1 MiB a bus.
    pub ecam_base: u64,
    /// Number of the last bus: 0 for one bus.
    pub last_bus: u8,
    /// Window for 32-bit memory BARs.
    pub mem32: Range,
    /// Window for 64-bit memory BARs.
    pub mem64: Option<Range>,
}

impl PciHost {
    /// The enhanced configuration space.
    #[must_use]
    pub const fn ecam(&self) -> Range {
        let buses = self.last_bus as u64 + 1;
        Range { start: self.ecam_base, len: buses * layout::PCI_ECAM_BUS_SIZE }
    }
}

/// A number that is another one whenever the guest's memory was copied or put back to an earlier state
/// ("Virtual Machine Generation ID", Microsoft, 2018), by which a guest knows that its random numbers
/// are no longer its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationId {
    /// The number, at [`layout::GENERATION_ID`].
    pub id: [u8; 16],
    /// One edge on this interrupt says that it has changed.
    pub gsi: u32,
}

/// What a guest finds: RAM, CPUs and the devices that it cannot discover by itself.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// Bytes of RAM: a multiple of 4 KiB, more than 1 MiB.
    pub ram_size: u64,
    /// Number of CPUs, 1 to 254; their APIC ids are 0 and up.
    pub cpus: u8,
    /// The kernel's command line, without the NUL.
    pub cmdline: &'a [u8],
    /// Where the initramfs is in guest memory.
    pub initramfs: Option<Range>,
    /// Whether there is a 16550 at [`layout::COM1_PORT`] with interrupt [`layout::COM1_GSI`].
    pub serial: bool,
    /// The virtio-mmio devices.
    pub virtio_mmio: &'a [VirtioMmio],
    /// The PCI host bridge.
    pub pci: Option<PciHost>,
    /// GSI of the first pin of the IOAPIC at [`layout::IOAPIC_BASE`]. A kernel without ACPI numbers
    /// the pins from 0 whatever it is.
    pub ioapic_gsi: u8,
    /// Pins of the IOAPIC; 0 for no IOAPIC.
    pub ioapic_pins: u8,
    /// A number that tells clones apart, announced by ACPI.
    pub generation_id: Option<GenerationId>,
    /// A power button, announced by ACPI: one edge on this interrupt is a press.
    pub power_button: Option<u32>,
}

/// `size` bytes of RAM as they are below and above the hole, in address order; the second range is
/// there only where needed.
#[must_use]
pub fn ram(size: u64) -> heapless::Vec<Range, 2> {
    let mut ram = heapless::Vec::new();
    let low = size.min(layout::HOLE_START);
    // Two pushes into a capacity of two.
    let _ = ram.push(Range { start: 0, len: low });
    if size > low {
        let _ = ram.push(Range { start: layout::HOLE_END, len: size - low });
    }
    ram
}

/// First address above `size` bytes of RAM and above the hole.
#[must_use]
pub const fn ram_end(size: u64) -> u64 {
    layout::HOLE_END.saturating_add(size.saturating_sub(layout::HOLE_START))
}

impl<'a> Machine<'a> {
    /// One CPU and an IOAPIC of 24 pins from GSI 0 on, and nothing else.
    #[must_use]
    pub const fn new(ram_size: u64, cmdline: &'a [u8]) -> Self {
        Self {
            ram_size,
            cpus: 1,
            cmdline,
            initramfs: None,
            serial: false,
            virtio_mmio: &[],
            pci: None,
            ioapic_gsi: 0,
            ioapic_pins: 24,
            generation_id: None,
            power_button: None,
        }
    }
}

impl Machine<'_> {
    /// RAM below and above the hole, in address order; the second is there only where needed.
    #[must_use]
    pub fn ram(&self) -> heapless::Vec<Range, 2> {
        ram(self.ram_size)
    }

    /// First address above all RAM and above the hole.
    #[must_use]
    pub fn ram_end(&self) -> u64 {
        ram_end(self.ram_size)
    }

    /// Checks that the description is one that tables can be made from.
    ///
    /// # Errors
    /// The first inconsistency found.
    pub fn check(&self) -> Result<(), Error> {
        if !self.ram_size.is_multiple_of(4096)
            || self.ram_size <= layout::HIGH_MEMORY
            || self.ram_size > layout::ADDRESS_END / 2
        {
            return Err(Error::RamSize(self.ram_size));
        }
        if self.cpus == 0 || self.cpus > 254 {
            return Err(Error::Cpus(self.cpus));
        }
        crate::cmdline::check(self.cmdline).map_err(Error::Cmdline)?;
        if let Some(initramfs) = self.initramfs {
            let fits = self.ram().iter().any(|ram| ram.contains(&initramfs));
            if !fits || initramfs.start < layout::HIGH_MEMORY {
                return Err(Error::Initramfs(initramfs));
            }
        }
        if self.serial {
            self.check_gsi(layout::COM1_GSI)?;
        }
        let generation = self.generation_id.map(|id| id.gsi);
        generation.into_iter().chain(self.power_button).try_for_each(|gsi| self.check_gsi(gsi))?;
        for device in self.virtio_mmio {
            self.check_device(Range { start: device.base, len: device.size.into() }, true)?;
            self.check_gsi(device.gsi)?;
        }
        if let Some(pci) = &self.pci {
            self.check_device(pci.ecam(), false)?;
            self.check_device(pci.mem32, true)?;
            if let Some(mem64) = pci.mem64 {
                self.check_device(mem64, false)?;
            }
        }
        Ok(())
    }

    fn check_device(&self, range: Range, below_4g: bool) -> Result<(), Error> {
        let end = if below_4g { layout::HOLE_END } else { layout::ADDRESS_END };
        let allowed = Range { start: layout::HIGH_MEMORY, len: end - layout::HIGH_MEMORY };
        let over_ram = self.ram().iter().any(|ram| ram.overlaps(&range));
        if range.len == 0 || !allowed.contains(&range) || over_ram {
            return Err(Error::DeviceRange(range));
        }
        Ok(())
    }

    fn check_gsi(&self, gsi: u32) -> Result<(), Error> {
        let first = u32::from(self.ioapic_gsi);
        if (first..first + u32::from(self.ioapic_pins)).contains(&gsi) {
            return Ok(());
        }
        Err(Error::Gsi { gsi, first: self.ioapic_gsi, pins: self.ioapic_pins })
    }
}
