//! Snapshots of guests of several CPUs: whichever of them writes the code, and whatever they do meanwhile.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::common::kernel::{BASE, Bits, Code, bytes, check_disassembly};
use super::common::state::part;
use super::common::{Scratch, brisk, codes, run};
use super::{Lab, guests};

/// Meanwhile the first one writes codes of its own. By the time that it was told, its last one was the
/// one that counted; and what the second's thread had to tell it took for itself, now and then.
#[test]
fn the_second_cpu_can_ask_for_one() {
    for first in [guests::cpus::WAKE_OTHER, guests::cpus::WAKE_AND_FLOOD] {
        for _ in 0..20 {
            let lab = Lab::with_data(first, &bytes(guests::cpus::OTHER));
            let dir = lab.scratch.path("snapshot");
            let flag = format!("path={},at=0x82", dir.display());
            lab.run(&["--cpus", "boot=2", "--snapshot", &flag]).silent().with_status(0);
            assert_eq!(lab.codes().iter().filter(|&&code| code == 0x82).count(), 1);
            // It goes on behind its code, and ends the VM.
            let again = lab.scratch.path("again");
            let mut command = brisk();
            command.arg("--restore").arg(&dir).arg("--boot-log").arg(&again);
            run(&mut command).silent().with_status(0);
            assert!(!codes(&again).contains(&0x82));
        }
    }
}

/// The second one's code is the last that the guest does, whether or not it can be saved: behind it, it would
/// switch the VM off, as if all had gone well.
#[test]
fn a_guest_that_cannot_be_saved_ends_at_its_code() {
    for _ in 0..30 {
        let lab = Lab::with_data(guests::cpus::WAKE_AND_FLOOD, &bytes(guests::cpus::OTHER));
        let flag = format!("path={},at=0x82", lab.scratch.path("snapshot").display());
        let brisk = lab.command(&["--cpus", "boot=2", "--snapshot", &flag]);
        let mut command = Command::new("prlimit");
        command.arg("--fsize=1048576").arg(brisk.get_program()).args(brisk.get_args());
        let ended = run(&mut command).with_status(1);
        assert!(ended.stderr.contains("too large"), "{ended:#?}");
    }
}

