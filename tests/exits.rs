//! Guests of a few instructions on the real `/dev/kvm`: each kind of exit that brisk handles, end to
//! end, from an ELF file to the exit status and the files that brisk writes.
//!
//! A KVM of the PVM kind, which cannot run an unmodified Linux, runs all of them; where what it does
//! is not what other KVMs do, the test says so. Without `/dev/kvm`, `cargo xtask test` runs this
//! program in the lab.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test")]

#[cfg(feature = "api")]
#[path = "exits/api.rs"]
mod api;
#[path = "exits/calls.rs"]
mod calls;
mod common;
#[cfg(feature = "block")]
#[path = "exits/devices.rs"]
mod devices;
#[path = "exits/ends.rs"]
mod ends;
#[path = "exits/guests.rs"]
mod guests;
#[cfg(feature = "smp")]
#[path = "exits/pause.rs"]
mod pause;
#[cfg(all(feature = "console", feature = "pci", feature = "smp"))]
#[path = "exits/pci.rs"]
mod pci;
#[path = "exits/script.rs"]
mod script;
#[path = "exits/signals.rs"]
mod signals;
#[cfg(feature = "streams")]
#[path = "exits/streams.rs"]
mod streams;
#[path = "exits/typed.rs"]
mod typed;

#[path = "exits/hostile.rs"]
mod hostile;
#[cfg(feature = "notify")]
#[path = "exits/notify.rs"]
mod notify;
#[cfg(feature = "seccomp")]
#[path = "exits/seccomp.rs"]
mod seccomp;
#[cfg(feature = "snapshot")]
#[path = "exits/snapshot.rs"]
mod snapshot;
#[cfg(all(feature = "snapshot", feature = "smp"))]
#[path = "exits/snapshot_cpus.rs"]
mod snapshot_cpus;
#[cfg(all(feature = "snapshot", feature = "block"))]
#[path = "exits/snapshot_devices.rs"]
mod snapshot_devices;
#[cfg(feature = "snapshot")]
#[path = "exits/snapshot_state.rs"]
mod snapshot_state;
#[cfg(feature = "snapshot")]
#[path = "exits/snapshot_unmade.rs"]
mod snapshot_unmade;

use std::process::Command;

use common::kernel::{Code, Elf, check_disassembly};
use common::{Ended, Scratch, Stats, boot_log, brisk, codes, key, run};

/// What the guests that have it find at `kernel::DATA`.
const TEXT: &[u8] = b"hello\n123456789abcdefghijklm";

/// A machine for one guest, with everything recorded.
struct Lab {
    scratch: Scratch,
    elf: Elf,
}

impl Lab {
    fn new(code: Code) -> Lab {
        Lab { scratch: Scratch::new(), elf: Elf::new(code, &[]) }
    }

    fn with_data(code: Code, data: &[u8]) -> Lab {
        Lab { scratch: Scratch::new(), elf: Elf::new(code, data) }
    }

    fn linux64(code: Code) -> Lab {
        Lab { scratch: Scratch::new(), elf: Elf::new(code, &[]).linux64() }
    }

    fn command(&self, more: &[&str]) -> Command {
        let kernel = self.scratch.file("kernel", self.elf.file());
        let mut command = brisk();
        command.arg("--kernel").arg(kernel);
        command.arg("--boot-log").arg(self.scratch.path("log"));
        command.arg("--stats").arg(self.scratch.path("stats"));
        if !more.contains(&"--memory") {
            command.args(["--memory", "size=16M"]);
        }
        if !more.contains(&"--serial") {
            command.args(["--serial", &key("file", self.scratch.path("serial"))]);
        }
        command.args(more);
        command
    }

    #[track_caller]
    fn run(&self, more: &[&str]) -> Ended {
        run(&mut self.command(more))
    }

    /// Runs a guest that is to power off without any complaint.
    #[track_caller]
    fn run_to_the_end(&self) {
        self.run(&[]).silent().with_status(0);
    }

    fn codes(&self) -> Vec<u8> {
        codes(self.scratch.path("log"))
    }

