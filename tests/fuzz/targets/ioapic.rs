//! The IOAPIC between its registers and its lines.
#![no_main]

use arbitrary::Arbitrary;
use brisk_devices::ioapic::IoApic;
use libfuzzer_sys::fuzz_target;

const PINS: usize = 16;

#[derive(Arbitrary, Debug)]
enum Event {
    Read {
        offset: u16,
    },
    Write {
        offset: u16,
        value: u32,
    },
    /// Selects and writes a register.
    Register {
        register: u8,
        value: u32,
    },
    Line {
        pin: u8,
        high: bool,
    },
    Eoi {
        vector: u8,
    },
}

fuzz_target!(|input: (u8, Vec<Event>)| {
    let (pins, events) = input;
    let mut ioapic = IoApic::<PINS>::new(0, pins % (PINS as u8 + 1));
    for event in events {
        match event {
            Event::Read { offset } => {
                ioapic.read((offset & 0xfff).into());
            }
            Event::Write { offset, value } => {
                ioapic.write((offset & 0xfff).into(), value);
            }
            Event::Register { register, value } => {
                ioapic.write(0, register.into());
                ioapic.write(0x10, value);
            }
            Event::Line { pin, high } => ioapic.set_line(pin, high),
            Event::Eoi { vector } => ioapic.eoi(vector),
        }
        // What the host does after each event: no more messages than pins.
        let sent = (0..=PINS).take_while(|_| ioapic.deliver().is_some()).count();
        assert!(sent <= PINS, "messages without end");
        for pin in 0..=u8::MAX {
            if let Some(msi) = ioapic.msi(pin) {
                assert!(usize::from(pin) < PINS && msi.address >> 20 == 0xfee);
            }
        }
    }
});
