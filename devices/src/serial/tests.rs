use super::*;
use proptest::prelude::*;
use std::vec::Vec;

// Linux's names (include/uapi/linux/serial_reg.h).
const LCR_CONF_MODE_A: u8 = 0x80;
const LCR_CONF_MODE_B: u8 = 0xbf;
const LCR_WLEN8: u8 = 0x03;
const FCR_ENABLE_FIFO: u8 = 0x01;
const FCR_CLEAR: u8 = 0x06;
const FCR_64BYTE: u8 = 0x20;
const IIR_FIFO_ENABLED_16750: u8 = 0xe0;
const IER_UUE: u8 = 0x40;

/// drivers/tty/serial/8250/8250_port.c, size_fifo()
fn size_fifo(uart: &mut Serial) -> usize {
    let lcr = uart.read(LCR);
    uart.write(LCR, 0);
    let fcr = uart.read(IIR_FCR);
    let mcr = uart.read(MCR);
    uart.write(IIR_FCR, FCR_ENABLE_FIFO | FCR_CLEAR);
    uart.write(MCR, MCR_LOOP);
    uart.write(LCR, LCR_CONF_MODE_A);
    let divisor = [uart.read(0), uart.read(1)];
    uart.write(0, 1);
    uart.write(1, 0);
    uart.write(LCR, LCR_WLEN8);
    for byte in 0..=255 {
        assert_eq!(uart.write(DATA, byte), None, "a byte left the UART in loopback");
    }
    let mut count = 0;
    while count < 256 && uart.read(LSR) & LSR_DATA != 0 {
        assert_eq!(usize::from(uart.read(DATA)), count);
        count += 1;
    }
    uart.write(IIR_FCR, fcr);
    uart.write(MCR, mcr);
    uart.write(LCR, LCR_CONF_MODE_A);
    uart.write(0, divisor[0]);
    uart.write(1, divisor[1]);
    uart.write(LCR, lcr);
    count
}

/// The parts of autoconfig() and autoconfig_16550a() that decide the type, with
/// CONFIG_SERIAL_8250_16550A_VARIANTS on: every other branch leads to another type.
fn assert_linux_detects_16550a(uart: &mut Serial) {
    // Existence.
    let ier = uart.read(IER);
    uart.write(IER, 0);
    assert_eq!(uart.read(IER), 0);
    uart.write(IER, 0x0f);
    assert_eq!(uart.read(IER), 0x0f);
    uart.write(IER, ier);
    // Loopback: RTS and OUT2 come back as CTS and DCD.
    let (mcr, lcr) = (uart.read(MCR), uart.read(LCR));
    uart.write(MCR, MCR_LOOP | MCR_OUT2 | MCR_RTS);
    assert_eq!(uart.read(MSR) & 0xf0, MSR_DCD | MSR_CTS);
    uart.write(MCR, mcr);
    // A 16550A's FIFO.
    uart.write(LCR, LCR_CONF_MODE_B);
    uart.write(IIR_FCR, 0);
    uart.write(LCR, 0);
    uart.write(IIR_FCR, FCR_ENABLE_FIFO);
    assert_eq!(uart.read(IIR_FCR) & 0xc0, 0xc0);
    // No EFR, so none of the 16C650 family.
    uart.write(LCR, LCR_CONF_MODE_A);
    assert_ne!(uart.read(2), 0);
    uart.write(LCR, LCR_CONF_MODE_B);
    assert_ne!(uart.read(2), 0);
    // No bank 2, so no National Semiconductor SuperIO.
    uart.write(LCR, 0);
    let status1 = uart.read(MCR);
    uart.write(LCR, 0xe0);
    let status2 = uart.read(2);
    assert_eq!((status2 ^ status1) & MCR_LOOP, 0);
    uart.write(LCR, 0);
    uart.write(MCR, status1 ^ MCR_LOOP);
    uart.write(LCR, 0xe0);
    let status2 = uart.read(2);
    uart.write(LCR, 0);
    uart.write(MCR, status1);
    assert_eq!((status2 ^ status1) & MCR_LOOP, 0);
    // No 64-byte FIFO, so no 16750.
    uart.write(LCR, 0);
    uart.write(IIR_FCR, FCR_ENABLE_FIFO | FCR_64BYTE);
    assert_eq!(uart.read(IIR_FCR) & IIR_FIFO_ENABLED_16750, 0xc0);
    uart.write(IIR_FCR, FCR_ENABLE_FIFO);
    uart.write(LCR, LCR_CONF_MODE_A);
    uart.write(IIR_FCR, FCR_ENABLE_FIFO | FCR_64BYTE);
    assert_ne!(uart.read(IIR_FCR) & IIR_FIFO_ENABLED_16750, IIR_FIFO_ENABLED_16750);
    uart.write(IIR_FCR, FCR_ENABLE_FIFO);
    uart.write(LCR, 0);
    // No UART unit enable, so no Xscale.
    let ier = uart.read(IER);
    uart.write(IER, ier | IER_UUE);
    assert_eq!(uart.read(IER) & IER_UUE, 0);
    uart.write(IER, ier);
    assert_eq!(size_fifo(uart), FIFO);
    // Reset.
    uart.write(LCR, lcr);
    uart.write(MCR, mcr);
    uart.write(IIR_FCR, FCR_ENABLE_FIFO);
    uart.write(IIR_FCR, FCR_ENABLE_FIFO | FCR_CLEAR);
    uart.write(IIR_FCR, 0);
    uart.read(DATA);
    uart.write(IER, 0);
}

