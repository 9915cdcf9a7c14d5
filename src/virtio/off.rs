//! What stands for the virtio devices in a build without any: none.

use std::convert::Infallible;

use brisk_boot::{PciHost, VirtioMmio};
use vm_memory::GuestMemoryMmap;

use crate::access::{self, End};
use crate::cli::Flags;
use crate::config::Config;
use crate::error::Result;
use crate::events::Events;
use crate::interrupts::Sink;
use crate::kvm::Vm;

#[path = "transport/pci/unclaimed.rs"]
mod unclaimed;

/// The windows stay empty.
pub const MAX_VIRTIO: usize = 8;
/// So does the configuration space.
pub const PCI_BUSES: u64 = 1;

/// What became of an access: nothing.
pub type Access = access::Access<Job>;

/// The command line may ask for none.
#[derive(Debug, Default)]
pub struct Configs {}

impl Configs {
    /// None.
    ///
    /// # Errors
    /// Never.
    #[inline(always)]
    pub fn parse(_: &mut Flags<'_>) -> Result<Configs> {
        Ok(Configs {})
    }

    /// No parameter for the kernel's command line.
    #[inline(always)]
    pub fn add_parameters(&self, _: &mut Vec<&str>) {}
}

/// No device.
pub struct Devices;

/// There is none.
pub struct Job(Infallible);

/// There is none.
pub struct Served(Infallible);

#[allow(missing_docs, reason = "as in the module that has some")]
impl Job {
    #[inline(always)]
    pub fn run(self) -> Served {
        Served(self.0)
    }
}

/// Nothing came of it.
#[derive(Default)]
pub struct Polled {
    /// As in the module that has some.
    pub jobs: [Job; 0],
    /// As in the module that has some.
    pub repaired: bool,
    /// As in the module that has some.
    pub end: Option<End>,
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that has some")]
impl Devices {
    /// Nothing waits.
    pub fn hand_on(&mut self) {}

    #[inline(always)]
    pub fn make_readable(&mut self, _: &'static Vm, _: u32) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn open(_: &Config, _: &GuestMemoryMmap, _: &Vm, _: u32, _: u64) -> Result<Devices> {
        Ok(Devices)
    }

    #[cfg(feature = "snapshot")]
    #[inline(always)]
    pub fn save(&mut self, _: &mut crate::snapshot::parts::Writer, _: &mut impl Sink) {}

    #[cfg(feature = "snapshot")]
    #[inline(always)]
    pub fn private(&mut self) -> Vec<(usize, usize, usize)> {
        Vec::new()
    }

    #[cfg(feature = "snapshot")]
    #[inline(always)]
    pub fn restore(&mut self, _: &crate::snapshot::parts::Parts<'_>) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn windows(&self) -> Vec<VirtioMmio> {
        Vec::new()
    }

    #[inline(always)]
    pub fn pci_host(&self) -> Option<PciHost> {
        None
    }

    #[inline(always)]
    pub fn read(&mut self, _: u64, _: &mut [u8]) -> Access {
        Access::Unclaimed
    }

    #[inline(always)]
    pub fn write(&mut self, _: u64, _: &[u8], _: &mut impl Sink) -> Access {
        Access::Unclaimed
    }

    #[inline(always)]
    pub fn poll(&mut self, _: Events, _: &mut impl Sink) -> Polled {
        Polled::default()
    }

    #[inline(always)]
    pub fn quiesce(&mut self, _: &mut impl Sink) {}

    #[inline(always)]
    pub fn finish(&mut self, done: Served, _: &mut impl Sink) -> Option<End> {
        match done.0 {}
    }
}

#[allow(missing_docs, reason = "as in the module that has some")]
impl Polled {
    #[inline(always)]
    pub fn end(end: End) -> Polled {
        Polled { end: Some(end), ..Polled::default() }
    }
}
