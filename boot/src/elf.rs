//! Kernels in the ELF format: `vmlinux`, and any other PVH kernel for x86-64.
//!
//! Only the file's first 4 KiB are read: the file header and the program headers. The caller copies
//! each [`Segment`] to guest memory and, for PVH, gives the notes to [`pvh_entry`].

use core::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::{Range, layout};

/// Bytes from the start of the file that [`parse`] wants to see (less if the file is shorter).
pub const HEAD: usize = 4096;

/// Segments that an [`Image`] has room for; `vmlinux` has 4 to 6.
pub const MAX_SEGMENTS: usize = 16;

/// Note segments that an [`Image`] has room for; `vmlinux` has 1.
pub const MAX_NOTES: usize = 4;

/// The file header, `Elf64_Ehdr`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    class: u8,
    data: u8,
    version: u8,
    os_abi: [u8; 9],
    kind: U16,
    machine: U16,
    file_version: U32,
    entry: U64,
    phoff: U64,
    shoff: U64,
    flags: U32,
    ehsize: U16,
    phentsize: U16,
    phnum: U16,
    section_headers: [U16; 3],
}
const _: () = assert!(size_of::<Header>() == 64);

/// A program header, `Elf64_Phdr`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct ProgramHeader {
    kind: U32,
    flags: U32,
    offset: U64,
    vaddr: U64,
    paddr: U64,
    file_size: U64,
    mem_size: U64,
    align: U64,
}
const _: () = assert!(size_of::<ProgramHeader>() == 56);

const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const DATA_LITTLE_ENDIAN: u8 = 1;
const KIND_EXECUTABLE: u16 = 2;
const KIND_SHARED: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, `public/elfnote.h`).
const XEN_PHYS32_ENTRY: u32 = 18;

/// A part of the file that goes to guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is in the file.
    pub offset: u64,
    /// Bytes to copy from the file.
    pub file_size: u64,
    /// Guest-physical address.
    pub paddr: u64,
    /// Bytes in memory, not less than `file_size`; what is not from the file is zero.
    pub mem_size: u64,
    /// `p_flags`: 1 execute, 2 write, 4 read.
    pub flags: u32,
}

impl Segment {
    /// Where it is in guest memory.
    #[must_use]
    pub const fn memory(&self) -> Range {
        Range { start: self.paddr, len: self.mem_size }
    }
}

/// What the headers of a kernel say, checked: no segment leaves the file or overlaps another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `e_entry`; for `vmlinux`, the guest-physical address of `startup_64`, the entry of the
    /// 64-bit Linux protocol.
    pub entry: u64,
    /// Where the notes are in the file, for [`pvh_entry`].
    pub notes: heapless::Vec<Range, MAX_NOTES>,
    /// What to load, in the order of the file's headers; none has a `mem_size` of 0.
    pub segments: heapless::Vec<Segment, MAX_SEGMENTS>,
}

/// Why a file is not a kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file is empty.
    Empty,
    /// The magic number is another one.
    NotElf,
    /// The file ends before the headers do: its length.
    Truncated(u64),
    /// The program headers are not in the first [`HEAD`] bytes.
    HeadersTooFar,
    /// 32-bit ELF: the machine.
    Class32(u16),
    /// Neither 32-bit nor 64-bit, or program headers of another size.
    Malformed,
    /// Big endian.
    BigEndian,
    /// For another architecture: `e_machine`.
    Machine(u16),
    /// An object file, core dump or the like: `e_type`.
    NotExecutable(u16),
    /// Nothing to load.
    NoSegment,
    /// More than [`MAX_SEGMENTS`] or [`MAX_NOTES`].
    TooManySegments,
    /// Wraps around the address space, or has more bytes in the file than in memory: which header.
    SegmentSize(usize),
    /// Goes on after the file's end: which header, and the length of the file.
    PastEnd {
        /// Index of the program header.
        index: usize,
        /// Bytes in the file.
        file_len: u64,
    },
    /// Two segments at the same guest-physical address.
    Overlap(u64),
    /// The entry is not in a segment.
    Entry(u64),
    /// A segment is not in RAM above 1 MiB.
    NotInRam(Range),
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Empty => f.write_str("the file is empty"),
            Error::NotElf => f.write_str("not an ELF file"),
            Error::Truncated(len) => write!(f, "truncated: {len} bytes end within the ELF headers"),
            Error::HeadersTooFar => {
                write!(f, "the ELF program headers are not in the first {HEAD} bytes")
            }
            Error::Class32(machine) => {
                write!(f, "a 32-bit {} kernel; a 64-bit x86 one is needed", architecture(machine))
            }
            Error::Malformed => f.write_str("malformed ELF header"),
            Error::BigEndian => f.write_str("a big-endian kernel; a 64-bit x86 one is needed"),
            Error::Machine(machine) => write!(
                f,
                "a kernel for {} (ELF machine {machine}); a 64-bit x86 one is needed",
                architecture(machine)
            ),
            Error::NotExecutable(kind) => {
                write!(f, "ELF type {kind} is not an executable; vmlinux is needed")
            }
            Error::NoSegment => f.write_str("the ELF file has nothing to load"),
            Error::TooManySegments => f.write_str("the ELF file has too many segments"),
            Error::SegmentSize(index) => {
                write!(f, "ELF program header {index} has impossible sizes")
            }
            Error::PastEnd { index, file_len } => write!(
                f,
                "truncated: ELF program header {index} goes past the file's {file_len} bytes"
            ),
            Error::Overlap(address) => write!(f, "two ELF segments overlap at {address:#x}"),
            Error::Entry(entry) => write!(f, "the entry {entry:#x} is not in an ELF segment"),
            Error::NotInRam(Range { start, len }) => write!(
                f,
                "the kernel needs {len:#x} bytes at {start:#x}, where the guest has no RAM: more \
                 memory may help"
            ),
        }
    }
}