/// Wakes the second CPU, and when that has counted to one: a hundred random numbers, each added to one of
/// 4096; the time; an interrupt to the second; the timer's code; waits until that has counted one further,
/// and notes whether its time was later than now. And so on. The number is in ebx, the count in edi.
const LOAD: Code = &[
    (&[0xbe, 0x00, 0x10, 0x10, 0x00], "mov esi,0x101000"),
    (&[0xbf, 0x00, 0x80, 0x00, 0x00], "mov edi,0x8000"),
    (&[0xb9, 0x00, 0x01, 0x00, 0x00], "mov ecx,0x100"),
    (&[0xf3, 0xa4], "rep movs BYTE PTR es:[edi],BYTE PTR ds:[esi]"),
    (&[0xb9, 0x30, 0x08, 0x00, 0x00], "mov ecx,0x830"),
    (&[0xba, 0x01, 0x00, 0x00, 0x00], "mov edx,0x1"),
    (&[0xb8, 0x00, 0x45, 0x00, 0x00], "mov eax,0x4500"),
    (&[0x0f, 0x30], "wrmsr"),
    (&[0xb8, 0x08, 0x46, 0x00, 0x00], "mov eax,0x4608"),
    (&[0x0f, 0x30], "wrmsr"),
    (&[0x83, 0x3d, 0x00, 0x70, 0x00, 0x00, 0x00], "cmp DWORD PTR ds:0x7000,0x0"),
    (&[0x74, 0xf7], "je 0x100029"),
    (&[0xbf, 0x01, 0x00, 0x00, 0x00], "mov edi,0x1"),
    (&[0xbb, 0x01, 0x00, 0x00, 0x00], "mov ebx,0x1"),
    (&[0xbe, 0x64, 0x00, 0x00, 0x00], "mov esi,0x64"),
    (&[0x69, 0xdb, 0x0d, 0x66, 0x19, 0x00], "imul ebx,ebx,0x19660d"),
    (&[0x81, 0xc3, 0x5f, 0xf3, 0x6e, 0x3c], "add ebx,0x3c6ef35f"),
    (&[0x89, 0xd8], "mov eax,ebx"),
    (&[0xc1, 0xe8, 0x12], "shr eax,0x12"),
    (&[0x25, 0xfc, 0x3f, 0x00, 0x00], "and eax,0x3ffc"),
    (&[0x01, 0x98, 0x00, 0x20, 0x10, 0x00], "add DWORD PTR [eax+0x102000],ebx"),
    (&[0x4e], "dec esi"),
    (&[0x75, 0xe1], "jne 0x100041"),
    (&[0x0f, 0x31], "rdtsc"),
    (&[0xa3, 0x08, 0x70, 0x00, 0x00], "mov ds:0x7008,eax"),
    (&[0x89, 0x15, 0x0c, 0x70, 0x00, 0x00], "mov DWORD PTR ds:0x700c,edx"),
    (&[0xb9, 0x30, 0x08, 0x00, 0x00], "mov ecx,0x830"),
    (&[0xba, 0x01, 0x00, 0x00, 0x00], "mov edx,0x1"),
    (&[0xb8, 0x40, 0x40, 0x00, 0x00], "mov eax,0x4040"),
    (&[0x0f, 0x30], "wrmsr"),
    (&[0xb0, 0x11], "mov al,0x11"),
    (&[0xe6, 0x80], "out 0x80,al"),
    (&[0x47], "inc edi"),
    (&[0xf3, 0x90], "pause"),
    (&[0x39, 0x3d, 0x00, 0x70, 0x00, 0x00], "cmp DWORD PTR ds:0x7000,edi"),
    (&[0x75, 0xf6], "jne 0x100083"),
    (&[0x0f, 0x31], "rdtsc"),
    (&[0x2b, 0x05, 0x18, 0x70, 0x00, 0x00], "sub eax,DWORD PTR ds:0x7018"),
    (&[0x1b, 0x15, 0x1c, 0x70, 0x00, 0x00], "sbb edx,DWORD PTR ds:0x701c"),
    (&[0x83, 0x1d, 0x10, 0x70, 0x00, 0x00, 0x00], "sbb DWORD PTR ds:0x7010,0x0"),
    (&[0xeb, 0x98], "jmp 0x10003c"),
];

/// What the second runs in real mode: counts interrupts, and notes whether the first's time was later than
/// now. Its APIC is enabled by MSR 0x80f and told of an interrupt's end by MSR 0x80b.
const OTHER_LOAD: Code = &[
    (&[0xc7, 0x06, 0x00, 0x01, 0x2d, 0x80], "mov WORD PTR ds:0x100,0x802d"),
    (&[0xc7, 0x06, 0x02, 0x01, 0x00, 0x00], "mov WORD PTR ds:0x102,0x0"),
    (&[0xbc, 0x00, 0x7f], "mov sp,0x7f00"),
    (&[0x66, 0xb9, 0x0f, 0x08, 0x00, 0x00], "mov ecx,0x80f"),
    (&[0x66, 0x31, 0xd2], "xor edx,edx"),
    (&[0x66, 0xb8, 0xff, 0x01, 0x00, 0x00], "mov eax,0x1ff"),
    (&[0x0f, 0x30], "wrmsr"),
    (&[0x66, 0xc7, 0x06, 0x00, 0x70, 0x01, 0x00, 0x00, 0x00], "mov DWORD PTR ds:0x7000,0x1"),
    (&[0xfb], "sti"),
    (&[0xf4], "hlt"),
    (&[0xeb, 0xfd], "jmp 0x802a"),
    (&[0x0f, 0x31], "rdtsc"),
    (&[0x66, 0xa3, 0x18, 0x70], "mov ds:0x7018,eax"),
    (&[0x66, 0x89, 0x16, 0x1c, 0x70], "mov DWORD PTR ds:0x701c,edx"),
    (&[0x66, 0x2b, 0x06, 0x08, 0x70], "sub eax,DWORD PTR ds:0x7008"),
    (&[0x66, 0x1b, 0x16, 0x0c, 0x70], "sbb edx,DWORD PTR ds:0x700c"),
    (&[0x66, 0x83, 0x1e, 0x14, 0x70, 0x00], "sbb DWORD PTR ds:0x7014,0x0"),
    (&[0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00], "mov ecx,0x80b"),
    (&[0x66, 0x31, 0xc0], "xor eax,eax"),
    (&[0x66, 0x31, 0xd2], "xor edx,edx"),
    (&[0x0f, 0x30], "wrmsr"),
    (&[0x66, 0xff, 0x06, 0x00, 0x70], "inc DWORD PTR ds:0x7000"),
    (&[0xcf], "iret"),
];

