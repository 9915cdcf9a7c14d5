use super::*;
use proptest::prelude::*;

const PINS: usize = 8;

fn read(ioapic: &mut IoApic<PINS>, register: u8) -> u32 {
    assert_eq!(ioapic.write(IOREGSEL, register.into()), None);
    ioapic.read(IOWIN)
}

fn write(ioapic: &mut IoApic<PINS>, register: u8, value: u32) -> Option<u8> {
    assert_eq!(ioapic.write(IOREGSEL, register.into()), None);
    ioapic.write(IOWIN, value)
}

fn set(ioapic: &mut IoApic<PINS>, pin: u8, entry: u64) {
    write(ioapic, IOREDTBL + 2 * pin + 1, (entry >> 32) as u32);
    write(ioapic, IOREDTBL + 2 * pin, entry as u32);
}

#[test]
fn starts_masked_and_says_how_many_pins() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    assert_eq!(read(&mut ioapic, IOAPICVER), 0x0007_0020);
    for pin in 0..PINS as u8 {
        assert_eq!(read(&mut ioapic, IOREDTBL + 2 * pin), MASKED as u32);
        assert_eq!(read(&mut ioapic, IOREDTBL + 2 * pin + 1), 0);
        assert_eq!(ioapic.msi(pin), None);
    }
    assert_eq!(ioapic.msi(PINS as u8), None);
    assert_eq!(read(&mut ioapic, IOREDTBL + 2 * PINS as u8), 0);
}

#[test]
fn the_id_reads_back() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    assert_eq!(write(&mut ioapic, IOAPICID, 0xffff_ffff), None);
    assert_eq!(read(&mut ioapic, IOAPICID), 0x0f00_0000);
    assert_eq!(read(&mut ioapic, IOAPICARB), 0x0f00_0000);
}

#[test]
fn a_pin_that_is_masked_or_none_is_not_listened_to() {
    let mut ioapic = IoApic::<PINS>::new(4, 2);
    set(&mut ioapic, 1, 0x31);
    assert!((0..=255).all(|gsi| ioapic.listens(gsi) == (gsi == 5)));
    set(&mut ioapic, 1, MASKED | 0x31);
    assert!(!ioapic.listens(5));
}

/// Linux writes the upper half first, then the lower one with the mask off: one route change.
#[test]
fn only_a_changed_message_is_a_change() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    let low = IOREDTBL + 2 * 4;
    assert_eq!(write(&mut ioapic, low + 1, 0x0100_0000), None, "masked");
    assert_eq!(write(&mut ioapic, low, 0x0000_0031), Some(4));
    assert_eq!(ioapic.msi(4), Some(Msi { address: 0xfee0_1000, data: 0x4031 }));
    assert_eq!(write(&mut ioapic, low, 0x0000_0031), None, "the same again");
    assert_eq!(write(&mut ioapic, low, 0x0000_2031), None, "polarity is not in the message");
    assert_eq!(write(&mut ioapic, low, 0x0001_0031), Some(4), "masked now");
    assert_eq!(ioapic.msi(4), None);
    assert_eq!(write(&mut ioapic, low, 0x0001_0032), None);
}

#[test]
fn messages_have_every_field() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    // Destination 0x42 with extended bits 0x15, logical, lowest priority, level, vector 0x99.
    set(&mut ioapic, 0, 0x42 << 56 | 0x15 << 49 | LEVEL | LOGICAL | 0x100 | 0x99);
    let address = 0xfee0_0000 | 0x42 << 12 | 0x15 << 5 | 1 << 3 | 1 << 2;
    assert_eq!(ioapic.msi(0), Some(Msi { address, data: 0xc199 }));
    // Fixed, physical, edge.
    set(&mut ioapic, 0, 0xff << 56 | 0x20);
    assert_eq!(ioapic.msi(0), Some(Msi { address: 0xfeef_f000, data: 0x4020 }));
}

/// Remote IRR stays while a level-triggered interrupt is served, whatever else of the entry is written, until
/// the pin is made edge-triggered: so Linux clears it (`eoi_ioapic_pin`).
#[test]
fn an_edge_triggered_pin_has_no_remote_irr() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    set(&mut ioapic, 2, LEVEL | 0x31);
    ioapic.set_line(2, true);
    assert!(ioapic.deliver().is_some());
    ioapic.set_line(2, false);
    for (entry, irr) in [(LEVEL | MASKED, REMOTE_IRR), (LEVEL, REMOTE_IRR), (0, 0), (LEVEL, 0)] {
        set(&mut ioapic, 2, entry | 0x31);
        let read = read(&mut ioapic, IOREDTBL + 4);
        assert_eq!(u64::from(read) & REMOTE_IRR, irr, "{entry:#x}");
    }
}

#[test]
fn read_only_bits_are_kept() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    set(&mut ioapic, 1, u64::MAX);
    assert_eq!(read(&mut ioapic, IOREDTBL + 2), 0x0001_afff);
    assert_eq!(read(&mut ioapic, IOREDTBL + 3), 0xfffe_0000);
}

