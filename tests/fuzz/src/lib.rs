//! What the targets for devices share: a guest's memory, and a hostile driver's steps in it.

pub mod guest;
pub mod text;

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

use arbitrary::Arbitrary;
use brisk::virtio::{Backend, Reply, VirtioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Bytes in each of the two pieces of RAM.
pub const RAM: usize = 64 << 10;
/// Where the second piece begins.
pub const HIGH: u64 = 1 << 20;
/// Where a pmem would be, and no RAM is.
pub const PMEM: u64 = 4 << 30;
/// A virtio-mmio window, where no RAM is.
pub const WINDOW: u64 = 0xd000_0000;

/// The most steps of one run, so that none takes long.
const MAX_STEPS: usize = 64;

/// An address, more often than chance has it one that matters.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Address {
    Low(u16),
    High(u16),
    /// Around the end of the first piece.
    End(i8),
    Pmem(u16),
    Window(u16),
    Any(u64),
}

impl Address {
    pub fn get(self) -> u64 {
        match self {
            Self::Low(at) => at.into(),
            Self::High(at) => HIGH + u64::from(at),
            Self::End(by) => (RAM as u64).wrapping_add_signed(by.into()),
            Self::Pmem(at) => PMEM + u64::from(at),
            Self::Window(at) => WINDOW + u64::from(at),
            Self::Any(at) => at,
        }
    }
}

/// What a driver can do, in the driver's order or not.
#[derive(Arbitrary, Clone, Debug)]
pub enum Step {
    /// Sets the device up as Linux does, with queues of `1 << size` descriptors.
    Start { size: u8, features: u64 },
    /// Reads 1, 2, 4 or 8 bytes.
    Read { offset: u16, width: u8 },
    /// Writes 1, 2, 4 or 8 bytes.
    Write { offset: u16, width: u8, value: u64 },
    /// Writes one of the registers.
    Register { register: u8, value: u32 },
    /// Gives a queue an area at this address.
    Area { queue: u8, area: u8, address: Address },
    /// Fills a descriptor of queue `queue`, or of the indirect table.
    Descriptor { queue: u8, index: u8, address: Address, len: u32, flags: u8, next: u8 },
    /// Puts the head of a chain into a queue, `ahead` of where its index says, and notifies.
    Available { queue: u8, head: u8, ahead: u8 },
    /// Changes memory.
    Poke { address: Address, value: u64 },
    /// Puts a request's first bytes into memory.
    Request { kind: u8, sector: u16, len: u16 },
}

/// Two pieces of RAM, all zeroes. The same ones each time: to map, fault in and unmap them took longer
/// than a run.
pub fn memory() -> GuestMemoryMmap {
    thread_local! {
        static MEMORY: GuestMemoryMmap = new_memory();
    }
    MEMORY.with(|memory| {
        for piece in [0, HIGH] {
            let host = memory.get_host_address(GuestAddress(piece)).expect("RAM");
            // SAFETY: a piece of RAM bytes, which nothing but a run uses.
            unsafe { host.write_bytes(0, RAM) };
        }
        memory.clone()
    })
}

/// Two pieces of RAM that nobody else has.
pub fn new_memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM), (GuestAddress(HIGH), RAM)])
        .expect("128 KiB")
}

/// Where a well-behaved driver has the descriptor table, available and used ring of `queue`.
pub fn areas(queue: u8) -> [u64; 3] {
    let base = u64::from(queue & 1) * 0x4000;
    [base, base + 0x1000, base + 0x2000]
}
/// Where it has an indirect table, and requests.
const INDIRECT: u64 = 0x8000;
const REQUEST: u64 = 0xa000;

/// Registers that do something when written (virtio 1.3, 4.2.2).
const REGISTERS: [u16; 16] = [
    0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x100,
];

/// Lets a driver loose on `function`, which is first reset.
pub fn run<B: Backend, const Q: usize>(
    function: &mut VirtioDevice<B, Q>,
    memory: &GuestMemoryMmap,
    steps: &[Step],
) {
    reset(function, memory);
    for step in steps.iter().take(MAX_STEPS) {
        take(function, memory, step);
        // The registers that never change.
        assert_eq!(get(function, 0), 0x7472_6976);
        assert_eq!(get(function, 4), 2);
    }
}

/// Resets the device, which is then done with all of the driver's memory.
pub fn reset<B: Backend, const Q: usize>(
    function: &mut VirtioDevice<B, Q>,
    memory: &GuestMemoryMmap,
) {
    set(function, memory, 0x70, 0);
    assert_eq!(get(function, 0x70), 0, "a reset that left a status");
}

