//! `write()` as a guest sees it.

use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::*;

pub(crate) const ENTRY: u64 = 0x100_0000;

/// The guest's first MiB, read as a guest does.
pub(crate) struct Guest {
    pub(crate) low: Vec<u8>,
    pub(crate) entry: Entry,
}

impl Guest {
    pub(crate) fn new(machine: &Machine<'_>, protocol: Protocol) -> Result<Guest, Error> {
        let mut low = vec![0; 1 << 20];
        let entry = write(machine, protocol, ENTRY, None, &mut low)?;
        Ok(Guest { low, entry })
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> &[u8] {
        &self.low[at as usize..at as usize + len]
    }

    pub(crate) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.bytes(at, 2).try_into().unwrap())
    }

    pub(crate) fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap())
    }

    pub(crate) fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }

    pub(crate) fn sum(&self, at: u64, len: usize) -> u8 {
        self.bytes(at, len).iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Where the RSDP is, by the protocol that the guest was started with.
    pub(crate) fn rsdp(&self) -> u64 {
        if self.entry.rbx != 0 { self.u64(self.entry.rbx + 32) } else { self.u64(0x7070) }
    }

    /// First address after the last byte of the tables that is not zero.
    fn tables_end(&self) -> u64 {
        self.low.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
    }
}

pub(crate) fn machine() -> Machine<'static> {
    const DEVICES: [VirtioMmio; 2] = [
        VirtioMmio { base: 0xd000_0000, size: 0x1000, gsi: 5 },
        VirtioMmio { base: 0xd000_1000, size: 0x1000, gsi: 6 },
    ];
    Machine {
        ram_size: 256 << 20,
        cpus: 1,
        cmdline: b"console=ttyS0 quiet",
        initramfs: Some(Range { start: 0xf00_0000, len: 0x12_3456 }),
        serial: true,
        virtio_mmio: &DEVICES,
        pci: None,
        ioapic_gsi: 0,
        ioapic_pins: 7,
        generation_id: None,
        power_button: None,
    }
}

pub(crate) fn pci() -> PciHost {
    PciHost {
        ecam_base: layout::PCI_ECAM_BASE,
        last_bus: 0,
        mem32: layout::PCI_MEM32,
        mem64: Some(Range { start: 0x40_0000_0000, len: 0x10_0000_0000 }),
    }
}

fn ranges(machine: &Machine<'_>) -> Vec<(u64, u64, u32)> {
    let map = memory_map(machine);
    map.iter().map(|region| (region.range.start, region.range.len, region.kind as u32)).collect()
}

#[test]
fn memory_maps() {
    let low = [(0, 0xa_0000, 1), (0xf_0000, 0x1_0000, 3)];
    let small = machine();
    assert_eq!(ranges(&small), [&low[..], &[(0x10_0000, 0xff0_0000, 1)]].concat());
    let big = Machine { ram_size: 8 << 30, pci: Some(pci()), ..machine() };
    let rest = [
        (0x10_0000, 0xbff0_0000, 1),
        (0xe000_0000, 0x10_0000, 2),
        (0x1_0000_0000, 0x1_4000_0000, 1),
    ];
    assert_eq!(ranges(&big), [&low[..], &rest].concat());
    assert_eq!(big.ram_end(), 0x2_4000_0000);
    let full = Machine { ram_size: 3 << 30, ..machine() };
    assert_eq!(full.ram().as_slice(), [Range { start: 0, len: 3 << 30 }]);
    assert_eq!(full.ram_end(), 4 << 30);
}