    fn stats(&self) -> Stats {
        Stats::read(self.scratch.path("stats"))
    }

    fn serial(&self) -> String {
        self.scratch.text("serial")
    }
}

#[test]
fn the_disassembly_is_that_of_the_bytes() {
    let all = [guests::ALL, guests::cpus::ALL, guests::ends::ALL, guests::saved::ALL];
    for (name, code, bits, base) in all.into_iter().flatten() {
        check_disassembly(name, code, *bits, *base);
    }
}

/// What Xen and GRUB are: a 32-bit file with the note.
#[test]
fn a_32_bit_kernel_is_entered_by_pvh() {
    for headers_last in [false, true] {
        let mut lab = Lab::with_data(guests::STRINGS_OUT, TEXT);
        lab.elf = common::kernel::Elf { headers_last, ..lab.elf.elf32() };
        lab.run_to_the_end();
        assert_eq!(lab.serial(), "hello\n");
    }
}

#[test]
fn program_headers_may_be_anywhere() {
    let data = [7; 0x3000];
    let mut lab = Lab::with_data(guests::TO_TIMER, &data);
    lab.elf.headers_last = true;
    lab.run_to_the_end();
    assert_eq!(lab.codes(), [0x11, 0x22, 0x33]);
}

#[test]
fn pio_out_of_each_width() {
    let lab = Lab::new(guests::TO_TIMER);
    lab.run_to_the_end();
    assert_eq!(lab.codes(), [0x11, 0x22, 0x33]);
    assert_eq!(lab.stats().at("pio_out", 0x80), (3, 0));
    assert_eq!(lab.stats().at("pio_out", 0x600), (1, 0));
    assert_eq!(lab.stats().userspace_exits(), 4);

    let lab = Lab::new(guests::TO_SERIAL);
    lab.run_to_the_end();
    assert_eq!(lab.serial(), "ABC");
    assert_eq!(lab.stats().at("pio_out", 0x3f8), (3, 0));
}

/// More bytes than KVM's ring keeps, where it keeps them; the last of them before the end.
#[test]
fn a_stream_to_the_serial_port_arrives_whole_and_in_order() {
    let lab = Lab::new(guests::STREAM);
    lab.run_to_the_end();
    let wanted: Vec<u8> = (1..=300).rev().map(|count: u16| count as u8).collect();
    assert!(std::fs::read(lab.scratch.path("serial")).expect("the file") == wanted);
    let (exits, _) = lab.stats().at("pio_out", 0x3f8);
    let most = if cfg!(feature = "coalesced-serial") { 10 } else { 300 };
    assert!(exits <= most, "{exits} exits for 300 bytes");
}

