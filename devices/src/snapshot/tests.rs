//! For every model: whatever a guest did to it, its state comes back to the last byte; and bytes that
//! are no state are refused, or are taken over just as they are.

use std::vec::Vec;

use proptest::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Invalid;

/// Saves what `accessed` made of a model, restores it into a new one, and saves that. Then flips each
/// bit of it.
fn comes_back<M, S>(
    accessed: &M,
    new: impl Fn() -> M,
    save: impl Fn(&M) -> S,
    restore: impl Fn(&mut M, &S) -> Result<(), Invalid>,
) where
    S: FromBytes + IntoBytes + Immutable + KnownLayout + PartialEq + Copy + std::fmt::Debug,
{
    let saved = save(accessed);
    let mut other = new();
    restore(&mut other, &saved).expect("its own state");
    assert_eq!(save(&other), saved);
    let bytes = saved.as_bytes().to_vec();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        as_it_is_or_refused(&flipped, &new, &save, &restore);
    }
}

fn as_it_is_or_refused<M, S>(
    bytes: &[u8],
    new: &impl Fn() -> M,
    save: &impl Fn(&M) -> S,
    restore: &impl Fn(&mut M, &S) -> Result<(), Invalid>,
) where
    S: FromBytes + IntoBytes + Immutable + KnownLayout + PartialEq + Copy + std::fmt::Debug,
{
    let state = S::read_from_bytes(bytes).unwrap();
    let mut model = new();
    if restore(&mut model, &state).is_ok() {
        assert_eq!(save(&model), state);
    }
}

/// An access: where, what, how wide (1, 2, 4 or 8 bytes), write or read.
fn accesses() -> impl Strategy<Value = Vec<(u16, u64, u8, bool)>> {
    prop::collection::vec((any::<u16>(), any::<u64>(), 0u8..4, any::<bool>()), 0..64)
}

fn bytes_of(value: u64, width: u8) -> Vec<u8> {
    value.to_le_bytes()[..1 << width].to_vec()
}

