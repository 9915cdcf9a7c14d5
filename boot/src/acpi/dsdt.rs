//! DSDT: soft-off, COM1, the virtio-mmio devices, the PCI host bridge, events. The guest executes what
//! is here while it boots, so there is nothing in it but what a driver needs.
//!
//! `_STA` (present by default), `_CCA` (coherent by default on x86, ACPI 6.5, 6.2.17) and `_PRT`
//! (all PCI interrupts are messages) are left out.

use super::aml::{Aml, Name};
use super::write_table;
use crate::low::Tables;
use crate::{Error, Machine, PciHost, Range, layout};

pub(super) fn write(machine: &Machine<'_>, tables: &mut Tables<'_>) -> Result<u64, Error> {
    // Device names count up to V + FFF.
    if machine.virtio_mmio.len() > 0x1000 {
        return Err(Error::TablesFull);
    }
    write_table(tables, b"DSDT", 2, |body| {
        let mut aml = Aml::new(body);
        aml.name_package(b"_S5_", &[layout::SLEEP_TYPE_S5]);
        let events = machine.generation_id.is_some() || machine.power_button.is_some();
        if machine.serial || !machine.virtio_mmio.is_empty() || machine.pci.is_some() || events {
            aml.scope(b"_SB_", |aml| devices(machine, aml));
        }
        aml.finish().ok_or(Error::TablesFull)
    })
}

fn devices(machine: &Machine<'_>, aml: &mut Aml<'_>) {
    if machine.serial {
        aml.device(b"COM1", |aml| {
            aml.name_eisa_id(b"_HID", b"PNP0501");
            aml.name_resources(b"_CRS", |aml| {
                io_port(aml, layout::COM1_PORT, 8);
                interrupt(aml, layout::COM1_GSI, EXCLUSIVE);
            });
        });
    }
    for (index, device) in machine.virtio_mmio.iter().enumerate() {
        aml.device(&virtio_name(index), |aml| {
            aml.name_string(b"_HID", "LNRO0005");
            aml.name_integer(b"_UID", index as u32);
            aml.name_resources(b"_CRS", |aml| {
                memory32_fixed(aml, device.base as u32, device.size);
                let same = machine.virtio_mmio.iter().filter(|other| other.gsi == device.gsi);
                interrupt(aml, device.gsi, if same.count() > 1 { SHARED } else { EXCLUSIVE });
            });
        });
    }
    events(machine, aml);
    if let Some(pci) = &machine.pci {
        aml.device(b"PCI0", |aml| host_bridge(pci, aml));
        // PCI Firmware 3.3, 4.1.2: the enhanced configuration space is a motherboard resource. Linux
        // before 6.10 does not use it otherwise, where the configuration ports are not there.
        aml.device(b"ECAM", |aml| {
            aml.name_eisa_id(b"_HID", b"PNP0C02");
            let ecam = pci.ecam();
            aml.name_resources(b"_CRS", |aml| {
                memory32_fixed(aml, ecam.start as u32, ecam.len as u32);
            });
        });
    }
}

/// The generic event device (5.6.9), and what its interrupts are about.
fn events(machine: &Machine<'_>, aml: &mut Aml<'_>) {
    let events = [
        (machine.generation_id.map(|id| id.gsi), b"VGEN", NOTIFY_CHANGED),
        (machine.power_button, b"PWRB", NOTIFY_PRESSED),
    ];
    let events = events.iter().filter_map(|&(gsi, device, code)| Some((gsi?, device, code)));
    if events.clone().next().is_none() {
        return;
    }
    if let Some(id) = &machine.generation_id {
        aml.device(b"VGEN", |aml| {
            aml.name_string(b"_HID", "BRSK0001");
            // By the one name or the other Linux knows it, since 6.10 by the shorter.
            aml.name_string(b"_CID", "VM_Gen_Counter");
            aml.name_string(b"_DDN", "VM_Gen_Counter");
            aml.name_package(b"ADDR", &[layout::GENERATION_ID.start as u8, 0]);
            // For a driver that would rather have the interrupt itself than what _EVT says of it.
            aml.name_resources(b"_CRS", |aml| interrupt(aml, id.gsi, SHARED));
        });
    }
    if machine.power_button.is_some() {
        aml.device(b"PWRB", |aml| aml.name_eisa_id(b"_HID", b"PNP0C0C"));
    }
    aml.device(b"GED_", |aml| {
        aml.name_string(b"_HID", "ACPI0013");
        aml.name_resources(b"_CRS", |aml| {
            events.clone().for_each(|(gsi, ..)| interrupt(aml, gsi, SHARED));
        });
        aml.method(b"_EVT", 1, |aml| {
            events.clone().for_each(|(gsi, device, code)| aml.notify_if(gsi, device, code));
        });
    });
}

