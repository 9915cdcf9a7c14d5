//! What stands for the virtio devices in a build without any: none.

use brisk_boot::{PciHost, VirtioMmio};
use vm_memory::GuestMemoryMmap;

use crate::access::{self, End};
use crate::config::Config;
use crate::error::Result;
use crate::events::Events;
use crate::interrupts::Sink;
use crate::kvm::Vm;

/// The windows stay empty.
pub const MAX_VIRTIO: usize = 8;

/// What became of an access: nothing.
pub type Access = access::Access<Job>;

/// The command line may ask for none.
#[derive(Debug, Default)]
pub struct Configs {}

impl Configs {
    /// No word for the kernel's command line.
    pub fn cmdline(&self) -> Option<&'static str> {
        None
    }
}

/// No device.
pub struct Devices;

/// Nothing that is to be done.
pub struct Job;

/// Nothing that is done.
pub struct Served;

#[allow(missing_docs, reason = "as in the module that has some")]
impl Job {
    #[inline(always)]
    pub fn run(self) -> Served {
        Served
    }
}

/// Nothing came of it.
#[derive(Default)]
pub struct Polled {
    /// As in the module that has some.
    pub jobs: [Job; 0],
    /// As in the module that has some.
    pub mended: bool,
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
    pub fn save(&mut self, _: &mut crate::snapshot::parts::Writer, _: &impl Sink) {}

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
    pub fn write(&mut self, _: u64, _: &[u8], _: &impl Sink) -> Access {
        Access::Unclaimed
    }

    #[inline(always)]
    pub fn poll(&mut self, _: Events, _: &impl Sink) -> Polled {
        Polled::default()
    }

    #[inline(always)]
    pub fn quiesce(&mut self, _: &impl Sink) {}

    #[inline(always)]
    pub fn finish(&mut self, _: Served, _: &impl Sink) -> Option<End> {
        None
    }
}

#[allow(missing_docs, reason = "as in the module that has some")]
impl Polled {
    #[inline(always)]
    pub fn end(end: End) -> Polled {
        Polled { end: Some(end), ..Polled::default() }
    }
}
