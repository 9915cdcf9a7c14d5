//! `write()` with machines of any kind.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use crate::tests::{ENTRY, pci};
use crate::*;

fn any_range() -> impl Strategy<Value = Range> {
    let edge = prop_oneof![
        any::<u64>(),
        0..0x2_0000_0000u64,
        Just(0xe000_0000),
        Just(0xf000_0000),
        Just(u64::MAX)
    ];
    (edge, prop_oneof![any::<u64>(), 0..0x1000_0000u64])
        .prop_map(|(start, len)| Range { start, len })
}

fn any_devices() -> impl Strategy<Value = Vec<VirtioMmio>> {
    let good = (0u64..0x2000, 5u32..64).prop_map(|(index, gsi)| VirtioMmio {
        base: layout::VIRTIO_MMIO_BASE + index * 0x1000,
        size: layout::VIRTIO_MMIO_SIZE,
        gsi,
    });
    let any = (any_range(), any::<u32>()).prop_map(|(range, gsi)| VirtioMmio {
        base: range.start,
        size: range.len as u32,
        gsi,
    });
    prop_oneof![
        prop::collection::vec(good.clone(), 0..20),
        prop::collection::vec(good, 0..1200),
        prop::collection::vec(any, 0..3),
    ]
}

fn any_pci() -> impl Strategy<Value = Option<PciHost>> {
    let wild = (any::<u64>(), any::<u8>(), any_range(), prop::option::of(any_range())).prop_map(
        |(ecam_base, last_bus, mem32, mem64)| PciHost { ecam_base, last_bus, mem32, mem64 },
    );
    let good = any::<u8>().prop_map(|last_bus| PciHost { last_bus, ..pci() });
    prop::option::of(prop_oneof![wild, good])
}

proptest! {
    #[test]
    fn any_machine_is_written_inside_its_places_or_refused(
        ram_pages in prop_oneof![any::<u64>(), 0x4000..0x10_0000u64],
        cpus in any::<u8>(),
        cmdline in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(0x20u8..0x7f, 0..2100)
        ],
        initramfs in prop::option::of(any_range()),
        serial in any::<bool>(),
        devices in any_devices(),
        pci in any_pci(),
        ioapic_gsi in any::<u8>(),
        ioapic_pins in prop_oneof![any::<u8>(), Just(64)],
        generation in prop::option::of((any::<[u8; 16]>(), 0u32..32)),
        power_button in prop::option::of(0u32..32),
        entry in prop_oneof![any::<u64>(), Just(ENTRY)],
        linux64 in any::<bool>(),
    ) {
        let machine = Machine {
            ram_size: ram_pages.wrapping_mul(4096),
            cpus,
            cmdline: &cmdline,
            initramfs,
            serial,
            virtio_mmio: &devices,
            pci,
            ioapic_gsi,
            ioapic_pins,
            generation_id: generation.map(|(id, gsi)| crate::GenerationId { id, gsi }),
            power_button,
        };
        let protocol = if linux64 { Protocol::Linux64 } else { Protocol::Pvh };
        let mut low = vec![0; 1 << 20];
        let result = write(&machine, protocol, entry, None, &mut low);
        let mut places = vec![layout::MP_POINTER, layout::GENERATION_ID, layout::RESET_FLAG];
        places.push(layout::TABLES);
        if linux64 {
            places.extend([layout::ZERO_PAGE, layout::PAGE_TABLES]);
        }
        for place in places {
            low[place.start as usize..place.end().unwrap() as usize].fill(0);
        }
        prop_assert!(low.iter().all(|byte| *byte == 0));
        if let Ok(state) = result {
            prop_assert_eq!(state.rip, entry);
        }
    }
}
