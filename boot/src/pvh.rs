//! Xen's PVH start info (`xen/include/public/arch-x86/hvm/start_info.h`) and entry state
//! (`docs/misc/pvh.pandoc`).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::entry::{self, DescriptorTable, Entry};
use crate::low::Tables;
use crate::{Error, Machine, Protocol, Range, layout, memory_map};

/// `struct hvm_start_info`, version 1.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    modules: U32,
    modlist: U64,
    cmdline: U64,
    rsdp: U64,
    memmap: U64,
    memmap_entries: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<StartInfo>() == 56);

/// `struct hvm_modlist_entry`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Module {
    address: U64,
    size: U64,
    cmdline: U64,
    reserved: U64,
}
const _: () = assert!(size_of::<Module>() == 32);

/// `struct hvm_memmap_table_entry`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MemmapEntry {
    address: U64,
    size: U64,
    kind: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<MemmapEntry>() == 24);

const MAGIC: u32 = 0x336e_c578;

/// Writes modules, memory map and start info; returns the first CPU's state.
pub(crate) fn write(
    machine: &Machine<'_>,
    entry: u64,
    rsdp: u64,
    cmdline: u64,
    gdt: DescriptorTable,
    mut tables: Tables<'_>,
) -> Result<Entry, Error> {
    if entry < layout::HIGH_MEMORY || entry > u32::MAX.into() {
        return Err(Error::Entry(entry));
    }
    let modlist = match machine.initramfs {
        Some(initramfs) => write_module(&mut tables, initramfs)?,
        None => 0,
    };
    let memory = memory_map(machine);
    let memmap = tables.align(8)?;
    for region in &memory {
        let entry = MemmapEntry {
            address: region.range.start.into(),
            size: region.range.len.into(),
            kind: (region.kind as u32).into(),
            reserved: 0.into(),
        };
        tables.push(entry.as_bytes())?;
    }
    let start_info = StartInfo {
        magic: MAGIC.into(),
        version: 1.into(),
        flags: 0.into(),
        modules: u32::from(machine.initramfs.is_some()).into(),
        modlist: modlist.into(),
        cmdline: cmdline.into(),
        rsdp: rsdp.into(),
        memmap: memmap.into(),
        memmap_entries: (memory.len() as u32).into(),
        reserved: 0.into(),
    };
    let start_info = tables.push(start_info.as_bytes())?;
    Ok(Entry {
        rip: entry,
        rsp: 0,
        rbx: start_info,
        rsi: 0,
        rflags: entry::RFLAGS_RESERVED,
        cr0: entry::CR0_PE | entry::CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        code: entry::code(Protocol::Pvh),
        data: entry::DATA,
        tss: entry::TSS,
        gdt,
    })
}

/// The initramfs as the only module. Linux keeps 32 bits of its address and size
/// (`init_pvh_bootparams`).
fn write_module(tables: &mut Tables<'_>, initramfs: Range) -> Result<u64, Error> {
    if initramfs.end().is_none_or(|end| end > layout::HOLE_END) {
        return Err(Error::Initramfs(initramfs));
    }
    let at = tables.align(8)?;
    let module = Module {
        address: initramfs.start.into(),
        size: initramfs.len.into(),
        cmdline: 0.into(),
        reserved: 0.into(),
    };
    tables.push(module.as_bytes())?;
    Ok(at)
}
