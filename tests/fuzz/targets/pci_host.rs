//! The PCI bus as the host serves it: a console, a disk and a pmem, by port, by ECAM and by BAR, while
//! their rings change. Needs a `/dev/kvm`, of any kind: no guest runs.
#![no_main]

use std::cell::RefCell;

use arbitrary::Arbitrary;
use brisk::bus::Access as Answer;
use brisk::cli::{self, Command};
use brisk::events::Events;
use brisk::interrupts::Signal;
use brisk::kvm::{System, Vm};
use brisk::virtio::Devices;
use brisk_boot::layout;
use brisk_fuzz::{Address, PMEM, Step, areas, change, file, new_memory};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Functions of the bus, the host bridge among them, and their identities.
const IDS: [u32; 4] = [0x0008_1b36, 0x1043_1af4, 0x1042_1af4, 0x105b_1af4];
const WINDOW: u64 = layout::PCI_MEM32.start;
const PAGE: u64 = 0x1000;
/// Bytes from one BAR to the next, and where in one its MSI-X table is.
const BAR: u64 = 0x2000;
const TABLE: u64 = 0x1000;
/// The most accesses of one run, so that none takes long.
const MAX_ACCESSES: usize = 64;
/// The most messages that one access can cause: each function's vectors.
const MAX_MESSAGES: usize = 9;

#[derive(Arbitrary, Debug)]
enum Access {
    /// The ports 0xcf8 to 0xcff.
    Port {
        offset: u8,
        width: u8,
        value: Option<u32>,
    },
    /// Any place on the bus.
    Ecam {
        offset: u32,
        width: u8,
        value: Option<u64>,
    },
    /// A register of one of the functions that there are.
    Config {
        function: u8,
        register: u8,
        width: u8,
        value: Option<u32>,
    },
    /// Any place in the window for BARs.
    Window {
        offset: u32,
        width: u8,
        value: Option<u64>,
    },
    /// A place in a BAR where it was at first.
    Bar {
        function: u8,
        offset: u16,
        width: u8,
        value: Option<u64>,
    },
    /// Moves a BAR: onto another, within the window, out of it, onto RAM.
    Move {
        function: u8,
        to: Place,
    },
    /// An entry of the MSI-X table.
    Vector {
        function: u8,
        vector: u8,
        address: Address,
        data: u32,
        masked: bool,
    },
    /// MSI-X on or off, and all of it masked.
    Msix {
        function: u8,
        enable: bool,
        mask_all: bool,
    },
    /// Sets a device up as Linux does, with queues of `1 << size` descriptors.
    Start {
        function: u8,
        size: u8,
        features: u64,
        vector: u8,
    },
    Status {
        function: u8,
        status: u8,
    },
    Notify {
        function: u8,
        queue: u8,
    },
    /// Something was typed, or there is room for output.
    Input {
        woken: bool,
    },
    Memory(Step),
    /// Puts the head of a chain into a queue.
    Available {
        queue: u8,
        head: u8,
        ahead: u8,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Function(u8),
    Window(u8),
    Any(Address),
}

/// The bus and its guest.
struct Bus {
    slots: Devices,
    memory: GuestMemoryMmap,
    ports: bool,
}

fn bus(vm: &'static Vm, transport: &str, slot: u32, ram_end: u64) -> RefCell<Bus> {
    let paths = [64 << 10, 2 << 20].map(|len| {
        let (file, path) = file(len);
        // The path is the descriptor's, so it has to stay.
        std::mem::forget(file);
        path
    });
    let [disk, pmem] = paths;
    let line = format!(
        "--kernel none --console null --disk path={disk} --pmem file={pmem} --transport {transport}"
    );
    let words = line.split(' ').map(Into::into);
    let Ok(Command::Run(config)) = cli::parse(words.collect()) else { panic!("{line}") };
    let memory = new_memory();
    let config: &'static _ = Box::leak(config);
    let mut slots = Devices::open(config, &memory, vm, slot, ram_end).expect("devices");
    slots.make_readable(vm, slot + 1).expect("a slot");
    RefCell::new(Bus { slots, memory, ports: transport == "pci-ports" })
}

thread_local! {
    static BUSES: [RefCell<Bus>; 2] = {
        let vm: &Vm =
            Box::leak(Box::new(System::open().and_then(|kvm| kvm.create_vm()).expect("KVM")));
        [bus(vm, "pci", 0, PMEM), bus(vm, "pci-ports", 16, PMEM << 1)]
    };
}

impl Bus {
    /// The address of `register` of a function, counted from the host bridge.
    fn register(function: u8, register: u64) -> u64 {
        u64::from(function % IDS.len() as u8) * PAGE + register
    }

