//! The function's state as bytes.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::space::COMMAND_WRITABLE;
use super::{BAR_SIZE, Function, NO_VECTOR};
use crate::pci::SavedMsix;
use crate::snapshot::{Invalid, check};

/// A [`Function`]'s state.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Saved {
    bar: U64,
    command: U16,
    config_vector: U16,
    window: [U32; 3],
    msix: SavedMsix,
}

impl Function {
    /// The state as it is now.
    pub fn save(&self) -> Saved {
        Saved {
            bar: U64::new(self.bar),
            command: U16::new(self.command),
            config_vector: U16::new(self.config_vector),
            window: self.window.map(U32::new),
            msix: self.msix.save(),
        }
    }

    /// Takes over a state of a function with as many vectors.
    ///
    /// # Errors
    /// It is none.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), Invalid> {
        let (bar, command, vector) =
            (saved.bar.get(), saved.command.get(), saved.config_vector.get());
        check(bar & BAR_SIZE.wrapping_sub(1) == 0 && command & !COMMAND_WRITABLE == 0)?;
        check(vector == NO_VECTOR || vector < self.msix.vectors())?;
        self.msix.restore(&saved.msix)?;
        (self.bar, self.command, self.config_vector) = (bar, command, vector);
        self.window = saved.window.map(U32::get);
        check(self.window[0] & !0xff == 0)
    }
}
