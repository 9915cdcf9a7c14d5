//! What stands for PCI in a build without the feature `pci`: no function answers.

use std::convert::Infallible;

use brisk_boot::PciHost;

use crate::config::Config;
use crate::error::Result;
use crate::interrupts::Sink;
use crate::kvm::Vm;
#[cfg(feature = "snapshot")]
use crate::snapshot::parts::{Parts, Writer};
use crate::virtio::table::Device;
use crate::virtio::{Access, Devices, Reply};

#[path = "unclaimed.rs"]
mod unclaimed;

/// As many buses as the module with functions has.
pub const BUSES: u64 = 1;

/// There is none.
pub struct Pci(Infallible);

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module with functions")]
impl Pci {
    #[inline(always)]
    pub fn open(_: &Config, _: &[Device]) -> Option<Pci> {
        None
    }

    #[inline(always)]
    pub fn host(&self) -> PciHost {
        match self.0 {}
    }

    #[inline(always)]
    pub fn tell(&mut self, _: usize, _: &Device, _: Reply, _: &mut impl Sink) {
        match self.0 {}
    }

    #[cfg(feature = "snapshot")]
    #[inline(always)]
    pub fn save(&mut self, _: &mut Writer) {
        match self.0 {}
    }

    #[cfg(feature = "snapshot")]
    #[inline(always)]
    pub fn restore(&mut self, _: &Parts<'_>) -> Result<()> {
        match self.0 {}
    }
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module with functions")]
impl Devices {
    #[inline(always)]
    pub(in crate::virtio) fn show_functions(&mut self, _: &'static Vm, _: u32) -> Result<()> {
        Ok(())
    }
}
