//! Bad input: brisk says in one line which flag or file is wrong and what fixes it, ends with status
//! 2 for the command line and 1 for the host's files, and leaves nothing behind.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "usage/baked.rs"]
mod baked;
mod common;
#[path = "usage/devices.rs"]
mod devices;
#[path = "usage/ends.rs"]
mod ends;
#[path = "usage/harm.rs"]
mod harm;
#[path = "usage/images.rs"]
mod images;
#[path = "usage/less.rs"]
mod less;
#[path = "usage/place.rs"]
mod place;
#[path = "usage/sandbox.rs"]
mod sandbox;

use std::os::unix::fs::PermissionsExt;

use common::kernel::{BASE, Elf, Segment};
use common::{brisk, has, lacks, run};
use place::{FAILED, IMAGES, OFF, OUTPUTS, Place, USAGE};

#[test]
fn the_kernel_of_these_tests_is_a_good_one() {
    common::kernel::check_disassembly("OFF", OFF, common::kernel::Bits::B32, BASE);
    run(&mut Place::new().command(&[])).silent().with_status(0);
}

#[test]
fn kernel_file() {
    let place = Place::new();
    let refuses = |name: &str, parts: &[&str]| {
        let mut command = brisk();
        command.current_dir(place.0.path("")).args(["--kernel", name, "--memory", "size=16M"]);
        place.command_refuses(&mut command, FAILED, &[&["--kernel", name], parts].concat());
    };
    refuses("missing", &["No such file"]);
    place.0.file("empty", "");
    refuses("empty", &["is empty"]);
    std::fs::create_dir(place.0.path("directory")).expect("a directory");
    refuses("directory", &["directory"]);
    refuses("/dev/null", &["regular file"]);
    place.0.file("text", "#!/bin/sh\n".repeat(1000));
    refuses("text", &["not an ELF file"]);
    let whole = Elf::new(OFF, b"data").file();
    for len in [5, 63, 64, 100, whole.len() - 1] {
        let name = format!("cut-{len}");
        place.0.file(&name, &whole[..len]);
        refuses(&name, &["truncated"]);
    }
}

#[test]
fn kernel_that_nobody_may_read() {
    let place = Place::new();
    let kernel = place.0.path("kernel");
    std::fs::set_permissions(kernel, PermissionsExt::from_mode(0o000)).expect("chmod");
    let mut command = place.command(&[]);
    sandbox::obey_permissions(&mut command);
    place.command_refuses(&mut command, FAILED, &["--kernel kernel", "Permission denied"]);
}

#[test]
fn kernel_for_another_machine() {
    let good = Elf::new(OFF, &[]);
    let refuses = |elf: Elf, parts: &[&str]| {
        let place = Place::with(&elf.file());
        place.refuses(&[], FAILED, &[&["--kernel kernel"], parts].concat());
    };
    refuses(Elf { machine: 183, ..good.clone() }, &["AArch64", "x86"]);
    refuses(Elf { machine: 243, ..good.clone() }, &["RISC-V", "x86"]);
    refuses(Elf { class: 1, machine: 40, ..good.clone() }, &["Arm", "x86"]);
    refuses(Elf { machine: 3, ..good.clone() }, &["32-bit x86", "x86"]);
    refuses(Elf { data: 2, ..good.clone() }, &["big-endian"]);
    refuses(Elf { kind: 1, ..good.clone() }, &["not an executable", "vmlinux"]);
}

