//! MCFG: where PCI Express' enhanced configuration space is (PCI Firmware 3.3, table 4-3).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::{put, write_table};
use crate::low::Tables;
use crate::{Error, PciHost};

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Mcfg {
    reserved: U64,
    base: U64,
    segment: U16,
    first_bus: u8,
    last_bus: u8,
    reserved_entry: U32,
}
const _: () = assert!(size_of::<Mcfg>() == 24);

pub(super) fn write(pci: &PciHost, tables: &mut Tables<'_>) -> Result<u64, Error> {
    let mcfg = Mcfg {
        reserved: 0.into(),
        base: pci.ecam_base.into(),
        segment: 0.into(),
        first_bus: 0,
        last_bus: pci.last_bus,
        reserved_entry: 0.into(),
    };
    write_table(tables, b"MCFG", 1, |body| put(body, mcfg.as_bytes()))
}