/// What a driver of MMIO's made of a device: by any accesses, or `active` behind them.
#[cfg(feature = "mmio")]
fn virtio_device<D: crate::virtio::Device, const Q: usize>(
    accesses: &[(u16, u64, u8, bool)],
    active: bool,
    new: impl Fn() -> D,
) {
    use crate::virtio::{Common, Effect, State, mmio};
    let (mut device, mut model) = (new(), Common::<Q>::new());
    for &(at, value, width, _) in accesses {
        let data = bytes_of(value, width);
        let _: Effect = mmio::write(&mut model, &mut device, u64::from(at % 0x110), &data);
    }
    if active {
        for (at, value) in [
            (0x70, 0),
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x70, 11),
            (0x30, 0),
            (0x38, 8),
            (0x80, 0x1000),
            (0x90, 0x2000),
            (0xa0, 0x3000),
            (0x44, 1),
            (0x70, 15),
        ] {
            let _: Effect = mmio::write(&mut model, &mut device, at, &u32::to_le_bytes(value));
        }
        assert!(model.active());
    }
    let save = |model: &Common<Q>| {
        let state: &State = model;
        state.save(&new())
    };
    comes_back(&model, Common::new, save, |model, saved| {
        let state: &mut State = model;
        state.restore(&mut new(), saved)
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ioapic(accesses in accesses(), pins in 1u8..=24) {
        use crate::ioapic::IoApic;
        let new = || IoApic::<24>::new(4, pins);
        let mut model = new();
        for (at, value, _, line) in accesses {
            model.write(0, u64::from(at % 0x40) as u32);
            model.write(0x10, value as u32);
            model.set_line(at as u8, line);
            let _ = model.deliver();
        }
        comes_back(&model, new, IoApic::save, IoApic::restore);
    }

    #[test]
    #[cfg(feature = "serial")]
    fn serial(accesses in accesses()) {
        use crate::serial::Serial;
        let mut model = Serial::new();
        for (at, value, width, write) in accesses {
            if write {
                model.write(at as u8 % 8, value as u8);
            } else {
                model.read(at as u8 % 8);
            }
            for byte in bytes_of(value, width) {
                model.receive(byte);
            }
        }
        comes_back(&model, Serial::new, Serial::save, Serial::restore);
    }

    #[test]
    #[cfg(feature = "mmio")]
    fn virtio(accesses in accesses(), active in any::<bool>()) {
        #[cfg(feature = "console")]
        {
            use crate::virtio::console::Console;
            virtio_device::<_, 2>(&accesses, active, || Console::new(Some((80, 25))));
        }
        #[cfg(feature = "block")]
        {
            use crate::virtio::block::{Block, Options};
            let options = Options { capacity: 100, queues: 2, discard: true, ..Options::default() };
            virtio_device::<_, 2>(&accesses, active, || Block::new(&options));
        }
        #[cfg(feature = "pmem")]
        virtio_device::<_, 1>(&accesses, active, || crate::virtio::pmem::Pmem::new(1 << 32, 1 << 21));
        #[cfg(feature = "rng")]
        virtio_device::<_, 1>(&accesses, active, || crate::virtio::rng::Rng);
        let _ = (accesses, active);
    }

    #[test]
    #[cfg(all(feature = "pci", feature = "console"))]
    fn pci_function(accesses in accesses()) {
        use crate::virtio::pci::{Effect, Function, Saved, VirtioPci};
        use crate::virtio::{Common, console::Console};
        let mut device = Console::new(None);
        let mut common = Common::<2>::new();
        let new = || VirtioPci::<3>::new(0xf000_0000);
        let mut model = new();
        for (at, value, width, config) in accesses {
            let (function, data): (&mut Function, _) = (&mut model, bytes_of(value, width));
            let _: Effect = if config {
                function.config_write(&mut common, &mut device, at % 0x100, &data)
            } else {
                function.bar_write(&mut common, &mut device, u64::from(at) & 0x1fff, &data)
            };
            function.msix.raise(at % 4);
        }
        fn save(model: &VirtioPci<3>) -> Saved {
            let function: &Function = model;
            function.save()
        }
        fn restore(model: &mut VirtioPci<3>, saved: &Saved) -> Result<(), Invalid> {
            let function: &mut Function = model;
            function.restore(saved)
        }
        comes_back(&model, new, save, restore);
    }

    #[test]
    fn bytes_from_anywhere(bytes in prop::collection::vec(any::<u8>(), 272)) {
        use crate::ioapic::{IoApic, Saved};
        let new = || IoApic::<24>::new(4, 8);
        let len = size_of::<Saved>();
        as_it_is_or_refused(&bytes[..len], &new, &IoApic::save, &IoApic::restore);
    }
}

#[test]
fn a_state_of_another_machine_is_refused() {
    use crate::ioapic::IoApic;
    let saved = IoApic::<24>::new(4, 8).save();
    assert_eq!(IoApic::<24>::new(4, 9).restore(&saved), Err(Invalid));
    assert_eq!(IoApic::<24>::new(5, 8).restore(&saved), Err(Invalid));
    assert_eq!(IoApic::<24>::new(4, 8).restore(&saved), Ok(()));
}

#[test]
fn pins_and_bits_that_are_not_there_are_refused() {
    use crate::ioapic::{IoApic, Saved};
    use zerocopy::{FromBytes, IntoBytes};
    let mut ioapic = IoApic::<24>::new(4, 8);
    let saved = ioapic.save();
    // Behind the numbers, the selector and the ID: lines, edges, entries.
    let (lines, edges, entries) = (8, 12, 16);
    for (at, bit, fine) in [
        (lines, 7, true),
        (lines + 1, 0, false),
        (edges, 7, true),
        (edges + 1, 0, false),
        (entries, 0, true),
        (entries + 3, 0, false),
        (entries + 6, 0, false),
        (entries + 8 * 8, 0, false),
    ] {
        let mut bytes = saved.as_bytes().to_vec();
        bytes[at] ^= 1 << bit;
        let changed = Saved::read_from_bytes(&bytes).unwrap();
        assert_eq!(ioapic.restore(&changed).is_ok(), fine, "byte {at}, bit {bit}");
    }
}

#[test]
#[cfg(feature = "serial")]
fn bits_that_a_uart_has_not_are_refused() {
    use crate::serial::{Saved, Serial};
    use zerocopy::{FromBytes, IntoBytes};
    let mut uart = Serial::new();
    let saved = uart.save();
    // IER, FCR, MCR, two flags, a byte of nothing, the FIFO.
    for (at, value, fine) in [
        (0, 0x0f, true),
        (0, 0x10, false),
        (1, 0xc1, true),
        (1, 0xc0, false),
        (1, 0x02, false),
        (3, 0x1f, true),
        (3, 0x80, false),
        (8, 1, true),
        (8, 2, false),
        (9, 2, false),
        (11, 1, false),
        (12, 1, false),
    ] {
        let mut bytes = saved.as_bytes().to_vec();
        bytes[at] = value;
        let changed = Saved::read_from_bytes(&bytes).unwrap();
        assert_eq!(uart.restore(&changed).is_ok(), fine, "byte {at} is {value:#x}");
    }
}
