//! A hostile guest: what no driver does, and one that wants to break out tries first. The guest is an
//! interpreter of a few instructions, each test its script. What is asserted is that the guest comes to
//! its end, that brisk had nothing to say, took no memory that the guest made it take, and made a bounded
//! number of system calls in each exit; all with the filter on.
//!
//! `BRISK_BIN` may name the program of a scenario, and `BRISK_FEATURES` what is in it.

use std::process::Command;

use super::calls::{KVM_RUN, traced, watch};
use super::common::kernel::{BASE, Bits, Code, Elf, check_disassembly};
use super::common::{Scratch, brisk};

/// Reads three words at a time: what to do, where, and with what; to the end of the table.
const INTERPRETER: Code = &[
    (&[0xbe, 0x80, 0x10, 0x10, 0x00], "mov esi,0x101080"),
    (&[0xad], "lods eax,DWORD PTR ds:[esi]"),
    (&[0x89, 0xc7], "mov edi,eax"),
    (&[0xad], "lods eax,DWORD PTR ds:[esi]"),
    (&[0x89, 0xc2], "mov edx,eax"),
    (&[0xad], "lods eax,DWORD PTR ds:[esi]"),
    (&[0x83, 0xff, 0x12], "cmp edi,0x12"),
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
];

/// Where [`INTERPRETER`] has what each word comes to.
const TABLE: [u32; 19] = [
    0x10001c, 0x100020, 0x100025, 0x100029, 0x10002d, 0x100032, 0x100036, 0x100039, 0x10003d,
    0x100040, 0x100043, 0x100047, 0x10004a, 0x100059, 0x100068, 0x100073, 0x10007e, 0x10008c,
    0x10009b,
];
/// Where the script begins.
const SCRIPT: u32 = BASE as u32 + 0x1080;
/// What of the guest's 16 MiB is free for rings, as descriptors, available and used ring of two queues.
const RINGS: u32 = 0x80_0000;
const DATA: u32 = 0x90_0000;
const RAM_END: u32 = 16 << 20;

const COM1: u32 = 0x3f8;
const IOAPIC: u32 = 0xfec0_0000;
const WINDOWS: u32 = 0xd000_0000;
const WINDOW: u32 = 0x1000;
const ECAM: u32 = 0xe000_0000;
const BARS: u32 = 0xf000_0000;
const BAR: u32 = 0x2000;

/// What a script does.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "the numbers are the interpreter's")]
enum Do {
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
}
use Do::*;

/// A script in the making.
#[derive(Default)]
struct Script(Vec<u32>);

impl Script {
    fn add(&mut self, what: Do, at: u32, value: u32) -> &mut Script {
        self.0.extend([what as u32, at, value]);
        self
    }

    /// The words to the addresses from `at` on.
    fn put(&mut self, at: u32, words: &[u32]) {
        for (at, word) in (at..).step_by(4).zip(words) {
            self.add(Write32, at, *word);
        }
    }

    /// Does what `body` adds `count` times.
    fn repeat(&mut self, count: u32, body: impl FnOnce(&mut Script)) {
        let counter = DATA - 4;
        self.add(Write32, counter, count);
        let start = SCRIPT + 4 * self.0.len() as u32;
        body(self);
        self.add(Loop, counter, start);
    }

