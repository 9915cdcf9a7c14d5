//! The serial port's host side: bytes to and from the pure model (feature `serial`).

pub use brisk_devices::serial::IER;
use brisk_devices::serial::{LSR, Serial};
#[cfg(feature = "snapshot")]
use zerocopy::IntoBytes;

use crate::config;
use crate::output::Output;
#[cfg(feature = "snapshot")]
use crate::snapshot::parts::{Kind, Parts, Writer};
use crate::terminal::{self, Input};

/// Output is handed on at each end of a line, or when this many bytes wait.
const BATCH: usize = 256;

/// A 16550A and where its bytes go.
pub struct Uart {
    model: Serial,
    output: Option<Output>,
    batch: Vec<u8>,
    input: Option<Input>,
    /// The register read last was the line status: a second read in a row is a guest that waits.
    polling: bool,
    line: bool,
}

impl Uart {
    /// None where the guest has no serial port.
    pub fn open(output: &'static config::Output) -> Option<Uart> {
        if *output == config::Output::Off {
            return None;
        }
        let input = (*output == config::Output::Tty).then(Input::open);
        let output = terminal::output("--serial", output, |_| ());
        let batch = Vec::with_capacity(if output.is_some() { BATCH } else { 0 });
        let model = Serial::new();
        Some(Uart { model, output, batch, input, polling: false, line: false })
    }

    /// A byte read from register `offset` (0 to 7).
    pub fn read(&mut self, offset: u8) -> u8 {
        let again = std::mem::replace(&mut self.polling, offset == LSR);
        if again && offset == LSR {
            self.flush();
        }
        self.model.read(offset)
    }

    /// A byte written to register `offset` (0 to 7).
    pub fn write(&mut self, offset: u8, value: u8) {
        self.polling = false;
        if let Some(byte) = self.model.write(offset, value)
            && self.output.is_some()
        {
            self.batch.push(byte);
            if byte == b'\n' || self.batch.len() >= BATCH {
                self.flush();
            }
        } else if offset == IER {
            self.flush();
        }
    }

    /// Saves the UART; what waited to be handed on is.
    #[cfg(feature = "snapshot")]
    pub fn save(&mut self, to: &mut Writer) {
        self.flush();
        to.add(Kind::Serial, 0, self.model.save().as_bytes());
    }

    /// Makes the UART what it was.
    ///
    /// # Errors
    /// The bytes are no UART's state.
    #[cfg(feature = "snapshot")]
    pub fn restore(&mut self, from: &Parts<'_>) -> crate::error::Result<()> {
        let saved: brisk_devices::serial::Saved = from.read(Kind::Serial, 0)?;
        self.model.restore(&saved).map_err(|_| from.wrong(Kind::Serial, 0))?;
        self.line = self.model.irq();
        Ok(())
    }

    /// Whether the driver has any interrupt enabled.
    pub fn wants_interrupts(&self) -> bool {
        self.model.wants_interrupts()
    }

    /// Whether the interrupt line has risen since this was last asked.
    pub fn interrupt(&mut self) -> bool {
        let before = std::mem::replace(&mut self.line, self.model.irq());
        self.line && !before
    }

    /// There may be input.
    pub fn wake(&mut self) {
        if let Some(input) = &mut self.input {
            input.wake();
        }
    }

    /// Takes what was typed, as far as the receive FIFO has room; true for Ctrl-A x.
    pub fn receive(&mut self) -> bool {
        let Some(input) = &mut self.input else { return false };
        let quit = input.fill();
        while !input.is_empty() && self.model.rx_space() > 0 {
            let mut byte = [0];
            input.take(&mut byte);
            self.model.receive(byte[0]);
        }
        quit
    }

    /// Hands on what waits.
    pub fn flush(&mut self) {
        if let Some(output) = self.output
            && !self.batch.is_empty()
        {
            terminal::write_all(output, &self.batch);
            self.batch.clear();
        }
    }
}