#[test]
fn a_level_is_delivered_again_after_its_eoi_while_it_is_high() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    set(&mut ioapic, 2, LEVEL | 0x55);
    assert_eq!(ioapic.deliver(), None);
    ioapic.set_line(2, true);
    let msi = ioapic.msi(2);
    assert!(msi.is_some());
    assert_eq!(ioapic.deliver(), msi);
    assert_eq!(ioapic.deliver(), None, "remote IRR is set");
    assert_eq!(read(&mut ioapic, IOREDTBL + 4) & REMOTE_IRR as u32, REMOTE_IRR as u32);
    ioapic.eoi(0x54);
    assert_eq!(ioapic.deliver(), None, "another vector's EOI");
    ioapic.eoi(0x55);
    assert_eq!(ioapic.deliver(), msi);
    ioapic.set_line(2, false);
    ioapic.write(EOI, 0x55);
    assert_eq!(ioapic.deliver(), None);
    assert_eq!(read(&mut ioapic, IOREDTBL + 4) & REMOTE_IRR as u32, 0);
}

#[test]
fn a_level_waits_for_its_mask_and_an_edge_does_not() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    set(&mut ioapic, 3, MASKED | LEVEL | 0x60);
    set(&mut ioapic, 4, MASKED | 0x61);
    ioapic.set_line(3, true);
    ioapic.set_line(4, true);
    assert_eq!(ioapic.deliver(), None);
    set(&mut ioapic, 3, LEVEL | 0x60);
    set(&mut ioapic, 4, 0x61);
    assert_eq!(ioapic.deliver(), ioapic.msi(3));
    assert_eq!(ioapic.deliver(), None);
    ioapic.set_line(4, true);
    assert_eq!(ioapic.deliver(), None, "still high: no edge");
    ioapic.set_line(4, false);
    ioapic.set_line(4, true);
    assert_eq!(ioapic.deliver(), ioapic.msi(4));
    assert_eq!(ioapic.deliver(), None);
    assert_eq!(read(&mut ioapic, IOREDTBL + 8) & REMOTE_IRR as u32, 0, "an edge waits for no EOI");
}

#[test]
fn the_selected_register_reads_back() {
    let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
    ioapic.write(IOREGSEL, 0x1234);
    assert_eq!(ioapic.read(IOREGSEL), 0x34);
}

#[test]
fn only_an_edge_on_an_open_pin_is_kept() {
    for entry in [MASKED | 0x61, LEVEL | 0x61] {
        let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
        set(&mut ioapic, 4, entry);
        ioapic.set_line(4, true);
        set(&mut ioapic, 4, 0x61);
        assert_eq!(ioapic.deliver(), None, "{entry:#x}");
    }
}

proptest! {
    #[test]
    fn survives_any_accesses(
        steps in prop::collection::vec(
            (0u8..6, prop_oneof![Just(IOREGSEL), Just(IOWIN), Just(EOI), any::<u64>()],
             prop_oneof![0u32..64, any::<u32>()]),
            0..300,
        )
    ) {
        let mut ioapic = IoApic::<PINS>::new(0, PINS as u8);
        for (kind, offset, value) in steps {
            let before: [_; PINS] = core::array::from_fn(|pin| ioapic.msi(pin as u8));
            let changed = match kind {
                0 => { ioapic.read(offset); None }
                1 => { ioapic.set_line(value as u8, offset & 1 == 0); None }
                2 => { ioapic.eoi(value as u8); None }
                _ => ioapic.write(offset, value),
            };
            for pin in 0..PINS as u8 {
                let differs = before[usize::from(pin)] != ioapic.msi(pin);
                prop_assert_eq!(differs, changed == Some(pin));
            }
            // What is due ends.
            let due = core::iter::from_fn(|| ioapic.deliver()).take(PINS + 1).count();
            prop_assert!(due <= PINS);
        }
    }
}

#[test]
fn pins_beyond_those_in_use_are_not_there() {
    let mut ioapic = IoApic::<PINS>::new(0, 2);
    assert_eq!(read(&mut ioapic, 1) >> 16, 1);
    set(&mut ioapic, 1, 0x31);
    assert!(ioapic.msi(1).is_some());
    set(&mut ioapic, 2, 0x32);
    assert!(ioapic.msi(2).is_none());
    assert_eq!(IoApic::<PINS>::new(0, 0).read(0x10), 0);
}

#[test]
fn lines_are_known_by_their_gsi() {
    let mut ioapic = IoApic::<PINS>::new(4, 2);
    set(&mut ioapic, 0, 0x30);
    set(&mut ioapic, 1, 0x31);
    for (gsi, vector) in [(3, None), (4, Some(0x30)), (5, Some(0x31)), (6, None)] {
        ioapic.set_line(gsi, true);
        assert_eq!(ioapic.deliver().map(|msi| msi.data & 0xff), vector, "{gsi}");
    }
}
