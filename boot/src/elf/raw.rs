//! The headers as they are in the file (System V ABI, "ELF Header" and "Program Header").

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What the file headers of both classes begin with.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Ident {
    pub(super) magic: [u8; 4],
    pub(super) class: u8,
    pub(super) data: u8,
    pub(super) version: u8,
    pub(super) os_abi: [u8; 9],
    pub(super) kind: U16,
    pub(super) machine: U16,
    pub(super) file_version: U32,
}
const _: () = assert!(size_of::<Ident>() == 24);

/// The rest of `Elf64_Ehdr`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Rest64 {
    pub(super) entry: U64,
    pub(super) phoff: U64,
    pub(super) shoff: U64,
    pub(super) counts: Counts,
}
const _: () = assert!(size_of::<Ident>() + size_of::<Rest64>() == 64);

/// The rest of `Elf32_Ehdr`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Rest32 {
    pub(super) entry: U32,
    pub(super) phoff: U32,
    pub(super) shoff: U32,
    pub(super) counts: Counts,
}
const _: () = assert!(size_of::<Ident>() + size_of::<Rest32>() == 52);

/// How either ends.
#[derive(Clone, Copy, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Counts {
    pub(super) flags: U32,
    pub(super) ehsize: U16,
    pub(super) phentsize: U16,
    pub(super) phnum: U16,
    pub(super) section_headers: [U16; 3],
}

/// A program header, `Elf64_Phdr`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Program64 {
    pub(super) kind: U32,
    pub(super) flags: U32,
    pub(super) offset: U64,
    pub(super) vaddr: U64,
    pub(super) paddr: U64,
    pub(super) file_size: U64,
    pub(super) mem_size: U64,
    pub(super) align: U64,
}
const _: () = assert!(size_of::<Program64>() == 56);

/// `Elf32_Phdr`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(super) struct Program32 {
    pub(super) kind: U32,
    pub(super) offset: U32,
    pub(super) vaddr: U32,
    pub(super) paddr: U32,
    pub(super) file_size: U32,
    pub(super) mem_size: U32,
    pub(super) flags: U32,
    pub(super) align: U32,
}
const _: () = assert!(size_of::<Program32>() == 32);

impl From<&Program32> for Program64 {
    fn from(narrow: &Program32) -> Program64 {
        let wide = |value: U32| U64::new(value.get().into());
        Program64 {
            kind: narrow.kind,
            flags: narrow.flags,
            offset: wide(narrow.offset),
            vaddr: wide(narrow.vaddr),
            paddr: wide(narrow.paddr),
            file_size: wide(narrow.file_size),
            mem_size: wide(narrow.mem_size),
            align: wide(narrow.align),
        }
    }
}
