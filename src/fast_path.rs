//! The ports that a boot uses most, served in the vCPU loop (feature `pio-fast-path`).
//!
//! Each access is a single one of the usual width; whatever is not is the bus's, which gives the same
//! bytes for these too.

use brisk_boot::layout;

use crate::bus::{Access, Bus, COM1, COM1_END, End, PCI_PORTS, PCI_PORTS_END};
use crate::measure::boot_timer::BootTimer;
use crate::measure::exit_kind::ExitKind;

impl Bus {
    /// Does the `out` of `data` to `port`.
    #[inline(always)]
    pub(crate) fn fast_out(&mut self, port: u16, width: u8, data: &[u8]) -> Option<End> {
        let end = match (port, data) {
            (layout::BOOT_TIMER_PORT, &[code]) if BootTimer::LISTENS => {
                self.mark(code);
                None
            }
            (COM1..=COM1_END, &[byte]) if let Some(serial) = &mut self.serial => {
                serial.write((port - COM1) as u8, byte);
                let end = self.serial_interrupt();
                self.coalesce(port);
                end
            }
            (PCI_PORTS..=PCI_PORTS_END, &[_, _, _, _]) => {
                match self.virtio.ports_out(port - PCI_PORTS, 4, data, &mut self.interrupts) {
                    Access::Unclaimed => return self.pio_out(port, width, data),
                    access => access.end(),
                }
            }
            _ => return self.pio_out(port, width, data),
        };
        self.count(ExitKind::PioOut, port.into(), true);
        end
    }

    /// Fills `data`, accesses of `width` bytes, by the `in` from `port`.
    #[inline(always)]
    pub(crate) fn fast_in(&mut self, port: u16, width: u8, data: &mut [u8]) -> Option<End> {
        if data.len() != usize::from(width) {
            return self.pio_in(port, width, data);
        }
        let end = match (port, data) {
            (COM1..=COM1_END, [byte]) if let Some(serial) = &mut self.serial => {
                *byte = serial.read((port - COM1) as u8);
                self.serial_interrupt()
            }
            (PCI_PORTS..=PCI_PORTS_END, data) => {
                match self.virtio.ports_in(port - PCI_PORTS, width, data) {
                    Access::Unclaimed => return self.pio_in(port, width, data),
                    access => access.end(),
                }
            }
            (_, data) => return self.pio_in(port, width, data),
        };
        self.count(ExitKind::PioIn, port.into(), true);
        end
    }
}

#[cfg(test)]
#[cfg(feature = "full")]
mod tests;
