use super::*;
use proptest::prelude::*;

type Table = Msix<[Entry; 3]>;

fn write(msix: &mut Msix, offset: u64, value: u32) -> Option<u16> {
    msix.write_table(offset, &value.to_le_bytes())
}

fn read(msix: &Msix, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    msix.read_table(offset, &mut data);
    u32::from_le_bytes(data)
}

fn pending(msix: &Msix) -> u64 {
    let mut data = [0xff; 8];
    msix.read_pending(0, &mut data);
    u64::from_le_bytes(data)
}

/// msix_capability_init() and what request_irq() does: one change a vector, when it is unmasked.
#[test]
fn linux_sets_up_each_vector_in_one_change() {
    let mut table = Table::new();
    let msix: &mut Msix = &mut table;
    assert_eq!(msix.control(), 2);
    assert!(!msix.set_control(ENABLE | MASK_ALL));
    for vector in 0..3 {
        assert_eq!(read(msix, vector * 16 + 12), 1, "starts masked");
        assert_eq!(write(msix, vector * 16 + 12, 1), None);
    }
    assert!(!msix.set_control(ENABLE));
    assert_eq!(msix.control(), ENABLE | 2);
    assert_eq!(write(msix, 16, 0xfee0_1003), None);
    assert_eq!(write(msix, 20, 0), None);
    assert_eq!(write(msix, 24, 0x31), None);
    assert_eq!(msix.message(1), None);
    assert_eq!(write(msix, 28, 0), Some(1));
    assert_eq!(msix.message(1), Some(Msi { address: 0xfee0_1000, data: 0x31 }));
    assert_eq!(write(msix, 28, 0), None, "the same again");
    assert_eq!(write(msix, 24, 0x32), Some(1));
    assert_eq!(write(msix, 28, 1), Some(1));
    assert_eq!(msix.message(1), None);
}

/// As the host lets a guest have it: reserved bits are dropped, and what waits is known.
#[test]
fn the_table_as_memory() {
    let mut table = Table::new();
    let msix: &mut Msix = &mut table;
    assert!(!msix.set_control(ENABLE) && !msix.has_pending());
    msix.set_entry(1, [0xfee0_1003, 0x12, 0x31, 0xffff_fffe]);
    assert_eq!(msix.entry(1), Some([0xfee0_1000, 0x12, 0x31, 0]));
    assert_eq!(msix.message(1), Some(Msi { address: 0x12_fee0_1000, data: 0x31 }));
    assert_eq!((msix.entry(2), msix.entry(3)), (Some([0, 0, 0, 1]), None));
    assert_eq!(msix.raise(2), None);
    assert!(msix.has_pending());
}

#[test]
fn pending_bits_are_64() {
    let mut table = Msix::<[Entry; 64]>::new();
    let msix: &mut Msix = &mut table;
    assert!(!msix.set_control(ENABLE));
    assert_eq!(msix.raise(41), None);
    assert_eq!(pending(msix), 1 << 41);
}

#[test]
fn a_masked_interrupt_waits() {
    let mut table = Table::new();
    let msix: &mut Msix = &mut table;
    assert_eq!(msix.raise(0), None);
    assert_eq!(pending(msix), 0, "MSI-X is off: nothing waits");
    assert!(!msix.set_control(ENABLE));
    assert_eq!(msix.raise(2), None);
    assert_eq!(msix.raise(3), None);
    assert_eq!(pending(msix), 0b100);
    assert!(!msix.take_pending(2), "still masked");
    assert_eq!(write(msix, 2 * 16 + 12, 0), Some(2));
    assert!(msix.take_pending(2));
    assert!(!msix.take_pending(2));
    assert_eq!(msix.raise(2), Some(Msi { address: 0, data: 0 }));
    assert!(msix.set_control(ENABLE | MASK_ALL), "it cannot be sent now");
    assert_eq!(msix.raise(2), None);
    assert_eq!(pending(msix), 0b100);
    assert!(!msix.set_control(0));
    assert_eq!(pending(msix), 0);
}

#[test]
fn only_32_and_64_bits_write() {
    let mut table = Table::new();
    let msix: &mut Msix = &mut table;
    assert_eq!(msix.write_table(0, &0x1_fee0_0000u64.to_le_bytes()), None);
    assert_eq!((read(msix, 0), read(msix, 4)), (0xfee0_0000, 1));
    for len in [0, 1, 2, 3, 5, 6, 7] {
        assert_eq!(msix.write_table(12, &[0; 8][..len]), None);
    }
    assert_eq!(msix.write_table(13, &[0; 4]), None);
    assert_eq!(msix.write_table(12, &[0; 8]), None, "not aligned");
    assert_eq!(read(msix, 12), 1);
    assert_eq!(msix.write_table(3 * 16, &[0xff; 8]), None, "beyond the table");
    assert_eq!(read(msix, 3 * 16), 0);
    let mut data = [0; 8];
    msix.read_table(0, &mut data);
    assert_eq!(data, 0x1_fee0_0000u64.to_le_bytes());
}

proptest! {
    #[test]
    fn a_change_is_told_if_and_only_if_there_is_one(
        steps in prop::collection::vec(
            (0u8..5, 0u64..64, 0u32..3, prop::sample::select(std::vec![1usize, 4, 4, 4, 8])), 0..200)
    ) {
        let mut table = Table::new();
        let msix: &mut Msix = &mut table;
        for (kind, offset, value, len) in steps {
            let before = [0, 1, 2].map(|vector| msix.message(vector));
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            let (mut changed, mut all) = (None, false);
            match kind {
                0 => all = msix.set_control((value as u16) << 14),
                1 => {
                    let message = msix.raise(offset as u16);
                    prop_assert_eq!(message, before.get(offset as usize).copied().flatten());
                }
                2 => { msix.take_pending(offset as u16); }
                _ => changed = msix.write_table(offset & !3, &data[..len]),
            }
            let mut differs = false;
            for vector in 0..3 {
                let differ = before[usize::from(vector)] != msix.message(vector);
                if !all {
                    prop_assert_eq!(differ, changed == Some(vector));
                }
                differs |= differ;
            }
            prop_assert_eq!(differs, all || changed.is_some());
            prop_assert!(pending(msix) < 8);
            msix.read_table(offset, &mut data[..len]);
            msix.read_pending(offset, &mut data[..len]);
        }
    }
}
