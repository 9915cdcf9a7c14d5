mod slot;

use super::*;
use crate::virtio::{F_VERSION_1, Status};
use proptest::prelude::*;
use slot::{HOME, MAX, Slot, Toy};
use std::vec::Vec;

#[test]
fn the_header_says_what_it_is() {
    let mut slot = Slot::new();
    assert_eq!(slot.config32(0), 0x1043_1af4);
    assert_eq!(slot.config32(4), 0x0010_0000, "a capability list, nothing decoded");
    assert_eq!(slot.config32(8), 0x0780_0001);
    assert_eq!(slot.config::<1>(0x0e), [0]);
    assert_eq!(slot.config::<1>(0x3d), [0], "no INTx pin");
    assert_eq!(slot.config32(0x100), u32::MAX);
    assert_eq!(slot.config::<2>(0x03), [0xff; 2], "crosses 32 bits");
    assert_eq!(slot.config::<8>(0), [0xff; 8]);
}

/// Every structure of virtio 1.3, 4.1.4 is there once, inside the BAR, and no two overlap.
#[test]
fn capabilities_lead_to_every_structure() {
    let mut slot = Slot::new();
    let found = slot.capabilities();
    let kinds: Vec<_> = found.iter().map(|&(_, id, kind)| (id, kind)).collect();
    assert_eq!(kinds[..5], [(9, 1), (9, 3), (9, 2), (9, 4), (9, 5)]);
    assert_eq!((kinds.len(), kinds[5].0), (6, 0x11));
    let mut ranges = Vec::new();
    for &(register, _, kind) in &found[..4] {
        assert_eq!(slot.config::<1>(register + 2), [if kind == 2 { 20 } else { 16 }]);
        assert_eq!(slot.config::<1>(register + 4), [0], "BAR 0");
        let start = u64::from(slot.config32(register + 8));
        ranges.push((start, start + u64::from(slot.config32(register + 12))));
    }
    assert_eq!(slot.config32(0x70), 4, "notify_off_multiplier");
    let control = u16::from_le_bytes(slot.config(0x9a));
    assert_eq!(control, 2, "three vectors, off");
    let (table, pending) = (u64::from(slot.config32(0x9c)), u64::from(slot.config32(0xa0)));
    ranges.push((table, table + 16 * 64));
    ranges.push((pending, pending + 8));
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
    assert!(ranges.last().unwrap().1 <= BAR_SIZE);
}

/// __pci_read_base() and pci_assign_resource()
#[test]
fn the_bar_is_sized_and_moved() {
    let mut slot = Slot::new();
    assert_eq!(slot.config32(0x10), HOME as u32 | 4);
    assert_eq!(slot.function().bar(), None);
    for register in [0x10, 0x14] {
        let home = slot.config32(register);
        assert_eq!(slot.set_config(register, &[0xff; 4]), Effect::None, "not decoded");
        let expected = if register == 0x10 { 0xffff_e004 } else { u32::MAX };
        assert_eq!(slot.config32(register), expected);
        assert_eq!(slot.set_config(register, &home.to_le_bytes()), Effect::None);
    }
    for register in [0x18, 0x1c, 0x20, 0x24, 0x30] {
        assert_eq!(slot.set_config(register, &[0xff; 4]), Effect::None);
        assert_eq!(slot.config32(register), 0);
    }
    assert_eq!(slot.set_config(4, &[2]), Effect::BarMoved);
    assert_eq!(slot.function().bar(), Some(HOME));
    assert_eq!(slot.set_config(4, &[6]), Effect::None);
    assert_eq!(slot.set_config(0x10, &0xf123_4567u32.to_le_bytes()), Effect::BarMoved);
    assert_eq!(slot.function().bar(), Some(0xf123_4000));
    assert_eq!(slot.set_config(0x14, &[0x20]), Effect::BarMoved);
    assert_eq!(slot.function().bar(), Some(0x20_f123_4000));
    assert_eq!(slot.set_config(4, &[0xff; 2]), Effect::None);
    assert_eq!(slot.config::<2>(4), 0x0406u16.to_le_bytes());
    assert_eq!(slot.set_config(4, &[0]), Effect::BarMoved);
    assert_eq!(slot.function().bar(), None);
}

