//! Accesses to where a PCI bus would be, in a build without one.

use super::{Access, Devices};
use crate::interrupts::Sink;

#[allow(missing_docs, reason = "as in the module with functions")]
impl Devices {
    #[inline(always)]
    pub fn ports_in(&mut self, _: u16, _: u8, _: &mut [u8]) -> Access {
        Access::Unclaimed
    }

    #[inline(always)]
    pub fn ports_out(&mut self, _: u16, _: u8, _: &[u8], _: &mut impl Sink) -> Access {
        Access::Unclaimed
    }

    #[inline(always)]
    pub fn ecam_read(&mut self, _: u64, _: &mut [u8]) -> Access {
        Access::Unclaimed
    }

    #[inline(always)]
    pub fn ecam_write(&mut self, _: u64, _: &[u8], _: &mut impl Sink) -> Access {
        Access::Unclaimed
    }

    #[inline(always)]
    pub fn bar_read(&mut self, _: u64, _: &mut [u8]) -> Access {
        Access::Unclaimed
    }

    #[inline(always)]
    pub fn bar_write(&mut self, _: u64, _: &[u8], _: &mut impl Sink) -> Access {
        Access::Unclaimed
    }
}
