//! Kernels in the ELF format: `vmlinux`, and any other PVH kernel for x86, of 64 or 32 bits.
//!
//! The caller reads the start of the file for [`Headers::read`] and the program headers, wherever they
//! are, for [`Headers::image`]; it copies each [`Segment`] to guest memory and gives each of the
//! [`Notes`] to [`Notes::pvh_entry`] and [`Notes::is_linux`].

use core::fmt;

use zerocopy::FromBytes;

pub use self::notes::Notes;
use self::raw::{Ident, Program32, Program64, Rest32, Rest64};
use crate::{Range, layout};

mod notes;
mod raw;

/// Bytes from the start of the file that [`Headers::read`] needs to see (less if the file is shorter).
/// Where linkers put them, the program headers follow.
pub const HEAD: usize = 4096;

/// Segments that an [`Image`] has room for; `vmlinux` has 4 to 6.
pub const MAX_SEGMENTS: usize = 16;

/// Note segments that an [`Image`] has room for; `vmlinux` has 1.
pub const MAX_NOTES: usize = 8;

/// Program headers that are looked through. Most say nothing about loading.
const MAX_PROGRAMS: u16 = 256;

/// The most bytes that [`Headers::programs`] comes to.
pub const MAX_TABLE: usize = MAX_PROGRAMS as usize * size_of::<Program64>();

const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const DATA_LITTLE_ENDIAN: u8 = 1;
const KIND_EXECUTABLE: u16 = 2;
const KIND_SHARED: u16 = 3;
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `__START_KERNEL_map`: where Linux maps its text's physical address 0
/// (`Documentation/arch/x86/x86_64/mm.rst`).
const LINUX_TEXT_MAP: u64 = 0xffff_ffff_8000_0000;

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

/// A part of the file that has notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteSegment {
    /// Where it is in the file.
    pub file: Range,
    /// `p_align`, for [`Notes::new`].
    pub align: u64,
}

/// What the file header says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    entry: u64,
    is_64: bool,
    programs: Range,
    file_len: u64,
}