#[test]
fn pio_in_of_each_width_from_an_unknown_port_is_all_ones() {
    let lab = Lab::new(guests::FROM_NOWHERE);
    lab.run_to_the_end();
    // Each value in four bytes; what is beyond the access stays as it was.
    assert_eq!(lab.codes(), [0xff, 0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(lab.stats().at("pio_in", 0x1234), (3, 3));
    assert_eq!(lab.stats().at("pio_out", 0x1234), (3, 3));
}

#[test]
fn pio_in_from_a_device_is_its_register() {
    let lab = Lab::new(guests::FROM_DEVICES);
    lab.run_to_the_end();
    // Transmitter empty; what was written to the scratch register; not asleep.
    assert_eq!(lab.codes(), [0x60, 0x5a, 0]);
    for port in [0x3fd, 0x3ff, 0x601] {
        assert_eq!(lab.stats().at("pio_in", port), (1, 0), "{port:#x}");
    }
}

#[cfg(feature = "exit-status")]
#[test]
fn the_guest_says_what_the_process_ends_with() {
    let lab = Lab::new(guests::STATUS);
    lab.run(&["--exit-status"]).silent().with_status(42);
    lab.run_to_the_end();
    assert_eq!(lab.stats().at("pio_out", 0x84), (1, 0));
    // A guest that says nothing has failed.
    Lab::new(guests::TO_TIMER).run(&["--exit-status"]).with_status(125);
}

#[test]
fn string_output_arrives_whole_and_in_order() {
    let lab = Lab::with_data(guests::STRINGS_OUT, TEXT);
    lab.run_to_the_end();
    assert_eq!(lab.serial(), "hello\n");
    // Three bytes; the low bytes of three words, of three double words.
    assert_eq!(lab.codes(), *b"123468aei");
}

#[test]
fn string_input_fills_what_was_asked_for() {
    let lab = Lab::new(guests::STRINGS_IN);
    lab.run_to_the_end();
    let mut wanted = vec![0x60; 3];
    wanted.extend([0xff; 2 + 4 + 8]);
    wanted.push(0); // not touched
    assert_eq!(lab.codes(), wanted);
    assert_eq!(lab.stats().at("pio_in", 0x3fd).1, 0);
    let (count, unclaimed) = lab.stats().at("pio_in", 0x1234);
    assert!(count >= 3 && count == unclaimed, "{count} {unclaimed}");
}

#[test]
fn mmio_of_each_width_where_nothing_is_reads_as_all_ones() {
    let lab = Lab::new(guests::MMIO);
    lab.run_to_the_end();
    assert_eq!(lab.codes(), [0xff, 0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(lab.stats().at("mmio_read", 0xc000_0000), (3, 3));
    assert_eq!(lab.stats().at("mmio_write", 0xc000_0000), (3, 3));
}

#[test]
fn mmio_of_8_bytes_in_long_mode() {
    let lab = Lab::linux64(guests::MMIO64);
    lab.run(&["--console", "null"]).silent().with_status(0);
    // virtio 1.3, 4.2.2.2: registers are read in 32 bits; another width of a register is nothing
    // that a driver does, and must only do no harm. What is read is memory. Where there is no device:
    // all ones.
    assert_eq!(lab.codes()[8..], [0xff; 8]);
    assert_eq!(lab.codes().len(), 16);
    assert_eq!(lab.stats().at("mmio_read", 0xd000_0000), (0, 0));
    assert_eq!(lab.stats().at("mmio_write", 0xd000_0000), (1, 0));
    assert_eq!(lab.stats().at("mmio_read", 0xd000_9000), (1, 1));
    assert_eq!(lab.stats().at("mmio_write", 0xd000_9000), (1, 1));
}

#[test]
fn the_ioapic_has_registers() {
    let lab = Lab::new(guests::IOAPIC);
    lab.run_to_the_end();
    let codes = lab.codes();
    assert_eq!(codes[0], 0x20, "version");
    assert_eq!(codes[1], 0, "last pin: there is none but the serial port's");
    assert_eq!(codes[2..], [0, 0x31, 1], "the index, then vector and mask of the last pin");
    assert_eq!(lab.stats().at("mmio_read", 0xfec0_0000), (3, 0));
    assert_eq!(lab.stats().at("mmio_write", 0xfec0_0000), (3, 0));
}

#[cfg(feature = "console")]
#[test]
fn a_virtio_window_says_what_it_is() {
    let lab = Lab::new(guests::VIRTIO);
    lab.run(&["--console", "null"]).silent().with_status(0);
    assert_eq!(lab.codes(), *b"virt\x02\0\0\0\x03\0\0\0");
    assert_eq!(lab.stats().at("mmio_read", 0xd000_0000), (0, 0), "it is read as memory");

    // Without the device there is nothing in its place.
    let lab = Lab::new(guests::VIRTIO);
    lab.run_to_the_end();
    assert_eq!(lab.codes(), [0xff; 12]);
    assert_eq!(lab.stats().at("mmio_read", 0xd000_0000), (3, 3));
}

#[test]
fn the_boot_log_has_all_points_in_order() {
    let lab = Lab::new(guests::POINTS);
    let ended = lab.run(&["--timeline"]).with_status(0);
    let (points, dropped) = boot_log(lab.scratch.path("log"));
    let names: Vec<&str> = points.iter().map(|point| &*point.name).collect();
    let wanted = [
        "process-start",
        "vm-created",
        "memory-ready",
        "kernel-loaded",
        "first-entry",
        "kernel",
        "userspace",
        "code-0x81",
        "exit",
    ];
    assert_eq!((names.as_slice(), dropped), (wanted.as_slice(), 0));
    assert_eq!(lab.codes(), [0x40, 0x60, 0x81]);
    assert!(points.is_sorted_by(|a, b| a.process_us <= b.process_us), "{points:?}");
    for name in wanted {
        assert!(ended.stderr.contains(name), "the timeline has no {name}: {}", ended.stderr);
    }
}

#[test]
fn a_guest_cannot_grow_the_boot_log_without_limit() {
    let lab = Lab::new(guests::FLOOD);
    lab.run_to_the_end();
    let (points, dropped) = boot_log(lab.scratch.path("log"));
    assert!(points.len() < 10_000, "{} points", points.len());
    assert_eq!(points.last().map(|point| &*point.name), Some("exit"));
    let kept = points.iter().filter(|point| point.code.is_some()).count() as u64;
    assert_eq!(kept + dropped, 100_000);
    assert_eq!(lab.stats().at("pio_out", 0x80), (100_000, 0));
}

#[test]
fn accesses_to_nothing_are_counted_and_never_logged() {
    let lab = Lab::new(guests::PORTS);
    let ended = lab.run(&["--log-level", "trace"]).with_status(0);
    // Of 4,000 accesses not one has a line.
    assert!(ended.stderr.lines().count() < 20, "{}", ended.stderr);
    let stats = lab.stats();
    assert_eq!(stats.userspace_exits(), 4001);
    assert_eq!(stats.sum() + stats.further(), 4001);
    assert!(stats.further() > 0, "the table of rows has no end");
    assert_eq!(stats.at("pio_in", 0x1000), (1, 1));
    assert_eq!(stats.at("mmio_write", 0xc000_0000), (1, 1));
}

/// Each line that the full disk does not take is worth a line of the log.
#[test]
fn a_guest_cannot_grow_the_log_without_limit() {
    let lab = Lab::new(guests::LINES);
    let ended = lab.run(&["--serial", "file=/dev/full", "--log-level", "debug"]).with_status(0);
    let lost = ended.stderr.matches("guest output lost").count();
    assert_eq!(lost, 1000 - 1, "beside the one with the command line: {}", ended.stderr);
    assert!(ended.stderr.trim_end().ends_with("(the last of this level: too many)"));
}

#[test]
fn ram_ends_where_the_hole_for_devices_begins() {
    let lab = Lab::new(guests::LOW_RAM);
    lab.run(&["--memory", "size=3G"]).silent().with_status(0);
    assert_eq!(lab.codes(), [0x78, 0xff]);
    assert_eq!(lab.stats().at("mmio_write", 0xc000_0000), (1, 1));
}

#[test]
fn ram_goes_on_above_4_gib() {
    let lab = Lab::linux64(guests::HIGH_RAM);
    lab.run(&["--memory", "size=4G"]).silent().with_status(0);
    // The first byte above 4 GiB, the last of RAM (1 GiB more), and the one after it.
    assert_eq!(lab.codes(), [0x11, 0x22, 0xff]);
    assert_eq!(lab.stats().at("mmio_read", 0x1_4000_0000), (1, 1));
}

#[cfg(feature = "smp")]
#[test]
fn a_second_vcpu_starts_and_may_end_the_vm() {
    // With and without counters, which are also of the first vCPU, still in the guest.
    for stats in [false, true] {
        let lab =
            Lab::with_data(guests::cpus::WAKE_OTHER, &common::kernel::bytes(guests::cpus::OTHER));
        let mut command = brisk();
        command.arg("--kernel").arg(lab.scratch.file("kernel", lab.elf.file()));
        command.args(["--memory", "size=16M", "--serial", "null", "--cpus", "boot=2"]);
        command.arg("--boot-log").arg(lab.scratch.path("log"));
        if stats {
            command.arg("--stats").arg(lab.scratch.path("stats"));
        }
        run(&mut command).silent().with_status(0);
        assert_eq!(lab.codes(), [0x82]);
        assert!(!stats || lab.stats().vcpus() == 2);
    }
}
