//! ACPI 6.5 tables for a hardware-reduced machine: no PIC, PIT, RTC, i8042, VGA or fixed-feature
//! registers, so that the guest looks for none of them.

mod aml;
mod dsdt;
mod fadt;
mod madt;
mod mcfg;

pub(crate) use madt::IOAPIC_ID;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::low::Tables;
use crate::{Error, Machine};

const OEM_ID: [u8; 6] = *b"BRISK ";
const OEM_TABLE_ID: [u8; 8] = *b"BRISKVMM";
const CREATOR_ID: [u8; 4] = *b"BRSK";

/// The header of every table but the RSDP (ACPI 6.5, table 5.4).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    signature: [u8; 4],
    length: U32,
    revision: u8,
    checksum: u8,
    oem_id: [u8; 6],
    oem_table_id: [u8; 8],
    oem_revision: U32,
    creator_id: [u8; 4],
    creator_revision: U32,
}
const HEADER: usize = 36;
const _: () = assert!(size_of::<Header>() == HEADER);
/// Where the checksum is in a table.
const CHECKSUM: usize = 9;

impl Header {
    fn new(signature: &[u8; 4], revision: u8, length: u32) -> Self {
        Header {
            signature: *signature,
            length: length.into(),
            revision,
            checksum: 0,
            oem_id: OEM_ID,
            oem_table_id: OEM_TABLE_ID,
            oem_revision: 1.into(),
            creator_id: CREATOR_ID,
            creator_revision: 1.into(),
        }
    }
}

/// Root system description pointer (ACPI 6.5, table 5.3).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Rsdp {
    signature: [u8; 8],
    checksum: u8,
    oem_id: [u8; 6],
    revision: u8,
    rsdt: U32,
    length: U32,
    xsdt: U64,
    extended_checksum: u8,
    reserved: [u8; 3],
}
const _: () = assert!(size_of::<Rsdp>() == 36);
/// How many bytes of the RSDP its first checksum is for: those that it had in ACPI 1.0.
const RSDP_V1: usize = 20;

/// The byte that makes the sum of `bytes` and itself 0.
pub(crate) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Writes the table that `fill` makes after the header, and then the header with its length and
/// checksum. Returns the table's address.
fn write_table(
    tables: &mut Tables<'_>,
    signature: &[u8; 4],
    revision: u8,
    fill: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
) -> Result<u64, Error> {
    tables.align(8)?;
    let (head, body) = tables.rest().split_at_mut_checked(HEADER).ok_or(Error::TablesFull)?;
    let length = HEADER + fill(body)?;
    head.copy_from_slice(Header::new(signature, revision, length as u32).as_bytes());
    let table = tables.rest().get_mut(..length).ok_or(Error::TablesFull)?;
    table[CHECKSUM] = checksum(table);
    tables.take(length)
}

/// Copies `bytes` to the start of `body`; for [`write_table`].
fn put(body: &mut [u8], bytes: &[u8]) -> Result<usize, Error> {
    body.get_mut(..bytes.len()).ok_or(Error::TablesFull)?.copy_from_slice(bytes);
    Ok(bytes.len())
}

/// Writes all tables and returns the RSDP's address.
pub(crate) fn write(machine: &Machine<'_>, tables: &mut Tables<'_>) -> Result<u64, Error> {
    let dsdt = dsdt::write(machine, tables)?;
    let mut listed: heapless::Vec<U64, 3> = heapless::Vec::new();
    let mut list = |table: u64| listed.push(table.into()).map_err(|_| Error::TablesFull);
    list(fadt::write(tables, dsdt, machine.pci.is_some())?)?;
    list(madt::write(machine, tables)?)?;
    if let Some(pci) = &machine.pci {
        list(mcfg::write(pci, tables)?)?;
    }
    let xsdt = write_table(tables, b"XSDT", 1, |body| put(body, listed.as_bytes()))?;
    write_rsdp(tables, xsdt)
}

fn write_rsdp(tables: &mut Tables<'_>, xsdt: u64) -> Result<u64, Error> {
    let mut rsdp = Rsdp {
        signature: *b"RSD PTR ",
        checksum: 0,
        oem_id: OEM_ID,
        revision: 2,
        rsdt: 0.into(),
        length: (size_of::<Rsdp>() as u32).into(),
        xsdt: xsdt.into(),
        extended_checksum: 0,
        reserved: [0; 3],
    };
    rsdp.checksum = checksum(&rsdp.as_bytes()[..RSDP_V1]);
    rsdp.extended_checksum = checksum(rsdp.as_bytes());
    // A guest that is not told where it is looks at multiples of 16 (ACPI 6.5, 5.2.5.1).
    tables.align(16)?;
    tables.push(rsdp.as_bytes())
}

#[cfg(test)]
mod tests;
