//! Snapshots of guests with devices: what a clone has of them, and what is refused.

use std::fs;
use std::fs::File;
use std::process::Command;

use super::common::{Running, brisk, codes, key, run, wait_for};
use super::devices::{BYTES, SIZE, STATUS, lab, pattern, request};
use super::script::Do::*;
use super::script::{AREAS, Memory, RAM_END, Script, WINDOWS, offer, start};
use super::snapshot::Saved;
use super::{Lab, guests};

/// A snapshot has the devices: what was negotiated, where each queue is, the IOAPIC, the UART, and what the
/// guest wrote to an image that is mapped privately. A disk that is another one is refused.
#[test]
#[cfg(all(feature = "pmem", feature = "console"))]
fn a_clone_has_the_devices() {
    for more in ["", ",engine=io_uring", ",engine=io_uring,direct=on"] {
        let mut script = Script::default();
        let mut memory = Memory::default();
        script.unmask(2);
        request(&mut memory, 0, 0, 3);
        request(&mut memory, 1, 0, 5);
        request(&mut memory, 2, 0, 7);
        start(&mut script, 0, AREAS, SIZE);
        // Scratch register, and a masked entry.
        script.add(Out8, 0x3ff, 0x5a).add(Write32, 0xfec0_0000, 0x10);
        offer(&mut script, 0, 0, 1);
        script.until_used(0, 1);
        offer(&mut script, 0, 0, 2);
        script.add(Out8, 0x80, 0x11);
        script.until_used(0, 2);
        script.add(InBytes, 0x3ff, 1).add(Show, 0x40_0000, 1).add(Show, 0xfec0_0010, 1);
        script.add(Show, WINDOWS + 0x70, 1).add(Write32, WINDOWS + 0x64, 1);
        offer(&mut script, 0, 0, 3);
        script.until_used(0, 3);
        script.add(Show, STATUS, 3).add(Show, BYTES, 3 * 512).add(Out8, 0x80, 0x22);
        let lab = lab(&script, memory);
        let image = pattern(64 << 10, 1);
        let path = lab.scratch.file("disk", &image);
        let dir = lab.scratch.path("snapshot");
        let disk = key("path", &path) + more;
        let snapshot = format!("path={},at=0x11", dir.display());
        let pmem = lab.scratch.file("pmem", vec![0; 2 << 20]);
        let pmem = key("file", pmem) + ",discard_writes=on";
        let all = ["--disk", &disk, "--pmem", &pmem, "--rng", "src=/dev/urandom"];
        lab.run(&[&all[..], &["--snapshot", &snapshot]].concat()).silent().with_status(0);
        let restore = |more: &str| {
            let mut command: Command = brisk();
            command.arg("--restore").arg(format!("source_url=file://{}{more}", dir.display()));
            command.arg("--boot-log").arg(lab.scratch.path("again"));
            run(&mut command)
        };
        let data: Vec<u8> =
            [3, 5, 7].iter().flat_map(|sector| image[sector * 512..][..512].to_vec()).collect();
        let expected = [&[0x5a, 0x31, 15, 0, 0, 0][..], &data].concat();
        for _ in 0..2 {
            restore("").silent().with_status(0);
            assert_eq!(codes(lab.scratch.path("again")), [0x22]);
            assert!(fs::read(lab.scratch.path("serial")).unwrap() == expected, "{more}");
        }
        // What the guest wrote is in the snapshot: an image without that is not its to write to.
        let mut command: Command = brisk();
        command.arg("--restore").arg(&dir).arg("--pmem").arg(pmem.replace("=on", "=off"));
        let ended = run(&mut command).with_status(1);
        assert!(ended.stderr.contains("discard_writes of virtio device"), "{ended:?}");
        // The same bytes, written anew.
        fs::write(&path, &image).unwrap();
        let ended = restore("").with_status(1);
        assert!(ended.stderr.contains("is not what it was"), "{ended:?}");
        assert!(ended.stderr.contains("any of its length"), "{ended:?}");
        restore(",images=any").silent().with_status(0);
        assert!(fs::read(lab.scratch.path("serial")).unwrap() == expected, "{more}");
        // Of another length none will do.
        fs::write(&path, [&image[..], &[0; 512]].concat()).unwrap();
        let ended = restore(",images=any").with_status(1);
        assert!(ended.stderr.contains("has not the length that it had"), "{ended:?}");
        assert!(ended.stderr.ends_with("; give that one\n"), "{ended:?}");
    }
}

