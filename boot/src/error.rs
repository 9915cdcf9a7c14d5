//! What can be wrong with the description of a machine.

use core::fmt;

use crate::{Range, cmdline, layout};

/// Why boot data cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// RAM is not a multiple of 4 KiB, too little, or too much: bytes.
    RamSize(u64),
    /// Number of CPUs out of 1 to 254.
    Cpus(u8),
    /// The command line.
    Cmdline(cmdline::Error),
    /// The initramfs is not in one piece of RAM above 1 MiB: where it is.
    Initramfs(Range),
    /// A device's range is empty, over RAM, or out of the address space: the range.
    DeviceRange(Range),
    /// An interrupt that the IOAPIC does not have.
    Gsi {
        /// Number of the interrupt.
        gsi: u32,
        /// The first one that the IOAPIC has.
        first: u8,
        /// Pins of the IOAPIC.
        pins: u8,
    },
    /// The kernel's first instruction cannot be reached by the protocol: its address.
    Entry(u64),
    /// The slice for the first MiB has another length: bytes.
    LowMemory(usize),
    /// Tables and command line do not fit in [`layout::TABLES`].
    TablesFull,
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::RamSize(size) => write!(
                f,
                "{size} bytes of RAM: must be a multiple of 4096, more than {} and at most {}",
                layout::HIGH_MEMORY,
                layout::ADDRESS_END / 2
            ),
            Error::Cpus(cpus) => write!(f, "{cpus} CPUs: must be 1 to 254"),
            Error::Cmdline(error) => error.fmt(f),
            Error::Initramfs(Range { start, len }) => write!(
                f,
                "initramfs of {len} bytes at {start:#x} is not in one piece of RAM above 1 MiB"
            ),
            Error::DeviceRange(Range { start, len }) => write!(
                f,
                "device of {len:#x} bytes at {start:#x} is empty, over RAM or out of the address \
                 space"
            ),
            Error::Gsi { gsi, first, pins } => {
                write!(f, "interrupt {gsi} is none of the IOAPIC's {pins} from {first} up")
            }
            Error::Entry(entry) => write!(
                f,
                "kernel's entry {entry:#x} is not between {:#x} and {:#x}",
                layout::HIGH_MEMORY,
                layout::IDENTITY_MAPPED
            ),
            Error::LowMemory(len) => {
                write!(f, "{len} bytes for the guest's first MiB: must be {}", layout::HIGH_MEMORY)
            }
            Error::TablesFull => write!(
                f,
                "ACPI tables and command line need more than {} bytes: fewer devices",
                layout::TABLES.len
            ),
        }
    }
}
