//! I/O APIC (Intel 82093AA, with the EOI register of version 0x20) for a machine whose local APICs
//! are elsewhere, as with KVM's split irqchip: an interrupt leaves as an MSI message.
//!
//! It has as few pins as the machine allows: Linux reads and writes each pin's entry several times
//! while it boots, and each of these accesses is an exit.

use crate::Msi;

/// Size of the register window in bytes.
pub const SIZE: u64 = 0x1000;

/// Index register (82093AA 3.1.1), selects the register behind [`IOWIN`].
const IOREGSEL: u64 = 0x00;
/// Data register (82093AA 3.1.2).
const IOWIN: u64 = 0x10;
/// EOI register of versions from 0x20: the vector written is acknowledged.
const EOI: u64 = 0x40;

/// Version with an EOI register.
const VERSION: u32 = 0x20;

// Indirect registers (82093AA 3.2).
const IOAPICID: u8 = 0x00;
const IOAPICVER: u8 = 0x01;
const IOAPICARB: u8 = 0x02;
const IOREDTBL: u8 = 0x10;

// Redirection entry (82093AA 3.2.4).
const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 0x700;
const LOGICAL: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Bits that the guest cannot write.
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
/// What a write keeps: bits 0 to 16, the destination in 56 to 63, and its bits 8 to 14 in 49 to 55
/// (the extended destination of KVM_FEATURE_MSI_EXT_DEST_ID).
const WRITABLE: u64 = (0x1_ffff | 0xfffe << 48) & !READ_ONLY;

/// An I/O APIC with room for `PINS` pins (1 to 32), pin 0 being the first GSI it serves.
pub struct IoApic<const PINS: usize> {
    /// GSI of pin 0.
    base: u8,
    pins: u8,
    select: u8,
    id: u32,
    entries: [u64; PINS],
    /// Lines held high, one bit a pin.
    lines: u32,
    /// Edges seen on unmasked pins and not delivered yet, one bit a pin.
    edges: u32,
}

impl<const PINS: usize> IoApic<PINS> {
    /// The state after reset: every pin masked. The guest sees `pins` of them, at least one and at
    /// most `PINS`, for the interrupts from GSI `base` up.
    pub const fn new(base: u8, pins: u8) -> Self {
        const { assert!(PINS >= 1 && PINS <= 32, "an IoApic has 1 to 32 pins") }
        let pins = if pins == 0 {
            1
        } else if pins as usize > PINS {
            PINS as u8
        } else {
            pins
        };
        Self { base, pins, select: 0, id: 0, entries: [MASKED; PINS], lines: 0, edges: 0 }
    }