#[test]
fn pvh_start_info() {
    use linux_loader::loader::elf::start_info as theirs;
    use std::mem::offset_of;
    let machine = machine();
    let guest = Guest::new(&machine, Protocol::Pvh).unwrap();
    let entry = &guest.entry;
    assert_eq!((entry.rip, entry.rflags, entry.cr0), (ENTRY, 2, 0x11));
    assert_eq!((entry.cr3, entry.cr4, entry.efer), (0, 0, 0));
    assert!(entry.code.default_32 && !entry.code.long && entry.code.code_or_data);
    assert_eq!((entry.code.kind, entry.code.limit), (0xb, 0xffff_ffff));
    assert_eq!((entry.data.kind, entry.data.limit), (3, 0xffff_ffff));
    assert_eq!((entry.tss.kind, entry.tss.limit, entry.tss.base), (0xb, 0x67, 0));

    type Info = theirs::hvm_start_info;
    let info = |offset: usize| entry.rbx + offset as u64;
    assert_eq!(guest.u32(info(offset_of!(Info, magic))), theirs::XEN_HVM_START_MAGIC_VALUE);
    assert_eq!(guest.u32(info(offset_of!(Info, version))), 1);
    assert_eq!(guest.u32(info(offset_of!(Info, flags))), 0);
    let cmdline = guest.u64(info(offset_of!(Info, cmdline_paddr)));
    assert_eq!(guest.bytes(cmdline, 20), b"console=ttyS0 quiet\0");
    assert_eq!(guest.bytes(guest.u64(info(offset_of!(Info, rsdp_paddr))), 8), b"RSD PTR ");

    assert_eq!(guest.u32(info(offset_of!(Info, nr_modules))), 1);
    let module = guest.u64(info(offset_of!(Info, modlist_paddr)));
    assert_eq!((guest.u64(module), guest.u64(module + 8)), (0xf00_0000, 0x12_3456));
    assert_eq!(guest.bytes(module + 16, 16), [0; 16]);

    let map = guest.u64(info(offset_of!(Info, memmap_paddr)));
    let count = guest.u32(info(offset_of!(Info, memmap_entries)));
    type Region = theirs::hvm_memmap_table_entry;
    let regions: Vec<(u64, u64, u32)> = (0..u64::from(count))
        .map(|index| map + index * size_of::<Region>() as u64)
        .map(|at| {
            let kind = at + offset_of!(Region, type_) as u64;
            (guest.u64(at), guest.u64(at + 8), guest.u32(kind))
        })
        .collect();
    assert_eq!(regions, ranges(&machine));
    assert_eq!(guest.tables_end().next_multiple_of(8), entry.rbx + size_of::<Info>() as u64);
}

#[test]
fn pvh_without_initramfs() {
    let machine = Machine { initramfs: None, cmdline: b"", ..machine() };
    let guest = Guest::new(&machine, Protocol::Pvh).unwrap();
    assert_eq!((guest.u32(guest.entry.rbx + 12), guest.u64(guest.entry.rbx + 16)), (0, 0));
    assert_eq!(guest.bytes(guest.u64(guest.entry.rbx + 24), 1), [0]);
}

#[test]
fn zero_page() {
    use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
    use std::mem::offset_of;
    let initramfs = Some(Range { start: 0x1_2000_0000, len: 0x1_0000_1234 });
    let machine = Machine { ram_size: 8 << 30, initramfs, ..machine() };
    let guest = Guest::new(&machine, Protocol::Linux64).unwrap();
    let at = |offset: usize| layout::ZERO_PAGE.start + offset as u64;
    let header = |offset: usize| at(offset_of!(boot_params, hdr) + offset);
    assert_eq!(guest.entry.rsi, layout::ZERO_PAGE.start);
    assert_eq!(guest.bytes(header(offset_of!(setup_header, header)), 4), b"HdrS");
    assert_eq!(guest.u16(header(offset_of!(setup_header, version))), 0x020f);
    assert_eq!(guest.u16(header(offset_of!(setup_header, boot_flag))), 0xaa55);
    assert_eq!(guest.bytes(header(offset_of!(setup_header, type_of_loader)), 2), [0xff, 1]);
    assert_eq!(guest.u32(header(offset_of!(setup_header, kernel_alignment))), 0x20_0000);
    assert_eq!(guest.u32(header(offset_of!(setup_header, ramdisk_image))), 0x2000_0000);
    assert_eq!(guest.u32(header(offset_of!(setup_header, ramdisk_size))), 0x1234);
    assert_eq!(guest.u32(at(offset_of!(boot_params, ext_ramdisk_image))), 1);
    assert_eq!(guest.u32(at(offset_of!(boot_params, ext_ramdisk_size))), 1);
    assert_eq!(guest.u32(header(offset_of!(setup_header, cmdline_size))), 2047);
    let cmdline = guest.u32(header(offset_of!(setup_header, cmd_line_ptr)));
    assert_eq!(guest.bytes(cmdline.into(), 20), b"console=ttyS0 quiet\0");
    let rsdp = guest.u64(at(offset_of!(boot_params, acpi_rsdp_addr)));
    assert_eq!(guest.bytes(rsdp, 8), b"RSD PTR ");
    // The sentinel that tells Linux whether the page was cleared.
    assert_eq!(guest.bytes(at(offset_of!(boot_params, sentinel)), 1), [0]);

    let count = guest.bytes(at(offset_of!(boot_params, e820_entries)), 1)[0];
    let regions: Vec<(u64, u64, u32)> = (0..usize::from(count))
        .map(|i| at(offset_of!(boot_params, e820_table) + i * size_of::<boot_e820_entry>()))
        .map(|at| (guest.u64(at), guest.u64(at + 8), guest.u32(at + 16)))
        .collect();
    assert_eq!(regions, ranges(&machine));
}

