//! Bounded writing into the guest's first MiB.

use crate::{Error, layout};

/// The guest's first MiB, with a cursor in [`layout::TABLES`].
pub(crate) struct Tables<'a> {
    low: &'a mut [u8],
    cursor: usize,
}

const START: usize = layout::TABLES.start as usize;
const END: usize = START + layout::TABLES.len as usize;

impl<'a> Tables<'a> {
    /// `low` has to be exactly 1 MiB.
    pub(crate) fn new(low: &'a mut [u8]) -> Result<Self, Error> {
        if low.len() as u64 != layout::HIGH_MEMORY {
            return Err(Error::LowMemory(low.len()));
        }
        Ok(Tables { low, cursor: START })
    }

    /// Moves the cursor up to a multiple of `to` (a power of two) and returns it.
    pub(crate) fn align(&mut self, to: usize) -> Result<u64, Error> {
        let cursor = self.cursor.next_multiple_of(to);
        if cursor > END {
            return Err(Error::TablesFull);
        }
        self.cursor = cursor;
        Ok(cursor as u64)
    }

    /// Writes at the cursor and returns the address of the first byte.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<u64, Error> {
        let at = self.cursor;
        let rest = self.rest().get_mut(..bytes.len()).ok_or(Error::TablesFull)?;
        rest.copy_from_slice(bytes);
        self.cursor += bytes.len();
        Ok(at as u64)
    }

    /// Writes `text` and a NUL, and returns the address of the first byte.
    pub(crate) fn push_text(&mut self, text: &[u8]) -> Result<u64, Error> {
        let at = self.push(text)?;
        self.push(&[0])?;
        Ok(at)
    }

    /// What is free from the cursor on.
    pub(crate) fn rest(&mut self) -> &mut [u8] {
        self.low.get_mut(self.cursor..END).unwrap_or_default()
    }

    /// Takes `len` bytes that were written to [`Tables::rest`]; returns their address.
    pub(crate) fn take(&mut self, len: usize) -> Result<u64, Error> {
        let at = self.cursor;
        if len > END - at {
            return Err(Error::TablesFull);
        }
        self.cursor += len;
        Ok(at as u64)
    }

    /// A fixed place below the tables.
    pub(crate) fn fixed(&mut self, at: u64, len: usize) -> Result<&mut [u8], Error> {
        let size = self.low.len();
        let at = usize::try_from(at).map_err(|_| Error::LowMemory(size))?;
        self.low.get_mut(at..at.saturating_add(len)).ok_or(Error::LowMemory(size))
    }
}
