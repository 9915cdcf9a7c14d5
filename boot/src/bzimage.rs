//! Kernels in the bzImage format: where the protected-mode kernel is, which unpacks the `vmlinux` in
//! the guest, and where it goes.
//!
//! `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header".

use core::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Range, layout};

/// Bytes from the start of the file that [`parse`] needs to see.
pub const HEAD: usize = OFFSET + size_of::<SetupHeader>();

/// Where the setup header is, in the file and in the zero page.
pub const OFFSET: usize = 0x1f1;

/// `struct setup_header`, up to protocol 2.15.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // the names are those of boot.rst, where each is explained
pub struct SetupHeader {
    pub setup_sects: u8,
    pub root_flags: U16,
    pub syssize: U32,
    pub ram_size: U16,
    pub vid_mode: U16,
    pub root_dev: U16,
    pub boot_flag: U16,
    pub jump: U16,
    pub header: U32,
    pub version: U16,
    pub realmode_swtch: U32,
    pub start_sys_seg: U16,
    pub kernel_version: U16,
    pub type_of_loader: u8,
    pub loadflags: u8,
    pub setup_move_size: U16,
    pub code32_start: U32,
    pub ramdisk_image: U32,
    pub ramdisk_size: U32,
    pub bootsect_kludge: U32,
    pub heap_end_ptr: U16,
    pub ext_loader_ver: u8,
    pub ext_loader_type: u8,
    pub cmd_line_ptr: U32,
    pub initrd_addr_max: U32,
    pub kernel_alignment: U32,
    pub relocatable_kernel: u8,
    pub min_alignment: u8,
    pub xloadflags: U16,
    pub cmdline_size: U32,
    pub hardware_subarch: U32,
    pub hardware_subarch_data: U64,
    pub payload_offset: U32,
    pub payload_length: U32,
    pub setup_data: U64,
    pub pref_address: U64,
    pub init_size: U32,
    pub handover_offset: U32,
    pub kernel_info_offset: U32,
}
const _: () = assert!(size_of::<SetupHeader>() == 0x7b);

/// `boot_flag`.
pub(crate) const BOOT_FLAG: u16 = 0xaa55;
/// `header`: "HdrS".
pub(crate) const MAGIC: u32 = 0x5372_6448;
/// `loadflags`: the kernel is above 1 MiB.
pub(crate) const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: has a 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// The first protocol with `xloadflags`.
const MIN_VERSION: u16 = 0x020c;
const SECTOR: u64 = 512;

/// Where the 64-bit entry is in the protected-mode kernel (boot.rst, "64-bit Boot Protocol").
const ENTRY_64: u64 = 0x200;
/// `syssize` counts in these.
const PARAGRAPH: u64 = 16;

/// A bzImage that can be loaded.
#[derive(Clone, Debug)]
pub struct Image {
    /// The setup header, for the zero page. Fields that the file's protocol does not have are zero.
    pub setup_header: SetupHeader,
    /// Where the protected-mode kernel is in the file. It goes to the start of [`Self::memory`].
    pub code: Range,
    /// The guest-physical memory that the kernel needs before it knows its memory map, from the
    /// address on that it was linked for.
    pub memory: Range,
    /// Guest-physical address of the 64-bit entry.
    pub entry: u64,
}

impl Image {
    /// Whether the kernel's memory is in one of the ranges of `ram`, and above
    /// [`layout::HIGH_MEMORY`].
    ///
    /// # Errors
    /// [`Error::NotInRam`].
    pub fn check_fits(&self, ram: &[Range]) -> Result<(), Error> {
        let in_ram = ram.iter().any(|ram| ram.contains(&self.memory));
        if in_ram && self.memory.start >= layout::HIGH_MEMORY {
            return Ok(());
        }
        Err(Error::NotInRam(self.memory))
    }
}