#[test]
fn long_mode() {
    let guest = Guest::new(&machine(), Protocol::Linux64).unwrap();
    let entry = &guest.entry;
    assert_eq!((entry.rip, entry.rflags, entry.rbx), (ENTRY, 2, 0));
    assert_eq!((entry.cr0, entry.cr4, entry.efer), (0x8005_0033, 0x20, 0xd01));
    assert_eq!((entry.code.selector, entry.data.selector), (0x10, 0x18));
    assert!(entry.code.long && !entry.code.default_32);
    // Walk the page tables for addresses in the first, some, and the last 2 MiB of the first GiB.
    for address in [0, 0x7000, 0xf_0000, 0x100_0000, 0x3fff_ffff] {
        let mut table = entry.cr3;
        for level in [39, 30] {
            let next = guest.u64(table + (address >> level & 0x1ff) * 8);
            assert_eq!(next & 0xfff, 3);
            table = next & !0xfff;
            assert!(layout::PAGE_TABLES.contains(&Range { start: table, len: 0x1000 }));
        }
        let page = guest.u64(table + (address >> 21 & 0x1ff) * 8);
        assert_eq!(page, address & !0x1f_ffff | 0x83);
    }
    for unmapped in [entry.cr3 + 8, entry.cr3 + 0x1008] {
        assert_eq!(guest.u64(unmapped), 0);
    }
}

#[test]
fn descriptors_in_memory_are_those_in_the_registers() {
    for (protocol, code) in
        [(Protocol::Pvh, 0x00cf_9b00_0000_ffff), (Protocol::Linux64, 0x00af_9b00_0000_ffff)]
    {
        let guest = Guest::new(&machine(), protocol).unwrap();
        let entry = &guest.entry;
        assert_eq!((entry.gdt.base % 8, entry.gdt.limit), (0, 0x2f));
        let at = |segment: Segment| guest.u64(entry.gdt.base + u64::from(segment.selector));
        assert_eq!(at(entry.code), code);
        assert_eq!(at(entry.data), 0x00cf_9300_0000_ffff);
        assert_eq!(at(entry.tss), 0x0000_8b00_0000_0067);
        assert_eq!(guest.u64(entry.gdt.base), 0);
    }
}

#[test]
fn a_bzimages_header_goes_to_the_zero_page() {
    let header = bzimage::SetupHeader {
        version: 0x020c.into(),
        xloadflags: 0x3f.into(),
        init_size: 0x300_0000.into(),
        ..Default::default()
    };
    let mut low = vec![0; 1 << 20];
    write(&machine(), Protocol::Linux64, ENTRY, Some(&header), &mut low).unwrap();
    let page = &low[0x7000..];
    assert_eq!(page[0x206..0x208], [0x0c, 2]);
    assert_eq!(page[0x236], 0x3f);
    assert_eq!(page[0x260..0x264], 0x300_0000u32.to_le_bytes());
    assert_eq!((page[0x210], page[0x211]), (0xff, 1));
}