    fn elf(&self) -> Elf {
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

/// Whether the program has a feature.
fn has(feature: &str) -> bool {
    match std::env::var("BRISK_FEATURES") {
        Ok(list) => list.split(',').any(|one| one == feature || one == "full"),
        // The program that cargo built, with all of them.
        Err(_) => cfg!(feature = "full"),
    }
}

/// A machine with all devices that the program has, each with something behind it.
fn machine(scratch: &Scratch, script: &Script, transport: &str) -> Command {
    let mut command = brisk();
    command.arg("--kernel").arg(scratch.file("kernel", script.elf().file()));
    command.args(["--memory", "size=16M"]);
    let file = |name: &str, len: usize| scratch.file(name, vec![0; len]).display().to_string();
    if has("serial") {
        command.args(["--serial", &format!("file={}", scratch.path("serial").display())]);
    }
    if has("console") {
        command.args(["--console", &format!("file={}", scratch.path("console").display())]);
    }
    if has("block") {
        command.args(["--disk", &format!("path={}", file("disk", 64 << 10))]);
    }
    if has("io-uring") {
        command.args(["--disk", &format!("path={},engine=io_uring", file("ring", 64 << 10))]);
    }
    if has("pmem") {
        command.args(["--pmem", &format!("file={}", file("pmem", 2 << 20))]);
    }
    if has("pci") {
        command.args(["--transport", transport]);
    }
    command
}

/// The most system calls in one exit: a request is one or two, and no queue here has more than 256.
const CALLS_OF_AN_EXIT: usize = 1200;
/// The most KiB that brisk has beyond the guest's: nothing that a guest does takes more.
const KIB: u64 = 12 << 10;

/// Runs the script with each transport that the program has. The guest must come to its end.
#[track_caller]
fn survives(script: &Script) {
    let transports: &[&str] = if has("pci") { &["mmio", "pci", "pci-ports"] } else { &["mmio"] };
    for transport in transports {
        let scratch = Scratch::new();
        let ended = super::common::run(&mut machine(&scratch, script, transport));
        assert_eq!(ended.status, Some(0), "{transport}: {ended:?}");
        let said: Vec<_> = ended.stderr.lines().filter(|line| !line.contains("WARN")).collect();
        assert!(said.len() <= 1000, "{transport}: {} lines", said.len());
        let made = |name: &str, len| {
            let found = std::fs::metadata(scratch.path(name)).map(|meta| meta.len());
            assert!(found.is_err() || found.is_ok_and(|found| found == len), "{transport} {name}");
        };
        made("disk", 64 << 10);
        made("ring", 64 << 10);
        made("pmem", 2 << 20);
    }
}

/// The same, each system call of the first vCPU's thread counted, and brisk's memory looked at where it
/// enters the guest.
#[track_caller]
fn survives_within_bounds(script: &Script) {
    let scratch = Scratch::new();
    let mut command = machine(&scratch, script, "mmio");
    traced(&mut command, 1);
    let (mut runs, mut calls, mut most, mut memory) = (0usize, 0, 0, 0);
    let ended = watch(&mut command, |call| {
        calls += 1;
        if call.number == libc::SYS_ioctl && call.arguments[1] == KVM_RUN {
            runs += 1;
            most = if runs == 1 { 0 } else { calls.max(most) };
            calls = 0;
            if runs.is_power_of_two() {
                memory = anonymous(call.thread).max(memory);
            }
        }
        false
    });
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(runs > 1 && most <= CALLS_OF_AN_EXIT, "{most} system calls in an exit");
    assert!(memory <= KIB + u64::from(RAM_END >> 10), "{memory} KiB");
}

/// KiB of a process that are no file's.
fn anonymous(id: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).expect("status");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).expect("RssAnon")
}

#[test]
fn the_disassembly_is_that_of_the_bytes() {
    check_disassembly("INTERPRETER", INTERPRETER, Bits::B32, BASE);
}

/// Each width around each border: half in one thing and half in the next, or in nothing.
#[test]
fn accesses_around_each_border() {
    let mut script = Script::default();
    let mut borders = vec![RAM_END, 0xc000_0000, IOAPIC, IOAPIC + 0x1000, 0xfee0_0000, 0xffff_fff0];
    borders.extend((0..=8).map(|window| WINDOWS + window * WINDOW));
    borders.extend([ECAM, ECAM + 0x1000, ECAM + 0x9000, ECAM + 0x10_0000]);
    borders.extend((0..=4).flat_map(|bar| [BARS + bar * BAR, BARS + bar * BAR + 0x1000]));
    for border in borders {
        for offset in -5..6i32 {
            let at = border.wrapping_add_signed(offset);
            // What wraps is not the CPU's to reach.
            if at < u32::MAX - 8 && !(RAM_END - 64..RAM_END).contains(&at) {
                for (what, value) in [
                    (Read8, 0),
                    (Read16, 0),
                    (Read32, 0),
                    (Write8, 0),
                    (Write16, 0xffff),
                    (Write32, u32::MAX),
                ] {
                    script.add(what, at, value);
                }
            }
        }
    }
    survives(&script);
}

