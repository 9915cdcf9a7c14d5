//! MSI-X (PCI 3.0, 6.8.2): message control, table and pending bits.
//!
//! Every vector starts masked, and a write is news only if it changes a message that can be sent:
//! setting up a masked entry, field by field as drivers do, costs the host nothing.

use super::{read_words, write_part};
use crate::Msi;

/// Length of a table entry in bytes.
const ENTRY_LEN: u64 = 16;
/// Message control: MSI-X is on.
const ENABLE: u16 = 1 << 15;
/// Message control: every vector is masked.
const MASK_ALL: u16 = 1 << 14;

/// A table entry.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Message address low and high, message data, vector control (bit 0: masked).
    words: [u32; 4],
}

impl Entry {
    const NEW: Self = Self { words: [0, 0, 0, 1] };

    /// Reserved: the two low bits of an address, and of the control word all but the mask.
    const fn from([low, high, data, control]: [u32; 4]) -> Self {
        Self { words: [low & !3, high, data, control & 1] }
    }

    fn message(&self) -> Option<Msi> {
        let [low, high, data, control] = self.words;
        if control & 1 != 0 {
            return None;
        }
        Some(Msi { address: u64::from(high) << 32 | u64::from(low), data })
    }
}

/// MSI-X state; `Msix<[Entry; V]>` has `V` vectors (1 to 64), a reference to it coerces to `&Msix`.
pub struct Msix<T: ?Sized = [Entry]> {
    /// ENABLE and MASK_ALL.
    control: u16,
    /// Vectors raised while masked, one bit each.
    pending: u64,
    entries: T,
}

impl<const V: usize> Default for Msix<[Entry; V]> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const V: usize> Msix<[Entry; V]> {
    /// The state after reset: off, every vector masked.
    pub const fn new() -> Self {
        const { assert!(V >= 1 && V <= 64, "MSI-X here has 1 to 64 vectors") }
        Self { control: 0, pending: 0, entries: [Entry::NEW; V] }
    }
}

impl Msix {
    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Whether MSI-X is on.
    pub fn enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// The message that `vector` sends now, `None` while it is masked or does not exist.
    pub fn message(&self, vector: u16) -> Option<Msi> {
        if !self.unmasked() {
            return None;
        }
        self.entries.get(usize::from(vector))?.message()
    }

    /// Raises `vector`: returns the message to send, or notes it as pending while it is masked.
    pub fn raise(&mut self, vector: u16) -> Option<Msi> {
        let message = self.message(vector);
        if message.is_none() && self.enabled() && vector < self.vectors() {
            self.pending |= bit(vector);
        }
        message
    }

    /// Whether `vector` was raised while masked and can be sent now; asks once. To be called for
    /// each vector that an effect says has changed.
    pub fn take_pending(&mut self, vector: u16) -> bool {
        let due = self.pending & bit(vector) != 0 && self.message(vector).is_some();
        if due {
            self.pending &= !bit(vector);
        }
        due
    }

    /// Whether any vector was raised while masked and not sent yet.
    pub fn has_pending(&self) -> bool {
        self.pending != 0
    }

    /// The table entry of `vector`, for a host that lets the guest access the table as memory: message
    /// address low and high, data, vector control.
    pub fn entry(&self, vector: u16) -> Option<[u32; 4]> {
        self.entries.get(usize::from(vector)).map(|entry| entry.words)
    }

    /// Sets the table entry of `vector` to what a guest has made of it; to be followed by
    /// [`Self::take_pending`] where something [is pending](Self::has_pending).
    pub fn set_entry(&mut self, vector: u16, words: [u32; 4]) {
        if let Some(entry) = self.entries.get_mut(usize::from(vector)) {
            *entry = Entry::from(words);
        }
    }

    /// Message control (PCI 3.0, 6.8.2.3).
    pub(crate) fn control(&self) -> u16 {
        self.control | self.vectors().saturating_sub(1)
    }

    /// Writes message control. Returns whether the message of any vector changed.
    pub(crate) fn set_control(&mut self, value: u16) -> bool {
        let before = self.unmasked();
        self.control = value & (ENABLE | MASK_ALL);
        if !self.enabled() {
            self.pending = 0;
        }
        before != self.unmasked() && self.entries.iter().any(|entry| entry.message().is_some())
    }

    /// Reads from `offset` bytes into the table; beyond it all is 0.
    pub(crate) fn read_table(&self, offset: u64, data: &mut [u8]) {
        read_words(offset, data, |offset| {
            let entry = self.entries.get((offset / ENTRY_LEN) as usize);
            entry.and_then(|entry| entry.words.get(word(offset))).copied().unwrap_or(0)
        });
    }

    /// Writes at `offset` bytes into the table, 32 or 64 bits at once and aligned; anything else is
    /// ignored (PCI 3.0, 6.8.2). Returns the vector whose message changed.
    pub(crate) fn write_table(&mut self, offset: u64, data: &[u8]) -> Option<u16> {
        let vector = u16::try_from(offset / ENTRY_LEN).ok()?;
        let before = self.message(vector);
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return None;
        }
        let entry = self.entries.get_mut(usize::from(vector))?;
        for (target, part) in entry.words.iter_mut().skip(word(offset)).zip(data.chunks(4)) {
            if let Some((value, _)) = write_part(0, part) {
                *target = value;
            }
        }
        *entry = Entry::from(entry.words);
        (self.message(vector) != before).then_some(vector)
    }

    /// Reads from `offset` bytes into the pending bits.
    pub(crate) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        read_words(offset, data, |offset| match offset {
            0 => self.pending as u32,
            4 => (self.pending >> 32) as u32,
            _ => 0,
        });
    }

    /// Whether vectors are sent that are not masked themselves.
    fn unmasked(&self) -> bool {
        self.control & (ENABLE | MASK_ALL) == ENABLE
    }
}

/// Index of the word of its entry that `offset` is in.
fn word(offset: u64) -> usize {
    (offset >> 2 & 3) as usize
}

fn bit(vector: u16) -> u64 {
    1u64.checked_shl(vector.into()).unwrap_or(0)
}

#[cfg(feature = "snapshot")]
mod saved;
#[cfg(test)]
mod tests;

#[cfg(feature = "snapshot")]
pub use saved::{MAX_SAVED_VECTORS, Saved};
