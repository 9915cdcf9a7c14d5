//! A guest that is an interpreter of a few instructions, each test its script: what a driver does, and what
//! none would.

use super::common::kernel::{BASE, Bits, Code, Elf, Segment, check_disassembly};

/// Reads three words at a time: what to do, where, and with what; to the end of the table.
const INTERPRETER: Code = &[
    (&[0xbe, 0x80, 0x10, 0x10, 0x00], "mov esi,0x101080"),
    (&[0xad], "lods eax,DWORD PTR ds:[esi]"),
    (&[0x89, 0xc7], "mov edi,eax"),
    (&[0xad], "lods eax,DWORD PTR ds:[esi]"),
    (&[0x89, 0xc2], "mov edx,eax"),
    (&[0xad], "lods eax,DWORD PTR ds:[esi]"),
    (&[0x83, 0xff, 0x16], "cmp edi,0x16"),
    (&[0x0f, 0x87, 0x94, 0x00, 0x00, 0x00], "ja 0x1000a9"),
    (&[0xff, 0x24, 0xbd, 0x00, 0x10, 0x10, 0x00], "jmp DWORD PTR [edi*4+0x101000]"),
    (&[0x88, 0x02], "mov BYTE PTR [edx],al"),
    (&[0xeb, 0xe5], "jmp 0x100005"),
    (&[0x66, 0x89, 0x02], "mov WORD PTR [edx],ax"),
    (&[0xeb, 0xe0], "jmp 0x100005"),
    (&[0x89, 0x02], "mov DWORD PTR [edx],eax"),
    (&[0xeb, 0xdc], "jmp 0x100005"),
    (&[0x8a, 0x02], "mov al,BYTE PTR [edx]"),
    (&[0xeb, 0xd8], "jmp 0x100005"),
    (&[0x66, 0x8b, 0x02], "mov ax,WORD PTR [edx]"),
    (&[0xeb, 0xd3], "jmp 0x100005"),
    (&[0x8b, 0x02], "mov eax,DWORD PTR [edx]"),
    (&[0xeb, 0xcf], "jmp 0x100005"),
    (&[0xee], "out dx,al"),
    (&[0xeb, 0xcc], "jmp 0x100005"),
    (&[0x66, 0xef], "out dx,ax"),
    (&[0xeb, 0xc8], "jmp 0x100005"),
    (&[0xef], "out dx,eax"),
    (&[0xeb, 0xc5], "jmp 0x100005"),
    (&[0xec], "in al,dx"),
    (&[0xeb, 0xc2], "jmp 0x100005"),
    (&[0x66, 0xed], "in ax,dx"),
    (&[0xeb, 0xbe], "jmp 0x100005"),
    (&[0xed], "in eax,dx"),
    (&[0xeb, 0xbb], "jmp 0x100005"),
    (&[0x89, 0xc1], "mov ecx,eax"),
    (&[0x89, 0xf3], "mov ebx,esi"),
    (&[0xbe, 0x00, 0x00, 0x40, 0x00], "mov esi,0x400000"),
    (&[0xf3, 0x6e], "rep outs dx,BYTE PTR ds:[esi]"),
    (&[0x89, 0xde], "mov esi,ebx"),
    (&[0xeb, 0xac], "jmp 0x100005"),
    (&[0x89, 0xc1], "mov ecx,eax"),
    (&[0x89, 0xf3], "mov ebx,esi"),
    (&[0xbe, 0x00, 0x00, 0x40, 0x00], "mov esi,0x400000"),
    (&[0xf3, 0x6f], "rep outs dx,DWORD PTR ds:[esi]"),
    (&[0x89, 0xde], "mov esi,ebx"),
    (&[0xeb, 0x9d], "jmp 0x100005"),
    (&[0x89, 0xc1], "mov ecx,eax"),
    (&[0xbf, 0x00, 0x00, 0x40, 0x00], "mov edi,0x400000"),
    (&[0xf3, 0x6c], "rep ins BYTE PTR es:[edi],dx"),
    (&[0xeb, 0x92], "jmp 0x100005"),
    (&[0x89, 0xc1], "mov ecx,eax"),
    (&[0xbf, 0x00, 0x00, 0x40, 0x00], "mov edi,0x400000"),
    (&[0xf3, 0x6d], "rep ins DWORD PTR es:[edi],dx"),
    (&[0xeb, 0x87], "jmp 0x100005"),
    (&[0x89, 0xd1], "mov ecx,edx"),
    (&[0xba, 0x01, 0x00, 0x00, 0x00], "mov edx,0x1"),
    (&[0x0f, 0x30], "wrmsr"),
    (&[0xe9, 0x79, 0xff, 0xff, 0xff], "jmp 0x100005"),
    (&[0xff, 0x0a], "dec DWORD PTR [edx]"),
    (&[0x0f, 0x84, 0x71, 0xff, 0xff, 0xff], "je 0x100005"),
    (&[0x89, 0xc6], "mov esi,eax"),
    (&[0xe9, 0x6a, 0xff, 0xff, 0xff], "jmp 0x100005"),
    (&[0x89, 0xd7], "mov edi,edx"),
    (&[0xb9, 0x04, 0x00, 0x00, 0x00], "mov ecx,0x4"),
    (&[0xf3, 0xa5], "rep movs DWORD PTR es:[edi],DWORD PTR ds:[esi]"),
    (&[0xe9, 0x5c, 0xff, 0xff, 0xff], "jmp 0x100005"),
    (&[0x66, 0xba, 0x00, 0x06], "mov dx,0x600"),
    (&[0xb0, 0x34], "mov al,0x34"),
    (&[0xee], "out dx,al"),
    (&[0xf3, 0x90], "pause"),
    (&[0x39, 0x02], "cmp DWORD PTR [edx],eax"),
    (&[0x75, 0xfa], "jne 0x1000b0"),
    (&[0xe9, 0x4a, 0xff, 0xff, 0xff], "jmp 0x100005"),
    (&[0x89, 0xc1], "mov ecx,eax"),
    (&[0x89, 0xf3], "mov ebx,esi"),
    (&[0x89, 0xd6], "mov esi,edx"),
    (&[0x66, 0xba, 0xf8, 0x03], "mov dx,0x3f8"),
    (&[0xf3, 0x6e], "rep outs dx,BYTE PTR ds:[esi]"),
    (&[0x89, 0xde], "mov esi,ebx"),
    (&[0xe9, 0x37, 0xff, 0xff, 0xff], "jmp 0x100005"),
    (&[0x89, 0xd1], "mov ecx,edx"),
    (&[0x89, 0xc3], "mov ebx,eax"),
    (&[0x0f, 0x32], "rdmsr"),
    (&[0x39, 0xd8], "cmp eax,ebx"),
    (&[0x75, 0xfa], "jne 0x1000d2"),
    (&[0xe9, 0x28, 0xff, 0xff, 0xff], "jmp 0x100005"),
    (&[0x89, 0xd1], "mov ecx,edx"),
    (&[0x31, 0xd2], "xor edx,edx"),
    (&[0x0f, 0x30], "wrmsr"),
    (&[0xe9, 0x1d, 0xff, 0xff, 0xff], "jmp 0x100005"),
];