#[test]
fn linux_probes_runs_and_resets() {
    let mut slot = Slot::new();
    slot.linux_probe();
    let queue = *slot.common.queue(1).unwrap();
    assert!(queue.ready() && queue.size() == 32 && queue.vector() == 2);
    assert_eq!(slot.function.config_vector, 0);
    let message = slot.function().msix.raise(queue.vector()).unwrap();
    assert_eq!((message.address, message.data), (0xfee0_0000, 0x32));
    let notify = Effect::Virtio(Virtio::Notify(1));
    assert_eq!(slot.set(NOTIFY + NOTIFY_STEP, &1u16.to_le_bytes()), notify);
    slot.put(NOTIFY + 2 * NOTIFY_STEP, &2u16.to_le_bytes());
    slot.put(NOTIFY + 1, &1u16.to_le_bytes());
    // Without MSI-X's help, ISR says why, once.
    slot.common.interrupt(Interrupt::VRING);
    assert_eq!(slot.get(ISR), [1]);
    assert_eq!(slot.get(ISR), [0]);
    assert_eq!(slot.get::<8>(DEVICE), [1, 2, 3, 4, 0, 0, 0, 0]);
    assert_eq!(slot.set(0x14, &[0]), Effect::Virtio(Virtio::Reset));
    assert_eq!(slot.get16(0x10), NO_VECTOR);
    slot.put(0x16, &1u16.to_le_bytes());
    assert_eq!(slot.get16(0x1a), NO_VECTOR);
    assert_eq!(slot.get16(0x18), MAX);
}

#[test]
fn vectors_and_queues_that_are_not_there_read_back_so() {
    let mut slot = Slot::new();
    slot.put(0x10, &3u16.to_le_bytes());
    assert_eq!(slot.get16(0x10), NO_VECTOR);
    slot.put(0x1a, &2u16.to_le_bytes());
    assert_eq!(slot.get16(0x1a), 2);
    slot.put(0x1a, &3u16.to_le_bytes());
    assert_eq!(slot.get16(0x1a), NO_VECTOR);
    for queue in [2u16, 4, u16::MAX] {
        slot.put(0x16, &queue.to_le_bytes());
        assert_eq!(slot.get16(0x18), 0);
        slot.put(0x1c, &1u16.to_le_bytes());
        assert_eq!(slot.get16(0x1c), 0);
    }
}

#[test]
fn common_fields_want_their_own_width() {
    let mut slot = Slot::new();
    slot.put(0x14, &[1, 0]);
    slot.put(0x14, &[1, 0, 0, 0]);
    slot.put(0x16, &[1]);
    slot.put(0x22, &[1; 4]);
    slot.put(0x20, &[1; 16]);
    assert_eq!(slot.get::<4>(0x14), [0; 4]);
    assert_eq!(slot.get::<4>(0x20), [0; 4]);
    slot.put(0x20, &0x1234_5678_9abc_def0u64.to_le_bytes());
    assert_eq!(slot.get::<8>(0x20), 0x1234_5678_9abc_def0u64.to_le_bytes());
}

/// virtio 1.3, 4.1.4.9: the same accesses through configuration space.
#[test]
fn the_window_reaches_the_bar() {
    let mut slot = Slot::new();
    let mut point = |bar: u8, offset: u32, len: u32| {
        assert_eq!(slot.set_config(0x88, &[bar]), Effect::None);
        assert_eq!(slot.set_config(0x8c, &offset.to_le_bytes()), Effect::None);
        assert_eq!(slot.set_config(0x90, &len.to_le_bytes()), Effect::None);
        assert_eq!(slot.config32(0x90), len);
        (slot.set_config(0x94, &[3, 0, 0, 0]), slot.config32(0x94))
    };
    assert_eq!(point(0, 0x14, 1), (Effect::None, 3));
    assert_eq!(point(0, 0x100, 4), (Effect::None, 0x0403_0201));
    assert_eq!(point(0, 0x102, 2), (Effect::None, 0x0403));
    for (bar, offset, len) in [(1, 0x100, 4), (0, 0x101, 4), (0, 0x100, 3), (0, 0x100, 0)] {
        assert_eq!(point(bar, offset, len), (Effect::None, 0));
    }
    assert_eq!(point(0, u32::MAX, 1), (Effect::None, 0));
    assert_eq!(slot.common.status(), Status::ACKNOWLEDGE | Status::DRIVER);
}