/// The name of an `e_machine` that a kernel may plausibly have.
fn architecture(machine: u16) -> &'static str {
    match machine {
        3 => "x86",
        8 => "MIPS",
        20 => "PowerPC",
        21 => "64-bit PowerPC",
        22 => "s390",
        40 => "Arm",
        MACHINE_X86_64 => "x86-64",
        183 => "AArch64",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "another architecture",
    }
}

/// Whether a file that begins so is meant to be ELF.
#[must_use]
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Reads the headers from `head`, the first [`HEAD`] bytes of a file of `file_len` bytes.
///
/// # Errors
/// Any [`Error`] but [`Error::NotInRam`].
pub fn parse(head: &[u8], file_len: u64) -> Result<Image, Error> {
    if head.is_empty() {
        return Err(Error::Empty);
    }
    if !is_elf(head) {
        return Err(Error::NotElf);
    }
    let (header, _) = Header::ref_from_prefix(head).map_err(|_| Error::Truncated(file_len))?;
    check_header(header)?;
    let mut image = Image {
        entry: header.entry.get(),
        notes: heapless::Vec::new(),
        segments: heapless::Vec::new(),
    };
    for (index, program) in program_headers(header, head, file_len)?.iter().enumerate() {
        image.add(index, program, file_len)?;
    }
    if image.segments.is_empty() {
        return Err(Error::NoSegment);
    }
    image.check_entry(image.entry)?;
    Ok(image)
}

fn check_header(header: &Header) -> Result<(), Error> {
    let machine = header.machine.get();
    match (header.class, header.data) {
        (CLASS_64, DATA_LITTLE_ENDIAN) => {}
        (CLASS_32, DATA_LITTLE_ENDIAN) => return Err(Error::Class32(machine)),
        (CLASS_32 | CLASS_64, 2) => return Err(Error::BigEndian),
        _ => return Err(Error::Malformed),
    }
    if machine != MACHINE_X86_64 {
        return Err(Error::Machine(machine));
    }
    match header.kind.get() {
        KIND_EXECUTABLE | KIND_SHARED => Ok(()),
        kind => Err(Error::NotExecutable(kind)),
    }
}

fn program_headers<'a>(
    header: &Header,
    head: &'a [u8],
    file_len: u64,
) -> Result<&'a [ProgramHeader], Error> {
    let count = usize::from(header.phnum.get());
    if count == 0 {
        return Err(Error::NoSegment);
    }
    if usize::from(header.phentsize.get()) != size_of::<ProgramHeader>() {
        return Err(Error::Malformed);
    }
    let size = count * size_of::<ProgramHeader>();
    let table = Range { start: header.phoff.get(), len: size as u64 };
    if !(Range { start: 0, len: file_len }).contains(&table) {
        return Err(Error::Truncated(file_len));
    }
    let start = usize::try_from(table.start).map_err(|_| Error::HeadersTooFar)?;
    let bytes = head.get(start..).and_then(|rest| rest.get(..size)).ok_or(Error::HeadersTooFar)?;
    // Size and alignment (1) fit by construction.
    <[ProgramHeader]>::ref_from_bytes(bytes).map_err(|_| Error::Malformed)
}

