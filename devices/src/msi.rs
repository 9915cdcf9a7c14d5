//! Interrupt messages: what the I/O APIC sends for a pin, and a PCI function for a vector.

/// An interrupt message (Intel SDM volume 3, 11.11; AMD APM volume 2, 16.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    /// Guest-physical address, 0xfee0_0000 and up.
    pub address: u64,
    /// Vector, delivery mode, trigger mode.
    pub data: u32,
}
