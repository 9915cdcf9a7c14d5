//! Where things are in the guest's physical address space, in address order.

use crate::Range;

/// The MP floating pointer structure (MultiProcessor Specification 1.4, 4.1): in the first place
/// where Linux looks, because each of the 4,000 places after it costs the guest a change of page
/// tables.
pub const MP_POINTER: Range = Range { start: 0, len: 16 };

/// The VM generation id, where a machine has one ([`crate::Machine::generation_id`]): in the page that
/// the MP pointer has touched already, and that Linux reserves.
pub const GENERATION_ID: Range = Range { start: 0x20, len: 16 };

/// Where the BIOS keeps how the machine was reset, 2 bytes, which Linux writes before each reset
/// whatever its kind: 0x1234 for a warm one, else 0. [`crate::write()`] puts [`RESET_FLAG_UNTOUCHED`]
/// there, by which a triple fault that is meant as a reset (`reboot=t`) is told from a crash.
pub const RESET_FLAG: Range = Range { start: 0x472, len: 2 };

/// What is at [`RESET_FLAG`] as long as nobody has asked for a reset. None of the values that a BIOS
/// knows.
pub const RESET_FLAG_UNTOUCHED: u16 = 0xb215;

/// The zero page (`struct boot_params`) of the 64-bit Linux protocol, one page.
pub const ZERO_PAGE: Range = Range { start: 0x7000, len: 0x1000 };

/// PML4, PDPT and page directory of the 64-bit Linux protocol, one page each, in this order. They
/// map the first GiB onto itself in 2 MiB pages.
pub const PAGE_TABLES: Range = Range { start: 0x9000, len: 0x3000 };

/// How much of the address space [`PAGE_TABLES`] maps; the kernel's entry has to be below.
pub const IDENTITY_MAPPED: u64 = 1 << 30;

/// End of conventional memory. Above it, up to [`HIGH_MEMORY`], a PC has video memory and ROMs, and
/// Linux never uses that hole as RAM.
pub const LOW_MEMORY_END: u64 = 0xa_0000;

/// The block for what Linux reads while it boots: SMBIOS entry point, ACPI tables, GDT, MP table,
/// command line, PVH start info. Packed from the start, so that a small machine touches one page. A
/// PC's BIOS ROM is here, and Linux looks for the SMBIOS entry point from the first byte on.
pub const TABLES: Range = Range { start: 0xf_0000, len: 0x1_0000 };

/// Start of the RAM that kernels and initramfs may use; also the length of the slice that
/// [`crate::write()`] takes.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// End of RAM below 4 GiB and start of the hole for devices.
pub const HOLE_START: u64 = 0xc000_0000;

/// First virtio-mmio window.
pub const VIRTIO_MMIO_BASE: u64 = 0xd000_0000;

/// Size of, and distance between, virtio-mmio windows. A page has room for eight, so that the guest's
/// reads of all devices' registers can be reads of one page of memory.
pub const VIRTIO_MMIO_SIZE: u32 = 0x200;

/// PCI Express enhanced configuration space, 1 MiB for each bus.
pub const PCI_ECAM_BASE: u64 = 0xe000_0000;

/// Bytes of enhanced configuration space that one bus takes (PCI Express 3.0, 7.2.2).
pub const PCI_ECAM_BUS_SIZE: u64 = 0x10_0000;

/// Window for 32-bit PCI base address registers.
pub const PCI_MEM32: Range = Range { start: 0xf000_0000, len: 0x0e00_0000 };

/// Registers of the IOAPIC.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

/// Registers of the local APICs.
pub const LAPIC_BASE: u64 = 0xfee0_0000;

/// End of the hole for devices; RAM that did not fit below [`HOLE_START`] goes on here.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// End of what a table may name as an address: 52 bits, the most that x86-64 has.
pub const ADDRESS_END: u64 = 1 << 52;

/// I/O port of the boot timer.
pub const BOOT_TIMER_PORT: u16 = 0x80;

/// I/O port of the exit status: the last byte that the guest writes there before it powers off is the
/// VMM's own exit status. On a PC it is a page register of no DMA channel, so nothing else writes to it.
pub const EXIT_STATUS_PORT: u16 = 0x84;

/// Status and command register of the keyboard controller, which a guest may reset the machine by: PC
/// kernels do so by default, Linux with `reboot=k`.
pub const KEYBOARD_PORT: u16 = 0x64;

/// The command that resets.
pub const KEYBOARD_RESET: u8 = 0xfe;

/// First I/O port of COM1; there are eight.
pub const COM1_PORT: u16 = 0x3f8;

/// Interrupt of COM1.
pub const COM1_GSI: u32 = 4;

/// First interrupt for virtio-mmio devices.
pub const VIRTIO_MMIO_GSI: u32 = 5;

/// The interrupt of virtio-mmio device `index`: they are right after the serial port's, so that the
/// IOAPIC needs no pin that nothing is behind.
#[must_use]
pub const fn virtio_mmio_gsi(index: u32) -> u32 {
    VIRTIO_MMIO_GSI.saturating_add(index)
}

/// ACPI sleep control register (ACPI 6.5, 4.8.4.2.1), an I/O port, one byte.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;

/// ACPI sleep status register (ACPI 6.5, 4.8.4.2.2), an I/O port, one byte.
pub const SLEEP_STATUS_PORT: u16 = 0x601;

/// ACPI reset register (ACPI 6.5, 4.8.3.6), an I/O port, one byte.
pub const RESET_PORT: u16 = 0x604;

/// What the guest writes to [`RESET_PORT`] to be reset.
pub const RESET_VALUE: u8 = 1;

/// Reset control register of the PIIX and ICH chip sets, by which a kernel without ACPI resets the
/// machine. It lies among the ports of PCI's configuration, where only 4-byte accesses are PCI's.
pub const RESET_CONTROL_PORT: u16 = 0xcf9;

/// `RST_CPU`: a write of a byte with this bit to [`RESET_CONTROL_PORT`] resets.
pub const RESET_CONTROL_CPU: u8 = 1 << 2;

/// What the guest writes to [`SLEEP_CONTROL_PORT`] to be switched off: `SLP_EN` (bit 5) and
/// `SLP_TYP` (bits 2 to 4) of `\_S5`.
pub const SLEEP_CONTROL_OFF: u8 = 1 << 5 | SLEEP_TYPE_S5 << 2;

/// `SLP_TYP` of the soft-off state, as `\_S5` has it.
pub const SLEEP_TYPE_S5: u8 = 5;