/// What Linux's `dmi_scan_machine` wants to see in the first 32 bytes of the BIOS.
#[test]
fn smbios_ends_the_search() {
    let guest = Guest::new(&machine(), Protocol::Pvh).unwrap();
    assert_eq!(guest.bytes(0xf_0000, 5), b"_SM3_");
    assert_eq!((guest.bytes(0xf_0006, 1)[0], guest.sum(0xf_0000, 24)), (24, 0));
    let table = guest.u64(0xf_0010);
    assert_eq!(guest.u32(0xf_000c), 6);
    assert_eq!(guest.bytes(table, 6), [127, 4, 0, 0, 0, 0]);
}

/// What Linux's `smp_scan_config` and `smp_read_mpc` want to see.
#[test]
fn mp_tables() {
    for (cpus, pins, interrupts) in [(1, 7, 7), (254, 24, 24), (2, 0, 1)] {
        let (serial, virtio_mmio) = (pins > 0, if pins > 0 { machine().virtio_mmio } else { &[] });
        let machine = Machine { cpus, ioapic_pins: pins, serial, virtio_mmio, ..machine() };
        let guest = Guest::new(&machine, Protocol::Pvh).unwrap();
        assert_eq!(guest.bytes(0, 4), b"_MP_");
        assert_eq!((guest.bytes(8, 2), guest.bytes(11, 1)), (&[1, 4][..], &[0][..]));
        assert_eq!(guest.sum(0, 16), 0);
        let table = guest.u32(4).into();
        let length = guest.u16(table + 4);
        assert_eq!(guest.bytes(table, 4), b"PCMP");
        assert_eq!(guest.sum(table, length.into()), 0);
        assert_eq!(guest.u32(table + 36), 0xfee0_0000);
        let (mut at, end) = (table + 44, table + u64::from(length));
        let mut counts = [0u16; 4];
        while at < end {
            let kind = guest.bytes(at, 1)[0];
            // CPU flags: enabled, and the boot processor, which is the first.
            let first = counts[0] == 0;
            assert!(kind != 0 || guest.bytes(at + 3, 1)[0] == if first { 3 } else { 1 });
            counts[usize::from(kind)] += 1;
            at += if kind == 0 { 20 } else { 8 };
        }
        assert_eq!(at, end);
        let expected = [cpus.into(), 1, u16::from(pins > 0), interrupts];
        assert_eq!(counts, expected);
        assert_eq!(guest.u16(table + 34), expected.iter().sum::<u16>());
    }
}

/// Page 0 with the MP pointer, and one page for all the rest.
#[test]
fn a_small_machine_takes_one_page() {
    let guest = Guest::new(&machine(), Protocol::Pvh).unwrap();
    let used = guest.tables_end() - layout::TABLES.start;
    std::println!("1 CPU, serial, 2 virtio-mmio: {used} bytes");
    assert!(used <= 4096, "{used}");
    let touched = |page: &&[u8]| page.iter().any(|byte| *byte != 0);
    assert_eq!(guest.low.chunks(4096).filter(touched).count(), 2);
}

