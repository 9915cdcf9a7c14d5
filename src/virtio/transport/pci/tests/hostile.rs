//! A console and a disk on one bus, and a guest that spares neither.

use std::cell::Cell;

use proptest::prelude::*;
use vm_memory::Bytes;

use super::*;

/// The disk's function, 0:0.2, and where its BAR is at first.
const DISK: u64 = 0x2000;
const DISK_BAR: u64 = BAR + BAR_SIZE;
const TABLE: u64 = 0x1000;
const PENDING: u64 = 0x1800;

struct Guest {
    slots: Devices,
    messages: Cell<usize>,
    _image: tempfile::NamedTempFile,
}

impl Guest {
    /// Both BARs are decoded, MSI-X is on.
    fn new() -> Guest {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 << 10).unwrap();
        let disk = format!(" --disk path={}", image.path().display());
        let (mut slots, _) = slots_with(&disk, "pci", true);
        for function in [CONSOLE, DISK] {
            write(&mut slots, function + 4, 6);
            write(&mut slots, function + 0x98, 1 << 31);
        }
        Guest { slots, messages: Cell::new(0), _image: image }
    }

    fn config(&mut self, offset: u64, data: &[u8]) {
        let mut count = |_: Signal| self.messages.set(self.messages.get() + 1);
        assert!(self.slots.ecam_write(offset, data, &mut count).claimed());
    }

    fn set<const N: usize>(&mut self, address: u64, data: [u8; N]) {
        let mut count = |_: Signal| self.messages.set(self.messages.get() + 1);
        let access = self.slots.bar_write(address, &data, &mut count);
        assert!(access.claimed());
        serve(&mut self.slots, access, &mut count);
    }

    fn get<const N: usize>(&mut self, address: u64) -> [u8; N] {
        let mut data = [0x5a; N];
        assert!(self.slots.bar_read(address, &mut data).claimed());
        data
    }

    fn there(&mut self, address: u64) -> Option<u32> {
        let mut data = [0; 4];
        self.slots.bar_read(address, &mut data).claimed().then_some(u32::from_le_bytes(data))
    }

    fn move_bar(&mut self, function: u64, to: u64) {
        self.config(function + 0x10, &(to as u32).to_le_bytes());
        self.config(function + 0x14, &((to >> 32) as u32).to_le_bytes());
    }

    /// The console with its transmit queue on vector 1, and one empty chain in it.
    fn start_console(&mut self) {
        for status in [1, 3] {
            self.set(BAR + 0x14, [status]);
        }
        for (at, value) in [(8, 1u32), (0xc, 1)] {
            self.set(BAR + at, value.to_le_bytes());
        }
        self.set(BAR + 0x14, [11]);
        for (at, value) in [(0x16, 1u16), (0x18, 16), (0x1a, 1)] {
            self.set(BAR + at, value.to_le_bytes());
        }
        for (at, area) in [(0x20, 0x1000u64), (0x28, 0x2000), (0x30, 0x3000)] {
            self.set(BAR + at, area.to_le_bytes());
        }
        self.set(BAR + 0x1c, 1u16.to_le_bytes());
        self.set(BAR + 0x14, [15]);
        let ram = &self.slots.memory;
        // A descriptor of one byte, the first in the ring.
        ram.write_obj([0x4000u64, 1], GuestAddress(0x1000)).unwrap();
        ram.write_obj([0u16, 0, 0, 0], GuestAddress(0x2000)).unwrap();
        ram.write_obj(0u16, GuestAddress(0x3002)).unwrap();
    }

    /// Puts the chain into the queue again and notifies.
    fn send(&mut self) {
        let ram = &self.slots.memory;
        let index: u16 = ram.read_obj(GuestAddress(0x2002)).unwrap();
        ram.write_obj(index.wrapping_add(1), GuestAddress(0x2002)).unwrap();
        self.set(BAR + 0x404, 1u16.to_le_bytes());
    }

    fn used(&self) -> u16 {
        self.slots.memory.read_obj(GuestAddress(0x3002)).unwrap()
    }
}

