//! 16550A UART (National Semiconductor PC16550D), as Linux and every PC system know it.
//!
//! There is no clock: a byte written is sent at once, so the transmitter is always empty, and a
//! received byte below the trigger level counts as timed out at once. Modem lines say that the
//! other side is there (CTS, DSR, DCD).
//!
//! ```
//! use brisk_devices::serial::Serial;
//!
//! let mut uart = Serial::new();
//! // The guest writes a byte to the first port: the host sends it.
//! assert_eq!(uart.write(0, b'!'), Some(b'!'));
//! // The user types a byte: the guest finds it.
//! assert!(uart.receive(b'y'));
//! assert_eq!((uart.read(5) & 1, uart.read(0)), (1, b'y'));
//! ```

use heapless::Deque;

/// Number of registers, one byte each.
pub const SIZE: u8 = 8;
/// Depth of the receive FIFO in bytes.
pub const FIFO: usize = 16;

// Registers by offset (PC16550D, table I). RBR/THR and IER give way to the divisor when DLAB is
// set; IIR is read where FCR is written.
const DATA: u8 = 0;
/// Interrupt enable: a driver writes it when it has nothing more to send.
pub const IER: u8 = 1;
const IIR_FCR: u8 = 2;
const LCR: u8 = 3;
const MCR: u8 = 4;
/// Line status: a driver that polls reads it before each byte.
pub const LSR: u8 = 5;
const MSR: u8 = 6;
const SCR: u8 = 7;

const IER_RX: u8 = 1 << 0;
const IER_TX: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;
const IER_ALL: u8 = IER_RX | IER_TX | IER_LINE | IER_MODEM;

// Interrupt identification (PC16550D, table IV), from the highest priority to the lowest.
const IIR_LINE: u8 = 0x06;
const IIR_RX: u8 = 0x04;
const IIR_RX_TIMEOUT: u8 = 0x0c;
const IIR_TX: u8 = 0x02;
const IIR_MODEM: u8 = 0x00;
const IIR_NONE: u8 = 0x01;
const IIR_FIFO: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RX: u8 = 1 << 1;
const FCR_TRIGGER: u8 = 0xc0;

const LCR_DLAB: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const MCR_ALL: u8 = MCR_DTR | MCR_RTS | MCR_OUT1 | MCR_OUT2 | MCR_LOOP;

const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_TX_EMPTY: u8 = 1 << 5 | 1 << 6;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// A 16550A UART.
pub struct Serial {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: [u8; 2],
    /// Upper half: the lines; lower half: what changed since the last read.
    msr: u8,
    overrun: bool,
    /// The transmitter became empty and the guest has not been told yet.
    tx_pending: bool,
    rx: Deque<u8, FIFO>,
}

impl Default for Serial {
    fn default() -> Self {
        Self::new()
    }
}