/// The generation counter changed.
const NOTIFY_CHANGED: u8 = 0x80;
/// S0 power button pressed (table 5.125).
const NOTIFY_PRESSED: u8 = 0x80;
const _: () = assert!(layout::GENERATION_ID.start < 0x100);

/// `V000` and up.
fn virtio_name(index: usize) -> Name {
    let digit = |shift: usize| match (index >> shift & 0xf) as u8 {
        digit @ 0..=9 => b'0' + digit,
        digit => b'A' + digit - 10,
    };
    [b'V', digit(8), digit(4), digit(0)]
}

fn host_bridge(pci: &PciHost, aml: &mut Aml<'_>) {
    aml.name_eisa_id(b"_HID", b"PNP0A08");
    aml.name_eisa_id(b"_CID", b"PNP0A03");
    aml.name_integer(b"_UID", 0);
    aml.name_integer(b"_SEG", 0);
    aml.name_integer(b"_BBN", 0);
    aml.name_resources(b"_CRS", |aml| {
        bus_numbers(aml, pci.last_bus);
        memory32_window(aml, pci.mem32);
        if let Some(window) = pci.mem64 {
            memory64_window(aml, window);
        }
    });
    // PCI Firmware 3.3, 4.5.1: `Return (Arg3)`, the capabilities as the guest asked for them,
    // grants all of them.
    const RETURN_ARG3: [u8; 2] = [0xa4, 0x6b];
    aml.method(b"_OSC", 4, |aml| aml.bytes(&RETURN_ARG3));
}

/// I/O port descriptor (6.4.2.5), 16-bit decode.
fn io_port(aml: &mut Aml<'_>, port: u16, len: u8) {
    aml.bytes(&[0x47, 1]);
    aml.bytes(&port.to_le_bytes());
    aml.bytes(&port.to_le_bytes());
    aml.bytes(&[1, len]);
}

/// What an extended interrupt descriptor (6.4.3.6) says of who else has the interrupt.
const EXCLUSIVE: u8 = 0;
const SHARED: u8 = 1 << 3;

/// Extended interrupt descriptor (6.4.3.6): consumer, edge triggered, active high.
fn interrupt(aml: &mut Aml<'_>, gsi: u32, sharing: u8) {
    aml.bytes(&[0x89, 6, 0, 0b0011 | sharing, 1]);
    aml.bytes(&gsi.to_le_bytes());
}

/// 32-bit fixed memory descriptor (6.4.3.4), writable.
fn memory32_fixed(aml: &mut Aml<'_>, base: u32, len: u32) {
    aml.bytes(&[0x86, 9, 0, 1]);
    aml.bytes(&base.to_le_bytes());
    aml.bytes(&len.to_le_bytes());
}

/// General flags of an address space descriptor (6.4.3.5): fixed minimum and maximum, positive
/// decode, and the device produces the range.
const WINDOW: u8 = 1 << 2 | 1 << 3;
/// Memory flags (table 6.49): writable, not cacheable; also good for prefetchable BARs.
const WRITABLE: u8 = 1;

/// Word bus number descriptor (6.4.3.5.3): 0 to `last`.
fn bus_numbers(aml: &mut Aml<'_>, last: u8) {
    aml.bytes(&[0x88, 13, 0, 2, WINDOW, 0]);
    for word in [0, 0, last.into(), 0, u16::from(last) + 1] {
        aml.bytes(&word.to_le_bytes());
    }
}

/// DWord memory descriptor (6.4.3.5.2).
fn memory32_window(aml: &mut Aml<'_>, window: Range) {
    aml.bytes(&[0x87, 23, 0, 0, WINDOW, WRITABLE]);
    for word in window_words(window) {
        aml.bytes(&(word as u32).to_le_bytes());
    }
}

/// QWord memory descriptor (6.4.3.5.1).
fn memory64_window(aml: &mut Aml<'_>, window: Range) {
    aml.bytes(&[0x8a, 43, 0, 0, WINDOW, WRITABLE]);
    for word in window_words(window) {
        aml.bytes(&word.to_le_bytes());
    }
}

/// Granularity, minimum, maximum, translation, length. The range is checked ([`Machine::check`]),
/// so it has a last address.
fn window_words(window: Range) -> [u64; 5] {
    let last = window.start.saturating_add(window.len.saturating_sub(1));
    [0, window.start, last, 0, window.len]
}
