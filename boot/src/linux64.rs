//! The 64-bit Linux boot protocol: zero page and page tables
//! (`Documentation/arch/x86/boot.rst`, `zero-page.rst`).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bzimage::{BOOT_FLAG, LOADED_HIGH, MAGIC, SetupHeader};
use crate::entry::{self, DescriptorTable, Entry};
use crate::low::Tables;
use crate::{Error, Machine, Protocol, cmdline, layout, memory_map};

/// `struct boot_params`, with what this crate fills in; the rest stays zero.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ZeroPage {
    screen_to_ist: [u8; 0x70],
    acpi_rsdp_addr: U64,
    obsolete: [u8; 0xc0 - 0x78],
    ext_ramdisk_image: U32,
    ext_ramdisk_size: U32,
    ext_cmd_line_ptr: U32,
    efi: [u8; 0x1e8 - 0xcc],
    e820_entries: u8,
    edd_to_sentinel: [u8; 0x1f1 - 0x1e9],
    header: SetupHeader,
    edd_mbr: [u8; 0x2d0 - 0x1f1 - size_of::<SetupHeader>()],
    e820_table: [E820Entry; 128],
    edd: [u8; 0x1000 - 0xcd0],
}
const _: () = assert!(size_of::<ZeroPage>() == 0x1000);
const _: () = assert!(core::mem::offset_of!(ZeroPage, acpi_rsdp_addr) == 0x70);
const _: () = assert!(core::mem::offset_of!(ZeroPage, ext_ramdisk_image) == 0xc0);
const _: () = assert!(core::mem::offset_of!(ZeroPage, e820_entries) == 0x1e8);
const _: () = assert!(core::mem::offset_of!(ZeroPage, header) == 0x1f1);
const _: () = assert!(core::mem::offset_of!(ZeroPage, e820_table) == 0x2d0);

/// `struct boot_e820_entry`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct E820Entry {
    address: U64,
    size: U64,
    kind: U32,
}
const _: () = assert!(size_of::<E820Entry>() == 20);

/// `type_of_loader`: not one of the registered ones.
const LOADER_UNDEFINED: u8 = 0xff;

/// Page table entry: present and writable.
const PRESENT_WRITABLE: u64 = 1 << 0 | 1 << 1;
/// Page directory entry: a 2 MiB page.
const PAGE_2M: u64 = 1 << 7;

/// Writes zero page and page tables; returns the first CPU's state.
pub(crate) fn write(
    machine: &Machine<'_>,
    entry: u64,
    setup_header: Option<&SetupHeader>,
    rsdp: u64,
    cmdline: u64,
    gdt: DescriptorTable,
    mut tables: Tables<'_>,
) -> Result<Entry, Error> {
    if !(layout::HIGH_MEMORY..layout::IDENTITY_MAPPED).contains(&entry) {
        return Err(Error::Entry(entry));
    }
    let zero_page = layout::ZERO_PAGE;
    let bytes = tables.fixed(zero_page.start, size_of::<ZeroPage>())?;
    let len = bytes.len();
    let page = ZeroPage::mut_from_bytes(bytes).map_err(|_| Error::LowMemory(len))?;
    page.header = setup_header.copied().unwrap_or_else(minimal_header);
    fill(page, machine, rsdp, cmdline);
    write_page_tables(&mut tables)?;
    Ok(Entry {
        rip: entry,
        rsp: 0,
        rbx: 0,
        rsi: zero_page.start,
        rflags: entry::RFLAGS_RESERVED,
        cr0: entry::CR0_LONG,
        cr3: layout::PAGE_TABLES.start,
        cr4: entry::CR4_PAE,
        efer: entry::EFER_LONG,
        code: entry::code(Protocol::Linux64),
        data: entry::DATA,
        tss: entry::TSS,
        gdt,
    })
}

/// What a loader may assume of a 64-bit `vmlinux` that comes without a header.
fn minimal_header() -> SetupHeader {
    SetupHeader {
        boot_flag: BOOT_FLAG.into(),
        header: MAGIC.into(),
        version: 0x020f.into(),
        kernel_alignment: 0x20_0000.into(),
        cmdline_size: (cmdline::SIZE as u32 - 1).into(),
        ..SetupHeader::default()
    }
}

/// The fields that boot.rst asks the loader to write.
fn fill(page: &mut ZeroPage, machine: &Machine<'_>, rsdp: u64, cmdline: u64) {
    page.acpi_rsdp_addr = rsdp.into();
    page.header.type_of_loader = LOADER_UNDEFINED;
    page.header.loadflags |= LOADED_HIGH;
    // The tables are below 1 MiB.
    page.header.cmd_line_ptr = (cmdline as u32).into();
    if let Some(initramfs) = machine.initramfs {
        page.header.ramdisk_image = (initramfs.start as u32).into();
        page.header.ramdisk_size = (initramfs.len as u32).into();
        page.ext_ramdisk_image = ((initramfs.start >> 32) as u32).into();
        page.ext_ramdisk_size = ((initramfs.len >> 32) as u32).into();
    }
    let memory = memory_map(machine);
    page.e820_entries = memory.len() as u8;
    for (entry, region) in page.e820_table.iter_mut().zip(&memory) {
        entry.address = region.range.start.into();
        entry.size = region.range.len.into();
        entry.kind = (region.kind as u32).into();
    }
}

/// Maps the first GiB onto itself in 2 MiB pages: a PML4, a PDPT and a page directory. Any CPU can,
/// while 1 GiB pages need a CPUID bit.
fn write_page_tables(tables: &mut Tables<'_>) -> Result<(), Error> {
    let pml4 = layout::PAGE_TABLES.start;
    let (pdpt, directory) = (pml4 + 0x1000, pml4 + 0x2000);
    for (at, next) in [(pml4, pdpt), (pdpt, directory)] {
        let entry = tables.fixed(at, 8)?;
        entry.copy_from_slice(&(next | PRESENT_WRITABLE).to_le_bytes());
    }
    let entries = tables.fixed(directory, 0x1000)?.chunks_exact_mut(8);
    for (entry, address) in entries.zip((0u64..).step_by(2 << 20)) {
        entry.copy_from_slice(&(address | PRESENT_WRITABLE | PAGE_2M).to_le_bytes());
    }
    Ok(())
}
