//! A machine that stands still.

use vm_memory::GuestMemoryMmap;

use crate::bus::Bus;
use crate::gate::Gate;
use crate::kvm::Vcpu;
use crate::shared::{Guard, Shared};

/// A machine of which nothing moves: no vCPU runs, and the devices are done with what they had begun. It
/// goes on when this is dropped.
pub struct Paused<'a> {
    /// The guest's memory.
    pub memory: &'a GuestMemoryMmap,
    pub(crate) bus: &'a Shared<Bus>,
    pub(crate) gate: &'a Gate,
    /// All, the first one's first.
    pub vcpus: Vec<Guard<'a, Vcpu>>,
    /// The interrupt of the machine's power button.
    #[cfg(feature = "snapshot")]
    pub button: Option<u32>,
}

impl Paused<'_> {
    /// The devices.
    pub fn bus(&self) -> Guard<'_, Bus> {
        self.bus.lock()
    }

    /// Lets all go on; those but the first at once, the first when it enters the guest.
    pub fn resume(self) {}
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.vcpus.clear();
        self.gate.open();
    }
}
