//! MSI-X as others do it, for comparison only (feature `ab-msix-routes`): each vector has a route in
//! KVM's table, and any write to MSI-X, of a masked entry or without a change too, sends the table
//! anew.

use brisk_devices::virtio::pci::{BAR_SIZE, MSIX_CONTROL, MSIX_TABLE};

use super::Devices;

impl Devices {
    /// After a write at `address` in the window for BARs.
    pub(super) fn bar_written(&self, address: u64) {
        if address % BAR_SIZE >= MSIX_TABLE {
            self.send_routes();
        }
    }

    /// After a write to `register` of configuration space.
    pub(super) fn config_written(&self, register: u16) {
        if register & !3 == MSIX_CONTROL {
            self.send_routes();
        }
    }

    fn send_routes(&self) {
        let Some(pci) = &self.pci else { return };
        let Some(vm) = pci.vm else { return };
        vm.set_routes(pci.functions.iter().flat_map(|port| {
            let msix = &port.function.msix;
            (0..msix.vectors()).filter_map(|vector| msix.message(vector))
        }));
    }
}
