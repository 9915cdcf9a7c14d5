//! Tables of Intel's MultiProcessor Specification 1.4, for two reasons: a kernel with
//! `CONFIG_X86_MPPARSE` looks for them even where it then takes everything from ACPI, and its
//! search through the BIOS's 64 KiB maps and unmaps up to 16 pages for each 16 bytes, so it had
//! better find them at once; and a kernel without ACPI finds its CPUs and interrupts by them.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use crate::acpi::{IOAPIC_ID, checksum};
use crate::low::Tables;
use crate::{Error, Machine, layout};

/// MP floating pointer structure (4.1).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Pointer {
    signature: [u8; 4],
    table: U32,
    paragraphs: u8,
    revision: u8,
    checksum: u8,
    features: [u8; 5],
}
const _: () = assert!(size_of::<Pointer>() as u64 == layout::MP_POINTER.len);

/// MP configuration table header (4.2).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: U16,
    revision: u8,
    checksum: u8,
    oem: [u8; 8],
    product: [u8; 12],
    oem_table: U32,
    oem_size: U16,
    entries: U16,
    lapic: U32,
    extended: U32,
}
const HEADER: usize = 44;
const _: () = assert!(size_of::<Header>() == HEADER);

/// Processor entry (4.3.1).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Processor {
    kind: u8,
    apic_id: u8,
    apic_version: u8,
    flags: u8,
    signature: U32,
    features: U32,
    reserved: [u8; 8],
}
const _: () = assert!(size_of::<Processor>() == 20);

/// Bus entry (4.3.2).
const ISA_BUS: [u8; 8] = *b"\x01\x00ISA   ";

/// I/O APIC entry (4.3.3).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApic {
    kind: u8,
    id: u8,
    version: u8,
    flags: u8,
    address: U32,
}
const _: () = assert!(size_of::<IoApic>() == 8);

/// Revision 1.4 of the specification.
const REVISION: u8 = 4;
/// Version of a local APIC that is part of the CPU, and of an IOAPIC.
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
const ENABLED: u8 = 1 << 0;
const BOOT_PROCESSOR: u8 = 1 << 1;
/// Family 6; FPU and APIC. CPUID tells the rest.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 1 << 0 | 1 << 9;
/// Destination of an interrupt that goes to every IOAPIC.
const ALL_IOAPICS: u8 = 0xff;

/// I/O interrupt assignment (4.3.4): vectored, polarity and trigger mode of the bus (ISA: active
/// high, edge), from ISA interrupt `irq` to a pin of the IOAPIC.
const fn interrupt(irq: u8, ioapic: u8, pin: u8) -> [u8; 8] {
    [3, 0, 0, 0, 0, irq, ioapic, pin]
}

/// Writes the table at the cursor and the pointer to [`layout::MP_POINTER`].
pub(crate) fn write(machine: &Machine<'_>, tables: &mut Tables<'_>) -> Result<(), Error> {
    let at = tables.align(8)?;
    // The header's place; it is written last, when the length is known.
    tables.take(HEADER)?;
    let mut entries = write_processors(machine, tables)?;
    tables.push(&ISA_BUS)?;
    entries += 1;
    if machine.ioapic_pins > 0 {
        let ioapic = IoApic {
            kind: 2,
            id: IOAPIC_ID,
            version: IOAPIC_VERSION,
            flags: ENABLED,
            address: (layout::IOAPIC_BASE as u32).into(),
        };
        tables.push(ioapic.as_bytes())?;
        entries += 1;
        for pin in 0..machine.ioapic_pins {
            tables.push(&interrupt(machine.ioapic_gsi.wrapping_add(pin), IOAPIC_ID, pin))?;
        }
        entries += u16::from(machine.ioapic_pins);
    } else {
        // Linux takes a table without any interrupt for broken, says so and makes up 16. This is an
        // interrupt that goes to each of no IOAPICs.
        tables.push(&interrupt(0, ALL_IOAPICS, 0))?;
        entries += 1;
    }
    let length = tables.align(1)? - at;
    let mut header = Header {
        signature: *b"PCMP",
        length: (length as u16).into(),
        revision: REVISION,
        checksum: 0,
        oem: *b"BRISK   ",
        product: *b"BRISKVMM    ",
        oem_table: 0.into(),
        oem_size: 0.into(),
        entries: entries.into(),
        lapic: (layout::LAPIC_BASE as u32).into(),
        extended: 0.into(),
    };
    tables.fixed(at, HEADER)?.copy_from_slice(header.as_bytes());
    header.checksum = checksum(tables.fixed(at, length as usize)?);
    tables.fixed(at, HEADER)?.copy_from_slice(header.as_bytes());
    write_pointer(tables, at)
}

fn write_processors(machine: &Machine<'_>, tables: &mut Tables<'_>) -> Result<u16, Error> {
    for apic_id in 0..machine.cpus {
        let flags = if apic_id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        let processor = Processor {
            kind: 0,
            apic_id,
            apic_version: LAPIC_VERSION,
            flags,
            signature: CPU_SIGNATURE.into(),
            features: CPU_FEATURES.into(),
            reserved: [0; 8],
        };
        tables.push(processor.as_bytes())?;
    }
    Ok(machine.cpus.into())
}

fn write_pointer(tables: &mut Tables<'_>, table: u64) -> Result<(), Error> {
    let mut pointer = Pointer {
        signature: *b"_MP_",
        table: (table as u32).into(),
        paragraphs: 1,
        revision: REVISION,
        checksum: 0,
        features: [0; 5],
    };
    pointer.checksum = checksum(pointer.as_bytes());
    let place = tables.fixed(layout::MP_POINTER.start, size_of::<Pointer>())?;
    place.copy_from_slice(pointer.as_bytes());
    Ok(())
}