#[test]
fn common_fields_read_back() {
    let mut slot = Slot::new();
    slot.linux_probe();
    let _ = slot.set(0x14, &[0]);
    for select in [1u32, 0] {
        slot.put(0x00, &select.to_le_bytes());
        slot.put(0x08, &(7 + select).to_le_bytes());
        assert_eq!(slot.get(0x00), select.to_le_bytes());
        assert_eq!(slot.get(0x08), (7 + select).to_le_bytes());
    }
    for vector in [2u16, 0, 1] {
        slot.put(0x10, &vector.to_le_bytes());
        assert_eq!(slot.get16(0x10), vector);
        assert_eq!(slot.function().config_vector(), vector);
    }
    assert_eq!(slot.get16(0x18), MAX, "the limit, before there is a size");
    slot.put(0x18, &8u16.to_le_bytes());
    assert_eq!(slot.get16(0x18), 8);
    for address in [0x20u64, 0x28, 0x30] {
        slot.put(address, &(address << 32 | 0x1000).to_le_bytes());
        assert_eq!(slot.get(address), (address << 32 | 0x1000).to_le_bytes());
    }
    slot.put(0x24, &u64::MAX.to_le_bytes());
    assert_eq!(slot.get(0x20), (0x20u64 << 32 | 0x1000).to_le_bytes(), "8 bytes at 4");
    slot.put(0x1c, &2u16.to_le_bytes());
    assert_eq!(slot.get16(0x1c), 0, "only 1 starts a queue");
    slot.put(0x1c, &1u16.to_le_bytes());
    assert_eq!(slot.get16(0x1c), 1);
}

#[test]
fn registers_read_back_and_a_part_of_one_leaves_the_rest() {
    let mut slot = Slot::new();
    assert_eq!(slot.config32(0x2c), 0x40 << 16 | 0x1af4, "subsystem");
    for (register, value) in [(0x88, 0x7f), (0x8c, 0x1234_5678), (0x90, 0x1122_3344)] {
        let _ = slot.set_config(register, &u32::to_le_bytes(value));
        assert_eq!(slot.config32(register), value);
        let _ = slot.set_config(register, &[0x11]);
        assert_eq!(slot.config32(register), value & !0xff | 0x11);
    }
    let _ = slot.set_config(0x14, &[0x12, 0, 0, 0]);
    let _ = slot.set_config(0x15, &[0x34]);
    assert_eq!(slot.config32(0x14), 0x3412);
    // MSI-X's control: on, then its lower byte, which nobody can write.
    let _ = slot.set_config(0x9a, &0x8000u16.to_le_bytes());
    let _ = slot.set_config(0x9a, &[0]);
    assert_eq!(slot.config32(0x98) >> 16 & 0x8000, 0x8000);
}

#[test]
fn each_kind_of_device_has_its_class() {
    let mut slot = Slot::new();
    let class = |id| slot.function().config_word(id, 0x08) >> 16;
    assert_eq!([2, 3, 27, 4].map(class), [0x0180, 0x0780, 0x0580, 0xff00]);
}

/// Keeps what was written to its configuration space.
struct Told(Vec<(u32, u8)>);

impl Device for Told {
    const ID: u32 = 3;

    fn queue_max_size(&self, _: u16) -> u16 {
        0
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _: u32, _: &mut [u8]) {}

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        self.0.push((offset, data[0]));
    }
}

#[test]
fn a_device_is_told_what_is_written_to_its_configuration() {
    let (mut slot, mut told) = (Slot::new(), Told(Vec::new()));
    let function: &mut Function = &mut slot.function;
    let effect = function.bar_write(&mut slot.common, &mut told, DEVICE + 3, &[9]);
    assert_eq!((effect, told.0), (Effect::None, Vec::from([(3, 9)])));
}

#[test]
#[cfg(feature = "snapshot")]
fn a_state_with_what_it_cannot_have_is_refused() {
    use zerocopy::{FromBytes, IntoBytes};
    let mut slot = Slot::new();
    slot.linux_probe();
    slot.put(0x10, &1u16.to_le_bytes());
    let saved = slot.function().save();
    // An address, the command, the vector, the window of three words; then MSI-X's control and vectors, what
    // is pending, and the entries.
    for (at, value, fine) in [
        (0, 0x01, false),
        (9, 0xf0, false),
        (10, 0, true),
        (10, 2, true),
        (10, 3, false),
        (13, 1, false),
        (24, 1, false),
        (28, 4, false),
        (32, 7, true),
        (32, 8, false),
        (40 + 3 * 16, 1, false),
    ] {
        let mut bytes = saved.as_bytes().to_vec();
        bytes[at] = value;
        let changed = Saved::read_from_bytes(&bytes).unwrap();
        assert_eq!(Slot::new().function().restore(&changed).is_ok(), fine, "byte {at} is {value}");
    }
    let mut off = saved.as_bytes().to_vec();
    (off[25], off[32]) = (0, 1);
    let off = Saved::read_from_bytes(&off).unwrap();
    assert!(Slot::new().function().restore(&off).is_err(), "pending while MSI-X is off");
}

