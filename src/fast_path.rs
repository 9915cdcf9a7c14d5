//! The ports that a boot uses most, served in the vCPU loop (feature `pio-fast-path`).
//!
//! Each access is a single one of the usual width; whatever is not is the bus's, which gives the same
//! bytes for these too.

#[cfg(feature = "boot-timer")]
use brisk_boot::layout;

use crate::bus::Bus;
#[cfg(feature = "serial")]
use crate::bus::{COM1, COM1_END};
#[cfg(feature = "pci")]
use crate::bus::{PCI_PORTS, PCI_PORTS_END, raise};
use crate::measure::exit_kind::ExitKind;

impl Bus {
    /// Does the `out` of `data` to `port`; false where it has to take the long way.
    #[inline(always)]
    pub(crate) fn fast_out(&mut self, port: u16, data: &[u8]) -> bool {
        let done = match (port, data) {
            #[cfg(feature = "boot-timer")]
            (layout::BOOT_TIMER_PORT, &[code]) => {
                self.mark(code);
                true
            }
            #[cfg(feature = "serial")]
            (COM1..=COM1_END, &[byte]) => {
                let Some(serial) = &mut self.serial else { return false };
                serial.write((port - COM1) as u8, byte);
                self.serial_interrupt();
                #[cfg(feature = "coalesced-serial")]
                self.coalesce(port);
                true
            }
            #[cfg(feature = "pci")]
            (PCI_PORTS..=PCI_PORTS_END, &[_, _, _, _]) => {
                let Self { virtio, ioapic, vm, .. } = self;
                virtio.ports_out(port - PCI_PORTS, 4, data, |to| raise(ioapic, vm, to))
            }
            _ => false,
        };
        if done {
            self.count(ExitKind::PioOut, port.into(), true);
        }
        done
    }

    /// Fills `data`, one access of `width` bytes, by the `in` from `port`; false where it has to take
    /// the long way.
    #[inline(always)]
    pub(crate) fn fast_in(&mut self, port: u16, width: u8, data: &mut [u8]) -> bool {
        if data.len() != usize::from(width) {
            return false;
        }
        let done = match port {
            #[cfg(feature = "serial")]
            COM1..=COM1_END => {
                let (Some(serial), [byte]) = (&mut self.serial, data) else { return false };
                *byte = serial.read((port - COM1) as u8);
                self.serial_interrupt();
                true
            }
            #[cfg(feature = "pci")]
            PCI_PORTS..=PCI_PORTS_END => self.virtio.ports_in(port - PCI_PORTS, width, data),
            _ => false,
        };
        if done {
            self.count(ExitKind::PioIn, port.into(), true);
        }
        done
    }
}

#[cfg(test)]
#[cfg(feature = "full")]
mod tests;