#[test]
fn of_two_bars_at_one_place_the_first_answers_until_it_leaves() {
    let mut guest = Guest::new();
    // How many queues there are tells them apart.
    let queues = |guest: &mut Guest, at: u64| guest.there(at + 0x10).map(|word| word >> 16);
    assert_eq!((queues(&mut guest, BAR), queues(&mut guest, DISK_BAR)), (Some(2), Some(1)));
    guest.move_bar(DISK, BAR);
    assert_eq!((queues(&mut guest, BAR), queues(&mut guest, DISK_BAR)), (Some(2), None));
    guest.move_bar(CONSOLE, 0x2000);
    assert_eq!(queues(&mut guest, BAR), Some(1));
    guest.move_bar(DISK, u64::MAX);
    assert_eq!((guest.there(BAR), guest.there(DISK_BAR)), (None, None));
    guest.move_bar(CONSOLE, DISK_BAR);
    guest.move_bar(DISK, BAR);
    assert_eq!((queues(&mut guest, BAR), queues(&mut guest, DISK_BAR)), (Some(1), Some(2)));
}

#[test]
fn the_table_takes_whole_aligned_words_and_nothing_else() {
    let mut guest = Guest::new();
    guest.set(BAR + TABLE, 0xfee0_0000u32.to_le_bytes());
    guest.set(BAR + TABLE + 8, (1u64 << 32 | 0x31).to_le_bytes());
    let before: [u8; 8] = guest.get(BAR + TABLE);
    assert_eq!(u64::from_le_bytes(before), 0xfee0_0000);
    for at in 0..16 {
        guest.set(BAR + TABLE + at, [0xff]);
        guest.set(BAR + TABLE + at, [0xff; 2]);
        if at % 4 != 0 {
            guest.set(BAR + TABLE + at, [0xff; 4]);
        }
        if at % 8 != 0 {
            guest.set(BAR + TABLE + at, [0xff; 8]);
        }
    }
    assert_eq!(guest.get(BAR + TABLE), before);
    assert_eq!(guest.get(BAR + TABLE + 8), (1u64 << 32 | 0x31).to_le_bytes());
    // Vectors past the console's three, up to the pending bits, are not there.
    for at in (TABLE + 3 * 16..PENDING).step_by(4) {
        guest.set(BAR + at, [0xff; 4]);
        assert_eq!(guest.get(BAR + at), [0; 4], "{at:#x}");
    }
    // Pending bits are not the guest's to set.
    for at in (PENDING..BAR_SIZE).step_by(8) {
        guest.set(BAR + at, [0xff; 8]);
        assert_eq!(guest.get(BAR + at), [0; 8], "{at:#x}");
    }
    assert_eq!(guest.messages.get(), 0);
}

#[test]
fn a_vector_that_is_not_there_is_none() {
    let mut guest = Guest::new();
    for vector in [3u16, 64, 0x7fff, 0xfffe, 0xffff] {
        guest.set(BAR + 0x10, vector.to_le_bytes());
        guest.set(BAR + 0x1a, vector.to_le_bytes());
        assert_eq!((guest.get(BAR + 0x10), guest.get(BAR + 0x1a)), ([0xff; 2], [0xff; 2]));
    }
    guest.set(BAR + 0x10, 2u16.to_le_bytes());
    assert_eq!(guest.get(BAR + 0x10), [2, 0]);
}

#[test]
fn masked_vectors_and_unchanged_entries_are_no_work() {
    let mut guest = Guest::new();
    guest.start_console();
    // As Linux sets one up: masked, field by field. What is raised meanwhile is pending.
    for (at, word) in [(0, 0xfee0_0000u32), (4, 0), (8, 0x31), (12, 1)] {
        guest.set(BAR + TABLE + 16 + at, word.to_le_bytes());
    }
    guest.send();
    guest.send();
    assert_eq!((guest.used(), guest.messages.get()), (2, 0));
    assert_eq!(guest.get(BAR + PENDING), [2]);
    // Unmasked: one message for both. Unchanged: none.
    for messages in [1, 1] {
        guest.set(BAR + TABLE + 28, [0; 4]);
        assert_eq!((guest.messages.get(), guest.get(BAR + PENDING)), (messages, [0]));
    }
    guest.send();
    assert_eq!((guest.used(), guest.messages.get()), (3, 2));
    // All masked, and off: nothing stays pending.
    guest.config(CONSOLE + 0x9a, &0xc000u16.to_le_bytes());
    guest.send();
    assert_eq!((guest.messages.get(), guest.get(BAR + PENDING)), (2, [2]));
    guest.config(CONSOLE + 0x9a, &[0; 2]);
    guest.config(CONSOLE + 0x9a, &0x8000u16.to_le_bytes());
    assert_eq!((guest.messages.get(), guest.get(BAR + PENDING)), (2, [0]));
}