#[test]
fn linux_detects_a_16550a() {
    let mut uart = Serial::new();
    assert_linux_detects_16550a(&mut uart);
    // Again, as after a driver's unbinding and binding.
    assert_linux_detects_16550a(&mut uart);
    assert!(!uart.irq());
    assert_eq!(uart.read(LSR), LSR_TX_EMPTY);
}

/// serial8250_do_startup(): UART_BUG_THRE would start a polling timer, UART_BUG_TXEN a workaround.
#[test]
fn linux_finds_no_transmit_bugs() {
    let mut uart = Serial::new();
    uart.write(IER, IER_TX);
    assert_eq!(uart.read(IIR_FCR), IIR_TX);
    uart.write(IER, 0);
    uart.write(IER, IER_TX);
    assert_eq!(uart.read(IIR_FCR), IIR_TX, "THRE is not reasserted: UART_BUG_THRE");
    uart.write(IER, 0);
    uart.write(LCR, LCR_WLEN8);
    uart.write(MCR, MCR_OUT2);
    uart.write(IER, IER_TX);
    assert_eq!(uart.read(LSR), LSR_TX_EMPTY);
    assert!(uart.irq());
    assert_eq!(uart.read(IIR_FCR), IIR_TX, "no interrupt on enabling: UART_BUG_TXEN");
    assert!(!uart.irq());
}

#[test]
fn a_byte_written_is_sent_and_interrupts_again() {
    let mut uart = Serial::new();
    uart.write(MCR, MCR_OUT2);
    uart.write(IER, IER_TX);
    uart.read(IIR_FCR);
    assert!(!uart.irq());
    assert_eq!(uart.write(DATA, b'a'), Some(b'a'));
    assert!(uart.irq());
    assert_eq!(uart.read(LSR), LSR_TX_EMPTY);
    assert_eq!(uart.read(IIR_FCR), IIR_TX);
    assert!(!uart.irq(), "reading IIR acknowledges it");
    // While the divisor shows, nothing is sent.
    uart.write(LCR, LCR_DLAB);
    assert_eq!(uart.write(DATA, 0x34), None);
    assert_eq!(uart.write(IER, 0x12), None);
    assert_eq!((uart.read(DATA), uart.read(IER)), (0x34, 0x12));
    uart.write(LCR, 0);
    assert_eq!(uart.read(IER), IER_TX);
}

#[test]
fn receives_into_one_register_without_fifo() {
    let mut uart = Serial::new();
    assert_eq!(uart.rx_space(), 1);
    assert!(uart.receive(1));
    assert!(!uart.receive(2), "there is no space");
    assert_eq!(uart.read(LSR) & (LSR_DATA | LSR_OVERRUN), LSR_DATA);
    assert_eq!(uart.read(DATA), 1);
    assert_eq!(uart.rx_space(), 1);
    assert_eq!(uart.read(DATA), 0);
}

#[test]
fn receives_into_the_fifo_up_to_the_trigger_level() {
    for (level, trigger) in [(0x00, 1), (0x40, 4), (0x80, 8), (0xc0, 14)] {
        let mut uart = Serial::new();
        uart.write(MCR, MCR_OUT2);
        uart.write(IER, IER_RX);
        uart.write(IIR_FCR, FCR_ENABLE | level);
        for n in 1..=FIFO {
            assert!(uart.receive(n as u8));
            let cause = if n >= trigger { IIR_RX } else { IIR_RX_TIMEOUT };
            assert_eq!(uart.read(IIR_FCR), cause | IIR_FIFO);
            assert!(uart.irq(), "input would wait for more input");
        }
        assert!(!uart.receive(17));
        for n in 1..=FIFO {
            assert_eq!(uart.read(DATA), n as u8);
        }
        assert!(!uart.irq());
        // FCR's clear bit empties it; so does switching it off.
        for fcr in [FCR_ENABLE | FCR_CLEAR_RX, 0] {
            assert!(uart.receive(1));
            uart.write(IIR_FCR, fcr);
            assert_eq!(uart.read(LSR) & LSR_DATA, 0);
        }
    }
}

