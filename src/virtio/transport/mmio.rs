//! virtio over MMIO (virtio 1.3, 4.2): one window of registers and one pin of the IOAPIC a device. What
//! the driver reads is [memory](shown); only what it writes is an exit.

mod shown;
#[cfg(test)]
#[cfg(all(feature = "console", feature = "block"))]
mod tests;

use brisk_boot::{VirtioMmio, layout};
use brisk_devices::virtio::mmio;
use vm_memory::GuestMemoryMmap;

use crate::error::Result;
use crate::interrupts::Sink;
use crate::kvm::Vm;
use crate::virtio::table::each;
use crate::virtio::{Access, Backend, Devices, Reply, VirtioDevice};
pub use shown::{Change, Shown};

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
                gsi: self.gsis[index as usize].into(),
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
        // A notification changes nothing by itself.
        if !matches!(reply, Reply::Notified(_)) {
            let is_config = offset >= mmio::CONFIG;
            self.show(index, if is_config { Change::Config } else { Change::Registers });
        }
        self.answer(index, reply, sink)
    }

    /// Lets the guest read the windows as memory. Takes memory slot `slot` of `vm`.
    pub(in crate::virtio) fn show_windows(&mut self, vm: &'static Vm, slot: u32) -> Result<()> {
        let slots = &self.slots;
        if !slots.is_empty() {
            let fill = |index: usize, to: &_| each!(&slots[index], device => device.fill(to));
            self.shown = Some(Shown::new(vm, slot, slots.len(), fill)?);
        }
        Ok(())
    }

    /// What device `index` lets its driver read may have changed.
    pub(in crate::virtio) fn show(&self, index: usize, change: Change) {
        if let Some(registers) = self.shown.as_ref().and_then(|shown| shown.window(index))
            && let Some(slot) = self.slots.get(index)
        {
            each!(slot, device => device.show(registers, change));
        }
    }
}

/// The device's number and the offset within its window.
fn window(offset: u64) -> (usize, u64) {
    let size = u64::from(layout::VIRTIO_MMIO_SIZE);
    ((offset / size) as usize, offset % size)
}