#[test]
fn a_reset_in_mid_flight_ends_all_that_was_going_on() {
    let mut guest = Guest::new();
    guest.start_console();
    guest.send();
    assert_eq!(guest.used(), 1);
    guest.set(BAR + 0x14, [0]);
    guest.send();
    assert_eq!((guest.used(), guest.get(BAR + 0x14)), (1, [0]), "a queue after its reset");
    assert_eq!((guest.get(BAR + 0x10), guest.get(BAR + 0x1a)), ([0xff; 2], [0xff; 2]));
    // Again from the start, and away with the BAR while a chain waits.
    guest.start_console();
    guest.move_bar(CONSOLE, BAR + 0x10_0000);
    assert!(!guest.slots.bar_write(BAR + 0x404, &[1, 0], &mut |_: Signal| ()).claimed());
    guest.move_bar(CONSOLE, BAR);
    assert_eq!(guest.used(), 0);
    guest.send();
    assert_eq!((guest.used(), guest.get(BAR + 0x14)), (1, [15]));
}

#[test]
fn every_register_with_every_width_at_every_offset() {
    let mut guest = Guest::new();
    let check = |guest: &mut Guest, function: u64, register: u64| {
        let number = (function >> 12) as usize;
        let by_exit = guest.slots.config_word(number, register as u16 & !3);
        let readable = guest.slots.pci.as_ref().and_then(|pci| pci.readable.as_ref()).unwrap();
        let as_memory = readable.get(number, register as u16 & !3);
        assert!(as_memory.is_none_or(|word| word == by_exit), "{function:#x} {register:#x}");
    };
    // The window into the BAR last: from there on reads are exits.
    let (window, others): (Vec<u64>, Vec<u64>) =
        (0..0x1000).partition(|register| (0x80..0x98).contains(register));
    for register in others.into_iter().chain(window) {
        for function in [0, CONSOLE, DISK, 0x3000, 0xf_f000] {
            for width in [1, 2, 4, 8] {
                for byte in [0xff, 0x5a, 0] {
                    guest.config(function + register, &[byte; 8][..width]);
                    assert!(
                        guest.slots.ecam_read(function + register, &mut [0; 8][..width]).claimed()
                    );
                }
                if function <= DISK {
                    check(&mut guest, function, register);
                }
            }
        }
    }
    assert_eq!(read(&mut guest.slots, CONSOLE), 0x1043_1af4);
    assert_eq!(read(&mut guest.slots, DISK), 0x1042_1af4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever the BARs go, an address in the window is served if and only if one is there.
    #[test]
    fn bars_are_where_configuration_space_says(
        moves in proptest::collection::vec(
            (any::<bool>(), prop_oneof![0..16u64, any::<u64>()], any::<bool>()), 1..20,
        ),
    ) {
        let mut guest = Guest::new();
        let mut bars = [(BAR, true), (DISK_BAR, true)];
        for (disk, page, decoded) in moves {
            let to = if page < 16 { BAR + page * BAR_SIZE } else { page & !(BAR_SIZE - 1) };
            let function = if disk { DISK } else { CONSOLE };
            guest.move_bar(function, to);
            guest.config(function + 4, &[if decoded { 2 } else { 0 }]);
            bars[usize::from(disk)] = (to, decoded);
            for page in 0..16 {
                let at = BAR + page * BAR_SIZE;
                prop_assert_eq!(guest.there(at).is_some(), bars.contains(&(at, true)));
            }
        }
    }
}

/// What the guest has written to the table as memory, if it is: here there is no guest, so this is.
fn table(guest: &Guest) -> Option<&'static [std::sync::atomic::AtomicU32]> {
    guest.slots.pci.as_ref().and_then(|pci| pci.functions[0].table.shown())
}

/// Writes one word of vector 1's entry as memory.
fn poke(guest: &Guest, word: usize, value: u32) {
    table(guest).unwrap()[4 + word].store(value, std::sync::atomic::Ordering::Relaxed);
}

