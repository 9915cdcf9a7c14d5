//! MADT: local APICs and IOAPIC (ACPI 6.5, 5.2.12).

use zerocopy::little_endian::U32;
use zerocopy::{Immutable, IntoBytes};

use super::{put, write_table};
use crate::low::Tables;
use crate::{Error, Machine, layout};

/// What comes after the header. `PCAT_COMPAT` (flag 0) is clear: there is no 8259 to mask.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Madt {
    lapic: U32,
    flags: U32,
}
const _: () = assert!(size_of::<Madt>() == 8);

/// Processor local APIC (5.2.12.2): enough for APIC ids below 255, also in x2APIC mode.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LocalApic {
    kind: u8,
    length: u8,
    uid: u8,
    apic_id: u8,
    flags: U32,
}
const _: () = assert!(size_of::<LocalApic>() == 8);
const ENABLED: u32 = 1 << 0;

/// I/O APIC (5.2.12.3).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IoApic {
    kind: u8,
    length: u8,
    id: u8,
    reserved: u8,
    address: U32,
    gsi_base: U32,
}
const _: () = assert!(size_of::<IoApic>() == 12);

/// Id of the IOAPIC. It may equal a local APIC's: they have not shared a bus since the Pentium 4.
pub(crate) const IOAPIC_ID: u8 = 0;

pub(super) fn write(machine: &Machine<'_>, tables: &mut Tables<'_>) -> Result<u64, Error> {
    write_table(tables, b"APIC", 6, |body| {
        let mut len = 0;
        let mut add = |bytes: &[u8]| -> Result<(), Error> {
            len += put(body.get_mut(len..).unwrap_or_default(), bytes)?;
            Ok(())
        };
        let madt = Madt { lapic: (layout::LAPIC_BASE as u32).into(), flags: 0.into() };
        add(madt.as_bytes())?;
        for id in 0..machine.cpus {
            let entry =
                LocalApic { kind: 0, length: 8, uid: id, apic_id: id, flags: ENABLED.into() };
            add(entry.as_bytes())?;
        }
        if machine.ioapic_pins > 0 {
            let entry = IoApic {
                kind: 1,
                length: 12,
                id: IOAPIC_ID,
                reserved: 0,
                address: (layout::IOAPIC_BASE as u32).into(),
                gsi_base: u32::from(machine.ioapic_gsi).into(),
            };
            add(entry.as_bytes())?;
        }
        Ok(len)
    })
}
