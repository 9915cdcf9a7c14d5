//! virtio over MMIO (virtio 1.3, 4.2): one window of registers and one pin of the IOAPIC a device.

use brisk_boot::{VirtioMmio, layout};
use brisk_devices::virtio::mmio;
use vm_memory::GuestMemoryMmap;

use crate::interrupts::Sink;
use crate::virtio::table::each;
use crate::virtio::{Access, Backend, Devices, Reply, VirtioDevice};

impl<B: Backend, const Q: usize> VirtioDevice<B, Q> {
    /// A read of `data.len()` bytes at `offset` into the device's window.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        mmio::read(&self.common, &self.model, offset, data);
    }

    /// A write of `data` at `offset` into the device's window.
    pub fn write(&mut self, offset: u64, data: &[u8], memory: &GuestMemoryMmap) -> Reply {
        let effect = mmio::write(&mut self.common, &mut self.model, offset, data);
        self.apply(effect, memory)
    }
}

impl Devices {
    /// The windows that the guest is to be told of.
    pub fn windows(&self) -> Vec<VirtioMmio> {
        if self.over_pci() {
            return Vec::new();
        }
        (0..self.slots.len() as u32)
            .map(|index| VirtioMmio {
                base: layout::VIRTIO_MMIO_BASE + u64::from(index * layout::VIRTIO_MMIO_SIZE),
                size: layout::VIRTIO_MMIO_SIZE,
                gsi: layout::virtio_mmio_gsi(index),
            })
            .collect()
    }

    /// A read at `offset` from the first window.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> Access {
        let (index, offset) = window(offset);
        if self.over_pci() {
            return Access::Unclaimed;
        }
        let Some(slot) = self.slots.get_mut(index) else { return Access::Unclaimed };
        each!(slot, device => device.read(offset, data));
        Access::Done
    }

    /// A write at `offset` from the first window; its interrupt goes to `sink`.
    pub fn write(&mut self, offset: u64, data: &[u8], sink: &mut impl Sink) -> Access {
        let (index, offset) = window(offset);
        if self.over_pci() {
            return Access::Unclaimed;
        }
        let Some(slot) = self.slots.get_mut(index) else { return Access::Unclaimed };
        let reply = each!(slot, device => device.write(offset, data, self.memory));
        self.answer(index, reply, sink)
    }
}

/// The device's number and the offset within its window.
fn window(offset: u64) -> (usize, u64) {
    let size = u64::from(layout::VIRTIO_MMIO_SIZE);
    ((offset / size) as usize, offset % size)
}