    /// Reads the register at `offset` bytes into the window; reserved ones read 0.
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            IOREGSEL => self.select.into(),
            IOWIN => match self.select {
                IOAPICID | IOAPICARB => self.id,
                IOAPICVER => VERSION | u32::from(self.pins).saturating_sub(1) << 16,
                select => match Self::entry_index(select) {
                    Some((index, high)) => {
                        let entry = self.visible().get(index).copied().unwrap_or(0);
                        if high { (entry >> 32) as u32 } else { entry as u32 }
                    }
                    None => 0,
                },
            },
            _ => 0,
        }
    }

    /// Writes the register at `offset` bytes into the window. Returns the pin whose [`Self::msi`]
    /// became another; a change to a masked entry is none. Call [`Self::deliver`] afterwards if
    /// level-triggered interrupts are in use.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<u8> {
        match offset {
            IOREGSEL => self.select = value as u8,
            EOI => self.eoi(value as u8),
            IOWIN if self.select == IOAPICID => self.id = value & 0x0f00_0000,
            IOWIN => {
                let (index, high) = Self::entry_index(self.select)?;
                let visible = usize::from(self.pins);
                let entry = self.entries.get_mut(..visible)?.get_mut(index)?;
                let old = *entry;
                let value = u64::from(value);
                let new =
                    if high { old & 0xffff_ffff | value << 32 } else { old >> 32 << 32 | value };
                *entry = new & WRITABLE | old & READ_ONLY;
                // An edge-triggered pin has no remote IRR; software clears it by this switch.
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                }
                if message(*entry) != message(old) {
                    return u8::try_from(index).ok();
                }
            }
            _ => {}
        }
        None
    }

    /// The message that `pin` sends, `None` while it is masked or for a pin that does not exist.
    pub fn msi(&self, pin: u8) -> Option<Msi> {
        message(*self.visible().get(usize::from(pin))?)
    }

    /// Whether an edge on the line of `gsi` is a message, and not lost: there is such a pin, and the guest
    /// has unmasked it.
    pub fn listens(&self, gsi: u8) -> bool {
        gsi.checked_sub(self.base).is_some_and(|pin| self.msi(pin).is_some())
    }

    /// Sets the level of the line of `gsi`. Then call [`Self::deliver`] until it returns `None`.
    ///
    /// An edge on a masked pin is lost, as on the hardware. A line that only has edges and goes
    /// through an irqfd needs no call of this at all.
    pub fn set_line(&mut self, gsi: u8, high: bool) {
        let Some(pin) = gsi.checked_sub(self.base) else { return };
        let Some(&entry) = self.visible().get(usize::from(pin)) else { return };
        let bit = 1u32.checked_shl(pin.into()).unwrap_or(0);
        let rising = high && self.lines & bit == 0;
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if rising && entry & (LEVEL | MASKED) == 0 {
            self.edges |= bit;
        }
    }

    /// The next interrupt message that is due. A level-triggered pin that is delivered here waits
    /// for its [`Self::eoi`] before it is due again.
    pub fn deliver(&mut self) -> Option<Msi> {
        let mut bit = 1u32;
        for entry in &mut self.entries {
            let due = if *entry & LEVEL != 0 {
                self.lines & bit != 0 && *entry & REMOTE_IRR == 0
            } else {
                self.edges & bit != 0
            };
            self.edges &= !(if due { bit } else { 0 });
            if due && let Some(msi) = message(*entry) {
                if *entry & LEVEL != 0 {
                    *entry |= REMOTE_IRR;
                }
                return Some(msi);
            }
            bit = bit.wrapping_shl(1);
        }
        None
    }

    /// A local APIC has seen the end of the level-triggered interrupt `vector`. Then call
    /// [`Self::deliver`]: the line may still be high.
    pub fn eoi(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if *entry & VECTOR == u64::from(vector) {
                *entry &= !REMOTE_IRR;
            }
        }
    }

    /// The pins that the guest sees.
    fn visible(&self) -> &[u64] {
        self.entries.get(..usize::from(self.pins)).unwrap_or_default()
    }

    /// The redirection entry that the indirect register `select` belongs to, and whether it is the
    /// upper half.
    fn entry_index(select: u8) -> Option<(usize, bool)> {
        let half = select.checked_sub(IOREDTBL)?;
        Some((usize::from(half >> 1), half & 1 == 1))
    }
}

/// The message for a redirection entry, `None` if it is masked.
fn message(entry: u64) -> Option<Msi> {
    if entry & MASKED != 0 {
        return None;
    }
    let mut address =
        0xfee0_0000 | entry >> 56 << 12 | (entry >> 49 & 0x7f) << 5 | (entry & LOGICAL) >> 9;
    // Lowest priority: let the redirection hint say that one of the destinations is to be chosen.
    if entry & DELIVERY_MODE == 0x100 {
        address |= 1 << 3;
    }
    // Bit 15 is the trigger mode in both formats, bit 14 of the message is "assert".
    let data = entry & (VECTOR | DELIVERY_MODE | LEVEL) | 1 << 14;
    Some(Msi { address, data: data as u32 })
}

#[cfg(feature = "snapshot")]
mod saved;
#[cfg(test)]
mod tests;

#[cfg(feature = "snapshot")]
pub use saved::Saved;