/// What the headers of a kernel say, checked: no segment leaves the file or overlaps another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `e_entry`; for `vmlinux`, the guest-physical address of `startup_64`, the entry of the
    /// 64-bit Linux protocol. Other kernels' may be a virtual address, and not be meant for us.
    pub entry: u64,
    /// 64-bit ELF.
    pub is_64: bool,
    /// Segments are mapped as Linux maps its own. `vmlinux` before 4.19 has no note of Linux's.
    pub maps_as_linux: bool,
    /// Where the notes are in the file.
    pub notes: heapless::Vec<NoteSegment, MAX_NOTES>,
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
    /// More than [`MAX_SEGMENTS`] or [`MAX_NOTES`], or more headers than anybody needs.
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
            Error::Malformed => f.write_str("malformed ELF header"),
            Error::BigEndian => f.write_str("a big-endian kernel; one for x86 is needed"),
            Error::Machine(machine) => write!(
                f,
                "a kernel for {} (ELF machine {machine}); one for x86 is needed",
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
        MACHINE_386 => "32-bit x86",
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

impl Headers {
    /// Reads the file header from `head`, the first [`HEAD`] bytes of a file of `file_len` bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(head: &[u8], file_len: u64) -> Result<Headers, Error> {
        let cut = |_| Error::Truncated(file_len);
        if head.is_empty() {
            return Err(Error::Empty);
        }
        if !is_elf(head) {
            return Err(Error::NotElf);
        }
        let (ident, rest) = Ident::read_from_prefix(head).map_err(|_| cut(()))?;
        let is_64 = ident.is_64()?;
        let (entry, start, counts, size) = if is_64 {
            let (rest, _) = Rest64::read_from_prefix(rest).map_err(|_| cut(()))?;
            (rest.entry.get(), rest.phoff.get(), rest.counts, size_of::<Program64>())
        } else {
            let (rest, _) = Rest32::read_from_prefix(rest).map_err(|_| cut(()))?;
            let (entry, start) = (rest.entry.get().into(), rest.phoff.get().into());
            (entry, start, rest.counts, size_of::<Program32>())
        };
        let count = counts.phnum.get();
        if count == 0 {
            return Err(Error::NoSegment);
        }
        if usize::from(counts.phentsize.get()) != size {
            return Err(Error::Malformed);
        }
        if count > MAX_PROGRAMS {
            return Err(Error::TooManySegments);
        }
        let programs = Range { start, len: u64::from(count) * size as u64 };
        if !(Range { start: 0, len: file_len }).contains(&programs) {
            return Err(Error::Truncated(file_len));
        }
        Ok(Headers { entry, is_64, programs, file_len })
    }

    /// Where the program headers are in the file: [`MAX_TABLE`] bytes at most.
    #[must_use]
    pub fn programs(&self) -> Range {
        self.programs
    }

    /// Reads the program headers from `table`, the bytes of the file at [`Self::programs`].
    ///
    /// # Errors
    /// What is wrong with them; [`Error::Malformed`] for a table of another length.
    pub fn image(&self, table: &[u8]) -> Result<Image, Error> {
        if table.len() as u64 != self.programs.len {
            return Err(Error::Malformed);
        }
        let mut image = Image {
            entry: self.entry,
            is_64: self.is_64,
            maps_as_linux: false,
            notes: heapless::Vec::new(),
            segments: heapless::Vec::new(),
        };
        // Size and alignment (1) fit by construction.
        if self.is_64 {
            let programs = <[Program64]>::ref_from_bytes(table).map_err(|_| Error::Malformed)?;
            for (index, program) in programs.iter().enumerate() {
                image.add(index, program, self.file_len)?;
            }
        } else {
            let programs = <[Program32]>::ref_from_bytes(table).map_err(|_| Error::Malformed)?;
            for (index, program) in programs.iter().enumerate() {
                image.add(index, &program.into(), self.file_len)?;
            }
        }
        if image.segments.is_empty() {
            return Err(Error::NoSegment);
        }
        Ok(image)
    }
}

impl Ident {
    /// Whether it is of 64 bits.
    fn is_64(&self) -> Result<bool, Error> {
        let is_64 = match (self.class, self.data) {
            (CLASS_64, DATA_LITTLE_ENDIAN) => true,
            (CLASS_32, DATA_LITTLE_ENDIAN) => false,
            (CLASS_32 | CLASS_64, 2) => return Err(Error::BigEndian),
            _ => return Err(Error::Malformed),
        };
        match self.machine.get() {
            MACHINE_X86_64 => {}
            MACHINE_386 if !is_64 => {}
            machine => return Err(Error::Machine(machine)),
        }
        match self.kind.get() {
            KIND_EXECUTABLE | KIND_SHARED => Ok(is_64),
            kind => Err(Error::NotExecutable(kind)),
        }
    }
}

impl Image {
    fn add(&mut self, index: usize, header: &Program64, file_len: u64) -> Result<(), Error> {
        let kind = header.kind.get();
        if kind != PT_LOAD && kind != PT_NOTE {
            return Ok(());
        }
        let file = Range { start: header.offset.get(), len: header.file_size.get() };
        if !(Range { start: 0, len: file_len }).contains(&file) {
            return Err(Error::PastEnd { index, file_len });
        }
        if kind == PT_NOTE {
            let notes = NoteSegment { file, align: header.align.get() };
            return self.notes.push(notes).map_err(|_| Error::TooManySegments);
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
        self.maps_as_linux |= header.vaddr.get().wrapping_sub(segment.paddr) == LINUX_TEXT_MAP;
        self.segments.push(segment).map_err(|_| Error::TooManySegments)
    }

    /// Checks that the first instruction, [`Image::entry`] or [`Notes::pvh_entry`], is in a segment.
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

#[cfg(test)]
mod tests;
