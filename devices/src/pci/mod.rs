//! PCI: how configuration accesses name a function, the host bridge, MSI-X.
//!
//! One bus, 0. Both ways of access, the ports 0xcf8 and 0xcfc ([`ConfigPorts`]) and ECAM
//! ([`Address::from_ecam`]), give an [`Address`]; the host looks up the function there and calls
//! its `config_read` or `config_write`. Where no function is, a read is all ones.

mod msix;

pub use msix::{Entry, Msix};
#[cfg(feature = "snapshot")]
pub use msix::{MAX_SAVED_VECTORS, Saved as SavedMsix};

/// Size of one bus in the ECAM window in bytes.
pub const ECAM_SIZE: u64 = 1 << 20;
/// Bytes of configuration space that a conventional function has (PCI 3.0, 6.1).
const CONFIG_SIZE: u16 = 0x100;

/// A register of a function on bus 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
    /// Byte offset into the function's configuration space, below 0x1000.
    pub register: u16,
}

impl Address {
    /// The register at `offset` bytes into the ECAM window (PCI Express 3.0, 7.2.2), `None` if that
    /// is on another bus.
    pub fn from_ecam(offset: u64) -> Option<Self> {
        if offset >= ECAM_SIZE {
            return None;
        }
        Some(Self {
            device: (offset >> 15 & 0x1f) as u8,
            function: (offset >> 12 & 7) as u8,
            register: (offset & 0xfff) as u16,
        })
    }
}

/// Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2): eight ports from 0xcf8.
#[derive(Default)]
pub struct ConfigPorts {
    address: u32,
}

/// Bit of the address register that turns data accesses into configuration accesses.
const ENABLE: u32 = 1 << 31;

impl ConfigPorts {
    /// The state after reset.
    pub const fn new() -> Self {
        Self { address: 0 }
    }

    /// Reads `data.len()` bytes from port 0xcf8 + `offset`. Either fills `data` or, for the data
    /// port, names the register to read; then `data` is all ones, for where no function is.
    pub fn read(&self, offset: u16, data: &mut [u8]) -> Option<Address> {
        data.fill(0xff);
        if offset == 0
            && let Ok(data) = <&mut [u8; 4]>::try_from(data)
        {
            *data = self.address.to_le_bytes();
        }
        self.target(offset)
    }

    /// Writes to port 0xcf8 + `offset`. For the data port, names the register to write.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> Option<Address> {
        // The address register takes only accesses of 32 bits: Linux writes a byte to 0xcfb to
        // see whether mechanism #2 is there instead.
        if offset == 0
            && let Ok(&data) = <&[u8; 4]>::try_from(data)
        {
            self.address = u32::from_le_bytes(data) & (ENABLE | 0x00ff_fffc);
        }
        self.target(offset)
    }

    /// The address register, which is all the state there is.
    #[cfg(feature = "snapshot")]
    pub fn save(&self) -> u32 {
        self.address
    }

    /// Takes over an address register.
    #[cfg(feature = "snapshot")]
    pub fn restore(&mut self, address: u32) {
        self.address = address & (ENABLE | 0x00ff_fffc);
    }

    fn target(&self, offset: u16) -> Option<Address> {
        let address = self.address;
        if !(4..8).contains(&offset) || address & ENABLE == 0 || address >> 16 & 0xff != 0 {
            return None;
        }
        Some(Address {
            device: (address >> 11 & 0x1f) as u8,
            function: (address >> 8 & 7) as u8,
            register: (address & 0xfc) as u16 | offset & 3,
        })
    }
}

/// The host bridge, function 0 of device 0: it has an identity and no registers to write. The other
/// functions of the device are the host's to use.
pub struct HostBridge;

impl HostBridge {
    /// Red Hat's generic PCIe host bridge: the one identity to which no operating system ties
    /// registers of its own.
    const ID: u32 = 0x0008_1b36;
    /// Host bridge, revision 0.
    const CLASS: u32 = 0x0600_0000;
    /// Header type 0 of a device with several functions (PCI 3.0, 6.2.1).
    const HEADER: u32 = 0x0080_0000;

    /// Reads `data.len()` bytes of its configuration space.
    pub fn config_read(register: u16, data: &mut [u8]) {
        let value = match register & !3 {
            0x00 => Self::ID,
            0x08 => Self::CLASS,
            0x0c => Self::HEADER,
            _ => 0,
        };
        read_config_part(register, data, value);
    }
}

/// Answers a configuration read from `value`, the 32 bits that `register` lies in. All ones beyond
/// the configuration space and for an access that crosses into the next 32 bits.
pub(crate) fn read_config_part(register: u16, data: &mut [u8], value: u32) {
    if register < CONFIG_SIZE {
        read_part(register.into(), data, value);
    } else {
        data.fill(0xff);
    }
}

/// Answers a read from `value`, the 32 bits that `offset` lies in; all ones if it crosses them.
pub(crate) fn read_part(offset: u64, data: &mut [u8], value: u32) {
    let bytes = value.to_le_bytes();
    let part = bytes.get((offset & 3) as usize..).and_then(|part| part.get(..data.len()));
    match part {
        Some(part) => data.copy_from_slice(part),
        None => data.fill(0xff),
    }
}

/// Answers a read of 32 bits or less, or of two 32-bit words.
pub(crate) fn read_words(offset: u64, data: &mut [u8], read: impl Fn(u64) -> u32) {
    let aligned = offset & !3;
    if data.len() == 8 && offset == aligned {
        let value = u64::from(read(aligned.saturating_add(4))) << 32 | u64::from(read(aligned));
        data.copy_from_slice(&value.to_le_bytes());
    } else {
        read_part(offset, data, read(aligned));
    }
}

/// The value and the mask of a write to the 32 bits that `offset` lies in; `None` if it crosses
/// them.
pub(crate) fn write_part(offset: u64, data: &[u8]) -> Option<(u32, u32)> {
    let (mut value, mut mask) = ([0; 4], [0; 4]);
    let end = (offset & 3) as usize;
    let end = end..end.checked_add(data.len())?;
    value.get_mut(end.clone())?.copy_from_slice(data);
    mask.get_mut(end)?.fill(0xff);
    Some((u32::from_le_bytes(value), u32::from_le_bytes(mask)))
}

#[cfg(test)]
mod tests;
