//! KVM's table of interrupt routes (feature `ab-msix-routes`).

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};

use super::{Msi, Vm};

impl Vm {
    /// Gives each of `messages` a route, in order, in place of all routes that there were.
    pub fn set_routes(&self, messages: impl Iterator<Item = Msi>) {
        let entries: Vec<_> = (0..).zip(messages).map(|(gsi, msi)| route(gsi, msi)).collect();
        let result =
            KvmIrqRouting::from_entries(&entries).map(|table| self.fd.set_gsi_routing(&table));
        if !matches!(result, Ok(Ok(()))) {
            log::error!("KVM_SET_GSI_ROUTING: {result:?}");
        }
    }
}

fn route(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = msi.address as u32;
    entry.u.msi.address_hi = (msi.address >> 32) as u32;
    entry.u.msi.data = msi.data;
    entry
}
