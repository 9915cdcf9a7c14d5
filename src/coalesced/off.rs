//! What stands for KVM's ring in a build without the feature `coalesced-serial`: nothing.

use kvm_bindings::kvm_run;

use crate::kvm::Vm;

/// Always empty.
pub struct Ring;

#[allow(missing_docs, clippy::missing_safety_doc, reason = "as in the module that has one")]
impl Ring {
    #[inline(always)]
    pub unsafe fn new(_: *mut kvm_run) -> Ring {
        Ring
    }

    #[inline(always)]
    pub fn set(&mut self, _: bool, _: &Vm) {}

    #[inline(always)]
    pub fn pop(&mut self) -> Option<u8> {
        None
    }
}
