//! Kernels in the bzImage format: where the compressed `vmlinux` is, so that the host can unpack
//! it.
//!
//! `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header".

use core::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Range;

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
/// The first protocol with `payload_offset`.
const MIN_VERSION: u16 = 0x0208;
/// The first protocol with `xloadflags`.
const XLOADFLAGS_VERSION: u16 = 0x020c;
const SECTOR: u64 = 512;

/// How the payload is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not packed: an ELF file.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// LZMA, the old "alone" format.
    Lzma,
    /// xz.
    Xz,
    /// LZO, lzop's format.
    Lzo,
    /// LZ4, the legacy frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Tells by the first bytes of the payload (the kernel's `lib/decompress.c`).
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 8] = [
            (b"\x7fELF", Compression::None),
            (b"\x1f\x8b", Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x89LZO\0", Compression::Lzo),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        ];
        MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, kind)| *kind)
    }
}

/// Bytes that the payload has once unpacked: the build appends them to every format, in 4 bytes
/// (gzip's own trailer is the same).
#[must_use]
pub fn unpacked_size(payload: &[u8]) -> Option<u32> {
    payload.last_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
}

/// What a bzImage says of itself, checked.
#[derive(Clone, Debug)]
pub struct Header {
    /// The setup header, for the zero page. Fields that the file's protocol does not have are zero.
    pub setup_header: SetupHeader,
    /// Where the packed `vmlinux` is in the file; its last 4 bytes are [`unpacked_size`].
    pub payload: Range,
    /// Protocol version: 0x020f for 2.15.
    pub version: u16,
    /// `xloadflags`; bit 0 (64-bit entry) is set.
    pub xloadflags: u16,
    /// Memory from `pref_address` on that the kernel needs before it knows its memory map; 0 before
    /// protocol 2.10.
    pub init_size: u32,
    /// Where the kernel wants to be; 0 before protocol 2.10.
    pub pref_address: u64,
}

/// Why a file is not a bzImage that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file is empty.
    Empty,
    /// The magic numbers are others.
    NotBzImage,
    /// The file, of this many bytes, ends before its header or payload does.
    Truncated(u64),
    /// The boot protocol is older than 2.08: its version.
    TooOld(u16),
    /// zImage: is loaded below 1 MiB.
    NotLoadedHigh,
    /// No 64-bit entry.
    Not64Bit,
    /// No payload.
    NoPayload,
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Empty => f.write_str("the file is empty"),
            Error::NotBzImage => f.write_str("not a bzImage"),
            Error::Truncated(len) => {
                write!(f, "truncated: {len} bytes end within the bzImage's header or payload")
            }
            Error::TooOld(version) => write!(
                f,
                "boot protocol {}.{:02} is too old: 2.08 (Linux 2.6.26) is needed",
                version >> 8,
                version & 0xff
            ),
            Error::NotLoadedHigh => f.write_str("a zImage; a bzImage is needed"),
            Error::Not64Bit => f.write_str("a 32-bit kernel; a 64-bit one is needed"),
            Error::NoPayload => f.write_str("the bzImage has no payload"),
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
/// Any [`Error`].
pub fn parse(head: &[u8], file_len: u64) -> Result<Header, Error> {
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
    let xloadflags = setup.xloadflags.get();
    if version < XLOADFLAGS_VERSION || xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Error::Not64Bit);
    }
    Ok(Header {
        setup_header: setup,
        payload: payload(&setup, file_len)?,
        version,
        xloadflags,
        init_size: setup.init_size.get(),
        pref_address: setup.pref_address.get(),
    })
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

fn payload(setup: &SetupHeader, file_len: u64) -> Result<Range, Error> {
    // boot.rst: 0 stands for 4.
    let sectors = if setup.setup_sects == 0 { 4 } else { setup.setup_sects };
    let kernel = (u64::from(sectors) + 1) * SECTOR;
    let payload = Range {
        start: kernel + u64::from(setup.payload_offset.get()),
        len: setup.payload_length.get().into(),
    };
    if payload.len < 4 {
        return Err(Error::NoPayload);
    }
    if !(Range { start: 0, len: file_len }).contains(&payload) {
        return Err(Error::Truncated(file_len));
    }
    Ok(payload)
}

#[cfg(test)]
#[path = "bzimage_tests.rs"]
mod tests;
