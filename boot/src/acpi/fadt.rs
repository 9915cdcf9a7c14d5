//! FADT: what is there and, above all, what is not (ACPI 6.5, 5.2.9).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::{HEADER, put, write_table};
use crate::low::Tables;
use crate::{Error, layout};

/// A register's address (ACPI 6.5, table 5.1).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct GenericAddress {
    space: u8,
    bit_width: u8,
    bit_offset: u8,
    access_size: u8,
    address: U64,
}
const _: () = assert!(size_of::<GenericAddress>() == 12);

/// An I/O port, one byte.
const fn port(port: u16) -> GenericAddress {
    GenericAddress {
        space: 1,
        bit_width: 8,
        bit_offset: 0,
        access_size: 1,
        address: U64::new(port as u64),
    }
}

/// What comes after the header, with the registers that a hardware-reduced machine does not have
/// (5.2.9: they are ignored) left zero.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Fadt {
    firmware_ctrl: U32,
    dsdt: U32,
    fixed_registers: [u8; 109 - 44],
    iapc_boot_arch: U16,
    reserved: u8,
    flags: U32,
    reset_reg: GenericAddress,
    reset_value: u8,
    arm_boot_arch: U16,
    minor_version: u8,
    x_firmware_ctrl: U64,
    x_dsdt: U64,
    x_fixed_registers: [GenericAddress; 8],
    sleep_control: GenericAddress,
    sleep_status: GenericAddress,
    hypervisor: [u8; 8],
}
const _: () = assert!(HEADER + size_of::<Fadt>() == 276);
const _: () = assert!(HEADER + core::mem::offset_of!(Fadt, iapc_boot_arch) == 109);
const _: () = assert!(HEADER + core::mem::offset_of!(Fadt, flags) == 112);
const _: () = assert!(HEADER + core::mem::offset_of!(Fadt, reset_reg) == 116);
const _: () = assert!(HEADER + core::mem::offset_of!(Fadt, x_dsdt) == 140);
const _: () = assert!(HEADER + core::mem::offset_of!(Fadt, sleep_control) == 244);

/// Table 5.10: `VGA Not Present` and `CMOS RTC Not Present`. Clear: `LEGACY_DEVICES`, `8042` and `MSI Not
/// Supported`.
const IAPC_BOOT_ARCH: u16 = 1 << 2 | 1 << 5;
/// The same table's `PCIe ASPM Controls`: OSPM must not touch them. Without PCI there is nothing to touch, and
/// Linux has a line less to print.
const NO_ASPM: u16 = 1 << 4;

/// Table 5.9.
const FLAGS: u32 = 1 << 0 // WBINVD works
    | 1 << 2 // PROC_C1: C1 on all processors
    | 1 << 4 // PWR_BUTTON: none in fixed hardware
    | 1 << 5 // SLP_BUTTON: none in fixed hardware
    | 1 << 6 // FIX_RTC: no RTC wake-up in fixed hardware
    | 1 << 10 // RESET_REG_SUP
    | 1 << 12 // HEADLESS
    | 1 << 20; // HW_REDUCED_ACPI

pub(super) fn write(tables: &mut Tables<'_>, dsdt: u64, pci: bool) -> Result<u64, Error> {
    let none = || GenericAddress {
        space: 0,
        bit_width: 0,
        bit_offset: 0,
        access_size: 0,
        address: 0.into(),
    };
    let fadt = Fadt {
        firmware_ctrl: 0.into(),
        dsdt: 0.into(),
        fixed_registers: [0; 65],
        iapc_boot_arch: (IAPC_BOOT_ARCH | if pci { NO_ASPM } else { 0 }).into(),
        reserved: 0,
        flags: FLAGS.into(),
        reset_reg: port(layout::RESET_PORT),
        reset_value: layout::RESET_VALUE,
        arm_boot_arch: 0.into(),
        minor_version: 5,
        x_firmware_ctrl: 0.into(),
        x_dsdt: dsdt.into(),
        x_fixed_registers: core::array::from_fn(|_| none()),
        sleep_control: port(layout::SLEEP_CONTROL_PORT),
        sleep_status: port(layout::SLEEP_STATUS_PORT),
        hypervisor: *b"brisk\0\0\0",
    };
    write_table(tables, b"FACP", 6, |body| put(body, fadt.as_bytes()))
}