/// Every port that ends nothing when it gets a zero, in each width.
#[test]
fn every_port() {
    let mut script = Script::default();
    for port in (0..0x1000).chain([0x1fff, 0x8000, 0xfffc, 0xffff]) {
        script.add([In8, In16, In32][port as usize % 3], port, 0);
        script.add([Out32, Out8, Out16][port as usize % 3], port, 0);
    }
    survives(&script);
}

#[test]
fn strings_of_64_kib() {
    // Some KVMs leave for each byte.
    let mut script = Script::default();
    script.add(OutBytes, COM1, 64 << 10).add(OutWords, 0xcfc, 1 << 10);
    script.add(InBytes, 0x1234, 64 << 10).add(InWords, COM1 + 5, 1 << 10);
    survives(&script);
    let mut script = Script::default();
    for port in [COM1, COM1 + 1, COM1 + 5, 0x80, 0xcf8, 0xcfc] {
        script.add(InBytes, port, 256).add(OutBytes, port, 2048);
        script.add(InWords, port, 64).add(OutWords, port, 1024);
    }
    survives_within_bounds(&script);
}

/// Sets up queue `queue` of the device in a virtio-mmio window with 256 descriptors.
fn start(script: &mut Script, window: u32, rings: [u32; 3]) {
    let base = WINDOWS + window * WINDOW;
    for (register, value) in [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
        script.add(Write32, base + register, value);
    }
    for queue in 0..2 {
        script.add(Write32, base + 0x30, queue).add(Write32, base + 0x38, 256);
        for (register, ring) in [0x80, 0x90, 0xa0].into_iter().zip(rings) {
            let ring = ring.wrapping_add(queue * 0x4000);
            script.add(Write32, base + register, ring).add(Write32, base + register + 4, 0);
        }
        script.add(Write32, base + 0x44, 1);
    }
    script.add(Write32, base + 0x70, 15);
}

const AREAS: [u32; 3] = [RINGS, RINGS + 0x1000, RINGS + 0x2000];
/// Descriptor flags: goes on, is to be written, is a table.
const NEXT: u32 = 1;
const WRITE: u32 = 2;
const INDIRECT: u32 = 4;

fn descriptor(script: &mut Script, queue: u32, at: u32, [address, len, flags, next]: [u32; 4]) {
    let place = RINGS + queue * 0x4000 + at * 16;
    script.0.extend([Copy as u32, place, 0, address, 0, len, flags | next << 16]);
}

/// Makes all 256 heads available, `ahead` of what there is, and notifies.
fn offer(script: &mut Script, window: u32, queue: u32, index: u32) {
    script.add(Write32, RINGS + queue * 0x4000 + 0x1000, index << 16);
    script.add(Write32, WINDOWS + window * WINDOW + 0x50, queue);
}

/// Descriptors in a loop, chains of 4 GiB, buffers in windows and in the pmem, tables in themselves, an
/// index that runs away; the device reset in between, or not.
#[test]
fn rings_of_every_bad_kind() {
    let mut script = Script::default();
    let kinds: [[u32; 4]; 10] = [
        [DATA, 4096, NEXT, 0],
        [DATA, u32::MAX, NEXT, 1],
        [DATA, u32::MAX, WRITE | NEXT, 1],
        [WINDOWS, 4096, WRITE, 0],
        [IOAPIC, 16, NEXT, 1],
        [0xffff_f000, 4096, WRITE, 0],
        [RAM_END - 8, 16, WRITE, 0],
        [RINGS, 16 * 256, INDIRECT, 0],
        [RINGS, !15, INDIRECT, 0],
        [RINGS + 0x2000, 0x1000, WRITE, 0],
    ];
    for window in 0..6 {
        for kind in kinds {
            for queue in 0..2 {
                start(&mut script, window, AREAS);
                for at in 0..4 {
                    descriptor(&mut script, queue, at, kind);
                }
                for index in [1, 2, 256, 257, 0x8000, 0xffff] {
                    offer(&mut script, window, queue, index);
                }
            }
        }
    }
    survives(&script);
}