#[test]
fn the_table_is_memory_until_a_masked_vector_is_raised() {
    let mut guest = Guest::new();
    guest.start_console();
    guest.config(CONSOLE + 0x9a, &0x8000u16.to_le_bytes());
    for (word, value) in [(0, 0xfee0_0003u32), (2, 0x31), (3, 0)] {
        poke(&guest, word, value);
    }
    guest.send();
    assert_eq!((guest.used(), guest.messages.get()), (1, 1));
    // Masked: nothing is sent until the guest unmasks it, which has become an exit.
    poke(&guest, 3, 1);
    guest.send();
    assert_eq!((guest.used(), guest.messages.get()), (2, 1));
    assert!(table(&guest).is_none());
    assert_eq!(guest.get(BAR + TABLE + 16), 0xfee0_0000u32.to_le_bytes());
    assert_eq!(guest.get(BAR + PENDING), [2]);
    guest.config(CONSOLE + 0x9a, &0x8000u16.to_le_bytes());
    assert!(table(&guest).is_none(), "something is pending");
    guest.set(BAR + TABLE + 28, [0; 4]);
    assert_eq!((guest.messages.get(), guest.get(BAR + PENDING)), (2, [0]));
    // Set up again it is memory again, with what the guest wrote meanwhile.
    guest.config(CONSOLE + 0x9a, &0x8000u16.to_le_bytes());
    guest.send();
    assert_eq!((table(&guest).is_some(), guest.messages.get()), (true, 3));
}

/// An access that was an exit before the table became memory.
#[test]
fn who_comes_late_is_not_lost() {
    let mut guest = Guest::new();
    guest.config(CONSOLE + 0x9a, &0x8000u16.to_le_bytes());
    poke(&guest, 2, 0x31);
    guest.set(BAR + TABLE + 16, 0xfee0_1000u32.to_le_bytes());
    assert!(table(&guest).is_none());
    assert_eq!(guest.get(BAR + TABLE + 16), 0xfee0_1000u32.to_le_bytes());
    assert_eq!(guest.get(BAR + TABLE + 24), 0x31u32.to_le_bytes());
}

/// Of a guest that was saved, too.
#[test]
fn the_table_is_memory_at_its_place() {
    use crate::virtio::transport::pages::{Page, Window};
    let (mut slots, vm) = slots_with("", "pci", true);
    write(&mut slots, CONSOLE + 4, 6);
    write(&mut slots, CONSOLE + 0x98, 1 << 31);
    let is_free = |vm: &'static Vm, slot: u32, at: u64| {
        let mut window = Window::new(vm, slot);
        window.open(at, Page::zeroed(1), false).map(|()| window.close()).is_ok()
    };
    assert!(
        !is_free(vm, 30, BAR + TABLE) && is_free(vm, 30, BAR) && is_free(vm, 30, BAR + BAR_SIZE)
    );
    #[cfg(feature = "snapshot")]
    {
        use crate::snapshot::parts::{Parts, Writer};
        let mut to = Writer::default();
        slots.pci.as_mut().unwrap().save(&mut to);
        let file = to.finish();
        let (mut clone, vm) = slots_with("", "pci", false);
        clone.pci.as_mut().unwrap().restore(&Parts::parse(&file).unwrap()).unwrap();
        assert!(is_free(vm, 30, BAR + TABLE));
        clone.make_readable(vm, 5).unwrap();
        assert!(!is_free(vm, 30, BAR + TABLE));
    }
}

#[test]
fn the_table_is_memory_only_where_the_bar_is() {
    let mut guest = Guest::new();
    let enable = |guest: &mut Guest| {
        guest.config(CONSOLE + 0x9a, &0x8000u16.to_le_bytes());
        table(guest).is_some()
    };
    assert!(enable(&mut guest));
    guest.config(CONSOLE + 4, &[0]);
    assert!(table(&guest).is_none() && !enable(&mut guest), "not decoded");
    guest.config(CONSOLE + 4, &[2]);
    assert!(enable(&mut guest));
    for elsewhere in [0x2000, 0xfec0_0000, u64::MAX, layout::PCI_MEM32.start - BAR_SIZE] {
        guest.move_bar(CONSOLE, elsewhere);
        assert!(!enable(&mut guest), "{elsewhere:#x}");
    }
    // On the disk's, whose own table is there first.
    guest.config(DISK + 0x9a, &0x8000u16.to_le_bytes());
    guest.move_bar(CONSOLE, DISK_BAR);
    assert!(!enable(&mut guest));
    guest.move_bar(CONSOLE, BAR + 0x10_0000);
    assert!(enable(&mut guest));
    guest.config(CONSOLE + 0x9a, &[0; 2]);
    assert!(table(&guest).is_none(), "MSI-X is off");
}