/// What is packed, and what is no kernel at all, is known, and the remedy is named.
#[test]
fn kernel_in_another_format() {
    let refuses = |offset: usize, magic: &[u8], parts: &[&str]| {
        let mut file = vec![0; 8192];
        file[offset..offset + magic.len()].copy_from_slice(magic);
        Place::with(&file).refuses(&[], FAILED, &[&["--kernel kernel"], parts].concat());
    };
    refuses(0, b"\x1f\x8b\x08", &["gzip", "zcat FILE > vmlinux"]);
    refuses(0, b"\xfd7zXZ\0", &["xz", "xzcat FILE > vmlinux"]);
    refuses(0, b"\x28\xb5\x2f\xfd", &["zstd", "zstdcat FILE > vmlinux"]);
    refuses(0, b"\x02\x21\x4c\x18", &["lz4", "lz4cat FILE > vmlinux"]);
    refuses(0, b"QFI\xfb\0\0\0\x03", &["disk image (qcow2)"]);
    refuses(0, b"vhdxfile", &["disk image (vhdx)"]);
    refuses(0x28, b"_FVH", &["firmware", "give a vmlinux or a bzImage"]);
    refuses(0, b"MZ", &["EFI", "vmlinux or bzImage"]);
}

/// What would crash at its first instruction.
#[test]
fn kernel_that_nothing_is_known_of() {
    let good = Elf::new(OFF, &[]);
    let refuses = |elf: &Elf, more: &[&str], parts: &[&str]| {
        let place = Place::with(&elf.file());
        place.refuses(more, FAILED, &[&["--kernel kernel"], parts].concat());
    };
    let bare = Elf { pvh: None, ..good.clone() };
    refuses(&bare, &[], &["not Linux", "no PVH note", "--boot-protocol linux64"]);
    let bare32 = bare.clone().elf32();
    refuses(&bare32, &[], &["32 bits", "no PVH note"]);
    refuses(&good.elf32(), &["--boot-protocol", "linux64"], &["32 bits", "PVH"]);
    // Who says so knows better.
    let place = Place::with(&bare.file());
    run(&mut place.command(&["--boot-protocol", "linux64"])).silent().with_status(0);
}

#[test]
fn kernel_that_does_not_fit() {
    let good = Elf::new(OFF, &[]);
    let with = |paddr, mem_size| {
        let bytes = vec![0x90; 16];
        let mut elf = good.clone();
        elf.segments.push(Segment { paddr, bytes, mem_size });
        Place::with(&elf.file())
    };
    let outside = ["--kernel kernel", "no RAM", "memory"];
    with(32 << 20, 4096).refuses(&[], FAILED, &outside);
    with((16 << 20) - 16, 4096).refuses(&[], FAILED, &outside);
    with(2 << 20, 1 << 40).refuses(&[], FAILED, &outside);
    // Where the boot data is, and in the hole for devices.
    with(0x1000, 4096).refuses(&[], FAILED, &["--kernel kernel", "0x1000"]);
    with(0xd000_0000, 4096).refuses(&[], FAILED, &outside);
    with(u64::MAX - 8, 4096).refuses(&[], FAILED, &["--kernel kernel", "impossible"]);
    with(BASE + 8, 4096).refuses(&[], FAILED, &["--kernel kernel", "overlap"]);
    let entry = Elf { pvh: Some(0x50_0000), ..good.clone() };
    Place::with(&entry.file()).refuses(&[], FAILED, &["--kernel kernel", "entry", "0x500000"]);
}

#[test]
fn boot_protocol() {
    let place = Place::with(&Elf::new(OFF, &[]).linux64().file());
    let parts = ["--kernel kernel", "no PVH note", "--boot-protocol"];
    place.refuses(&["--boot-protocol", "pvh"], FAILED, &parts);
    place.refuses(&["--boot-protocol", "uefi"], USAGE, &["--boot-protocol uefi", "pvh", "linux64"]);
}

#[test]
fn initramfs() {
    let place = Place::new();
    place.refuses(&["--initramfs", "missing"], FAILED, &["--initramfs missing", "No such file"]);
    place.0.file("empty", "");
    place.refuses(&["--initramfs", "empty"], FAILED, &["--initramfs empty", "is empty"]);
    place.0.file("large", vec![0; 16 << 20]);
    let parts = ["--initramfs large", "16777216 bytes", "--memory"];
    place.refuses(&["--initramfs", "large"], FAILED, &parts);
}

