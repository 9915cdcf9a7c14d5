//! The tables as a guest finds them, and as `iasl` (ACPICA) reads them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::string::String;
use std::vec::Vec;
use std::{env, format, fs, vec};

use proptest::prelude::*;

use crate::tests::{Guest, machine, pci};
use crate::{Machine, Protocol, Range, VirtioMmio, layout};

/// Walks from the RSDP to every table, checking each checksum on the way.
fn tables(guest: &Guest) -> BTreeMap<String, Vec<u8>> {
    let rsdp = guest.rsdp();
    assert_eq!(rsdp % 16, 0);
    assert_eq!(guest.bytes(rsdp, 8), b"RSD PTR ");
    assert_eq!((guest.sum(rsdp, 20), guest.sum(rsdp, 36)), (0, 0));
    assert_eq!((guest.bytes(rsdp + 15, 1)[0], guest.u32(rsdp + 20)), (2, 36));
    let mut found = BTreeMap::new();
    let mut add = |at: u64| {
        let length = guest.u32(at + 4) as usize;
        assert_eq!(guest.sum(at, length), 0);
        let bytes = guest.bytes(at, length).to_vec();
        let signature = String::from_utf8(bytes[..4].to_vec()).unwrap();
        assert!(found.insert(signature, bytes).is_none());
        length
    };
    let xsdt = guest.u64(rsdp + 24);
    let length = add(xsdt);
    for entry in (36..length).step_by(8) {
        add(guest.u64(xsdt + entry as u64));
    }
    let fadt = guest.u64(xsdt + 36);
    add(guest.u64(fadt + 140));
    found
}

fn tables_of(machine: &Machine<'_>) -> BTreeMap<String, Vec<u8>> {
    let pvh = tables(&Guest::new(machine, Protocol::Pvh).unwrap());
    let linux64 = tables(&Guest::new(machine, Protocol::Linux64).unwrap());
    assert_eq!(pvh, linux64);
    pvh
}

fn u32_at(table: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(table[at..at + 4].try_into().unwrap())
}

fn u64_at(table: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(table[at..at + 8].try_into().unwrap())
}

#[test]
fn fadt_says_what_is_not_there() {
    let fadt = &tables_of(&machine())["FACP"];
    assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 5));
    let flags = u32_at(fadt, 112);
    assert_eq!(flags, 0x10_1475);
    let boot = u16::from_le_bytes([fadt[109], fadt[110]]);
    assert_eq!(boot & 0b11, 0, "no legacy devices, no 8042");
    assert_eq!(boot >> 2, 0b1001, "no VGA, MSI works, no RTC");
    let with_pci = &tables_of(&Machine { pci: Some(pci()), ..machine() })["FACP"];
    assert_eq!(with_pci[109] >> 2, 0b1101, "and ASPM is not to be touched where there is PCI");
    let port = |at: usize| {
        assert_eq!(fadt[at..at + 4], [1, 8, 0, 1]);
        u64_at(fadt, at + 4)
    };
    assert_eq!((port(116), fadt[128]), (0x604, 1));
    assert_eq!((port(244), port(256)), (0x600, 0x601));
    // Every register of full ACPI hardware.
    assert!(fadt[46..109].iter().chain(&fadt[148..244]).all(|byte| *byte == 0));
}

