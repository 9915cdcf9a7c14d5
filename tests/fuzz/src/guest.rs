//! A whole machine that stands still, and a driver for its devices by each transport.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

use brisk::bus::{Access, Bus};
use brisk::cli::{self, Command};
use brisk::machine::Machine;
use brisk::paused::Paused;
use brisk_boot::layout;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::{areas, file, on_disk};

/// The devices of each machine, in their order.
pub const DEVICES: u8 = 6;
/// Bytes of each disk.
pub const DISK: u64 = 64 << 10;
/// Bytes from one BAR to the next, and from one function's configuration to the next.
pub const BAR: u64 = 0x2000;
const FUNCTION: u64 = 0x1000;
/// A BAR's MSI-X table, and its notifications.
const TABLE: u64 = 0x1000;
const NOTIFY: u64 = 0x400;
const VECTORS: u64 = 9;

/// A machine with six virtio devices, before its first instruction.
pub struct Guest {
    machine: &'static Paused<'static>,
    pci: bool,
    /// The disks: one to write to, one not, one by io_uring.
    disks: [File; 3],
}

impl Guest {
    /// Over MMIO with a serial port at standard input and output, or over PCI.
    pub fn new(pci: bool) -> Guest {
        let made = [file(DISK), file(DISK), on_disk(DISK)];
        let [(first, rw), (second, ro), (third, ring)] = made;
        let (image, pmem) = file(2 << 20);
        // Its path is the descriptor's, so it has to stay.
        std::mem::forget(image);
        let (kernel_file, kernel) = file(0);
        // Behind four bytes that are the target's.
        let elf = &include_bytes!("../seeds/elf/vmlinux")[4..];
        std::fs::write(&kernel, elf).expect("a kernel");
        let (transport, serial) = if pci { ("pci-ports", "off") } else { ("mmio", "tty") };
        let line = format!(
            "--kernel {kernel} --boot-protocol linux64 --memory size=32M --seccomp false --stats /dev/null \
             --console file=/dev/null --serial {serial} --transport {transport} \
             --disk path={rw} --disk path={ro},readonly=on \
             --disk path={ring},direct=on,engine=io_uring \
             --pmem file={pmem},discard_writes=on --rng src=/dev/urandom"
        );
        let words = line.split_whitespace().map(Into::into);
        let Ok(Command::Run(config)) = cli::parse(words.collect()) else { panic!("{line}") };
        let machine = match Machine::build(Box::leak(config)) {
            Ok(machine) => machine,
            Err(error) => panic!("{error}"),
        };
        drop(kernel_file);
        machine.start().expect("its outputs");
        let machine = Box::leak(Box::new(machine.pause()));
        Guest { machine, pci, disks: [first, second, third] }
    }

    /// The devices, for one run.
    pub fn bus(&self) -> impl std::ops::DerefMut<Target = Bus> + use<> {
        self.machine.bus()
    }