#[test]
fn command_line() {
    let place = Place::new();
    let long = "a".repeat(2048);
    for more in [&["--cmdline", &long] as &[&str], &["--cmdline-exact", "--cmdline", &long]] {
        place.refuses(more, USAGE, &["--cmdline", "2047"]);
    }
    for line in ["caf\u{e9}", "a\tb", "a\nb"] {
        place.refuses(&["--cmdline", line], USAGE, &["--cmdline", "not printable ASCII"]);
    }
    let mut command = place.command(&["--cmdline"]);
    command.arg(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xffb"));
    place.command_refuses(&mut command, USAGE, &["--cmdline", "not printable ASCII"]);
}

#[test]
fn memory_size() {
    let place = Place::new();
    let size = |text: &str| format!("size={text}");
    for (text, remedy) in [
        ("0", "16M at least"),
        ("1M", "16M at least"),
        ("16777217", "multiple of 4K"),
        ("16M1", "K, M, G or T"),
        ("-1", "K, M, G or T"),
        ("", "K, M, G or T"),
        ("99999999999T", "K, M, G or T"),
    ] {
        place.refuses(&["--memory", &size(text)], USAGE, &["--memory", "size", remedy]);
    }
    place.refuses(
        &["--memory", "size=4096T"],
        FAILED,
        &["--memory size=", "this host has", "less"],
    );
    place.refuses(&["--memory", "sise=1G"], USAGE, &["--memory", "`sise`", "size"]);
    place.refuses(&["--memory", "prefault=yes"], USAGE, &["--memory prefault", "on or off"]);
}

#[test]
fn huge_pages_that_are_not_there() {
    if lacks(&["hugepages"]) {
        return;
    }
    let place = Place::new();
    let pool = std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB");
    let number = |name: &str| -> u64 {
        let text = std::fs::read_to_string(pool.join(name)).expect("the kernel has huge pages");
        text.trim().parse().expect("a number")
    };
    let needed = number("free_hugepages") + 64;
    for more in ["", ",shared=on"] {
        let memory = format!("size={}M,hugepages=on{more}", needed * 2);
        let parts = ["--memory hugepages=on", "sysctl vm.nr_hugepages=", " free; try"];
        let needs = format!("{needed} free 2 MiB pages needed");
        place.refuses(&["--memory", &memory], FAILED, &[&parts[..], &[&needs]].concat());
    }
    let huge = "/sys/kernel/mm/hugepages/hugepages-1048576kB";
    let parts: &[&str] = if std::path::Path::new(huge).exists() {
        &["--memory hugepages=on", "1 GiB pages needed", "nr_hugepages"]
    } else {
        &["--memory hugepages=on", "no 1 GiB pages"]
    };
    let memory = "size=3G,hugepages=on,hugepage_size=1G";
    place.refuses(&["--memory", memory], FAILED, parts);
    let odd = "size=17408K,hugepages=on";
    place.refuses(&["--memory", odd], USAGE, &["--memory size=", "multiple of 2M"]);
    place.refuses(&["--memory", "hugepage_size=2M"], USAGE, &["hugepage_size", "hugepages=on"]);
    let four = "hugepages=on,hugepage_size=4M";
    place.refuses(&["--memory", four], USAGE, &["hugepage_size=4M", "2M or 1G"]);
}

#[test]
fn huge_pages_of_two_kinds() {
    if lacks(&["hugepages", "thp"]) {
        return;
    }
    let memory = "hugepages=on,thp=on";
    Place::new().refuses(&["--memory", memory], USAGE, &["--memory", "not both"]);
}

#[test]
fn cpus() {
    let place = Place::new();
    for count in ["0", "255", "100000", "-1", "two", ""] {
        let parts = ["--cpus boot=", "1 to 254"];
        place.refuses(&["--cpus", &format!("boot={count}")], USAGE, &parts);
    }
    place.refuses(&["--cpus", "max=2"], USAGE, &["--cpus", "`max`", "boot"]);
}

#[test]
fn flags() {
    let place = Place::new();
    place.refuses(&["--frobnicate"], USAGE, &["--frobnicate", "--help"]);
    place.refuses(&["stray"], USAGE, &["stray", "--help"]);
    place.refuses(&["--cmdline"], USAGE, &["--cmdline", "--help"]);
    if has("logging") {
        place.refuses(&["--log-level", "loud"], USAGE, &["--log-level loud"]);
    }
    place.command_refuses(&mut brisk(), USAGE, &["--kernel", "--help"]);
}

/// What the users of other VMMs type.
#[test]
fn flags_of_other_vmms() {
    let place = Place::new();
    for (flag, value, remedy) in [
        ("--net", "tap=,mac=", "no network device"),
        ("--firmware", "CLOUDHV.fd", "--kernel"),
        ("--api-sock", "/tmp/socket", "--api-socket PATH"),
        ("--no-api", "", "command line"),
        ("-m", "512", "--memory size="),
        ("-smp", "2", "--cpus boot="),
        ("-append", "quiet", "--cmdline"),
        ("-drive", "file=a.img", "--disk path="),
    ] {
        place.refuses(&[flag, value], USAGE, &[flag, remedy]);
    }
    place.refuses(&["--memory", "512M"], USAGE, &["--memory 512M", "give size=512M"]);
    place.refuses(&["--cpus=2"], USAGE, &["--cpus 2", "give boot=2"]);
    place.refuses(&["--cpus", "boot=1,boot=1"], USAGE, &["--cpus", "`boot` is given twice"]);
}

#[test]
fn values_joined_to_their_flags() {
    let place = Place::new();
    let mut command = brisk();
    command.current_dir(place.0.path("")).args(["--kernel=kernel", "--memory=size=16M"]);
    run(command.args(["--cmdline=a=b c", "--cmdline-exact"])).silent().with_status(0);
    place.refuses(&["--cmdline-exact=on"], USAGE, &["--cmdline-exact takes no value"]);
}

/// A path with a comma, a quote, and a byte that is no UTF-8: all that is read is opened as given.
#[test]
fn paths_of_any_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let file = |name: &[u8], content: &[u8]| {
        std::fs::write(place.0.path("").join(OsStr::from_bytes(name)), content).expect("a file");
    };
    file(b"k\xff,\"k", &Elf::new(OFF, &[]).file());
    file(b"i\xfe", &[0; 512]);
    file(b"a,\"b\xff", &[0; 2 << 20]);
    file(b"c", &[0; 2 << 20]);
    for (flag, key, _) in IMAGES.iter() {
        let mut command = brisk();
        command.current_dir(place.0.path("")).args(["--memory", "size=16M"]);
        command.arg("--kernel").arg(OsStr::from_bytes(b"k\xff,\"k"));
        command.arg("--initramfs").arg(OsStr::from_bytes(b"i\xfe"));
        let image = [key.as_bytes(), b"=\"a,\"\"b\xff\""].concat();
        command.arg(flag).arg(OsStr::from_bytes(&image)).arg(format!("{key}=c"));
        run(&mut command).silent().with_status(0);
    }
    for (flag, value) in OUTPUTS.iter() {
        let mut command = place.command(&[flag]);
        command.arg(OsStr::from_bytes(&[value.replace("PATH", "o").as_bytes(), b"\xff"].concat()));
        run(&mut command).silent().with_status(0);
        let made = place.0.path("").join(OsStr::from_bytes(b"o\xff"));
        std::fs::remove_file(made).expect("the file by its own name");
    }
    // What is not there is named as given.
    let mut command = place.command(&["--initramfs"]);
    let output = command.arg(OsStr::from_bytes(b"x\xff")).output().expect("brisk");
    assert!(output.stderr.starts_with(b"brisk: --initramfs x\xff: No such file"), "{output:?}");
}