/// Why a file is not a bzImage that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file is empty.
    Empty,
    /// The magic numbers are others.
    NotBzImage,
    /// The file, of this many bytes, ends before its header or kernel does.
    Truncated(u64),
    /// The boot protocol is older than 2.12: its version.
    TooOld(u16),
    /// zImage: is loaded below 1 MiB.
    NotLoadedHigh,
    /// No 64-bit entry.
    Not64Bit,
    /// Nothing to load, or more than its memory has room for.
    Size,
    /// Its memory, this range, is not all RAM above 1 MiB.
    NotInRam(Range),
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Empty => f.write_str("the file is empty"),
            Error::NotBzImage => f.write_str("not a bzImage"),
            Error::Truncated(len) => {
                write!(f, "truncated: {len} bytes end within the bzImage's header or kernel")
            }
            Error::TooOld(version) => write!(
                f,
                "boot protocol {}.{:02} is too old: 2.12 (Linux 3.8) is needed",
                version >> 8,
                version & 0xff
            ),
            Error::NotLoadedHigh => f.write_str("a zImage; a bzImage is needed"),
            Error::Not64Bit => f.write_str("a 32-bit kernel; a 64-bit one is needed"),
            Error::Size => f.write_str("the bzImage's sizes contradict each other"),
            Error::NotInRam(Range { start, len }) => write!(
                f,
                "the kernel needs {len:#x} bytes at {start:#x}, where the guest has no RAM: more \
                 memory may help"
            ),
        }
    }
}

/// Whether a file that begins so is meant to be a bzImage.
#[must_use]
pub fn is_bzimage(head: &[u8]) -> bool {
    head.get(0x202..0x206) == Some(b"HdrS".as_slice())
}

/// Reads the setup header from `head`, the first [`HEAD`] bytes or more of a file of `file_len`
/// bytes.
///
/// # Errors
/// Any [`Error`] but [`Error::NotInRam`].
pub fn parse(head: &[u8], file_len: u64) -> Result<Image, Error> {
    if head.is_empty() {
        return Err(Error::Empty);
    }
    if !is_bzimage(head) {
        return Err(Error::NotBzImage);
    }
    let bytes = head.get(OFFSET..).ok_or(Error::Truncated(file_len))?;
    let (mut setup, _) =
        SetupHeader::read_from_prefix(bytes).map_err(|_| Error::Truncated(file_len))?;
    if setup.boot_flag != BOOT_FLAG {
        return Err(Error::NotBzImage);
    }
    let version = setup.version.get();
    if version < MIN_VERSION {
        return Err(Error::TooOld(version));
    }
    trim(&mut setup, head);
    if setup.loadflags & LOADED_HIGH == 0 {
        return Err(Error::NotLoadedHigh);
    }
    if setup.xloadflags.get() & XLF_KERNEL_64 == 0 {
        return Err(Error::Not64Bit);
    }
    // 0 stands for 4, from the times of floppy disks.
    let sectors = if setup.setup_sects == 0 { 4 } else { u64::from(setup.setup_sects) };
    let start = (sectors + 1) * SECTOR;
    let code = Range { start, len: u64::from(setup.syssize.get()) * PARAGRAPH };
    let memory = Range { start: setup.pref_address.get(), len: u64::from(setup.init_size.get()) };
    if code.len <= ENTRY_64 || code.len > memory.len || memory.end().is_none() {
        return Err(Error::Size);
    }
    if start + code.len > file_len {
        return Err(Error::Truncated(file_len));
    }
    Ok(Image { setup_header: setup, code, memory, entry: memory.start + ENTRY_64 })
}

/// Clears what is after the file's own header, which ends where the jump at 0x200 goes (boot.rst,
/// "64-bit Boot Protocol").
fn trim(setup: &mut SetupHeader, head: &[u8]) {
    let end = 0x202 + usize::from(head.get(0x201).copied().unwrap_or(0));
    let own = end.saturating_sub(OFFSET);
    if let Some(rest) = setup.as_mut_bytes().get_mut(own..) {
        rest.fill(0);
    }
}

#[cfg(test)]
#[path = "bzimage_tests.rs"]
mod tests;
