//! All of a machine's devices, reached as its vCPU reaches them: each kind of exit of a guest that does
//! anything, whose memory changes while a queue is on its way, and signals in between. Needs a
//! `/dev/kvm`, of any kind: no guest runs.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;

use arbitrary::Arbitrary;
use brisk::bus::{Access, Bus, End};
use brisk::events::{self, Events};
use brisk::snapshot::parts::{Parts, Writer};
use brisk_boot::layout;
use brisk_fuzz::guest::{DEVICES, Guest, keyboard};
use brisk_fuzz::{Address, Step, areas, change};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

/// The most exits of one run.
const MAX_EXITS: usize = 96;
/// Bytes that KVM hands over of one instruction for many accesses: a page.
const MOST: usize = 4096;

#[derive(Arbitrary, Debug)]
enum Exit {
    /// `rep outs` and `out`: so many accesses.
    Out {
        port: Port,
        width: u8,
        count: u16,
        value: u32,
    },
    In {
        port: Port,
        width: u8,
        count: u16,
    },
    Write {
        place: Place,
        width: u8,
        value: u64,
        during: Option<Step>,
    },
    Read {
        place: Place,
        width: u8,
    },
    /// Signals: their bits as they come, or two of them from the kernel.
    Events {
        bits: u8,
        device: u8,
    },
    Signal {
        resize: bool,
    },
    /// KVM_RUN failed with EFAULT.
    MemoryGone,
    /// Somebody types.
    Typed {
        keys: [u8; 3],
        count: u8,
    },
    /// What drivers do, in their order.
    Start {
        device: u8,
        size: u8,
        features: u64,
    },
    Reset {
        device: u8,
    },
    Request {
        device: u8,
        kind: u8,
        sector: u16,
        len: u16,
        during: Option<Step>,
    },
    Available {
        device: u8,
        queue: u8,
        head: u8,
        ahead: u8,
        during: Option<Step>,
    },
    Memory(Step),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Port {
    Serial(u8),
    Pci(u8),
    Timer,
    Status,
    Sleep(u8),
    Any(u16),
}

impl Port {
    fn get(self) -> u16 {
        match self {
            Port::Serial(offset) => layout::COM1_PORT + u16::from(offset & 7),
            Port::Pci(offset) => 0xcf8 + u16::from(offset & 7),
            Port::Timer => layout::BOOT_TIMER_PORT,
            Port::Status => layout::EXIT_STATUS_PORT,
            Port::Sleep(offset) => layout::SLEEP_CONTROL_PORT + u16::from(offset & 7),
            Port::Any(port) => port,
        }
    }

    /// Whether the guest ends by what it writes there.
    fn ends(self) -> bool {
        let port = self.get();
        port == layout::SLEEP_CONTROL_PORT
            || [layout::RESET_PORT, layout::RESET_CONTROL_PORT, layout::KEYBOARD_PORT]
                .contains(&port)
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Device {
        device: u8,
        offset: u16,
    },
    IoApic(u8),
    Ecam(u32),
    /// Around the border of a window.
    Border {
        window: u8,
        by: i8,
    },
    Any(Address),
}

impl Place {
    fn get(self, guest: &Guest) -> u64 {
        match self {
            Place::Device { device, offset } => {
                guest.registers(device) + u64::from(offset & 0x1fff)
            }
            Place::IoApic(offset) => layout::IOAPIC_BASE + u64::from(offset),
            Place::Ecam(offset) => layout::PCI_ECAM_BASE + u64::from(offset),
            Place::Border { window, by } => {
                let borders = [
                    layout::VIRTIO_MMIO_BASE,
                    layout::VIRTIO_MMIO_BASE + 8 * u64::from(layout::VIRTIO_MMIO_SIZE),
                    layout::PCI_ECAM_BASE,
                    layout::PCI_ECAM_BASE + layout::PCI_ECAM_BUS_SIZE,
                    layout::PCI_MEM32.start,
                    layout::PCI_MEM32.start + layout::PCI_MEM32.len,
                    layout::IOAPIC_BASE,
                    layout::IOAPIC_BASE + brisk::interrupts::IOAPIC_SIZE,
                    0,
                ];
                borders[usize::from(window) % borders.len()].wrapping_add_signed(by.into())
            }
            Place::Any(address) => address.get(),
        }
    }
}

struct Run<'a> {
    guest: &'a Guest,
    bus: &'a mut Bus,
    keys: &'a mut File,
}

impl Run<'_> {
    /// By what the guest ended, if it did.
    fn exit(&mut self, exit: &Exit) -> Option<End> {
        let memory = self.guest.memory();
        match *exit {
            Exit::Out { port, width, count, value } => {
                let (width, data) = accesses(width, count, value);
                let end = self.bus.pio_out(port.get(), width, &data);
                let quit = end == Some(End::Quit);
                assert!(end.is_none() || quit || port.ends(), "{port:?}: {end:?}");
                end
            }
            Exit::In { port, width, count } => {
                let (width, mut data) = accesses(width, count, 0);
                let end = self.bus.pio_in(port.get(), width, &mut data);
                assert!(matches!(end, None | Some(End::Quit)));
                end
            }
            Exit::Write { place, width, value, ref during } => {
                let address = place.get(self.guest);
                let access = self.bus.mmio_write(address, &value.to_le_bytes()[..1 << (width & 3)]);
                self.done(access, address, during.as_ref())
            }
            Exit::Read { place, width } => {
                self.bus.mmio_read(place.get(self.guest), &mut [0; 8][..1 << (width & 3)]);
                None
            }
            Exit::Events { bits, device } => {
                let all = [Events::INPUT, Events::OUTPUT, Events::WINDOW, Events::TICK];
                let named = all.into_iter().enumerate().filter(|(at, _)| bits & 1 << at != 0);
                for (_, event) in named {
                    events::expect(event);
                }
                events::expect(Events::device(usize::from(device % DEVICES)));
                self.poll()
            }
            Exit::Signal { resize } => {
                let signal = if resize { libc::SIGWINCH } else { libc::SIGCONT };
                // SAFETY: a signal to ourselves that is ignored where it is not caught.
                unsafe { libc::raise(signal) };
                self.poll()
            }
            Exit::MemoryGone => {
                self.bus.repair_memory();
                None
            }
            Exit::Typed { keys, count } => {
                // A pipe that is full takes no more.
                let _ = self.keys.write(&keys[..usize::from(count & 3)]);
                events::expect(Events::INPUT);
                self.poll()
            }
            Exit::Start { device, size, features } => {
                self.guest.start(self.bus, device, size, features);
                None
            }
            Exit::Reset { device } => {
                let address = self.guest.registers(device) + 0x14;
                let access = self.bus.mmio_write(address, &[0]);
                self.done(access, address, None)
            }
            Exit::Request { device, kind, sector, len, ref during } => {
                change(memory, &Step::Request { kind, sector, len });
                self.available(device, 0, 0, 0, during.as_ref())
            }
            Exit::Available { device, queue, head, ahead, ref during } => {
                self.available(device, queue, head, ahead, during.as_ref())
            }
            Exit::Memory(ref step) => {
                change(memory, step);
                None
            }
        }
    }