impl Image {
    fn add(&mut self, index: usize, header: &ProgramHeader, file_len: u64) -> Result<(), Error> {
        let kind = header.kind.get();
        if kind != PT_LOAD && kind != PT_NOTE {
            return Ok(());
        }
        let file = Range { start: header.offset.get(), len: header.file_size.get() };
        if !(Range { start: 0, len: file_len }).contains(&file) {
            return Err(Error::PastEnd { index, file_len });
        }
        if kind == PT_NOTE {
            return self.notes.push(file).map_err(|_| Error::TooManySegments);
        }
        let segment = Segment {
            offset: file.start,
            file_size: file.len,
            paddr: header.paddr.get(),
            mem_size: header.mem_size.get(),
            flags: header.flags.get(),
        };
        let memory = segment.memory();
        if segment.file_size > segment.mem_size || memory.end().is_none() {
            return Err(Error::SegmentSize(index));
        }
        if segment.mem_size == 0 {
            return Ok(());
        }
        if let Some(other) = self.segments.iter().find(|other| other.memory().overlaps(&memory)) {
            return Err(Error::Overlap(segment.paddr.max(other.paddr)));
        }
        self.segments.push(segment).map_err(|_| Error::TooManySegments)
    }

    /// Checks that the first instruction, [`Image::entry`] or [`pvh_entry`], is in a segment.
    ///
    /// # Errors
    /// [`Error::Entry`].
    pub fn check_entry(&self, entry: u64) -> Result<(), Error> {
        let first = Range { start: entry, len: 1 };
        let inside = self.segments.iter().any(|segment| segment.memory().contains(&first));
        if inside { Ok(()) } else { Err(Error::Entry(entry)) }
    }

    /// First address above all segments.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.iter().filter_map(|segment| segment.memory().end()).max().unwrap_or(0)
    }
}

/// Checks that each segment is in one piece of `ram` and above the first MiB, which is for the boot
/// data.
///
/// # Errors
/// [`Error::NotInRam`].
pub fn check_fits(image: &Image, ram: &[Range]) -> Result<(), Error> {
    for segment in &image.segments {
        let memory = segment.memory();
        let in_ram = ram.iter().any(|ram| ram.contains(&memory));
        if !in_ram || memory.start < layout::HIGH_MEMORY {
            return Err(Error::NotInRam(memory));
        }
    }
    Ok(())
}

/// The guest-physical address of the PVH entry, from the bytes of one of [`Image::notes`]: the note
/// of name "Xen" and type 18. `None` where there is none, or where the notes are malformed.
///
/// `vmlinux` writes the address in 8 bytes, Xen's own examples in 4.
#[must_use]
pub fn pvh_entry(notes: &[u8]) -> Option<u32> {
    let xen = |(name, kind, _): &(&[u8], u32, &[u8])| name == b"Xen\0" && *kind == XEN_PHYS32_ENTRY;
    let (_, _, value) = Notes(notes).find(xen)?;
    match *value {
        [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => Some(u32::from_le_bytes([a, b, c, d])),
        _ => None,
    }
}

/// Whether the notes are those of a Linux kernel, whose ELF entry is then that of the 64-bit Linux
/// protocol: a note of name "Linux" (`include/linux/elfnote.h` and its users).
#[must_use]
pub fn is_linux(notes: &[u8]) -> bool {
    Notes(notes).any(|(name, _, _)| name == b"Linux\0")
}

/// Name, type and value of each note; ends at the first malformed one.
struct Notes<'a>(&'a [u8]);

impl<'a> Iterator for Notes<'a> {
    type Item = (&'a [u8], u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([name_size, size, kind], after) = <[U32; 3]>::read_from_prefix(self.0).ok()?;
        let (name, after) = padded(after, name_size.get())?;
        let (value, after) = padded(after, size.get())?;
        self.0 = after;
        Some((name, kind.get(), value))
    }
}

/// Splits `size` bytes off and skips the padding up to a multiple of 4.
fn padded(bytes: &[u8], size: u32) -> Option<(&[u8], &[u8])> {
    let size = usize::try_from(size).ok()?;
    let next = size.checked_next_multiple_of(4)?.min(bytes.len());
    Some((bytes.get(..size)?, bytes.get(next..)?))
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
