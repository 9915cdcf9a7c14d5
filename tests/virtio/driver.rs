//! A driver for one device: what Linux does, and what it never would.

use std::time::{Duration, Instant};

use brisk::virtio::{Backend, Reply, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of RAM from 0 up; nothing is above.
pub const RAM: u64 = 1 << 20;
/// Where data goes, above all rings.
pub const DATA: u64 = 0x8_0000;
/// Descriptors in each queue.
pub const SIZE: u16 = 16;

pub const STATUS: u64 = 0x70;
pub const NOTIFY: u64 = 0x50;
/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK (virtio 1.3, 2.1).
pub const RUNNING: u32 = 15;
pub const NEEDS_RESET: u32 = 64;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A device and the guest around it.
pub struct Driver<B: Backend, const Q: usize> {
    pub function: VirtioDevice<B, Q>,
    pub memory: GuestMemoryMmap,
}

/// What its driver sees of a device, and what stands behind each of its queues.
pub type Parts<B> = (<B as Backend>::Model, Vec<B>);

/// A buffer: address, length, whether the device may write.
pub type Buffer = (u64, u32, bool);

/// Descriptor table, available ring and used ring of a queue.
pub fn areas(queue: u16) -> [u64; 3] {
    let base = u64::from(queue) * 0x8000;
    [base, base + 0x1000, base + 0x2000]
}

impl<B: Backend, const Q: usize> Driver<B, Q> {
    /// A device after reset.
    pub fn new((model, backends): Parts<B>) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap();
        Driver { function: VirtioDevice::new(model, backends), memory }
    }

    /// A device that runs, with all of its features.
    pub fn started(parts: Parts<B>) -> Self {
        let mut driver = Self::new(parts);
        driver.start(u64::MAX);
        driver
    }

    pub fn get(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.function.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// True where the device raised its interrupt.
    pub fn set(&mut self, offset: u64, value: u32) -> bool {
        self.write(offset, &value.to_le_bytes())
    }

    /// The same with any data.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        let reply = match self.function.write(offset, data, &self.memory) {
            Reply::Notified(queue) => self.function.process(queue),
            reply => reply,
        };
        reply != Reply::Nothing
    }

    pub fn status(&mut self) -> u32 {
        self.get(STATUS)
    }

    /// Resets the device and chooses features.
    pub fn negotiate(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.set(STATUS, status);
        }
        for half in 0..2 {
            self.set(0x14, half);
            let offered = self.get(0x10);
            self.set(0x24, half);
            self.set(0x20, offered & (features >> (32 * half)) as u32);
        }
        self.set(STATUS, 11);
        assert_eq!(self.status(), 11, "the device did not take the features");
    }

    /// Gives a queue to the device.
    pub fn hand_over(&mut self, queue: u16, areas: [u64; 3]) {
        self.set(0x30, queue.into());
        self.set(0x38, SIZE.into());
        for (register, address) in [0x80, 0x90, 0xa0].into_iter().zip(areas) {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
        self.set(0x44, 1);
    }

    /// Everything from a reset to a device that runs, its rings empty.
    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        for queue in 0..Q as u16 {
            self.memory.write_slice(&[0; 0x3000], GuestAddress(areas(queue)[0])).unwrap();
            self.hand_over(queue, areas(queue));
        }
        assert!(!self.set(STATUS, RUNNING), "there is nothing to tell");
        assert_eq!(self.status(), RUNNING);
    }

    /// Fills a descriptor of `table`.
    pub fn describe(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory.write_obj([address, rest], at).unwrap();
    }

    /// Puts the chain at descriptor `head` into a queue.
    pub fn offer(&self, queue: u16, head: u16) {
        let ring = areas(queue)[1];
        let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        let at = ring + 4 + 2 * u64::from(index % SIZE);
        self.memory.write_obj(head, GuestAddress(at)).unwrap();
        self.memory.write_obj(index.wrapping_add(1), GuestAddress(ring + 2)).unwrap();
    }

    /// Makes a chain of `buffers` from descriptor `head` up, and puts it into a queue.
    pub fn queue(&self, queue: u16, head: u16, buffers: &[Buffer]) {
        for (index, &(address, len, write)) in (head..).zip(buffers) {
            let last = usize::from(index - head) + 1 == buffers.len();
            let flags = if last { 0 } else { NEXT } | if write { WRITE } else { 0 };
            self.describe(areas(queue)[0], index, address, len, flags, index + 1);
        }
        self.offer(queue, head);
    }

    /// Notifies a queue; true where the device raised its interrupt.
    pub fn notify(&mut self, queue: u16) -> bool {
        self.set(NOTIFY, queue.into())
    }

    /// One chain, from queueing to its end; how many bytes the device says it wrote.
    pub fn send(&mut self, queue: u16, buffers: &[Buffer]) -> u32 {
        let before = self.used(queue);
        // Wants an interrupt for the next chain that is used.
        let event = areas(queue)[1] + 4 + 2 * u64::from(SIZE);
        self.memory.write_obj(before, GuestAddress(event)).unwrap();
        self.queue(queue, 0, buffers);
        let mut interrupt = self.notify(queue);
        // What io_uring has not done at once comes later.
        let patience = Instant::now() + Duration::from_secs(10);
        while self.used(queue) == before && Instant::now() < patience {
            interrupt |= self.function.process(queue) != Reply::Nothing;
        }
        assert!(interrupt, "no interrupt");
        assert_eq!(self.status(), RUNNING);
        assert_eq!(self.used(queue), before.wrapping_add(1));
        let [head, len] = self.used_element(queue, before);
        assert_eq!(head, 0);
        len
    }

    /// How many chains the device has given back.
    pub fn used(&self, queue: u16) -> u16 {
        self.memory.read_obj(GuestAddress(areas(queue)[2] + 2)).unwrap()
    }

    /// Head and length of used element `index`.
    pub fn used_element(&self, queue: u16, index: u16) -> [u32; 2] {
        let at = areas(queue)[2] + 4 + 8 * u64::from(index % SIZE);
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn take(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}