#[test]
fn names_what_is_wrong() {
    fn pvh(machine: Machine<'_>) -> Error {
        Guest::new(&machine, Protocol::Pvh).err().unwrap()
    }
    for ram_size in [0, 4095, 1 << 20, (16 << 20) + 1, u64::MAX, !0xfff] {
        assert_eq!(pvh(Machine { ram_size, ..machine() }), Error::RamSize(ram_size));
    }
    for cpus in [0, 255] {
        assert_eq!(pvh(Machine { cpus, ..machine() }), Error::Cpus(cpus));
    }
    let byte = Error::Cmdline(cmdline::Error::Byte { byte: 0, position: 1 });
    assert_eq!(pvh(Machine { cmdline: b"a\0", ..machine() }), byte);
    for range in [
        Range { start: 0xf_ffff, len: 1 },
        Range { start: 0x1000_0000, len: 1 },
        Range { start: u64::MAX, len: 2 },
    ] {
        let initramfs = Some(range);
        assert_eq!(pvh(Machine { initramfs, ..machine() }), Error::Initramfs(range));
    }
    let high = Range { start: 4 << 30, len: 1 };
    let big = Machine { ram_size: 8 << 30, initramfs: Some(high), ..machine() };
    assert_eq!(pvh(big.clone()), Error::Initramfs(high));
    assert!(Guest::new(&big, Protocol::Linux64).is_ok());

    let gsi = Error::Gsi { gsi: 6, first: 0, pins: 6 };
    assert_eq!(pvh(Machine { ioapic_pins: 6, ..machine() }), gsi);
    assert_eq!(gsi.to_string(), "interrupt 6 is none of the IOAPIC's 6 from 0 up");
    let gsi = Error::Gsi { gsi: 4, first: 5, pins: 7 };
    assert_eq!(pvh(Machine { ioapic_gsi: 5, ..machine() }), gsi);
    for (base, size) in [(0x1000, 1), (0xffff_f000, 0x1001), (0xd000_0000, 0)] {
        let devices = [VirtioMmio { base, size, gsi: 5 }];
        let error = Error::DeviceRange(Range { start: base, len: size.into() });
        assert_eq!(pvh(Machine { virtio_mmio: &devices, ..machine() }), error);
    }
    let bad = Some(PciHost { ecam_base: 0x10_0000, ..pci() });
    let error = Error::DeviceRange(Range { start: 0x10_0000, len: 0x10_0000 });
    assert_eq!(pvh(Machine { pci: bad, ..machine() }), error);

    let device = VirtioMmio { base: 0xd000_0000, size: 0x1000, gsi: 5 };
    let many = vec![device; 1100];
    assert_eq!(pvh(Machine { virtio_mmio: &many, ..machine() }), Error::TablesFull);

    let mut low = vec![0; 1 << 20];
    let mut from = |protocol, entry| write(&machine(), protocol, entry, None, &mut low).err();
    assert_eq!(from(Protocol::Pvh, 0xf_ffff), Some(Error::Entry(0xf_ffff)));
    assert_eq!(from(Protocol::Pvh, 1 << 32), Some(Error::Entry(1 << 32)));
    assert_eq!(from(Protocol::Pvh, 1 << 31), None);
    assert_eq!(from(Protocol::Pvh, 1 << 20), None);
    assert_eq!(from(Protocol::Pvh, u32::MAX.into()), None);
    assert_eq!(from(Protocol::Linux64, 1 << 30), Some(Error::Entry(1 << 30)));
    let mut short = vec![0; 4096];
    let error = write(&machine(), Protocol::Pvh, ENTRY, None, &mut short).err();
    assert_eq!(error, Some(Error::LowMemory(4096)));
}

#[test]
fn the_smallest_and_the_largest_ram_and_an_initramfs_at_its_start() {
    let fits = |ram_size| Machine { ram_size, initramfs: None, ..machine() }.check().is_ok();
    assert!(fits((1 << 20) + 4096) && fits(layout::ADDRESS_END / 2));
    assert!(!fits(1 << 20) && !fits(layout::ADDRESS_END / 2 + 4096));
    let initramfs = Some(Range { start: 1 << 20, len: 4096 });
    assert!(Machine { initramfs, ..machine() }.check().is_ok());
}

#[test]
fn ranges_that_touch_do_not_overlap() {
    let range = |start, len| Range { start, len };
    for (one, other, overlap) in [
        (range(10, 5), range(15, 5), false),
        (range(10, 5), range(14, 5), true),
        (range(10, 5), range(11, 1), true),
        (range(10, 5), range(12, 0), false),
        (range(12, 0), range(12, 0), false),
        (range(u64::MAX, 2), range(0, 1), true),
    ] {
        assert_eq!(
            (one.overlaps(&other), other.overlaps(&one)),
            (overlap, overlap),
            "{one:?} {other:?}"
        );
    }
}

#[test]
fn the_tables_room_is_used_to_its_end() {
    let mut low = vec![0; 1 << 20];
    let end = (layout::TABLES.start + layout::TABLES.len) as usize;
    let mut tables = low::Tables::new(&mut low).unwrap();
    let room = tables.rest().len();
    assert!(tables.take(room + 1).is_err());
    assert_eq!(tables.take(room), Ok(layout::TABLES.start));
    assert_eq!(tables.align(1), Ok(end as u64));
    assert!(
        tables.take(1).is_err() && tables.push(&[0]).is_err() && tables.align(end * 2).is_err()
    );
}