/// Where [`INTERPRETER`] has what each word comes to.
const TABLE: [u32; 23] = [
    0x10001c, 0x100020, 0x100025, 0x100029, 0x10002d, 0x100032, 0x100036, 0x100039, 0x10003d,
    0x100040, 0x100043, 0x100047, 0x10004a, 0x100059, 0x100068, 0x100073, 0x10007e, 0x10008c,
    0x10009b, 0x1000b0, 0x1000bb, 0x1000ce, 0x1000dd,
];
/// Where the script begins.
const SCRIPT: u32 = BASE as u32 + 0x1080;
/// What of the guest's 16 MiB is free for rings, as descriptors, available and used ring of two queues.
pub const RINGS: u32 = 0x80_0000;
pub const DATA: u32 = 0x90_0000;
pub const RAM_END: u32 = 16 << 20;

pub const COM1: u32 = 0x3f8;
pub const IOAPIC: u32 = 0xfec0_0000;
pub const WINDOWS: u32 = 0xd000_0000;
/// `layout::VIRTIO_MMIO_SIZE`.
pub const WINDOW: u32 = brisk_boot::layout::VIRTIO_MMIO_SIZE;
pub const ECAM: u32 = 0xe000_0000;
pub const BARS: u32 = 0xf000_0000;
pub const BAR: u32 = 0x2000;

/// What a device interrupts by.
pub const VECTOR: u32 = 0x31;

/// What a script does.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "the numbers are the interpreter's")]
pub enum Do {
    Write8,
    Write16,
    Write32,
    Read8,
    Read16,
    Read32,
    Out8,
    Out16,
    Out32,
    In8,
    In16,
    In32,
    OutBytes,
    OutWords,
    InBytes,
    InWords,
    Msr,
    /// Counts the word at the address down, and goes to this place of the script unless it is zero.
    Loop,
    /// The four words behind, to the address.
    Copy,
    /// Waits until this word is at the address.
    Until,
    /// That many bytes from the address on to the serial port.
    Show,
    /// Waits until the lower half of this MSR is so.
    UntilMsr,
    /// An MSR whose upper half is zero; with [`Do::Msr`] it is one.
    OwnMsr,
}
use Do::*;

/// A script in the making.
#[derive(Default)]
pub struct Script(pub Vec<u32>);

impl Script {
    pub fn add(&mut self, what: Do, at: u32, value: u32) -> &mut Script {
        self.0.extend([what as u32, at, value]);
        self
    }

    /// The words to the addresses from `at` on.
    pub fn put(&mut self, at: u32, words: &[u32]) {
        for (at, word) in (at..).step_by(4).zip(words) {
            self.add(Write32, at, *word);
        }
    }

    /// Does what `body` adds `count` times.
    pub fn repeat(&mut self, count: u32, body: impl FnOnce(&mut Script)) {
        let counter = DATA - 4;
        self.add(Write32, counter, count);
        let start = SCRIPT + 4 * self.0.len() as u32;
        body(self);
        self.add(Loop, counter, start);
    }

