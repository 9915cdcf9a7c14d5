//! All devices: which kinds there are, the features say; how they are reached, the transport.

use brisk_boot::{PciHost, layout};
use vm_memory::GuestMemoryMmap;

use super::jobs::Jobs;
use super::table::{Device, FLAGS, each};
use super::transport::mmio::{Change, Shown};
use super::transport::pci::Pci;
use super::{Access, Host, Reply};
use crate::access::End;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::interrupts::{Signal, Sink};
use crate::kvm::Vm;

/// The most virtio devices.
pub const MAX_VIRTIO: usize = 8;

/// All virtio devices, in the order of their windows or PCI device numbers.
pub struct Devices {
    pub(super) slots: Vec<Device>,
    pub(super) memory: &'static GuestMemoryMmap,
    pub(super) pci: Option<Pci>,
    /// The interrupt of each over MMIO.
    pub(super) gsis: [u8; MAX_VIRTIO],
    /// Where the guest reads the windows as memory.
    pub(super) shown: Option<Shown>,
}

impl Devices {
    /// Makes the devices that `config` names, in the order of the table. Those that
    /// are memory take slots of `vm` from `free_slot` up, at addresses from `ram_end` up.
    ///
    /// # Errors
    /// An image that cannot be used, or too many devices.
    pub fn open(
        config: &'static Config,
        memory: &GuestMemoryMmap,
        vm: &Vm,
        free_slot: u32,
        ram_end: u64,
    ) -> Result<Devices> {
        let mut host = Host {
            memory: memory.clone(),
            vm,
            slot: free_slot,
            guest: ram_end,
            cpus: config.cpus,
            index: 0,
        };
        let slots = config.devices.open(&mut host)?;
        if slots.len() > MAX_VIRTIO {
            return Err(Error::usage(format!(
                "{FLAGS}together: {} devices, and there is room for {MAX_VIRTIO}",
                slots.len()
            )));
        }
        warn_of_pages(config.memory.size, host.guest - ram_end);
        Ok(Devices {
            pci: Pci::open(config, &slots),
            gsis: gsis(&slots, config.cpus),
            slots,
            memory: Box::leak(Box::new(host.memory)),
            shown: None,
        })
    }

    /// Lets the guest read as memory what it can, and write what it may, instead of leaving for each
    /// access. Takes memory slots of `vm` from `slot` up, one more than there are devices.
    ///
    /// # Errors
    /// KVM did not take the slot.
    pub fn make_readable(&mut self, vm: &'static Vm, slot: u32) -> Result<()> {
        if self.over_pci() { self.show_functions(vm, slot) } else { self.show_windows(vm, slot) }
    }

    /// The bridge that the guest is to be told of.
    pub fn pci_host(&self) -> Option<PciHost> {
        self.pci.as_ref().map(Pci::host)
    }

    /// Whether the devices are PCI functions.
    pub(super) const fn over_pci(&self) -> bool {
        self.pci.is_some()
    }

    /// The VM has ended: hands on what waits.
    pub fn hand_on(&mut self) {
        for slot in &mut self.slots {
            each!(slot, device => device.hand_on());
        }
    }

    /// Hands each of `events` to the devices that it is for, and what they say to their drivers to
    /// `sink`.
    pub fn poll(&mut self, events: Events, sink: &mut impl Sink) -> Polled {
        let mut all = Polled::default();
        for index in 0..self.slots.len() {
            let (queues, polled) =
                each!(&mut self.slots[index], device => device.poll(events, Events::device(index)));
            all.repaired |= polled.repaired;
            all.end = all.end.or(polled.end);
            if polled.config {
                self.config_changed(index, sink);
            }
            for queue in (0..32).filter(|queue| queues & 1 << queue != 0) {
                self.begin(index, queue, &mut all, sink);
            }
        }
        all
    }

    /// An access that device `index` answered by `reply`.
    pub(super) fn answer(&mut self, index: usize, reply: Reply, sink: &mut impl Sink) -> Access {
        match reply {
            Reply::Notified(queue) => self.notified(index, queue, sink),
            reply => Access::done(self.conclude(index, reply, sink)),
        }
    }

    /// Device `index` has moved a queue: brings its answer to its driver, unless the VM ends.
    pub(super) fn conclude(
        &mut self,
        index: usize,
        reply: Reply,
        sink: &mut impl Sink,
    ) -> Option<End> {
        if let Reply::End(end) = reply {
            return Some(end);
        }
        self.tell(index, reply, sink);
        None
    }