#[test]
fn interrupts_by_priority() {
    let mut uart = Serial::new();
    uart.write(IIR_FCR, FCR_ENABLE);
    // In loopback: an overrun, data, an empty transmitter and changed modem lines.
    uart.write(MCR, MCR_LOOP);
    for byte in 0..=FIFO {
        uart.write(DATA, byte as u8);
    }
    uart.write(IER, IER_ALL);
    assert_eq!(uart.read(IIR_FCR), IIR_LINE | IIR_FIFO);
    assert_eq!(uart.read(LSR) & LSR_OVERRUN, LSR_OVERRUN);
    assert_eq!(uart.read(LSR) & LSR_OVERRUN, 0, "reading LSR clears it");
    assert_eq!(uart.read(IIR_FCR), IIR_RX | IIR_FIFO);
    uart.write(IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX);
    assert_eq!(uart.read(IIR_FCR), IIR_TX | IIR_FIFO);
    assert_eq!(uart.read(IIR_FCR), IIR_MODEM | IIR_FIFO);
    assert_eq!(uart.read(MSR), (MSR_CTS | MSR_DSR | MSR_DCD) >> 4);
    assert_eq!(uart.read(IIR_FCR), IIR_NONE | IIR_FIFO);
}

#[test]
fn loopback_disconnects_the_line() {
    let mut uart = Serial::new();
    uart.write(MCR, MCR_LOOP | MCR_OUT2);
    uart.write(IER, IER_TX);
    assert_eq!(uart.read(IIR_FCR), IIR_TX, "the cause shows");
    uart.write(DATA, 1);
    assert!(!uart.irq(), "the line is not driven");
    assert!(!uart.receive(2));
    assert_eq!(uart.rx_space(), 0);
    assert_eq!(uart.read(DATA), 1);
}

#[test]
fn ring_indicator_counts_only_its_falling_edge() {
    let mut uart = Serial::new();
    uart.write(MCR, MCR_LOOP);
    uart.read(MSR);
    uart.write(MCR, MCR_LOOP | MCR_OUT1);
    assert_eq!(uart.read(MSR), MSR_RI);
    uart.write(MCR, MCR_LOOP);
    assert_eq!(uart.read(MSR), MSR_RI >> 4);
}

/// Makes something pending, and nothing else.
type Pending = fn(&mut Serial);

#[test]
fn each_interrupt_has_its_own_bit() {
    let overrun: Pending = |uart| {
        uart.write(MCR, MCR_LOOP);
        uart.write(DATA, 1);
        uart.write(DATA, 2);
        uart.write(MCR, 0);
        uart.read(DATA);
        uart.read(MSR);
    };
    let data: Pending = |uart| assert!(uart.receive(1));
    let sent: Pending = |uart| assert_eq!(uart.write(DATA, 1), Some(1));
    let line: Pending = |uart| {
        uart.write(MCR, MCR_LOOP);
        uart.write(MCR, 0);
    };
    for (bit, pending, cause) in [
        (IER_LINE, overrun, IIR_LINE),
        (IER_RX, data, IIR_RX),
        (IER_TX, sent, IIR_TX),
        (IER_MODEM, line, IIR_MODEM),
    ] {
        let mut uart = Serial::new();
        pending(&mut uart);
        uart.write(IER, bit);
        assert_eq!(uart.read(IIR_FCR), cause);
        let mut uart = Serial::new();
        pending(&mut uart);
        uart.write(IER, IER_ALL & !bit);
        // To enable the transmitter's is to have one.
        let _ = uart.read(IIR_FCR);
        assert_eq!(uart.read(IIR_FCR), IIR_NONE, "{bit:#x}");
    }
}

#[test]
fn enabling_the_transmitters_interrupt_raises_it_once() {
    let mut uart = Serial::new();
    uart.write(MCR, MCR_OUT2);
    assert!(!uart.wants_interrupts());
    uart.write(IER, IER_TX);
    assert!(uart.irq() && uart.wants_interrupts());
    assert_eq!(uart.read(IIR_FCR), IIR_TX);
    uart.write(IER, IER_TX);
    assert!(!uart.irq(), "it was enabled already");
    uart.write(IER, 0);
    assert!(!uart.wants_interrupts());
}

#[test]
fn a_byte_that_was_sent_is_told_to_a_driver_that_asked_only() {
    let mut uart = Serial::new();
    uart.write(MCR, MCR_OUT2);
    uart.write(IER, IER_ALL & !IER_TX);
    uart.write(DATA, b'a');
    assert!(!uart.irq());
    assert_eq!(uart.read(IIR_FCR), IIR_NONE);
}