#[test]
fn madt_lists_cpus_and_ioapic() {
    for cpus in [1, 2, 254] {
        let madt = &tables_of(&Machine { cpus, ..machine() })["APIC"];
        assert_eq!((u32_at(madt, 36), u32_at(madt, 40)), (0xfee0_0000, 0));
        let (lapics, ioapic) = madt[44..].split_at(usize::from(cpus) * 8);
        for (id, entry) in lapics.chunks(8).enumerate() {
            assert_eq!(entry, [0, 8, id as u8, id as u8, 1, 0, 0, 0]);
        }
        assert_eq!(ioapic, [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    }
    let dense = Machine { ioapic_gsi: 4, ioapic_pins: 3, ..machine() };
    assert_eq!(tables_of(&dense)["APIC"][44 + 8 + 8..], [4, 0, 0, 0]);
    let bare = Machine { ioapic_pins: 0, serial: false, virtio_mmio: &[], ..machine() };
    assert_eq!(tables_of(&bare)["APIC"].len(), 44 + 8);
}

#[test]
fn mcfg_has_the_buses_of_the_bridge() {
    assert!(!tables_of(&machine()).contains_key("MCFG"));
    let host = crate::PciHost { last_bus: 3, ..pci() };
    let mcfg = &tables_of(&Machine { pci: Some(host), ..machine() })["MCFG"];
    assert_eq!(mcfg.len(), 60);
    assert_eq!(u64_at(mcfg, 44), layout::PCI_ECAM_BASE);
    assert_eq!(mcfg[52..56], [0, 0, 0, 3]);
}

/// Runs `iasl` in `folder`; an error is what it printed, if that has any error or warning.
fn iasl(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = match Command::new("iasl").args(arguments).current_dir(folder).output() {
        Ok(output) => output,
        Err(error) => panic!("iasl does not run ({error}): install the package acpica-tools"),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).to_lowercase();
    let rest = text.replace("0 errors, 0 warnings", "");
    let clean = !rest.contains("error") && !rest.contains("warning");
    if output.status.success() && clean { Ok(()) } else { Err(text) }
}

/// What the compiler changes in a header: the checksum, and its own name and version.
fn without_compiler(table: &[u8]) -> Vec<u8> {
    let mut table = table.to_vec();
    table[9] = 0;
    table[28..36].fill(0);
    table
}

/// `iasl` disassembles every table, and compiles what it made to the same bytes.
fn check_with_iasl(name: &str, machine: &Machine<'_>) {
    let folder = env::temp_dir().join(format!("brisk-boot-iasl-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (signature, table) in tables_of(machine) {
        let file = |extension: &str| format!("{}.{extension}", signature.to_lowercase());
        fs::write(folder.join(file("dat")), &table).unwrap();
        iasl(&folder, &["-d", &file("dat")]).unwrap();
        iasl(&folder, &["-we", &file("dsl")]).unwrap();
        let again = fs::read(folder.join(file("aml"))).unwrap();
        assert_eq!(without_compiler(&again), without_compiler(&table), "{name} {signature}");
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn iasl_does_not_agree_with_anything() {
    let folder = env::temp_dir().join(format!("brisk-boot-iasl-{}-bad", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut dsdt = tables_of(&machine())["DSDT"].clone();
    let length = dsdt.len();
    // The opcode of the last device's last name.
    let name = dsdt.windows(5).rposition(|part| part == b"\x08_CRS").unwrap();
    dsdt[name] = 0xc8;
    dsdt[9] = dsdt[9].wrapping_sub(0xc0);
    fs::write(folder.join("bad.dat"), &dsdt[..length]).unwrap();
    assert!(iasl(&folder, &["-d", "bad.dat"]).is_err());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn iasl_agrees_small() {
    check_with_iasl("small", &machine());
    let bare = Machine { ioapic_pins: 0, serial: false, virtio_mmio: &[], ..machine() };
    check_with_iasl("bare", &bare);
}

#[test]
fn iasl_agrees_events() {
    let id = crate::GenerationId { id: *b"0123456789abcdef", gsi: 5 };
    let events = Machine { generation_id: Some(id), power_button: Some(6), ..machine() };
    check_with_iasl("events", &events);
    check_with_iasl("button", &Machine { power_button: Some(6), virtio_mmio: &[], ..machine() });
    let guest = Guest::new(&events, Protocol::Linux64).unwrap();
    assert_eq!(guest.bytes(layout::GENERATION_ID.start, 16), b"0123456789abcdef");
    let dsdt = &tables_of(&events)["DSDT"];
    for name in [&b"VM_Gen_Counter\0"[..], b"ACPI0013\0", b"PWRB", b"_EVT"] {
        assert!(dsdt.windows(name.len()).any(|part| part == name), "{name:?}");
    }
    // The id's own, and the generic event device's, which also has the button's.
    let shared = |gsi| {
        dsdt.windows(9).filter(|part| **part == [0x89, 6, 0, 0b1011, 1, gsi, 0, 0, 0]).count()
    };
    assert_eq!([shared(5), shared(6)], [2, 1]);
    // Not a byte where there are none.
    let without = &tables_of(&machine())["DSDT"];
    assert!(!without.windows(4).any(|part| part == b"GED_"));
    let outside = Machine { power_button: Some(60), ..machine() };
    assert_eq!(Guest::new(&outside, Protocol::Pvh).err(), outside.check().err());
    assert!(outside.check().is_err());
}

#[test]
fn iasl_agrees_pci() {
    check_with_iasl("pci", &Machine { pci: Some(pci()), ..machine() });
    let host = crate::PciHost { last_bus: 255, mem64: None, ..pci() };
    let only =
        Machine { pci: Some(host), ioapic_pins: 0, serial: false, virtio_mmio: &[], ..machine() };
    check_with_iasl("pci-only", &only);
}

#[test]
fn iasl_agrees_large() {
    // More than 4 KiB in one scope, so that the lengths take three bytes.
    let devices: Vec<VirtioMmio> = (0..100)
        .map(|index| VirtioMmio {
            base: layout::VIRTIO_MMIO_BASE + u64::from(index) * 0x1000,
            size: layout::VIRTIO_MMIO_SIZE,
            gsi: layout::VIRTIO_MMIO_GSI + index,
        })
        .collect();
    let large = Machine {
        ram_size: 8 << 30,
        cpus: 254,
        virtio_mmio: &devices,
        ioapic_pins: 120,
        pci: Some(pci()),
        ..machine()
    };
    check_with_iasl("large", &large);
}

/// Devices with one interrupt say so (ACPI 6.5, 6.4.3.6).
#[test]
fn an_interrupt_is_shared_where_two_have_it() {
    for (gsis, flags) in [([5, 5], 0b1011), ([5, 6], 0b0011)] {
        let devices = [0, 1].map(|index| VirtioMmio {
            base: layout::VIRTIO_MMIO_BASE + index as u64 * u64::from(layout::VIRTIO_MMIO_SIZE),
            size: layout::VIRTIO_MMIO_SIZE,
            gsi: gsis[index],
        });
        let machine = Machine { virtio_mmio: &devices, ..machine() };
        let dsdt = &tables_of(&machine)["DSDT"];
        for gsi in gsis {
            assert!(has(dsdt, &[0x89, 6, 0, flags, 1, gsi as u8, 0, 0, 0]), "{gsis:?}");
        }
    }
}

#[test]
fn dsdt_has_what_drivers_match() {
    let dsdt = &tables_of(&machine())["DSDT"];
    assert!(has(dsdt, b"\x08_S5_\x12\x04\x01\x0a\x05"));
    assert!(has(dsdt, b"COM1\x08_HID\x0c\x41\xd0\x05\x01"));
    assert!(has(dsdt, b"\x47\x01\xf8\x03\xf8\x03\x01\x08"));
    assert!(has(dsdt, b"V001\x08_HID\x0dLNRO0005\0"));
    assert!(has(dsdt, b"\x86\x09\0\x01\0\x10\0\xd0\0\x10\0\0\x89\x06\0\x03\x01\x06\0\0\0\x79\0"));
    assert!(!has(dsdt, b"PCI0"));
    let quiet = &tables_of(&Machine { serial: false, ..machine() })["DSDT"];
    assert!(!has(quiet, b"COM1"));
    assert_eq!(layout::SLEEP_CONTROL_OFF, 0x34);
}

fn has(table: &[u8], part: &[u8]) -> bool {
    table.windows(part.len()).any(|bytes| bytes == part)
}

/// What the guest's kernel makes of the host bridge's `_CRS` is where BARs go.
#[test]
fn the_host_bridge_has_its_buses_and_windows() {
    let dsdt = &tables_of(&Machine { pci: Some(pci()), ..machine() })["DSDT"];
    let words = |range: Range| [0, range.start, range.start + range.len - 1, 0, range.len];
    let mut buses = Vec::from([0x88, 13, 0, 2, 0x0c, 0]);
    [0u16, 0, 0, 0, 1].iter().for_each(|word| buses.extend(word.to_le_bytes()));
    let mut low = Vec::from([0x87, 23, 0, 0, 0x0c, 1]);
    words(layout::PCI_MEM32).iter().for_each(|word| low.extend((*word as u32).to_le_bytes()));
    let mut high = Vec::from([0x8a, 43, 0, 0, 0x0c, 1]);
    words(pci().mem64.unwrap()).iter().for_each(|word| high.extend(word.to_le_bytes()));
    assert!(has(dsdt, &[buses, low, high].concat()));
}

/// The scope of devices is there for each kind of device alone, and for none at all it is not.
#[test]
fn each_device_alone() {
    let none = Machine { serial: false, virtio_mmio: &[], ..machine() };
    assert!(!has(&tables_of(&none)["DSDT"], b"_SB_"));
    let device = [VirtioMmio { base: 0xd000_0000, size: 0x1000, gsi: 5 }];
    for (machine, name) in [
        (Machine { serial: true, ..none.clone() }, b"COM1"),
        (Machine { virtio_mmio: &device, ..none.clone() }, b"V000"),
        (Machine { pci: Some(pci()), ..none.clone() }, b"PCI0"),
    ] {
        let dsdt = &tables_of(&machine)["DSDT"];
        assert!(has(dsdt, b"_SB_") && has(dsdt, name));
        // A buffer is as long as it says (ACPI 6.5, 20.2.5.4): its length, a byte's prefix, that byte.
        let at = dsdt.windows(5).position(|bytes| bytes == b"_CRS\x11").unwrap() + 5;
        if dsdt[at] < 0x40 {
            assert_eq!((dsdt[at + 1], dsdt[at + 2]), (0x0a, dsdt[at] - 3));
        }
    }
    let button = Machine { power_button: Some(6), ..none };
    let dsdt = &tables_of(&button)["DSDT"];
    // If (LEqual (Arg0, 6)) { Notify (…, 0x80) }
    assert!(has(dsdt, b"_SB_") && has(dsdt, &[0x93, 0x68, 0x0a, 6, 0x86]));
}

#[test]
fn virtio_devices_are_named_in_hexadecimal() {
    let device = VirtioMmio { base: 0xd000_0000, size: 0x1000, gsi: 5 };
    let dsdt = &tables_of(&Machine { virtio_mmio: &[device; 12], ..machine() })["DSDT"];
    assert!(has(dsdt, b"V009") && has(dsdt, b"V00A") && has(dsdt, b"V00B"));
}

proptest! {
    #[test]
    fn a_guest_finds_all_tables(
        cpus in 1u8..=254,
        count in 0usize..200,
        serial in any::<bool>(),
        bus in prop::option::of(any::<u8>()),
    ) {
        let device = VirtioMmio { base: 0xd000_0000, size: 0x1000, gsi: 9 };
        let devices = vec![device; count];
        let pci = bus.map(|last_bus| crate::PciHost { last_bus, ..pci() });
        let base = machine();
        let machine =
            Machine { cpus, serial, virtio_mmio: &devices, pci, ioapic_pins: 10, ..base };
        let expected = if pci.is_some() { 5 } else { 4 };
        prop_assert_eq!(tables_of(&machine).len(), expected);
    }
}