    /// Puts the head of a chain into a queue, and notifies it.
    fn available(
        &mut self,
        device: u8,
        queue: u8,
        head: u8,
        ahead: u8,
        during: Option<&Step>,
    ) -> Option<End> {
        let (memory, ring) = (self.guest.memory(), areas(queue)[1]);
        let index: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap_or(0);
        for size in [1, 2, 4, 8, 16] {
            let at = GuestAddress(ring + 4 + 2 * u64::from(index % size));
            let _ = memory.write_obj(u16::from(head & 15), at);
        }
        let next = index.wrapping_add(1).wrapping_add((ahead >> 6).into());
        let _ = memory.write_obj(next, GuestAddress(ring + 2));
        let access = self.guest.notify(self.bus, device, queue & 1);
        self.done(access, self.guest.registers(device), during)
    }

    /// What the vCPU's loop does with an answer; memory changes before the queue is looked at.
    fn done(&mut self, access: Access, address: u64, during: Option<&Step>) -> Option<End> {
        match access {
            Access::Notified(job) => {
                during.into_iter().for_each(|step| change(self.guest.memory(), step));
                self.bus.served(job.run(), Some(address))
            }
            access => {
                assert_eq!(access.end(), None, "the VM ends by a device's register");
                None
            }
        }
    }

    fn poll(&mut self) -> Option<End> {
        self.bus.count_interrupted();
        let polled = self.bus.poll(events::take());
        let mut end = polled.end;
        for job in polled.jobs {
            end = end.or(self.bus.served(job.run(), None));
        }
        assert!(matches!(end, None | Some(End::Quit)), "{end:?}");
        end
    }
}

/// As KVM hands accesses of 1, 2 or 4 bytes over.
fn accesses(width: u8, count: u16, value: u32) -> (u8, Vec<u8>) {
    let width = 1 << (width % 3);
    // Mostly one.
    let count = usize::from(count.saturating_sub(0xf000)).clamp(1, MOST / width);
    (width as u8, value.to_le_bytes()[..width].repeat(count))
}

thread_local! {
    static KEYS: RefCell<File> = RefCell::new(keyboard());
    static GUESTS: [Guest; 2] = [Guest::new(false), Guest::new(true)];
}

fuzz_target!(|input: (bool, Vec<Exit>)| {
    let (pci, exits) = input;
    KEYS.with_borrow_mut(|keys| {
        GUESTS.with(|guests| {
            let guest = &guests[usize::from(pci)];
            let bus = &mut *guest.bus();
            guest.clear();
            let mut run = Run { guest, bus, keys };
            for exit in exits.iter().take(MAX_EXITS) {
                if run.exit(exit).is_some() {
                    break;
                }
            }
            // Nothing may be on its way into memory that others use next.
            guest.reset(run.bus);
            guest.check();
            let mut state = Writer::default();
            run.bus.save(&mut state);
            assert!(Parts::parse(&state.finish()).is_ok());
        });
    });
});
