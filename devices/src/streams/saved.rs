//! Where in a frame the guest's bytes end, as bytes.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Frames;
use super::wire::{self, HEADER};
use crate::snapshot::{Invalid, check, flag};

/// A [`Frames`]' state.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Saved {
    header: [u8; HEADER],
    left: U32,
    room: [u8; 4],
    have: u8,
    text: u8,
    zero: [u8; 2],
}

impl Frames {
    /// The state as it is now.
    pub fn save(&self) -> Saved {
        Saved {
            header: self.header,
            left: U32::new(self.left as u32),
            room: self.room,
            have: self.have as u8,
            text: self.text.into(),
            zero: [0; 2],
        }
    }

    /// Takes over a state.
    ///
    /// # Errors
    /// It is none.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), Invalid> {
        let (have, left) = (usize::from(saved.have), saved.left.get() as usize);
        let within = match have {
            HEADER => left > 0 && left <= wire::parse(saved.header).1,
            _ => have < HEADER && left == 0,
        };
        check(within && saved.zero == [0; 2])?;
        (self.header, self.room, self.have, self.left) = (saved.header, saved.room, have, left);
        self.text = flag(saved.text)?;
        Ok(())
    }
}