fn data() -> impl Strategy<Value = [u8; 8]> {
    prop_oneof![
        4 => (0u64..20).prop_map(u64::to_le_bytes),
        2 => prop::sample::select(std::vec![11u64, 15, 0x8000, 0xc000, 0x1000, 0xffff, 1 << 32])
            .prop_map(u64::to_le_bytes),
        1 => any::<[u8; 8]>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn any_accesses_keep_the_invariants(
        negotiated: bool,
        steps in prop::collection::vec(
            (0u8..8,
             prop_oneof![4 => 0u64..0x40, 2 => 0u64..0xa8, 2 => NOTIFY..NOTIFY + 20,
                 2 => TABLE..TABLE + 64, 1 => 0u64..0x1100, 1 => any::<u64>()],
             data(), prop::sample::select(std::vec![0usize, 1, 1, 2, 2, 3, 4, 4, 8])),
            0..150,
        )
    ) {
        let mut slot = Slot::new();
        let mut running = negotiated;
        if negotiated {
            slot.linux_probe();
        }
        for (kind, offset, mut data, len) in steps {
            let before = (slot.function().bar(), [0, 1, 2].map(|v| slot.function().msix.message(v)));
            let function: &mut Function = &mut slot.function;
            let (common, part) = (&mut slot.common, &mut data[..len]);
            let effect = match kind {
                0 => { function.config_read(common, &Toy, offset as u16, part); Effect::None }
                1 => { function.bar_read(common, &Toy, offset, part); Effect::None }
                2 => { function.msix.raise(offset as u16); Effect::None }
                3 | 4 => function.config_write(common, &mut Toy, offset as u16 & 0xff, part),
                _ => function.bar_write(common, &mut Toy, offset, part),
            };
            let after = (slot.function().bar(), [0, 1, 2].map(|v| slot.function().msix.message(v)));
            prop_assert_eq!(before.0 != after.0, effect == Effect::BarMoved);
            let told = matches!(effect, Effect::Vector(_) | Effect::Vectors);
            prop_assert_eq!(before.1 != after.1, told);
            match effect {
                Effect::Virtio(Virtio::Activate) => {
                    prop_assert!(!running);
                    running = true;
                }
                Effect::Virtio(Virtio::Reset) => {
                    prop_assert!(running);
                    running = false;
                }
                Effect::Virtio(Virtio::Notify(queue)) => {
                    prop_assert!(slot.common.active() && slot.common.queue(queue).unwrap().ready());
                }
                Effect::Virtio(_) => prop_assert!(false, "never over PCI: {:?}", effect),
                Effect::Vector(vector) => prop_assert!(vector < 3),
                Effect::None | Effect::BarMoved | Effect::Vectors => {}
            }
            let status = slot.common.status();
            prop_assert_eq!(status.contains(Status::DRIVER_OK), running);
            prop_assert!(!running || slot.common.features() & F_VERSION_1 != 0);
            prop_assert!(after.0.is_none_or(|bar| bar % BAR_SIZE == 0));
            prop_assert!(slot.function.config_vector < 3 || slot.function.config_vector == NO_VECTOR);
            for index in 0..4 {
                let queue = slot.common.queue(index).unwrap();
                prop_assert!(queue.size() == 0 || queue.size().is_power_of_two() && queue.size() <= MAX);
                prop_assert!(!queue.ready() || index < 2 && queue.size() != 0);
                prop_assert!(queue.vector() < 3 || queue.vector() == NO_VECTOR);
            }
        }
        // Nothing that happened keeps the device's identity from showing.
        prop_assert_eq!(slot.config32(0), 0x1043_1af4);
        prop_assert_eq!(slot.capabilities().len(), 6);
    }
}
