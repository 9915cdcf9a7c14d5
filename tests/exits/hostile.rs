//! A hostile guest: what no driver does, and one that wants to break out tries first. The guest is an
//! interpreter of a few instructions, each test its script. What is asserted is that the guest comes to
//! its end, that brisk had nothing to say, took no memory that the guest made it take, and made a bounded
//! number of system calls in each exit; all with the filter on.
//!
//! `BRISK_BIN` may name the program of a scenario, and `BRISK_FEATURES` what is in it.

use std::process::Command;

use super::calls::{KVM_RUN, traced, watch};
use super::common::{Scratch, brisk};
use super::script::Do::*;
use super::script::{
    AREAS, BAR, BARS, COM1, DATA, ECAM, INDIRECT, IOAPIC, NEXT, RAM_END, RINGS, Script, WINDOW,
    WINDOWS, WRITE, descriptor, offer, start,
};

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
                start(&mut script, window, AREAS, 256);
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
                start(&mut script, window, rings, 256);
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
        start(&mut script, window, AREAS, 256);
        script.repeat(200, |script| {
            for queue in [0, 1, 7, 0xffff] {
                script.add(Write32, base + 0x50, queue);
            }
        });
        // A read of the disk's first sectors on its way.
        script.repeat(20, |script| {
            start(script, window, AREAS, 256);
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
