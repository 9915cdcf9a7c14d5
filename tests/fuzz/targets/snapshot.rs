//! A snapshot's state: any bytes as its file, and a saved machine's parts with some of their bytes changed,
//! which are refused or come back the same; then a guest runs on what came of them. Needs a `/dev/kvm`,
//! of any kind: no guest runs.
#![no_main]

use std::cell::RefCell;

use arbitrary::Arbitrary;
use brisk::bus::Access;
use brisk::cli::{self, Command};
use brisk::interrupts::{Interrupts, Signal};
use brisk::kvm::{System, Vm};
use brisk::snapshot::parts::{Kind, Parts, Writer};
use brisk::virtio::Devices;
use brisk_boot::layout;
use brisk_devices::serial::{Saved, Serial};
use brisk_fuzz::guest::{BAR, DISK};
use brisk_fuzz::{PMEM, Step, areas, change, file, new_memory};
use libfuzzer_sys::fuzz_target;
use vm_memory::GuestMemoryMmap;
use zerocopy::{FromBytes, IntoBytes};

const DEVICES: usize = 4;
const KINDS: [Kind; 7] = [
    Kind::Virtio,
    Kind::Queues,
    Kind::Image,
    Kind::PrivatePages,
    Kind::Function,
    Kind::ConfigPorts,
    Kind::IoApic,
];
/// The most steps of one run.
const MAX_STEPS: usize = 32;

/// A change of a saved part.
#[derive(Arbitrary, Debug)]
struct Edit {
    kind: u8,
    number: u8,
    at: u8,
    value: Value,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Byte(u8),
    Word(u32),
    Cut,
    Longer(u8),
    Gone,
}

/// What a driver does with the devices.
#[derive(Arbitrary, Debug)]
enum Act {
    Start { device: u8, size: u8 },
    Read { device: u8, offset: u16, width: u8 },
    Write { device: u8, offset: u16, width: u8, value: u64 },
    Memory(Step),
    Notify { device: u8, queue: u8 },
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    File(&'a [u8]),
    Serial([u8; 28]),
    Machine { pci: bool, before: Vec<Act>, edits: Vec<Edit>, after: Vec<Act> },
}

struct Host {
    devices: Devices,
    interrupts: Interrupts,
    memory: GuestMemoryMmap,
    pci: bool,
    /// As they were at first.
    good: Vec<u8>,
}

fn nobody(_: Signal) {}

impl Host {
    fn new(vm: &'static Vm, pci: bool) -> RefCell<Host> {
        let paths = [DISK, DISK, 2 << 20].map(|len| {
            let (file, path) = file(len);
            std::mem::forget(file);
            path
        });
        let [disk, readonly, pmem] = paths;
        let transport = if pci { "pci-ports" } else { "mmio" };
        let line = format!(
            "--kernel none --console null --disk path={disk} path={readonly},readonly=on \
             --pmem file={pmem},discard_writes=on --transport {transport}"
        );
        let words = line.split_whitespace().map(Into::into);
        let Ok(Command::Run(config)) = cli::parse(words.collect()) else { panic!("{line}") };
        let memory = new_memory();
        let (slot, end) = if pci { (16, PMEM << 1) } else { (0, PMEM) };
        let devices = Devices::open(Box::leak(config), &memory, vm, slot, end).expect("devices");
        let interrupts = Interrupts::new(vm, 4, 8);
        let mut host = Host { devices, interrupts, memory, pci, good: Vec::new() };
        host.good = host.save();
        RefCell::new(host)
    }

    fn save(&mut self) -> Vec<u8> {
        let mut to = Writer::default();
        self.devices.save(&mut to, &mut nobody);
        for (index, ..) in self.devices.private() {
            // Where they would begin in the memory file; none.
            to.add(Kind::PrivatePages, index, &[0; 8]);
        }
        self.interrupts.save(&mut to);
        to.finish()
    }

    /// As it was at first.
    fn reset(&mut self) {
        let good = self.good.clone();
        let mut parts = Parts::parse(&good).expect("what was saved");
        parts.any_images = true;
        // Queues are gone by a reset only, and registers are where they were by a restore.
        for _ in 0..2 {
            self.devices.restore(&parts).expect("what was saved");
            for device in 0..DEVICES as u8 {
                self.write(device, if self.pci { 0x14 } else { 0x70 }, &[0, 0, 0, 0]);
            }
        }
        self.interrupts.restore(&parts).expect("what was saved");
    }

    fn write(&mut self, device: u8, offset: u64, data: &[u8]) {
        let device = u64::from(device) % DEVICES as u64;
        let access = if self.pci {
            let data = if offset == 0x14 { &data[..1] } else { data };
            let address = layout::PCI_MEM32.start + device * BAR + offset % BAR;
            self.devices.bar_write(address, data, &mut nobody)
        } else {
            let window = u64::from(layout::VIRTIO_MMIO_SIZE);
            self.devices.write(device * window + offset % window, data, &mut nobody)
        };
        if let Access::Notified(job) = access {
            self.devices.finish(job.run(), &mut nobody);
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Start { device, size } => self.start(device, 1 << (size & 15)),
            Act::Read { device, offset, width } => {
                let (device, offset) = (u64::from(device) % DEVICES as u64, u64::from(offset));
                let data = &mut [0; 8][..1 << (width & 3)];
                let _ = match self.pci {
                    true => self
                        .devices
                        .bar_read(layout::PCI_MEM32.start + device * BAR + offset % BAR, data),
                    false => self.devices.read(
                        device * u64::from(layout::VIRTIO_MMIO_SIZE) + (offset & 0xfff),
                        data,
                    ),
                };
            }
            Act::Write { device, offset, width, value } => {
                self.write(device, offset.into(), &value.to_le_bytes()[..1 << (width & 3)]);
            }
            Act::Memory(ref step) => change(&self.memory, step),
            Act::Notify { device, queue } => {
                let queue = u32::from(queue & 7);
                match self.pci {
                    true => self.write(device, 0x400 + u64::from(queue) * 4, &[0; 2]),
                    false => self.write(device, 0x50, &queue.to_le_bytes()),
                }
            }
        }
    }