    /// The guest's memory.
    pub fn memory(&self) -> &'static GuestMemoryMmap {
        self.machine.memory
    }

    /// Nothing is in memory any more.
    pub fn clear(&self) {
        for region in self.memory().iter() {
            let (start, len) = (region.as_ptr().cast(), region.len() as usize);
            // SAFETY: private, anonymous memory, which nothing but a run uses.
            assert_eq!(unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) }, 0);
        }
    }

    /// No disk has another length, and nothing is on the one that is not to be written to.
    pub fn check(&self) {
        use std::os::unix::fs::MetadataExt;
        for disk in &self.disks {
            assert_eq!(disk.metadata().expect("metadata").len(), DISK, "a disk has another size");
        }
        let blocks = self.disks[1].metadata().expect("metadata").blocks();
        assert_eq!(blocks, 0, "a write to a disk that is read only");
    }

    /// Where a device's registers are at first.
    pub fn registers(&self, device: u8) -> u64 {
        let device = u64::from(device % DEVICES);
        match self.pci {
            true => layout::PCI_MEM32.start + device * BAR,
            false => layout::VIRTIO_MMIO_BASE + device * u64::from(layout::VIRTIO_MMIO_SIZE),
        }
    }

    /// As they were at first, by what a driver can always do.
    pub fn reset(&self, bus: &mut Bus) {
        for device in 0..DEVICES {
            let base = self.registers(device);
            if self.pci {
                let config = layout::PCI_ECAM_BASE + (u64::from(device) + 1) * FUNCTION;
                let registers = [(0x98, 0), (0x14, base >> 32), (0x10, base), (4, 2)];
                for (at, value) in registers {
                    write(bus, config + at, &(value as u32).to_le_bytes());
                }
            }
            write(bus, base + self.status(), &0_u32.to_le_bytes()[..self.status_len()]);
            let mut status = [0xff; 4];
            bus.mmio_read(base + self.status(), &mut status[..self.status_len()]);
            assert_eq!(status[0], 0, "a reset that left a status");
            for vector in (0..VECTORS).filter(|_| self.pci) {
                write(bus, base + TABLE + vector * 16, &[0; 8]);
                write(bus, base + TABLE + vector * 16 + 8, &(1_u64 << 32).to_le_bytes());
            }
        }
    }

    fn status(&self) -> u64 {
        if self.pci { 0x14 } else { 0x70 }
    }

    fn status_len(&self) -> usize {
        if self.pci { 1 } else { 4 }
    }

    /// Notifies a queue, and leaves what is then to be done to the caller.
    pub fn notify(&self, bus: &mut Bus, device: u8, queue: u8) -> Access {
        let (base, queue) = (self.registers(device), u32::from(queue & 7));
        match self.pci {
            true => bus.mmio_write(base + NOTIFY + u64::from(queue) * 4, &[0; 2]),
            false => bus.mmio_write(base + 0x50, &queue.to_le_bytes()),
        }
    }

    /// Sets a device up as Linux does, with queues of `1 << size` descriptors.
    pub fn start(&self, bus: &mut Bus, device: u8, size: u8, features: u64) {
        let base = self.registers(device);
        let mut set = |at: u64, data: &[u8]| write(bus, base + at, data);
        let features = (features as u32).to_le_bytes();
        let size = 1_u16 << (size & 15);
        if self.pci {
            set(0x14, &[3]);
            for (at, value) in
                [(8, [1, 0, 0, 0]), (0xc, [1, 0, 0, 0]), (8, [0; 4]), (0xc, features)]
            {
                set(at, &value);
            }
            set(0x14, &[11]);
            for queue in 0..2_u8 {
                set(0x16, &u16::from(queue).to_le_bytes());
                set(0x18, &size.to_le_bytes());
                set(0x1a, &u16::from(queue).to_le_bytes());
                for (at, address) in (0x20..).step_by(8).zip(areas(queue)) {
                    set(at, &address.to_le_bytes());
                }
                set(0x1c, &[1, 0]);
            }
            set(0x14, &[15]);
            return;
        }
        let mut set = |at: u64, value: u32| set(at, &value.to_le_bytes());
        set(0x70, 3);
        for (at, value) in [(0x24, 1), (0x20, 1), (0x24, 0), (0x20, u32::from_le_bytes(features))] {
            set(at, value);
        }
        set(0x70, 11);
        for queue in 0..2_u8 {
            set(0x30, queue.into());
            set(0x38, size.into());
            for (at, address) in (0x80..).step_by(0x10).zip(areas(queue)) {
                set(at, address as u32);
                set(at + 4, 0);
            }
            set(0x44, 1);
        }
        set(0x70, 15);
    }
}

/// A write, and all that it leaves to be done.
pub fn write(bus: &mut Bus, address: u64, data: &[u8]) {
    if let Access::Notified(job) = bus.mmio_write(address, data) {
        bus.served(job.run(), Some(address));
    }
}

/// Standard input is the end of a pipe, whose other end this is; standard output is nowhere.
pub fn keyboard() -> File {
    let mut ends = [0; 2];
    // SAFETY: fills two descriptors, of which one is owned here; the other takes standard input's number.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC), 0);
        let nowhere = File::options().write(true).open("/dev/null").expect("/dev/null");
        libc::dup2(ends[0], libc::STDIN_FILENO);
        libc::dup2(nowhere.as_raw_fd(), libc::STDOUT_FILENO);
        File::from_raw_fd(ends[1])
    }
}
