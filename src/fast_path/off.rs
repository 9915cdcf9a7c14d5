//! What stands for the fast path in a build without the feature `pio-fast-path`: the bus.

use crate::bus::{Bus, End};

#[allow(missing_docs, reason = "as in the module that is faster")]
impl Bus {
    #[inline(always)]
    pub(crate) fn fast_out(&mut self, port: u16, width: u8, data: &[u8]) -> Option<End> {
        self.pio_out(port, width, data)
    }

    #[inline(always)]
    pub(crate) fn fast_in(&mut self, port: u16, width: u8, data: &mut [u8]) -> Option<End> {
        self.pio_in(port, width, data)
    }
}