impl Serial {
    /// The state after reset, a cable plugged in.
    pub const fn new() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            // 9600 baud from 1.8432 MHz, what firmware leaves behind.
            divisor: [12, 0],
            msr: MSR_CTS | MSR_DSR | MSR_DCD,
            overrun: false,
            tx_pending: false,
            rx: Deque::new(),
        }
    }

    /// Reads the register at `offset`; offsets from [`SIZE`] up read as all ones.
    pub fn read(&mut self, offset: u8) -> u8 {
        match offset {
            DATA if self.dlab() => self.divisor[0],
            DATA => self.rx.pop_front().unwrap_or(0),
            IER if self.dlab() => self.divisor[1],
            IER => self.ier,
            IIR_FCR => {
                let cause = self.cause();
                if cause == IIR_TX {
                    self.tx_pending = false;
                }
                if self.fifo() { cause | IIR_FIFO } else { cause }
            }
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                let mut lsr = LSR_TX_EMPTY;
                if !self.rx.is_empty() {
                    lsr |= LSR_DATA;
                }
                if core::mem::take(&mut self.overrun) {
                    lsr |= LSR_OVERRUN;
                }
                lsr
            }
            MSR => {
                let msr = self.msr;
                self.msr &= 0xf0;
                msr
            }
            SCR => self.scratch,
            _ => 0xff,
        }
    }

    /// Writes the register at `offset`; returns the byte to be sent, if this sent one.
    pub fn write(&mut self, offset: u8, value: u8) -> Option<u8> {
        match offset {
            DATA if self.dlab() => self.divisor[0] = value,
            DATA => {
                self.tx_pending = true;
                if self.mcr & MCR_LOOP == 0 {
                    return Some(value);
                }
                if !self.push(value) {
                    self.overrun = true;
                }
            }
            IER if self.dlab() => self.divisor[1] = value,
            IER => {
                // Enabling the interrupt while the transmitter is empty raises it: Linux tests
                // for this and falls back to a timer where it is missing.
                if value & !self.ier & IER_TX != 0 {
                    self.tx_pending = true;
                }
                self.ier = value & IER_ALL;
            }
            IIR_FCR => {
                // Switching the FIFO on or off empties it; the other bits count only while on.
                if (value ^ self.fcr) & FCR_ENABLE != 0 || value & FCR_CLEAR_RX != 0 {
                    self.rx.clear();
                }
                let kept = FCR_ENABLE | FCR_TRIGGER;
                self.fcr = if value & FCR_ENABLE != 0 { value & kept } else { 0 };
            }
            LCR => self.lcr = value,
            MCR => {
                self.mcr = value & MCR_ALL;
                self.set_lines();
            }
            SCR => self.scratch = value,
            // LSR and MSR are read-only.
            _ => {}
        }
        None
    }

    /// Whether the driver has any interrupt enabled.
    pub fn wants_interrupts(&self) -> bool {
        self.ier != 0
    }

    /// The level of the interrupt line. On a PC, OUT2 connects it; loopback disconnects OUT2.
    pub fn irq(&self) -> bool {
        self.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 && self.cause() != IIR_NONE
    }

    /// Takes a byte from the line. Returns false, and drops the byte, where there is no space.
    pub fn receive(&mut self, byte: u8) -> bool {
        // In loopback the line is not connected.
        self.mcr & MCR_LOOP == 0 && self.push(byte)
    }

    /// How many bytes [`Self::receive`] will take now. It grows only by a guest's access, so a host
    /// that has more input looks again after each read of offset 0 and write of offset 2 or 4.
    pub fn rx_space(&self) -> usize {
        if self.mcr & MCR_LOOP != 0 {
            return 0;
        }
        self.depth().saturating_sub(self.rx.len())
    }

    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    fn fifo(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifo() { FIFO } else { 1 }
    }

    fn push(&mut self, byte: u8) -> bool {
        self.rx.len() < self.depth() && self.rx.push_back(byte).is_ok()
    }

    /// The pending interrupt of the highest priority, as IIR has it.
    fn cause(&self) -> u8 {
        if self.ier & IER_LINE != 0 && self.overrun {
            return IIR_LINE;
        }
        if self.ier & IER_RX != 0 && !self.rx.is_empty() {
            let trigger = match self.fcr & FCR_TRIGGER {
                0x00 => 1,
                0x40 => 4,
                0x80 => 8,
                _ => 14,
            };
            return if self.rx.len() >= trigger { IIR_RX } else { IIR_RX_TIMEOUT };
        }
        if self.ier & IER_TX != 0 && self.tx_pending {
            return IIR_TX;
        }
        if self.ier & IER_MODEM != 0 && self.msr & 0x0f != 0 {
            return IIR_MODEM;
        }
        IIR_NONE
    }

    /// Recomputes the modem lines; in loopback they are MCR's own outputs (PC16550D, 8.6.7).
    fn set_lines(&mut self) {
        let lines = if self.mcr & MCR_LOOP != 0 {
            let line = |output, input| if self.mcr & output != 0 { input } else { 0 };
            line(MCR_RTS, MSR_CTS)
                | line(MCR_DTR, MSR_DSR)
                | line(MCR_OUT1, MSR_RI)
                | line(MCR_OUT2, MSR_DCD)
        } else {
            MSR_CTS | MSR_DSR | MSR_DCD
        };
        let mut changed = (self.msr ^ lines) & 0xf0;
        // RI is reported only where it falls.
        if lines & MSR_RI != 0 {
            changed &= !MSR_RI;
        }
        self.msr = lines | self.msr & 0x0f | changed >> 4;
    }
}

#[cfg(feature = "snapshot")]
mod saved;
#[cfg(test)]
mod tests;

#[cfg(feature = "snapshot")]
pub use saved::Saved;