    /// Device `index` has changed its configuration space: its driver is to know, as soon as it is ready.
    pub(super) fn config_changed(&mut self, index: usize, sink: &mut impl Sink) {
        let tells = each!(&mut self.slots[index], device => device.common.config_changed());
        self.show(index, Change::Config);
        if tells {
            self.tell(index, Reply::Config, sink);
        }
    }

    /// Brings device `index`'s answer to its driver.
    fn tell(&mut self, index: usize, reply: Reply, sink: &mut impl Sink) {
        if let (Some(pci), Some(slot)) = (&mut self.pci, self.slots.get_mut(index)) {
            return pci.tell(index, slot, reply, sink);
        }
        if reply != Reply::Nothing {
            let is_queue = matches!(reply, Reply::Queue(_));
            self.show(index, if is_queue { Change::Interrupt } else { Change::Registers });
            sink.signal(Signal::Gsi(self.gsis[index]));
        }
    }

    /// Finishes what the devices have begun, for a guest of which no vCPU runs.
    pub fn quiesce(&mut self, sink: &mut impl Sink) {
        for index in 0..self.slots.len() {
            let mut replies = Vec::new();
            each!(&mut self.slots[index], device => {
                device.quiesce(|reply| replies.push(reply));
            });
            replies.into_iter().for_each(|reply| self.tell(index, reply, sink));
        }
    }
}

/// What an event came to, all devices together.
#[derive(Default)]
pub struct Polled {
    /// What is to be done about it, without the bus.
    pub jobs: Jobs,
    /// Memory that the guest could not have is there again.
    pub repaired: bool,
    /// The VM ends.
    pub end: Option<End>,
}

impl Polled {
    /// The VM ends, whatever there is to be done.
    pub fn end(end: End) -> Polled {
        Polled { end: Some(end), ..Polled::default() }
    }
}

/// The interrupt of each device over MMIO. Linux programs each pin of the IOAPIC by fourteen exits, so that
/// devices have one together where there is but one CPU to be interrupted: it is an edge, no level, so that
/// none is lost, and who looks whether it was his looks at memory. But each whose driver is asked is then
/// acknowledged, which is an exit, be there something to acknowledge or not. So who interrupts often has
/// one of its own: a request to a disk took a quarter longer when a second disk and a console had the same.
fn gsis(slots: &[Device], cpus: u8) -> [u8; MAX_VIRTIO] {
    let own = |slot: &Device| cpus > 1 || each!(slot, device => device.interrupts_often());
    let mut next = u32::from(!slots.iter().all(own));
    let mut gsis = [0; MAX_VIRTIO];
    for (gsi, slot) in gsis.iter_mut().zip(slots) {
        let own = u32::from(own(slot));
        *gsi = layout::virtio_mmio_gsi(own * next) as u8;
        next += own;
    }
    gsis
}

/// Says so where the guest needs much of its `ram` bytes for what it has to know of the pages of `more`
/// bytes of memory, its pmem: 64 bytes for each 4 KiB (Linux, `struct page`). It panics where it has not
/// as many.
fn warn_of_pages(ram: u64, more: u64) {
    let needs = more / 64;
    if needs > ram / 4 {
        log::warn!(
            "--pmem: the guest needs {} MiB of its {} MiB of RAM for page structures of what is \
             mapped; give it more --memory, or the image by --disk",
            needs >> 20,
            ram >> 20
        );
    }
}

#[cfg(all(test, feature = "pmem"))]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::cli::{self, Command};
    use crate::kvm::System;

    /// What the guest may map, it may give to a device.
    #[test]
    fn a_pmem_is_memory_for_all_devices() {
        const END: u64 = 4 << 30;
        let dir = tempfile::tempdir().unwrap();
        let images = ["a", "b"].map(|name| dir.path().join(name));
        images.iter().for_each(|image| std::fs::write(image, vec![0; 2 << 20]).unwrap());
        let values = images.each_ref().map(|image| format!("file={}", image.display()));
        let words = ["--kernel", "none", "--console", "off", "--pmem", &values[0], &values[1]];
        let Ok(Command::Run(config)) = cli::parse(words.iter().map(Into::into).collect()) else {
            panic!("the command line")
        };
        let vm = System::open().unwrap().create_vm().unwrap();
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let devices = Devices::open(Box::leak(config), &ram, &vm, 0, END).unwrap();
        for (image, at) in images.iter().zip([END, END + (2 << 20)]) {
            devices.memory.write_obj(7u8, GuestAddress(at + (1 << 20))).unwrap();
            assert_eq!(std::fs::read(image).unwrap()[1 << 20], 7);
        }
        assert!(devices.memory.get_slice(GuestAddress(END + (4 << 20)), 1).is_err());
        assert!(ram.get_slice(GuestAddress(END), 1).is_err());
    }
}
