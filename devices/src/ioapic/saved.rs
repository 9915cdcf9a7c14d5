//! The I/O APIC's state as bytes.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{IoApic, LEVEL, READ_ONLY, REMOTE_IRR, WRITABLE};
use crate::snapshot::{Invalid, check};

/// What there is room for, whatever an [`IoApic`] has.
const PINS: usize = 32;

/// An [`IoApic`]'s state.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Saved {
    base: u8,
    pins: u8,
    select: u8,
    zero: u8,
    id: U32,
    lines: U32,
    edges: U32,
    entries: [U64; PINS],
}

impl<const P: usize> IoApic<P> {
    /// The state as it is now.
    pub fn save(&self) -> Saved {
        let mut entries = [U64::ZERO; PINS];
        for (to, from) in entries.iter_mut().zip(self.visible()) {
            *to = U64::new(*from);
        }
        Saved {
            base: self.base,
            pins: self.pins,
            select: self.select,
            zero: 0,
            id: U32::new(self.id),
            lines: U32::new(self.lines),
            edges: U32::new(self.edges),
            entries,
        }
    }

    /// Takes over a state; only one of an I/O APIC with the same pins.
    ///
    /// # Errors
    /// It is none.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), Invalid> {
        check((saved.base, saved.pins, saved.zero) == (self.base, self.pins, 0))?;
        let visible = usize::from(self.pins);
        let none = 1u32.checked_shl(self.pins.into()).map_or(0, |end| !end.wrapping_sub(1));
        check(saved.lines.get() & none == 0 && saved.edges.get() & none == 0)?;
        check(saved.id.get() & !0x0f00_0000 == 0)?;
        let (used, rest) = saved.entries.split_at_checked(visible).ok_or(Invalid)?;
        check(rest.iter().all(|entry| entry.get() == 0))?;
        for (to, from) in self.entries.iter_mut().zip(used) {
            let entry = from.get();
            check(entry & !(WRITABLE | READ_ONLY) == 0)?;
            check(entry & LEVEL != 0 || entry & REMOTE_IRR == 0)?;
            *to = entry;
        }
        (self.select, self.id) = (saved.select, saved.id.get());
        (self.lines, self.edges) = (saved.lines.get(), saved.edges.get());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a level-triggered pin waits for the end of its interrupt.
    #[test]
    fn an_edge_triggered_pin_with_remote_irr_is_no_state() {
        let states = [(LEVEL | REMOTE_IRR, true), (REMOTE_IRR, false), (LEVEL, true), (0, true)];
        for (entry, good) in states {
            let mut ioapic = IoApic::<8>::new(0, 8);
            let mut saved = ioapic.save();
            saved.entries[3] = U64::new(entry | 0x31);
            assert_eq!(ioapic.restore(&saved).is_ok(), good, "{entry:#x}");
        }
    }
}