#[test]
fn help_and_version_are_no_errors() {
    for flag in ["--help", "--version", "-h", "-V"] {
        let ended = run(brisk().arg(flag)).silent().with_status(0);
        assert!(ended.stdout.contains("brisk"), "{ended:?}");
    }
}

#[test]
fn output_that_cannot_be_written() {
    let place = Place::new();
    for (flag, value) in OUTPUTS.iter() {
        for (path, why) in [("missing/file", "No such file"), (".", "directory")] {
            let parts = [*flag, path, why];
            place.refuses(&[flag, &value.replace("PATH", path)], FAILED, &parts);
        }
        let mut command = place.command(&[flag, &value.replace("PATH", "kept")]);
        let kept = place.0.file("kept", "kept");
        std::fs::set_permissions(&kept, PermissionsExt::from_mode(0o400)).expect("chmod");
        sandbox::obey_permissions(&mut command);
        place.command_refuses(&mut command, FAILED, &[flag, "kept", "Permission denied"]);
        assert_eq!(place.0.text("kept"), "kept");
        std::fs::remove_file(kept).expect("the file");
    }
}

#[test]
fn a_vm_that_never_was_leaves_no_files() {
    let place = Place::new();
    place.0.file("large", vec![0; 16 << 20]);
    for (flag, value) in OUTPUTS.iter() {
        let value = value.replace("PATH", "out");
        place.refuses(&[flag, &value, "--initramfs", "missing"], FAILED, &["--initramfs missing"]);
        place.refuses(&[flag, &value, "--initramfs", "large"], FAILED, &["--initramfs large"]);
    }
}