    /// Where the BAR of a function is at first.
    fn home(function: u8) -> u64 {
        WINDOW + u64::from(function % 3) * BAR
    }

    fn config(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        assert!(self.slots.ecam_read(offset, &mut data).claimed());
        u32::from_le_bytes(data)
    }

    fn set_config(&mut self, offset: u64, data: &[u8]) {
        let mut sent = Vec::new();
        let mut push = |signal| sent.push(signal);
        assert!(self.slots.ecam_write(offset, data, &mut push).claimed());
        check(sent);
    }

    fn set_bar(&mut self, address: u64, data: &[u8]) {
        let mut sent = Vec::new();
        let there = self.decodes(address);
        let mut push = |signal| sent.push(signal);
        let access = self.slots.bar_write(address, data, &mut push);
        assert_eq!(access.claimed(), there);
        if let Answer::Notified(job) = access {
            self.slots.finish(job.run(), &mut push);
        }
        check(sent);
    }

    /// Whether a BAR is at `address`, by what configuration space says.
    fn decodes(&mut self, address: u64) -> bool {
        (1..IDS.len() as u8).any(|function| {
            let mut read = |register| self.config(Self::register(function, register));
            let base = u64::from(read(0x14)) << 32 | u64::from(read(0x10) & !15);
            read(4) & 2 != 0 && base == address & !(BAR - 1)
        })
    }

    /// As it was at first: what a driver can always bring about.
    fn reset(&mut self) {
        for function in 1..IDS.len() as u8 {
            let home = Self::home(function - 1);
            let register = |register| Self::register(function, register);
            for (at, value) in [(0x88, 0), (0x8c, 0), (0x90, 0), (0x98, 0), (0x14, home >> 32)] {
                self.set_config(register(at), &(value as u32).to_le_bytes());
            }
            self.set_config(register(0x10), &(home as u32).to_le_bytes());
            self.set_config(register(4), &[2, 0]);
        }
        for function in 0..3 {
            let home = Self::home(function);
            self.set_bar(home + 0x14, &[0]);
            let mut status = [0xff];
            assert!(self.slots.bar_read(home + 0x14, &mut status).claimed());
            assert_eq!(status, [0], "a reset that left a status");
            for vector in 0..MAX_MESSAGES as u64 {
                self.set_bar(home + TABLE + vector * 16, &[0; 8]);
                self.set_bar(home + TABLE + 8 + vector * 16, &(1u64 << 32).to_le_bytes());
            }
        }
    }

    fn start(&mut self, function: u8, size: u8, features: u64, vector: u8) {
        let home = Self::home(function);
        let mut offered = [0; 4];
        for (at, data) in [(0x14, &[1][..]), (0x14, &[3]), (0, &[0; 4])] {
            self.set_bar(home + at, data);
        }
        let _ = self.slots.bar_read(home + 4, &mut offered);
        let features = u32::from_le_bytes(offered) & features as u32;
        for (at, value) in [(8, 1), (0xc, 1), (8, 0), (0xc, features)] {
            self.set_bar(home + at, &u32::to_le_bytes(value));
        }
        self.set_bar(home + 0x14, &[11]);
        self.set_bar(home + 0x10, &u16::from(vector & 15).to_le_bytes());
        for queue in 0..2 {
            for (at, value) in
                [(0x16, queue.into()), (0x18, 1 << (size & 15)), (0x1a, (vector >> 4).into())]
                    as [(u64, u16); 3]
            {
                self.set_bar(home + at, &value.to_le_bytes());
            }
            for (at, address) in (0x20..).step_by(8).zip(areas(queue)) {
                self.set_bar(home + at, &address.to_le_bytes());
            }
            self.set_bar(home + 0x1c, &[1, 0]);
        }
        self.set_bar(home + 0x14, &[15]);
    }

