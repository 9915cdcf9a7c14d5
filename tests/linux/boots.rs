//! Kernels and ways into them, and the points on the way.

use super::common::{Running, boot_log, wait_for};
use super::{Guest, USERSPACE, artifact};

#[test]
fn vmlinux_by_each_protocol() {
    for protocol in ["pvh", "linux64"] {
        let guest = Guest::doing("").with(&["--boot-protocol", protocol]);
        guest.reaches_userspace();
        let mut loud = Guest::doing("").with(&["--boot-protocol", protocol]);
        loud.cmdline = "console=ttyS0 brisk.say".into();
        loud.reaches_userspace();
        let text = loud.output();
        assert!(text.contains("Linux version"), "{text}");
        for complaint in ["ACPI Error", "ACPI BIOS Error", "[Firmware Bug]", "WARNING:", "BUG:"] {
            assert!(!text.contains(complaint), "{protocol}: {complaint}:\n{text}");
        }
    }
}

#[cfg(feature = "bzimage")]
#[test]
fn bzimage_of_the_same_kernel() {
    let mut guest = Guest::doing("");
    guest.kernel = artifact("BRISK_BZIMAGE");
    guest.reaches_userspace();
    let ended = guest.with(&["--boot-protocol", "pvh"]).run();
    assert!(ended.status != Some(0) && ended.stderr.contains("no PVH entry"), "{ended:?}");
}

#[test]
fn the_points_come_in_order() {
    let guest = Guest::doing("");
    guest.reaches_userspace();
    let (points, dropped) = boot_log(guest.scratch.path("log"));
    let names: Vec<&str> = points.iter().map(|point| &*point.name).collect();
    let wanted = [
        "process-start",
        "vm-created",
        "memory-ready",
        "kernel-loaded",
        "first-entry",
        "kernel",
        "userspace",
        "exit",
    ];
    // Nothing else writes to the port: no `io_delay` of the kernel's.
    assert_eq!((names.as_slice(), dropped), (wanted.as_slice(), 0));
    assert!(points.is_sorted_by(|a, b| a.process_us <= b.process_us), "{points:?}");
}

#[test]
fn a_quiet_boot_leaves_the_guest_seldom() {
    let guest = Guest::doing("");
    guest.reaches_userspace();
    let stats = guest.stats();
    assert_eq!(stats.sum() + stats.further(), stats.userspace_exits());
    assert!(stats.userspace_exits() <= 500, "{stats:?}");
    // Nothing is looked for that is not there: i8042, CMOS, PIC, PIT.
    for port in [0x60, 0x64, 0x70, 0x71, 0x20, 0x21, 0xa1, 0x40, 0x43] {
        for kind in ["pio_in", "pio_out"] {
            assert_eq!(stats.at(kind, port), (0, 0), "{kind} {port:#x}: {stats:?}");
        }
    }
    let all = stats.of_kvm("exits").expect("KVM counts exits");
    assert!(all <= 3000, "{all} exits");
}

/// Exits to brisk, of quiet boots to userspace and out. A change that costs some is to be seen here.
/// They are the guest's own doing; how often it is interrupted besides depends on how slow the machine
/// is.
#[test]
fn exits_of_a_boot() {
    // Without KVM's ring each byte on the serial port is one.
    let bytes = if cfg!(feature = "coalesced-serial") { 0 } else { 72 };
    let mut guests = vec![("serial", Guest::doing(""), 223 + bytes)];
    #[cfg(all(feature = "pmem", feature = "console"))]
    {
        let image =
            format!("file={},discard_writes=on", artifact("BRISK_DISK_EXT4_PARTITION").display());
        let flags = ["--pmem", &image, "--console", "null"];
        let mut pmem = Guest::from_root("/dev/pmem0p1", &flags);
        pmem.cmdline = "root=/dev/pmem0p1 console=hvc0 quiet".into();
        pmem.serial = "off".into();
        guests.push(("pmem", pmem, 207));
    }
    for (name, guest, before) in guests {
        guest.run().silent().with_status(0);
        let stats = guest.stats();
        let now = stats.userspace_exits();
        assert!(now <= before + 10, "{name}: {now}, {before} when this was written: {stats:?}");
    }
}

#[test]
fn ends() {
    for (verb, status, reason) in [
        ("poweroff", 0, ""),
        ("reboot", 0, ""),
        ("panic", 3, "panicked"),
        ("reset=kbd", 0, ""),
        ("reset=triple", 0, ""),
    ] {
        let guest = Guest::doing(verb);
        let ended = guest.run();
        let text = guest.output();
        assert_eq!(ended.status, Some(status), "{verb}: {ended:#?}\n{text}");
        assert!(text.contains(USERSPACE), "{verb}: {text}");
        assert!(ended.stderr.contains(reason), "{verb}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), usize::from(status != 0), "{ended:?}");
    }
}

/// What Firecracker's users give their kernels: a reset by the keyboard controller, asked once.
#[test]
fn the_words_of_firecracker() {
    for verb in ["reboot", "panic"] {
        let mut guest = Guest::doing(verb);
        guest.cmdline += " reboot=k panic=1 pci=off";
        guest.run().silent().with_status(0);
        assert!(guest.output().contains(USERSPACE), "{verb}: {}", guest.output());
        let stats = guest.stats();
        let [asked, told] = ["pio_in", "pio_out"].map(|kind| stats.at(kind, 0x64));
        assert_eq!((asked, told), ((1, 0), (1, 0)), "{verb}: {stats:?}");
    }
}

#[test]
fn without_serial_port_a_console_on_it_stalls_nothing() {
    let mut guest = Guest::doing("say=more");
    guest.serial = "off".into();
    let ended = guest.run();
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""));
    assert_eq!(guest.codes(), [0x40, 0x60]);
    let (reads, unclaimed) = guest.stats().at("pio_in", 0x3fd);
    assert_eq!(reads, unclaimed);
    // A few for each line that is printed; a stall is 10,000 for each character.
    assert!(reads < 500, "{reads} reads of a line status that nobody has");
}

#[test]
fn a_signal_ends_a_linux_that_sleeps() {
    let guest = Guest::doing("say=ready,hold");
    let running = Running::start(&mut guest.command());
    wait_for("the guest", || guest.output().contains("ready"));
    running.signal(libc::SIGTERM);
    running.end().silent().with_status(0);
    assert_eq!(guest.codes(), [0x40, 0x60]);
}

#[test]
fn defaults_are_added_and_the_users_words_win() {
    let guest = Guest::doing("cat=/proc/cmdline");
    guest.reaches_userspace();
    let text = guest.output();
    assert!(text.contains("panic=-1") && text.contains("reboot="), "{text}");

    let mut guest = Guest::doing("cat=/proc/cmdline");
    guest.cmdline += " panic=7";
    guest.reaches_userspace();
    let text = guest.output();
    assert!(text.contains("panic=7") && !text.contains("panic=-1"), "{text}");

    let guest = Guest::doing("cat=/proc/cmdline").with(&["--cmdline-exact"]);
    guest.reaches_userspace();
    let text = guest.output();
    assert!(text.contains(&format!("{}\n", guest.cmdline)) || !text.contains("panic="), "{text}");
}

#[test]
fn an_initramfs_of_any_length() {
    let mut bytes = std::fs::read(artifact("BRISK_INITRAMFS")).expect("the initramfs");
    for more in [4, 4092, 8 << 20] {
        bytes.resize(bytes.len().next_multiple_of(4) + more, 0);
        let mut guest = Guest::doing("");
        guest.initramfs = Some(guest.scratch.file("initramfs", &bytes));
        guest.reaches_userspace();
    }
}
