//! What stands for the serial port in a build without the feature `serial`: none.

use crate::config::Output;

/// As in the module that has one.
pub const IER: u8 = 1;

/// Nothing is one.
pub enum Uart {}

#[allow(missing_docs, reason = "as in the module that has one")]
impl Uart {
    #[inline(always)]
    pub fn open(_: &Output) -> Option<Uart> {
        None
    }

    pub fn read(&mut self, _: u8) -> u8 {
        match *self {}
    }

    pub fn write(&mut self, _: u8, _: u8) {}

    pub fn wants_interrupts(&self) -> bool {
        match *self {}
    }

    pub fn interrupt(&mut self) -> bool {
        match *self {}
    }

    pub fn wake(&mut self) {}

    pub fn receive(&mut self) -> bool {
        match *self {}
    }

    pub fn flush(&mut self) {}

    #[cfg(feature = "snapshot")]
    pub fn save(&mut self, _: &mut crate::snapshot::parts::Writer) {}

    #[cfg(feature = "snapshot")]
    pub fn restore(&mut self, _: &crate::snapshot::parts::Parts<'_>) -> crate::error::Result<()> {
        match *self {}
    }
}
