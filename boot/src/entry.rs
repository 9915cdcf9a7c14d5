//! The state in which the first CPU starts, as plain data.

use crate::low::Tables;
use crate::{Error, Protocol};

/// A segment register with its hidden part (Intel SDM 3A, 3.4.3), in the terms of `kvm_segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First linear address.
    pub base: u64,
    /// Last offset, in bytes.
    pub limit: u32,
    /// The visible part.
    pub selector: u16,
    /// Type field of the descriptor, 4 bits.
    pub kind: u8,
    /// `S`: a code or data segment, not a system segment.
    pub code_or_data: bool,
    /// `D/B`: 32-bit operands and stack.
    pub default_32: bool,
    /// `L`: 64-bit code.
    pub long: bool,
    /// `G`: the descriptor's limit counts pages.
    pub page_granular: bool,
}

impl Segment {
    /// The eight bytes of the segment's descriptor (Intel SDM 3A, 3.4.5); present, DPL 0.
    #[must_use]
    pub const fn descriptor(&self) -> u64 {
        let limit = if self.page_granular { self.limit >> 12 } else { self.limit } as u64;
        (limit & 0xffff)
            | (self.base & 0xff_ffff) << 16
            | (self.kind as u64 & 0xf) << 40
            | (self.code_or_data as u64) << 44
            | 1 << 47
            | (limit >> 16 & 0xf) << 48
            | (self.long as u64) << 53
            | (self.default_32 as u64) << 54
            | (self.page_granular as u64) << 55
            | (self.base >> 24 & 0xff) << 56
    }
}

/// Base and limit of a descriptor table, as `lgdt` takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear address.
    pub base: u64,
    /// Last offset, in bytes.
    pub limit: u16,
}

/// Registers of the first CPU. What is not named here is zero; `data` is for ds, es, fs, gs and ss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First instruction.
    pub rip: u64,
    /// Stack; 0 where the protocol gives none.
    pub rsp: u64,
    /// PVH: address of `hvm_start_info`.
    pub rbx: u64,
    /// Linux64: address of the zero page.
    pub rsi: u64,
    /// Flags: only the bit that is always one, so interrupts are off.
    pub rflags: u64,
    /// Control register 0.
    pub cr0: u64,
    /// Address of the PML4, 0 without paging.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended features: long mode.
    pub efer: u64,
    /// cs.
    pub code: Segment,
    /// ds, es, fs, gs, ss.
    pub data: Segment,
    /// tr.
    pub tss: Segment,
    /// gdtr.
    pub gdt: DescriptorTable,
}

/// `rflags`: bit 1 is always one (Intel SDM 1, 3.4.3).
pub(crate) const RFLAGS_RESERVED: u64 = 1 << 1;
/// `cr0`: protection enable.
pub(crate) const CR0_PE: u64 = 1 << 0;
/// `cr0`: extension type, always one on any CPU since the 486; KVM wants it set.
pub(crate) const CR0_ET: u64 = 1 << 4;
/// `cr0`: paging.
pub(crate) const CR0_PG: u64 = 1 << 31;
/// `cr0` in long mode, as Linux sets it first of all (`CR0_STATE`): beside the above MP, NE, WP and AM, so
/// that its write changes nothing and is no exit.
pub(crate) const CR0_LONG: u64 = CR0_PE | 1 << 1 | CR0_ET | 1 << 5 | 1 << 16 | 1 << 18 | CR0_PG;
/// `cr4`: physical address extension.
pub(crate) const CR4_PAE: u64 = 1 << 5;
/// `efer`: long mode enable and active; `syscall` and no-execute, which Linux writes only where they are not
/// set yet. Any CPU with nested paging has all four.
pub(crate) const EFER_LONG: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11;

/// cs: execute/read, accessed. Linux names its selector `__BOOT_CS` (boot.rst, 64-bit protocol).
pub(crate) const fn code(protocol: Protocol) -> Segment {
    let long = matches!(protocol, Protocol::Linux64);
    Segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 0x10,
        kind: 0xb,
        code_or_data: true,
        default_32: !long,
        long,
        page_granular: true,
    }
}

/// ds and so on: read/write, accessed. Linux names the selector `__BOOT_DS`.
pub(crate) const DATA: Segment = Segment {
    base: 0,
    limit: 0xffff_ffff,
    selector: 0x18,
    kind: 0x3,
    code_or_data: true,
    default_32: true,
    long: false,
    page_granular: true,
};

/// tr: a busy TSS of base 0 and limit 0x67, as PVH wants it. Nothing switches tasks or rings before
/// the kernel has loaded its own, so no memory stands behind it.
pub(crate) const TSS: Segment = Segment {
    base: 0,
    limit: 0x67,
    selector: 0x20,
    kind: 0xb,
    code_or_data: false,
    default_32: false,
    long: false,
    page_granular: false,
};

/// Writes the GDT: null, unused, code, data, and the TSS in the 16 bytes that it takes in long
/// mode.
pub(crate) fn write_gdt(
    tables: &mut Tables<'_>,
    protocol: Protocol,
) -> Result<DescriptorTable, Error> {
    let descriptors = [0, 0, code(protocol).descriptor(), DATA.descriptor(), TSS.descriptor(), 0];
    let base = tables.align(8)?;
    for descriptor in descriptors {
        tables.push(&descriptor.to_le_bytes())?;
    }
    Ok(DescriptorTable { base, limit: (descriptors.len() * 8 - 1) as u16 })
}
