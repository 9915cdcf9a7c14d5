//! Device models as pure state machines.
//!
//! A device takes register accesses and request headers and returns values and effects: "this byte
//! was sent", "the driver started the device", "this request wants these sectors". Nothing here
//! opens a file, takes a lock, reads a clock or allocates, so each device runs unchanged under a
//! unit test, a fuzzer or any hypervisor.
//!
//! The guest is hostile: every access of every width at every offset in every state returns; none
//! panics, overflows or loops without bound.
//!
//! | module | feature | models |
//! |---|---|---|
//! | [`ioapic`] | always | I/O APIC with as many pins as the machine uses |
//! | `serial` | `serial` | 16550A UART |
//! | `streams` | `streams` | a workload's standard streams on a console |
//! | `virtio` | `virtio` | device status, feature negotiation, queue registers |
//! | `virtio::mmio` | `mmio` | virtio over MMIO |
//! | `pci` | `pci` | configuration accesses, host bridge, MSI-X |
//! | `virtio::pci` | `pci` | virtio over PCI |
//! | `virtio::console` | `console` | virtio-console |
//! | `virtio::block` | `block` | virtio-blk |
//! | `virtio::pmem` | `pmem` | virtio-pmem |
//! | `virtio::rng` | `rng` | virtio-rng |
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

pub mod ioapic;
mod msi;
#[cfg(feature = "pci")]
pub mod pci;
#[cfg(feature = "serial")]
pub mod serial;
#[cfg(feature = "snapshot")]
pub mod snapshot;
#[cfg(feature = "streams")]
pub mod streams;
#[cfg(feature = "virtio")]
pub mod virtio;

pub use msi::Msi;
