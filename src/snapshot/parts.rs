//! The state file: a header, then parts, each with its kind, its number and its length. Everything is
//! little-endian and begins at a multiple of eight bytes.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of a state file.
const MAGIC: [u8; 8] = *b"brisksnp";
/// Changes with the meaning of any part, and with the machine that a guest was told of.
const VERSION: u64 = 6;
/// The most parts that anybody looks at: bounds the work that a file can cause.
const MAX_PARTS: usize = 4096;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U64,
    /// Of the bytes behind the header.
    checksum: U64,
    /// Bytes behind the header; what follows them is not ours (a hugetlbfs has no shorter files).
    len: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct PartHeader {
    kind: U32,
    number: U32,
    len: U64,
}

/// What a part holds; its number tells vCPUs and devices apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u32)]
pub enum Kind {
    /// The command line's words, each ended by a zero byte.
    Arguments = 1,
    /// `super::Shape`.
    Shape = 2,
    /// KVM's clock.
    Clock = 3,
    /// CPUID leaves of a vCPU, and so on: as KVM's ioctls have them.
    Cpuid = 16,
    /// Whether it runs, halts or waits for its INIT.
    MpState = 17,
    /// General registers.
    Regs = 18,
    /// Segments, control registers.
    Sregs = 19,
    /// XSAVE area.
    Xsave = 20,
    /// XCR0.
    Xcrs = 21,
    /// Debug registers.
    DebugRegs = 22,
    /// Local APIC.
    Lapic = 23,
    /// Pending exceptions, interrupts, NMIs.
    Events = 24,
    /// Model-specific registers.
    Msrs = 25,
    /// kHz of the TSC.
    TscRate = 26,
    /// CPUID leaves that the host supported.
    Supported = 27,
    /// The I/O APIC.
    IoApic = 32,
    /// The UART.
    Serial = 33,
    /// What driver and device of virtio have agreed on.
    Virtio = 34,
    /// How far the queues are.
    Queues = 35,
    /// Its PCI function.
    Function = 36,
    /// PCI's address port.
    ConfigPorts = 37,
    /// The image behind a device.
    Image = 38,
    /// What a guest wrote to a pmem that discards it: ranges in the memory file.
    PrivatePages = 39,
    /// Where a workload's streams are.
    Streams = 40,
    /// The VM generation id, and its interrupt.
    Generation = 41,
    /// The interrupt of the power button.
    PowerButton = 42,
    /// Of a working set: whose it is.
    Owner = 48,
    /// Pages that are written to.
    WrittenPages = 49,
    /// These, and those that are only read.
    TouchedPages = 51,
}

/// The bytes are no state file of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// Other first bytes.
    Magic,
    /// Another version of the format.
    Version(u64),
    /// Shorter than it says.
    Cut,
    /// Changed since it was written.
    Checksum,
    /// The guest's memory beside it is another snapshot's.
    Memory,
    /// A part is not there, or not as long as it has to be.
    Part(Kind, u32),
}

impl Wrong {
    /// What to do about it. The checksum is right where a device's part is wrong: it is for another device.
    pub fn mend(&self) -> &'static str {
        match self {
            Wrong::Part(kind, _) if (Kind::IoApic..=Kind::Streams).contains(kind) => {
                "give the devices that the snapshot was taken with"
            }
            _ => "take the snapshot anew",
        }
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wrong::Magic => f.write_str("not a snapshot of brisk's"),
            Wrong::Version(version) => {
                write!(f, "a snapshot of version {version}, and this brisk reads version {VERSION}")
            }
            Wrong::Cut => f.write_str("the file is cut short"),
            Wrong::Checksum => f.write_str("the file was changed or damaged: wrong checksum"),
            Wrong::Memory => f.write_str("the file memory is not of this snapshot"),
            Wrong::Part(kind, number) => {
                write!(f, "part {}, number {number}: missing or wrong", *kind as u32)
            }
        }
    }
}

/// A state file in the making.
pub struct Writer(Vec<u8>);

impl Default for Writer {
    /// With no part in it yet.
    fn default() -> Writer {
        Writer(vec![0; size_of::<Header>()])
    }
}

impl Writer {
    /// Adds a part.
    pub fn add(&mut self, kind: Kind, number: usize, bytes: &[u8]) {
        let header = PartHeader {
            kind: U32::new(kind as u32),
            number: U32::new(number as u32),
            len: U64::new(bytes.len() as u64),
        };
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }

    /// The file's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        let (header, body) = self.0.split_at_mut(size_of::<Header>());
        let filled = Header {
            magic: MAGIC,
            version: U64::new(VERSION),
            checksum: U64::new(checksum(body)),
            len: U64::new(body.len() as u64),
        };
        header.copy_from_slice(filled.as_bytes());
        self.0
    }
}

/// A state file's parts.
#[derive(Debug)]
pub struct Parts<'a> {
    parts: Vec<(u32, u32, &'a [u8])>,
    /// The user said that images may have changed.
    pub any_images: bool,
}

