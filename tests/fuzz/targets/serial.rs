//! The UART between its registers and its line.
#![no_main]

use arbitrary::Arbitrary;
use brisk_devices::serial::{FIFO, Serial};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Event {
    Read { offset: u8 },
    Write { offset: u8, value: u8 },
    Receive { byte: u8 },
}

fuzz_target!(|events: Vec<Event>| {
    let mut uart = Serial::new();
    for event in events {
        match event {
            Event::Read { offset } => {
                uart.read(offset);
            }
            Event::Write { offset, value } => {
                let sent = uart.write(offset, value);
                assert!(sent.is_none() || (offset == 0 && sent == Some(value)));
            }
            Event::Receive { byte } => {
                let space = uart.rx_space();
                assert!(space <= FIFO);
                assert_eq!(uart.receive(byte), space > 0);
            }
        }
        // An interrupt has a cause (bit 0 of IIR is clear) for as long as it lasts.
        if uart.irq() {
            assert_eq!(uart.read(2) & 1, 0);
        }
    }
});