    fn make(&mut self, access: &Access) {
        let mut data = [0; 8];
        match *access {
            Access::Port { offset, width, value } => {
                let (offset, width) = (u16::from(offset & 7), 1 << (width % 3));
                let mut sent = Vec::new();
                let mut push = |signal| sent.push(signal);
                let there = match value {
                    Some(value) => self.slots.ports_out(
                        offset,
                        width,
                        &value.to_le_bytes()[..width.into()],
                        &mut push,
                    ),
                    None => self.slots.ports_in(offset, width, &mut data[..width.into()]),
                };
                assert_eq!(there.claimed(), self.ports);
                check(sent);
            }
            Access::Ecam { offset, width, value } => {
                self.ecam(offset.into(), 1 << (width & 3), value);
            }
            Access::Config { function, register, width, value } => {
                let offset = Self::register(function, register.into());
                self.ecam(offset, 1 << (width % 3), value.map(u64::from));
            }
            Access::Window { offset, width, value } => {
                self.bar(WINDOW + u64::from(offset), 1 << (width & 3), value);
            }
            Access::Bar { function, offset, width, value } => {
                let address = Self::home(function) + u64::from(offset) % BAR;
                self.bar(address, 1 << (width & 3), value);
            }
            Access::Move { function, to } => {
                let to = match to {
                    Place::Function(function) => Self::home(function),
                    Place::Window(page) => WINDOW + u64::from(page) * BAR,
                    Place::Any(address) => address.get(),
                };
                let low = Self::register(function, 0x10);
                self.set_config(low, &(to as u32).to_le_bytes());
                self.set_config(low + 4, &((to >> 32) as u32).to_le_bytes());
            }
            Access::Vector { function, vector, address, data, masked } => {
                let entry = Self::home(function) + TABLE + u64::from(vector & 15) * 16;
                self.set_bar(entry, &address.get().to_le_bytes());
                let rest = u64::from(data) | u64::from(masked) << 32;
                self.set_bar(entry + 8, &rest.to_le_bytes());
            }
            Access::Msix { function, enable, mask_all } => {
                let control = u16::from(enable) << 15 | u16::from(mask_all) << 14;
                self.set_config(Self::register(function, 0x9a), &control.to_le_bytes());
            }
            Access::Start { function, size, features, vector } => {
                self.start(function, size, features, vector);
            }
            Access::Status { function, status } => {
                self.set_bar(Self::home(function) + 0x14, &[status]);
            }
            Access::Notify { function, queue } => {
                self.set_bar(Self::home(function) + 0x400 + u64::from(queue & 3) * 4, &[0; 2]);
            }
            Access::Input { woken } => {
                let mut sent = Vec::new();
                let mut push = |signal| sent.push(signal);
                let events = if woken { Events::CONSOLE } else { Events::MEMORY };
                for job in self.slots.poll(events, &mut push).jobs {
                    self.slots.finish(job.run(), &mut push);
                }
                check(sent);
            }
            Access::Memory(ref step) => change(&self.memory, step),
            Access::Available { queue, head, ahead } => {
                let ring = areas(queue)[1];
                let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap_or(0);
                let at = GuestAddress(ring + 4 + 2 * u64::from(index % 16));
                let _ = self.memory.write_obj(u16::from(head & 15), at);
                let next = index.wrapping_add(1).wrapping_add((ahead >> 6).into());
                let _ = self.memory.write_obj(next, GuestAddress(ring + 2));
            }
        }
    }

    fn ecam(&mut self, offset: u64, width: usize, value: Option<u64>) {
        match value {
            Some(value) => self.set_config(offset, &value.to_le_bytes()[..width]),
            None => assert!(self.slots.ecam_read(offset, &mut [0; 8][..width]).claimed()),
        }
    }

    fn bar(&mut self, address: u64, width: usize, value: Option<u64>) {
        match value {
            Some(value) => self.set_bar(address, &value.to_le_bytes()[..width]),
            None => {
                let there = self.decodes(address);
                assert_eq!(self.slots.bar_read(address, &mut [0; 8][..width]).claimed(), there);
            }
        }
    }
}

/// Functions on PCI have messages only.
fn check(sent: Vec<Signal>) {
    assert!(sent.len() <= MAX_MESSAGES, "messages without end");
    assert!(sent.iter().all(|signal| matches!(signal, Signal::Msi(_))));
}

fuzz_target!(|input: (bool, Vec<Access>)| {
    let (ports, accesses) = input;
    BUSES.with(|buses| {
        let bus = &mut *buses[usize::from(ports)].borrow_mut();
        bus.reset();
        for access in accesses.iter().take(MAX_ACCESSES) {
            bus.make(access);
            for (function, id) in (0..).zip(IDS) {
                assert_eq!(bus.config(Bus::register(function, 0)), id);
            }
            assert_eq!(bus.config(PAGE * IDS.len() as u64), u32::MAX, "one more function");
        }
    });
});