impl<'a> Parts<'a> {
    /// Takes a state file apart.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(file: &'a [u8]) -> Result<Parts<'a>, Wrong> {
        let (header, rest) = Header::read_from_prefix(file).map_err(|_| {
            let known = MAGIC.starts_with(&file[..file.len().min(MAGIC.len())]);
            if known { Wrong::Cut } else { Wrong::Magic }
        })?;
        if header.magic != MAGIC {
            return Err(Wrong::Magic);
        }
        if header.version.get() != VERSION {
            return Err(Wrong::Version(header.version.get()));
        }
        let len = usize::try_from(header.len.get()).map_err(|_| Wrong::Cut)?;
        let mut body = rest.get(..len).ok_or(Wrong::Cut)?;
        if checksum(body) != header.checksum.get() {
            return Err(Wrong::Checksum);
        }
        let mut parts = Vec::with_capacity(64);
        while !body.is_empty() && parts.len() < MAX_PARTS {
            let (header, rest) = PartHeader::read_from_prefix(body).map_err(|_| Wrong::Cut)?;
            let len = usize::try_from(header.len.get()).map_err(|_| Wrong::Cut)?;
            let padded = len.checked_next_multiple_of(8).ok_or(Wrong::Cut)?;
            let (bytes, rest) = rest.split_at_checked(padded).ok_or(Wrong::Cut)?;
            parts.push((header.kind.get(), header.number.get(), &bytes[..len]));
            body = rest;
        }
        Ok(Parts { parts, any_images: false })
    }

    /// How long the file is that begins like this, without what is not ours.
    pub fn len(start: &[u8]) -> Option<usize> {
        let (header, _) = Header::read_from_prefix(start).ok()?;
        let body = usize::try_from(header.len.get()).ok()?;
        if header.magic == MAGIC { body.checked_add(size_of::<Header>()) } else { None }
    }

    /// The checksum that a file says it has.
    pub fn checksum(start: &[u8]) -> Option<u64> {
        let (header, _) = Header::read_from_prefix(start).ok()?;
        Some(header.checksum.get())
    }

    /// A part's bytes.
    ///
    /// # Errors
    /// There is no such part.
    #[inline(never)]
    pub fn get(&self, kind: Kind, number: usize) -> Result<&'a [u8], Wrong> {
        let found = self.parts.iter().find(|part| (part.0, part.1) == (kind as u32, number as u32));
        found.map(|part| part.2).ok_or(Wrong::Part(kind, number as u32))
    }

    /// For a part that its reader found to be wrong.
    pub fn wrong(&self, kind: Kind, number: usize) -> Wrong {
        Wrong::Part(kind, number as u32)
    }

    /// A part that is one structure.
    ///
    /// # Errors
    /// There is no such part, or of another length.
    pub fn read<T: FromBytes>(&self, kind: Kind, number: usize) -> Result<T, Wrong> {
        T::read_from_bytes(self.get(kind, number)?).map_err(|_| Wrong::Part(kind, number as u32))
    }
}

/// Against accidents, not against attackers: whoever can write the file can make it right. Each word goes
/// into it by steps that can be undone, so that no change of one can be missed; the last bytes of a length
/// that is none of whole words are left out, as in no state file.
pub fn checksum(bytes: &[u8]) -> u64 {
    // The golden ratio's digits: odd, and bits everywhere.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let words =
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
    words.fold(bytes.len() as u64, |sum, word| (sum ^ word).wrapping_mul(FACTOR).rotate_left(29))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.add(Kind::Arguments, 0, b"--kernel\0k\0");
        writer.add(Kind::Regs, 1, &7u64.to_le_bytes());
        writer.finish()
    }

    #[test]
    fn parts_come_back() {
        let mut file = small();
        // As on a hugetlbfs.
        file.resize(4096, 0);
        let parts = Parts::parse(&file).unwrap();
        assert_eq!(parts.get(Kind::Arguments, 0), Ok(&b"--kernel\0k\0"[..]));
        assert_eq!(parts.read::<U64>(Kind::Regs, 1).unwrap().get(), 7);
        assert_eq!(parts.get(Kind::Regs, 0), Err(Wrong::Part(Kind::Regs, 0)));
        let wrong = parts.read::<U32>(Kind::Regs, 1);
        assert_eq!(wrong.unwrap_err(), Wrong::Part(Kind::Regs, 1));
    }

    #[test]
    fn who_gives_other_devices_is_told_of_devices() {
        for kind in [Kind::IoApic, Kind::Virtio, Kind::PrivatePages, Kind::Streams] {
            assert!(Wrong::Part(kind, 0).mend().contains("devices"), "{kind:?}");
        }
        for wrong in [Wrong::Cut, Wrong::Part(Kind::Regs, 0), Wrong::Part(Kind::Generation, 0)] {
            assert_eq!(wrong.mend(), "take the snapshot anew", "{wrong:?}");
        }
    }

    #[test]
    fn every_length_and_every_flipped_bit_is_found() {
        let file = small();
        for len in 0..file.len() {
            let wrong = Parts::parse(&file[..len]).err();
            assert!(matches!(wrong, Some(Wrong::Cut)), "{len}: {wrong:?}");
        }
        for bit in 0..file.len() * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Parts::parse(&flipped).is_err(), "bit {bit}");
        }
    }
}
