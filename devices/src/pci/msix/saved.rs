//! MSI-X state as bytes.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{ENABLE, Entry, MASK_ALL, Msix};
use crate::snapshot::{Invalid, check};

/// The most vectors of a function whose state can be saved.
pub const MAX_SAVED_VECTORS: usize = 64;

/// An [`Msix`]'s state: of fewer vectors the rest are zeroes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Saved {
    control: U32,
    vectors: U32,
    pending: U64,
    entries: [[U32; 4]; MAX_SAVED_VECTORS],
}

impl Msix {
    /// The state as it is now.
    pub fn save(&self) -> Saved {
        let mut entries = [[U32::ZERO; 4]; MAX_SAVED_VECTORS];
        for (to, from) in entries.iter_mut().zip(&self.entries) {
            *to = from.words.map(U32::new);
        }
        Saved {
            control: U32::new(self.control.into()),
            vectors: U32::new(self.vectors().into()),
            pending: U64::new(self.pending),
            entries,
        }
    }

    /// Takes over a state with as many vectors.
    ///
    /// # Errors
    /// It is none.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), Invalid> {
        check(saved.vectors.get() == u32::from(self.vectors()))?;
        let control = u16::try_from(saved.control.get()).map_err(|_| Invalid)?;
        check(control & !(ENABLE | MASK_ALL) == 0)?;
        let pending = saved.pending.get();
        let none = 1u64.checked_shl(self.vectors().into()).map_or(0, |end| !end.wrapping_sub(1));
        check(pending & none == 0 && (pending == 0 || control & ENABLE != 0))?;
        let (used, rest) = saved.entries.split_at_checked(self.entries.len()).ok_or(Invalid)?;
        check(rest.iter().flatten().all(|word| word.get() == 0))?;
        for (to, from) in self.entries.iter_mut().zip(used) {
            let words = from.map(U32::get);
            *to = Entry::from(words);
            check(to.words == words)?;
        }
        (self.control, self.pending) = (control, pending);
        Ok(())
    }
}