    /// Waits until a device has given back so many chains of a queue.
    pub fn until_used(&mut self, queue: u32, count: u32) {
        self.add(Until, RINGS + queue * 0x4000 + 0x2000, count << 16);
    }

    /// Has the IOAPIC's first pins send [`VECTOR`], each edge of theirs. The guest takes no interrupt, it looks
    /// for it in its APIC (x2APIC's SVR is MSR 0x80f).
    pub fn unmask(&mut self, pins: u32) {
        self.add(OwnMsr, 0x80f, 0x1ff);
        for pin in 0..pins {
            for (index, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, VECTOR)] {
                self.add(Write32, IOAPIC, index).add(Write32, IOAPIC + 0x10, value);
            }
        }
    }

    /// Waits until [`VECTOR`] has come (x2APIC's IRR is MSR 0x820 and seven more).
    pub fn until_interrupted(&mut self) {
        self.add(UntilMsr, 0x820 + VECTOR / 32, 1 << (VECTOR % 32));
    }

    pub fn elf(&self) -> Elf {
        let end = [u32::MAX, 0, 0];
        let mut words = TABLE.to_vec();
        words.resize((SCRIPT as usize - BASE as usize - 0x1000) / 4, 0);
        words.extend(self.0.iter().chain(&end));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut elf = Elf::new(INTERPRETER, &bytes);
        elf.segments[0].mem_size = 0x20_0000;
        assert!(elf.segments[0].bytes.len() < 0x20_0000, "the script is too long");
        elf
    }
}

/// What is in memory before the guest begins: chains in two queues, and what they are of.
#[derive(Default)]
pub struct Memory {
    bytes: Vec<u8>,
    /// The first descriptor of each chain, of each queue.
    pub heads: [Vec<u32>; 2],
    /// Descriptors that each queue has.
    count: [u32; 2],
}

impl Memory {
    /// From `at` on, which is [`RINGS`] or behind.
    pub fn put(&mut self, at: u32, bytes: &[u8]) {
        let start = (at - RINGS) as usize;
        let end = start + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[start..end].copy_from_slice(bytes);
    }

    /// The queue's next chain: address, length and flags of each buffer. It is not offered yet.
    pub fn chain(&mut self, queue: u32, buffers: &[(u32, u32, u32)]) {
        let rings = RINGS + queue * 0x4000;
        let (heads, count) = (&mut self.heads[queue as usize], &mut self.count[queue as usize]);
        let (head, place) = (*count, heads.len() as u32);
        heads.push(head);
        *count += buffers.len() as u32;
        let last = *count - 1;
        for (at, (address, len, flags)) in (head..).zip(buffers) {
            let flags = flags | if at == last { 0 } else { NEXT };
            let words = [*address, 0, *len, flags | (at + 1) << 16];
            self.put(rings + 16 * at, words.map(u32::to_le_bytes).as_flattened());
        }
        self.put(rings + 0x1004 + 2 * place, &(head as u16).to_le_bytes());
    }

    /// It as a part of the kernel.
    pub fn segment(self) -> Segment {
        let mem_size = self.bytes.len() as u64;
        Segment { paddr: RINGS.into(), bytes: self.bytes, mem_size }
    }
}

/// Sets up both queues of the device in a virtio-mmio window, with so many descriptors.
pub fn start(script: &mut Script, window: u32, rings: [u32; 3], size: u32) {
    let base = WINDOWS + window * WINDOW;
    for (register, value) in [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
        script.add(Write32, base + register, value);
    }
    for queue in 0..2 {
        script.add(Write32, base + 0x30, queue).add(Write32, base + 0x38, size);
        for (register, ring) in [0x80, 0x90, 0xa0].into_iter().zip(rings) {
            let ring = ring.wrapping_add(queue * 0x4000);
            script.add(Write32, base + register, ring).add(Write32, base + register + 4, 0);
        }
        script.add(Write32, base + 0x44, 1);
    }
    script.add(Write32, base + 0x70, 15);
}

pub const AREAS: [u32; 3] = [RINGS, RINGS + 0x1000, RINGS + 0x2000];
/// Descriptor flags: goes on, is to be written, is a table.
pub const NEXT: u32 = 1;
pub const WRITE: u32 = 2;
pub const INDIRECT: u32 = 4;

pub fn descriptor(script: &mut Script, queue: u32, at: u32, [address, len, flags, next]: [u32; 4]) {
    let place = RINGS + queue * 0x4000 + at * 16;
    script.0.extend([Copy as u32, place, 0, address, 0, len, flags | next << 16]);
}

/// Makes all 256 heads available, `ahead` of what there is, and notifies.
pub fn offer(script: &mut Script, window: u32, queue: u32, index: u32) {
    script.add(Write32, RINGS + queue * 0x4000 + 0x1000, index << 16);
    script.add(Write32, WINDOWS + window * WINDOW + 0x50, queue);
}

#[test]
fn the_disassembly_is_that_of_the_bytes() {
    check_disassembly("INTERPRETER", INTERPRETER, Bits::B32, BASE);
}