/// Rings in the pmem, in windows, at the end of RAM, on top of one another and of the boot data.
#[test]
fn rings_in_every_bad_place() {
    let mut script = Script::default();
    for window in 0..6 {
        for place in [0, 0x1000, RAM_END - 16, RAM_END, RAM_END + 0x10_0000, WINDOWS, IOAPIC, BARS]
        {
            for area in 0..3 {
                let mut rings = AREAS;
                rings[area] = place;
                start(&mut script, window, rings);
                for queue in 0..2 {
                    descriptor(&mut script, queue, 0, [DATA, 512, NEXT, 1]);
                    offer(&mut script, window, queue, 1);
                    offer(&mut script, window, queue, 256);
                }
            }
        }
    }
    survives(&script);
}

/// Again and again: a notification of nothing, a reset of a device that has requests, a queue taken
/// back and given again.
#[test]
fn storms_at_the_devices() {
    let mut script = Script::default();
    for window in 0..6 {
        let base = WINDOWS + window * WINDOW;
        start(&mut script, window, AREAS);
        script.repeat(200, |script| {
            for queue in [0, 1, 7, 0xffff] {
                script.add(Write32, base + 0x50, queue);
            }
        });
        // A read of the disk's first sectors on its way.
        script.repeat(20, |script| {
            start(script, window, AREAS);
            script.put(DATA, &[0, 0, 0, 0]);
            for queue in 0..2 {
                descriptor(script, queue, 0, [DATA, 16, NEXT, 1]);
                descriptor(script, queue, 1, [DATA + 0x1000, 32 << 10, WRITE | NEXT, 2]);
                descriptor(script, queue, 2, [DATA + 0x800, 1, WRITE, 0]);
                offer(script, window, queue, 1);
            }
            script.add(Write32, base + 0x30, 0).add(Write32, base + 0x44, 0);
        });
    }
    survives(&script);
    survives_within_bounds(&script);
}

/// BARs over RAM, over one another and over all other windows, decoding on and off, MSI-X shown and
/// hidden, messages to where no APIC is.
#[test]
fn bars_and_messages_anywhere() {
    if !has("pci") {
        return;
    }
    let mut script = Script::default();
    for function in 1..6 {
        let config = ECAM + function * 0x1000;
        for place in [0, DATA, RINGS, IOAPIC, WINDOWS, ECAM, BARS, BARS + BAR, 0xffff_e000] {
            script.add(Write32, config + 0x10, place).add(Write32, config + 0x14, 0);
            script.add(Write32, config + 4, 6).add(Read32, place, 0).add(Write32, config + 4, 0);
        }
        script.add(Write32, config + 0x10, BARS + (function - 1) * BAR).add(Write32, config + 4, 6);
        script.repeat(20, |script| {
            let table = BARS + (function - 1) * BAR + 0x1000;
            for control in [0x8000_0000, 0xc000_0000, 0] {
                script.add(Write32, config + 0x98, control);
                for (at, value) in [(0, 0xfee0_0000), (4, u32::MAX), (8, u32::MAX), (12, 0)] {
                    script.add(Write32, table + at, value);
                }
            }
            // The window into the BAR.
            for register in (0x40..0xa0).step_by(4) {
                script.add(Write32, config + register, u32::MAX).add(Read32, config + register, 0);
            }
        });
    }
    survives(&script);
}

/// The IOAPIC's registers, and, with a second CPU, INIT and SIPI without end.
#[test]
fn storms_of_interrupts() {
    let mut script = Script::default();
    // Where the second CPU begins each time: hlt, and again.
    script.add(Write32, 0x8000, 0x00fd_ebf4);
    script.repeat(50, |script| {
        for index in [0, 1, 2, 0x10, 0x11, 0x12, 0x2f, 0x30, 0xff] {
            script.add(Write32, IOAPIC, index);
            for entry in [0x8000, 0x1_8030, u32::MAX, 0] {
                script.add(Write32, IOAPIC + 0x10, entry).add(Write32, IOAPIC + 0x40, entry);
            }
        }
    });
    script.repeat(500, |script| {
        script.add(Msr, 0x830, 0x4500).add(Msr, 0x830, 0x4608).add(Msr, 0x830, 0x4608);
    });
    survives(&script);
    if has("smp") {
        let scratch = Scratch::new();
        let mut command = machine(&scratch, &script, "mmio");
        super::common::run(command.args(["--cpus", "boot=2"])).with_status(0);
    }
}