/// Where the guest has its count, and how often a time was later than the other one's behind it.
const COUNT: usize = 0x7000;
const BACKWARDS: [usize; 2] = [0x7010, 0x7014];
const SUMS: usize = 0x10_2000;

/// What the first CPU does, as it ought to.
struct Model {
    random: u32,
    sums: Vec<u32>,
    count: u32,
}

impl Model {
    fn go_on(&mut self) {
        for _ in 0..100 {
            self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let sum = &mut self.sums[(self.random >> 20) as usize];
            *sum = sum.wrapping_add(self.random);
        }
        self.count += 1;
    }

    /// The snapshot in `dir` is of what it has just done.
    #[track_caller]
    fn is_in(&self, dir: &Path) {
        const REGS: u32 = 18;
        let memory = fs::read(dir.join("memory")).unwrap();
        let word = |at: usize| u32::from_le_bytes(memory[at..at + 4].try_into().unwrap());
        let sums: Vec<u32> = (SUMS..).step_by(4).take(self.sums.len()).map(word).collect();
        assert!(sums == self.sums, "memory after {}", self.count);
        let state = fs::read(dir.join("state")).unwrap();
        let regs = &state[part(&state, REGS, 0)];
        let reg = |at: usize| u64::from_le_bytes(regs[8 * at..8 * at + 8].try_into().unwrap());
        // struct kvm_regs: rax, rbx, rcx, rdx, rsi, rdi
        assert_eq!([reg(1), reg(5)], [self.random, self.count].map(u64::from));
        // The interrupt is on its way or was taken.
        assert!([self.count, self.count + 1].contains(&word(COUNT)), "{}", word(COUNT));
        assert_eq!(BACKWARDS.map(word), [0, 0], "time ran backwards before {}", self.count);
    }
}

/// Each is of the one before, so that whatever is lost once is lost for good: a lost interrupt would be
/// waited for without end. `cargo xtask test` has a thousand of them taken (`BRISK_ROUNDS`).
#[test]
fn snapshots_of_snapshots_of_a_guest_under_load() {
    check_disassembly("LOAD", LOAD, Bits::B32, BASE);
    check_disassembly("OTHER_LOAD", OTHER_LOAD, Bits::B16, 0x8000);
    let rounds = std::env::var("BRISK_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let lab = Lab::with_data(LOAD, &bytes(OTHER_LOAD));
    // Each is synced, which is not what is tested here.
    let scratch = Scratch::in_memory();
    let dir = |round: u32| scratch.path(&round.to_string());
    let flag = |round| format!("path={},at=0x11", dir(round).display());
    lab.run(&["--cpus", "boot=2", "--snapshot", &flag(0)]).silent().with_status(0);
    let mut model = Model { random: 1, sums: vec![0; 4096], count: 0 };
    for round in 0..rounds {
        model.go_on();
        model.is_in(&dir(round));
        let mut command = brisk();
        command.arg("--restore").arg(dir(round)).arg("--snapshot").arg(flag(round + 1));
        run(&mut command).silent().with_status(0);
        fs::remove_dir_all(dir(round)).unwrap();
    }
}
