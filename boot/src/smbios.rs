//! An SMBIOS 3 entry point with an empty structure table.
//!
//! A kernel with `CONFIG_DMI` that was not started by UEFI looks for an entry point at each
//! multiple of 16 in the BIOS's 64 KiB, twice. This one is in the first place, so the search ends
//! before it has touched 16 pages. There is nothing to tell, so the table has no structure but its
//! end.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::acpi::checksum;
use crate::low::Tables;
use crate::{Error, layout};

/// 64-bit entry point (SMBIOS 3.0, table 2).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct EntryPoint {
    anchor: [u8; 5],
    checksum: u8,
    length: u8,
    version: [u8; 3],
    revision: u8,
    reserved: u8,
    table_size: U32,
    table: U64,
}
const ENTRY_POINT: usize = 24;
const _: () = assert!(size_of::<EntryPoint>() == ENTRY_POINT);

/// End-of-table structure (7.45): type, length, handle, and two zero bytes for no strings.
const END_OF_TABLE: [u8; 6] = [127, 4, 0, 0, 0, 0];

/// Writes to the start of [`layout::TABLES`].
pub(crate) fn write(tables: &mut Tables<'_>) -> Result<(), Error> {
    let mut entry = EntryPoint {
        anchor: *b"_SM3_",
        checksum: 0,
        length: ENTRY_POINT as u8,
        version: [3, 0, 0],
        revision: 1,
        reserved: 0,
        table_size: (END_OF_TABLE.len() as u32).into(),
        table: (layout::TABLES.start + ENTRY_POINT as u64).into(),
    };
    entry.checksum = checksum(entry.as_bytes());
    tables.push(entry.as_bytes())?;
    tables.push(&END_OF_TABLE)?;
    Ok(())
}