/// A clone has as many devices as its original had: it would wait for one that is not there.
#[test]
fn a_clone_has_all_devices_and_no_others() {
    let mut script = Script::default();
    script.add(Out8, 0x80, 0x11).add(Out8, 0x80, 0x22);
    let lab = lab(&script, Memory::default());
    let disks = ["a", "b"].map(|name| key("path", lab.scratch.file(name, pattern(512, 1))));
    let dir = lab.scratch.path("snapshot");
    let snapshot = format!("path={},at=0x11", dir.display());
    lab.run(&["--disk", &disks[0], &disks[1], "--snapshot", &snapshot]).silent().with_status(0);
    let restore = |disks: &[String]| {
        let mut command: Command = brisk();
        command.arg("--restore").arg(&dir).arg("--disk").args(disks);
        run(&mut command)
    };
    restore(&disks).silent().with_status(0);
    let one_more = [&disks[..], &[key("path", lab.scratch.file("c", pattern(512, 1)))]].concat();
    for (disks, here) in [(&disks[..1], "1 are given"), (&one_more[..], "3 are given")] {
        let ended = restore(disks).with_status(1);
        assert!(ended.stderr.contains("with 2 virtio devices"), "{ended:?}");
        assert!(ended.stderr.contains(here), "{ended:?}");
    }
}

/// Of two clones one may write to a disk, which the other's start does not touch.
#[test]
fn a_disk_that_another_clone_has_is_refused() {
    let lab = Lab::new(super::guests::saved::CODE_AND_ECHO);
    let disk = lab.scratch.file("disk", pattern(512, 1));
    let dir = lab.scratch.path("snapshot");
    let snapshot = format!("path={},at=0x11", dir.display());
    lab.run(&["--disk", &key("path", &disk), "--snapshot", &snapshot]).silent().with_status(0);
    let restore = || {
        let mut command: Command = brisk();
        command.arg("--restore").arg(&dir).args(["--serial", "null"]);
        command
    };
    let mut first = Running::start(&mut restore());
    let id = first.id();
    wait_for("a vCPU, which comes behind the disk", || {
        let mut all = fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
        all.any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains("kvm-vcpu"))
        })
    });
    let ended = run(&mut restore()).with_status(1);
    assert!(ended.stderr.contains("--disk") && ended.stderr.contains("in use by"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(first.runs());
    first.signal(libc::SIGTERM);
    first.end().silent().with_status(0);
}

/// What a guest wrote to an image that is not to change is behind its memory, in the same file.
#[test]
#[cfg(feature = "pmem")]
fn private_pages_that_are_cut_are_refused() {
    let lab = Lab::linux64(guests::saved::PRIVATE);
    let pmem = key("file", lab.scratch.file("pmem", vec![0; 2 << 20])) + ",discard_writes=on";
    let dir = lab.scratch.path("snapshot");
    let flag = format!("path={},at=0x11", dir.display());
    lab.run(&["--pmem", &pmem, "--snapshot", &flag]).silent().with_status(0);
    let saved = Saved { lab, dir };
    run(&mut saved.restore()).silent().with_status(0);
    assert_eq!(saved.codes(), [0x77]);
    let memory = File::options().write(true).open(saved.dir.join("memory")).unwrap();
    // The page is the first behind the guest's memory: what is cut is it, in its middle, and all of it.
    for left in [2048, 0] {
        memory.set_len(u64::from(RAM_END) + left).unwrap();
        let ended = saved.is_refused(&["--restore"]);
        assert!(ended.stderr.ends_with("; take the snapshot anew\n"), "{ended:#?}");
    }
}
