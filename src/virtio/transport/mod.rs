//! How the driver reaches a device.

pub mod mmio;
mod pages;
#[cfg(feature = "pci")]
pub mod pci;
#[cfg(not(feature = "pci"))]
#[path = "pci/off.rs"]
pub mod pci;