#[test]
fn one_terminal_for_two_devices() {
    if lacks(&["serial", "console"]) {
        return;
    }
    let parts = ["--serial tty --console tty", "off, null or file=PATH"];
    Place::new().refuses(&["--serial", "tty", "--console", "tty"], USAGE, &parts);
    let place = Place::new();
    place.refuses(&["--serial", "screen"], USAGE, &["--serial screen", "file=PATH"]);
    place.refuses(&["--console", "file="], USAGE, &["--console file=", "file=PATH"]);
}

#[test]
fn no_kvm() {
    let place = Place::new();
    let mut command = place.command(&[]);
    sandbox::without_kvm(&mut command);
    place.command_refuses(&mut command, FAILED, &["/dev/kvm", "not there", "kvm-intel or kvm-amd"]);
}

#[test]
fn no_permission_on_kvm() {
    let place = Place::new();
    let mut command = place.command(&[]);
    sandbox::with_forbidden_kvm(&mut command);
    place.command_refuses(
        &mut command,
        FAILED,
        &["/dev/kvm", "permission denied", "usermod -aG kvm"],
    );
}

/// Flags of features, and the features' names.
const FLAGS: &[(&str, &[&str])] = &[
    ("serial", &["--serial", "tty"]),
    ("console", &["--console", "tty"]),
    ("block", &["--disk", "path=kernel"]),
    ("pmem", &["--pmem", "file=kernel"]),
    ("hugepages", &["--memory", "size=16M,hugepages=on"]),
    ("thp", &["--memory", "size=16M,thp=on"]),
    ("io-uring", &["--disk", "path=kernel,engine=io_uring"]),
    ("pci", &["--transport", "pci"]),
    ("logging", &["--log-level", "debug"]),
    ("smp", &["--cpus", "boot=2"]),
    ("boot-timer", &["--boot-log", "log"]),
    ("exit-stats", &["--stats", "stats"]),
    ("trace", &["--trace", "trace"]),
    ("snapshot", &["--snapshot", "path=snapshot,at=1"]),
    ("notify", &["--notify", "1"]),
    ("api", &["--api-socket", "/nowhere/socket"]),
];

#[test]
fn flags_of_features_that_are_off() {
    let place = Place::new();
    for (feature, flags) in FLAGS {
        // Without disks at all that is what is said.
        let off = !has(feature) && (*feature != "io-uring" || has("block"));
        let parts = [flags[0], "built without the feature", &format!("`{feature}`")];
        if off {
            place.refuses(flags, USAGE, &parts);
        }
    }
    // What switches off a device that was never there asks for nothing.
    run(&mut place.command(&["--serial", "null", "--console", "off"])).silent().with_status(0);
    if !has("bzimage") {
        let mut file = vec![0; 4096];
        file[0x1f1] = 1;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        Place::with(&file).refuses(&[], USAGE, &["--kernel kernel", "bzImage", "`bzimage`"]);
    }
}