    /// As Linux does it.
    fn start(&mut self, device: u8, size: u16) {
        if self.pci {
            for (at, value) in [(0x14, 3), (8, 1), (0xc, 1), (8, 0), (0xc, 0), (0x14, 11)] {
                self.write(device, at, &u32::to_le_bytes(value));
            }
        } else {
            for (at, value) in [(0x70, 3), (0x24, 1), (0x20, 1), (0x24, 0), (0x20, 0), (0x70, 11)] {
                self.write(device, at, &u32::to_le_bytes(value));
            }
        }
        for queue in 0..2 {
            let (select, length, first, ready) =
                if self.pci { (0x16, 0x18, 0x20, 0x1c) } else { (0x30, 0x38, 0x80, 0x44) };
            let step = if self.pci { 8 } else { 0x10 };
            let number = u32::from(queue).to_le_bytes();
            let width = if self.pci { 2 } else { 4 };
            self.write(device, select, &number[..width]);
            self.write(device, length, &u32::from(size).to_le_bytes()[..width]);
            for (at, address) in (first..).step_by(step).zip(areas(queue)) {
                self.write(device, at, &(address as u32).to_le_bytes());
                self.write(device, at + 4, &[0; 4]);
            }
            self.write(device, ready, &1_u32.to_le_bytes()[..width]);
        }
        self.write(device, if self.pci { 0x14 } else { 0x70 }, &[15, 0, 0, 0]);
    }
}

/// The same file with some of it changed.
fn changed(file: &[u8], edits: &[Edit]) -> Vec<u8> {
    let parts = Parts::parse(file).expect("what was saved");
    let mut to = Writer::default();
    for (index, kind) in KINDS.into_iter().enumerate() {
        for number in 0..DEVICES {
            let Ok(part) = parts.get(kind, number) else { continue };
            let mut part = part.to_vec();
            let mut gone = false;
            let here = |edit: &&Edit| {
                (usize::from(edit.kind) % KINDS.len(), usize::from(edit.number) % DEVICES)
                    == (index, number)
            };
            for Edit { at, value, .. } in edits.iter().filter(here) {
                let at = usize::from(*at) % part.len().max(1);
                match *value {
                    Value::Byte(byte) => part.iter_mut().skip(at).take(1).for_each(|to| *to = byte),
                    Value::Word(word) => {
                        let at = at & !3;
                        part.iter_mut().skip(at).zip(word.to_le_bytes()).for_each(|(to, from)| {
                            *to = from;
                        });
                    }
                    Value::Cut => part.truncate(at),
                    Value::Longer(by) => part.resize(part.len() + usize::from(by), 0),
                    Value::Gone => gone = true,
                }
            }
            if !gone {
                to.add(kind, number, &part);
            }
        }
    }
    to.finish()
}

fn machine(host: &mut Host, before: &[Act], edits: &[Edit], after: &[Act]) {
    host.reset();
    before.iter().take(MAX_STEPS).for_each(|act| host.act(act));
    let file = changed(&host.save(), edits);
    let mut parts = Parts::parse(&file).expect("what was written");
    parts.any_images = true;
    host.reset();
    let taken = host.devices.restore(&parts).is_ok() && host.interrupts.restore(&parts).is_ok();
    if taken {
        let again = host.save();
        let again = Parts::parse(&again).expect("what was saved");
        // The address port drops bits, as it does for a guest.
        for kind in [Kind::Virtio, Kind::Function, Kind::IoApic] {
            for number in 0..DEVICES {
                assert_eq!(again.get(kind, number), parts.get(kind, number), "{kind:?} {number}");
            }
        }
    }
    after.iter().take(MAX_STEPS).for_each(|act| host.act(act));
}

thread_local! {
    static HOSTS: [RefCell<Host>; 2] = {
        let vm: &Vm =
            Box::leak(Box::new(System::open().and_then(|kvm| kvm.create_vm()).expect("KVM")));
        [Host::new(vm, false), Host::new(vm, true)]
    };
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::File(bytes) => {
            if let Ok(parts) = Parts::parse(bytes) {
                assert!(
                    KINDS
                        .into_iter()
                        .all(|kind| parts.get(kind, 0).is_ok_and(|part| part.len() <= bytes.len())
                            || parts.get(kind, 0).is_err())
                );
            }
        }
        Input::Serial(bytes) => {
            let (mut serial, saved) = (Serial::new(), Saved::read_from_prefix(&bytes));
            let Ok((saved, _)) = saved else { return };
            if serial.restore(&saved).is_ok() {
                assert_eq!(serial.save().as_bytes(), saved.as_bytes());
            }
        }
        Input::Machine { pci, before, edits, after } => HOSTS.with(|hosts| {
            machine(&mut hosts[usize::from(pci)].borrow_mut(), &before, &edits, &after);
        }),
    }
});