fn take<B: Backend, const Q: usize>(
    function: &mut VirtioDevice<B, Q>,
    memory: &GuestMemoryMmap,
    step: &Step,
) {
    match *step {
        Step::Start { size, features } => start(function, memory, size, features),
        Step::Read { offset, width } => {
            function.read((offset & 0xfff).into(), &mut [0; 8][..1 << (width & 3)]);
        }
        Step::Write { offset, width, value } => {
            let value = &value.to_le_bytes()[..1 << (width & 3)];
            write(function, memory, (offset & 0xfff).into(), value);
        }
        Step::Register { register, value } => {
            set(function, memory, REGISTERS[usize::from(register) % REGISTERS.len()], value);
        }
        Step::Area { queue, area, address } => {
            let register = [0x80, 0x90, 0xa0][usize::from(area % 3)];
            set(function, memory, 0x30, queue.into());
            set(function, memory, register, address.get() as u32);
            set(function, memory, register + 4, (address.get() >> 32) as u32);
        }
        Step::Available { queue, head, ahead } => {
            let ring = areas(queue)[1];
            let index: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap_or(0);
            // The size is not kept: the head goes wherever a ring of that size has it.
            for size in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
                let at = ring + 4 + 2 * u64::from(index % size);
                let _ = memory.write_obj(u16::from(head), GuestAddress(at));
            }
            let next = index.wrapping_add(1).wrapping_add((ahead >> 6).into());
            let _ = memory.write_obj(next, GuestAddress(ring + 2));
            set(function, memory, 0x50, (queue & 1).into());
        }
        ref other => change(memory, other),
    }
}

/// The steps that change memory and nothing else.
pub fn change(memory: &GuestMemoryMmap, step: &Step) {
    match *step {
        Step::Descriptor { queue, index, address, len, flags, next } => {
            let table = if queue & 2 == 0 { areas(queue)[0] } else { INDIRECT };
            let at = GuestAddress(table + 16 * u64::from(index & 15));
            let rest = u64::from(len) | u64::from(flags & 7) << 32 | u64::from(next & 15) << 48;
            let _ = memory.write_obj([address.get(), rest], at);
        }
        Step::Poke { address, value } => {
            let _ = memory.write_obj(value, GuestAddress(address.get()));
        }
        Step::Request { kind, sector, len } => {
            let header = [u64::from(kind & 15), sector.into()];
            let _ = memory.write_obj(header, GuestAddress(REQUEST));
            // A segment of a discard or write-zeroes request.
            let segment = [u64::from(sector), u64::from(len)];
            let _ = memory.write_obj(segment, GuestAddress(REQUEST + 16));
            // A chain that holds it: header, data, status.
            let descriptors = [
                [REQUEST, 16 | 1 << 32 | 1 << 48],
                [REQUEST + 16, u64::from(len) | u64::from(1 + (kind >> 4 & 2)) << 32 | 2 << 48],
                [REQUEST + 0x1000, 1 | 2 << 32],
            ];
            for (at, descriptor) in (0..).step_by(16).zip(descriptors) {
                let _ = memory.write_obj(descriptor, GuestAddress(at));
            }
        }
        _ => {}
    }
}

fn start<B: Backend, const Q: usize>(
    function: &mut VirtioDevice<B, Q>,
    memory: &GuestMemoryMmap,
    size: u8,
    features: u64,
) {
    set(function, memory, 0x70, 3);
    set(function, memory, 0x24, 1);
    set(function, memory, 0x20, 1);
    set(function, memory, 0x24, 0);
    set(function, memory, 0x14, 0);
    let offered = get(function, 0x10);
    set(function, memory, 0x20, offered & features as u32);
    set(function, memory, 0x70, 11);
    for queue in 0..Q as u8 {
        set(function, memory, 0x30, queue.into());
        set(function, memory, 0x38, 1 << (size & 15));
        for (register, address) in [0x80, 0x90, 0xa0].into_iter().zip(areas(queue)) {
            set(function, memory, register, address as u32);
            set(function, memory, register + 4, 0);
        }
        set(function, memory, 0x44, 1);
    }
    set(function, memory, 0x70, 15);
}

fn set<B: Backend, const Q: usize>(
    function: &mut VirtioDevice<B, Q>,
    memory: &GuestMemoryMmap,
    offset: u16,
    value: u32,
) {
    write(function, memory, offset.into(), &value.to_le_bytes());
}

fn get<B: Backend, const Q: usize>(function: &mut VirtioDevice<B, Q>, offset: u16) -> u32 {
    let mut data = [0; 4];
    function.read(offset.into(), &mut data);
    u32::from_le_bytes(data)
}

/// A file of `len` bytes that is nowhere on a disk, and its path while the file is open.
pub fn file(len: u64) -> (File, String) {
    // SAFETY: a constant, terminated name; the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"fuzz".as_ptr(), 0)) };
    file.set_len(len).expect("a file in memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    (file, path)
}

fn write<B: Backend, const Q: usize>(
    function: &mut VirtioDevice<B, Q>,
    memory: &GuestMemoryMmap,
    offset: u64,
    data: &[u8],
) {
    if let Reply::Notified(queue) = function.write(offset, data, memory) {
        let _ = function.process(queue);
    }
}

/// A file of `len` bytes on the disk that the working directory is on, and its path while it is open: it
/// has no other name.
pub fn on_disk(len: u64) -> (File, String) {
    // SAFETY: a constant, terminated name; the descriptor is new and nobody else's.
    let file = unsafe {
        File::from_raw_fd(libc::open(c".".as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600))
    };
    file.set_len(len).expect("a file here");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    (file, path)
}
