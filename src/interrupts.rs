//! Every interrupt on its way to the guest: the IOAPIC, and KVM, which takes messages.

#[cfg(feature = "pci")]
use brisk_devices::Msi;
use brisk_devices::ioapic::{self, IoApic};

use crate::kvm::Vm;
#[cfg(feature = "snapshot")]
use {
    crate::error::Result,
    crate::snapshot::parts::{Kind, Parts, Writer},
    zerocopy::IntoBytes,
};

/// The most pins that the IOAPIC can have.
pub const MAX_PINS: usize = 16;

/// Bytes of the IOAPIC's registers.
pub const IOAPIC_SIZE: u64 = ioapic::SIZE;

/// What a device hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// One edge on this pin of the IOAPIC.
    Gsi(u8),
    /// A message.
    #[cfg(feature = "pci")]
    Msi(Msi),
}

/// Whoever takes signals.
pub trait Sink {
    /// Takes one.
    fn signal(&mut self, signal: Signal);
}

impl<F: FnMut(Signal)> Sink for F {
    fn signal(&mut self, signal: Signal) {
        self(signal);
    }
}

/// The machine's interrupt controller, as far as it is not KVM's.
pub struct Interrupts {
    vm: &'static Vm,
    ioapic: IoApic<MAX_PINS>,
}

impl Interrupts {
    /// An IOAPIC with `pins` pins from GSI `first` up, and messages to `vm`.
    pub fn new(vm: &'static Vm, first: u8, pins: u8) -> Interrupts {
        Interrupts { vm, ioapic: IoApic::new(first, pins) }
    }

    /// Reads from the IOAPIC's register at `offset`.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = self.ioapic.read(offset).to_le_bytes();
        for (to, from) in data.iter_mut().zip(value.into_iter().chain([0; 4])) {
            *to = from;
        }
    }

    /// Writes to the IOAPIC's register at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        self.ioapic.write(offset, u32::from_le_bytes(value));
        self.deliver();
    }

    /// Whether the guest would have an edge on this pin.
    #[cfg(feature = "api")]
    pub fn listens(&self, gsi: u8) -> bool {
        self.ioapic.listens(gsi)
    }

    /// Saves the IOAPIC.
    #[cfg(feature = "snapshot")]
    pub fn save(&self, to: &mut Writer) {
        to.add(Kind::IoApic, 0, self.ioapic.save().as_bytes());
    }

    /// Makes the IOAPIC what it was.
    ///
    /// # Errors
    /// That one had other pins.
    #[cfg(feature = "snapshot")]
    pub fn restore(&mut self, from: &Parts<'_>) -> Result<()> {
        let saved: ioapic::Saved = from.read(Kind::IoApic, 0)?;
        let restored = self.ioapic.restore(&saved);
        Ok(restored.map_err(|_| from.wrong(Kind::IoApic, 0))?)
    }

    fn deliver(&mut self) {
        while let Some(msi) = self.ioapic.deliver() {
            self.vm.signal_msi(msi);
        }
    }
}

impl Sink for Interrupts {
    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Gsi(gsi) => {
                self.ioapic.set_line(gsi, true);
                self.ioapic.set_line(gsi, false);
                self.deliver();
            }
            #[cfg(feature = "pci")]
            Signal::Msi(msi) => self.vm.signal_msi(msi),
        }
    }
}

#[cfg(test)]
#[cfg(feature = "api")]
mod tests {
    use super::*;
    use crate::kvm::System;

    #[test]
    fn a_guest_listens_to_what_it_unmasked() {
        let vm: &'static Vm = Box::leak(Box::new(System::open().unwrap().create_vm().unwrap()));
        let mut interrupts = Interrupts::new(vm, 5, 2);
        assert!(!interrupts.listens(6));
        // IOREGSEL, IOWIN: the low half of the second pin's entry is its vector, and no mask.
        interrupts.write(0, &0x12u32.to_le_bytes());
        interrupts.write(0x10, &0x30u32.to_le_bytes());
        assert_eq!([4, 5, 6, 7].map(|gsi| interrupts.listens(gsi)), [false, false, true, false]);
    }
}
