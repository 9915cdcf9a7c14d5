//! A vCPU that KVM runs for ever without getting on (feature `pmem`).
//!
//! Where the host cannot give memory that the guest touches, as a mapped file that became shorter or whose
//! file system is full, KVM says so (`EFAULT`) only where it does not resolve page faults asynchronously.
//! Where it does (arch/x86/kvm/mmu, `kvm_arch_setup_async_pf`) it tries again without end, and only a
//! signal brings the vCPU out. So once a second, while there is an image that it can happen with, each vCPU
//! says where it is; one that has not moved an instruction and does not sleep may be such a one. A device
//! then looks whether it is.

use crate::events;
use crate::kvm::Vcpu;

/// What is asked of KVM: KVM_GET_MP_STATE and KVM_GET_REGS of linux/kvm.h.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] = &[
    crate::seccomp::rule::Rule::ioctl(0x8004_ae98),
    crate::seccomp::rule::Rule::ioctl(0x8090_ae81),
];

/// Seconds in the same place until it is looked into; then twice as many, for a guest that only spins.
const FIRST: u32 = 2;

/// Where a vCPU was last.
pub struct Watch {
    seen: u32,
    rip: u64,
    seconds: u32,
    next: u32,
}

impl Watch {
    /// It was nowhere yet.
    pub fn new() -> Watch {
        Watch { seen: 0, rip: 0, seconds: 0, next: 0 }
    }

    /// `vcpu` was brought out of the guest: whether a second is over and it seems to be stuck.
    pub fn is_stuck(&mut self, vcpu: &Vcpu) -> bool {
        let now = events::seconds();
        now != std::mem::replace(&mut self.seen, now) && self.is_suspect(vcpu.awake_at())
    }

    fn is_suspect(&mut self, awake_at: Option<u64>) -> bool {
        match awake_at {
            Some(rip) if rip == self.rip && self.next > 0 => self.seconds += 1,
            rip => (self.rip, self.seconds, self.next) = (rip.unwrap_or(0), 0, FIRST),
        }
        let suspect = awake_at.is_some() && self.seconds >= self.next;
        if suspect {
            self.next = self.next.saturating_mul(2);
        }
        suspect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_move_is_looked_at_ever_more_seldom() {
        let mut watch = Watch::new();
        let suspected = (0..20).filter(|_| watch.is_suspect(Some(0x1000))).count();
        assert_eq!(suspected, 4, "after 2, 4, 8 and 16 seconds");
        assert!((0..20).all(|at| !watch.is_suspect(Some(at))), "it moves");
        assert!((0..20).all(|_| !watch.is_suspect(None)), "it sleeps");
    }
}
