//! How the driver reaches a device.

pub mod mmio;
#[cfg(feature = "pci")]
pub mod pci;