#[test]
fn loopback_overruns_when_there_is_no_room_and_not_before() {
    let mut uart = Serial::new();
    uart.write(MCR, MCR_LOOP);
    uart.write(DATA, 1);
    assert_eq!(uart.read(LSR) & LSR_OVERRUN, 0);
    uart.write(DATA, 2);
    assert_eq!(uart.read(LSR) & LSR_OVERRUN, LSR_OVERRUN);
}

#[test]
fn the_fifo_is_emptied_by_its_switch_and_by_its_bit() {
    let with_two = || {
        let mut uart = Serial::new();
        uart.write(IIR_FCR, FCR_ENABLE);
        assert!(uart.receive(1) && uart.receive(2));
        uart
    };
    for (value, empty) in [
        (FCR_ENABLE, false),
        (FCR_ENABLE | FCR_TRIGGER, false),
        (FCR_ENABLE | FCR_CLEAR_RX, true),
        (0, true),
    ] {
        let mut uart = with_two();
        uart.write(IIR_FCR, value);
        assert_eq!(uart.read(LSR) & LSR_DATA == 0, empty, "{value:#x}");
    }
    // The trigger level counts only while it is on.
    let mut uart = Serial::new();
    uart.write(IER, IER_RX);
    uart.write(IIR_FCR, FCR_TRIGGER);
    assert!(uart.receive(1));
    assert_eq!(uart.read(IIR_FCR), IIR_RX);
}

#[test]
fn outputs_are_inputs_in_loopback_only() {
    let mut uart = Serial::new();
    uart.write(MCR, MCR_DTR);
    assert_eq!(uart.read(MSR) & 0xf0, MSR_CTS | MSR_DSR | MSR_DCD);
    for (output, input) in
        [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)]
    {
        uart.write(MCR, MCR_LOOP | output);
        assert_eq!(uart.read(MSR) & 0xf0, input);
    }
}

#[test]
fn a_changed_input_is_told_until_it_is_read() {
    let mut uart = Serial::new();
    uart.write(MCR, MCR_LOOP | MCR_RTS);
    assert_eq!(uart.read(MSR), MSR_CTS | (MSR_DSR | MSR_DCD) >> 4, "two fell");
    assert_eq!(uart.read(MSR), MSR_CTS);
    uart.write(MCR, MCR_LOOP);
    uart.write(MCR, MCR_LOOP | MCR_DTR);
    assert_eq!(uart.read(MSR), MSR_DSR | (MSR_CTS | MSR_DSR) >> 4, "one after the other");
    uart.write(MCR, MCR_LOOP);
    uart.write(MCR, MCR_LOOP | MCR_DTR);
    assert_eq!(uart.read(MSR), MSR_DSR | MSR_DSR >> 4, "there and back");
}

#[test]
fn scratch_and_what_is_beyond() {
    let mut uart = Serial::new();
    uart.write(SCR, 0xa5);
    assert_eq!(uart.read(SCR), 0xa5);
    uart.write(LSR, 0);
    assert_eq!(uart.read(LSR), LSR_TX_EMPTY);
    for offset in SIZE..=255 {
        assert_eq!(uart.write(offset, 0), None);
        assert_eq!(uart.read(offset), 0xff);
    }
}

proptest! {
    /// Whatever a guest does, a write-only console works and the FIFO keeps order and bound.
    #[test]
    fn survives_any_accesses(
        steps in prop::collection::vec((0u8..3, 0u8..9, any::<u8>()), 0..400)
    ) {
        let mut uart = Serial::new();
        for (kind, offset, value) in steps {
            match kind {
                0 => {
                    let read = uart.read(offset);
                    if offset == LSR {
                        prop_assert_eq!(read & LSR_TX_EMPTY, LSR_TX_EMPTY);
                    }
                }
                1 => {
                    let looped = uart.read(MCR) & MCR_LOOP != 0;
                    let divisor = uart.read(LCR) & LCR_DLAB != 0;
                    let sent = uart.write(offset, value);
                    let expected = offset == DATA && !looped && !divisor;
                    prop_assert_eq!(sent, expected.then_some(value));
                }
                _ => {
                    let space = uart.rx_space();
                    prop_assert_eq!(uart.receive(value), space > 0);
                    prop_assert_eq!(uart.rx_space(), space.saturating_sub(1));
                }
            }
            prop_assert!(uart.rx.len() <= uart.depth());
            prop_assert!(!uart.irq() || uart.cause() != IIR_NONE);
        }
        // Bytes come out in the order in which they went in.
        uart.write(LCR, 0);
        uart.write(MCR, 0);
        uart.write(IIR_FCR, 0);
        uart.write(IIR_FCR, FCR_ENABLE);
        let input: Vec<u8> = (0..FIFO as u8).collect();
        for &byte in &input {
            prop_assert!(uart.receive(byte));
        }
        let output: Vec<u8> = (0..FIFO).map(|_| uart.read(DATA)).collect();
        prop_assert_eq!(input, output);
    }
}
