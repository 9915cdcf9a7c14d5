//! Images that cannot be used.

use std::os::unix::fs::PermissionsExt;

use super::common::{key, lacks, run};
use super::place::{FAILED, IMAGES, Place, USAGE};
use super::sandbox;

#[test]
fn images() {
    let place = Place::new();
    place.0.file("empty", "");
    std::fs::create_dir(place.0.path("directory")).expect("a directory");
    for (flag, file, _) in IMAGES.iter() {
        let refuses = |name: &str, part: &str| {
            place.refuses(&[flag, &key(file, name)], FAILED, &[flag, name, part]);
        };
        refuses("missing", "No such file");
        refuses("empty", "is empty");
        refuses("directory", "is a directory");
        refuses("/dev/null", "not a file or block device");
        place.refuses(&[flag, &key(file, "")], USAGE, &[flag, file]);
        place.refuses(&[flag, "color=red"], USAGE, &[flag, "`color`", file]);
    }
}

/// What the guest would see rubbish of, and ruin.
#[test]
fn images_that_are_not_raw() {
    let place = Place::new();
    for (offset, magic, name) in
        [(0, &b"QFI\xfb"[..], "qcow2"), (0, b"vhdxfile", "vhdx"), (0, b"KDMV", "vmdk")]
    {
        let mut image = vec![0; 2 << 20];
        image[offset..offset + magic.len()].copy_from_slice(magic);
        place.0.file("image", &image);
        for (flag, file, _) in IMAGES.iter() {
            let parts = [*flag, "image", name, "qemu-img convert -O raw image"];
            place.refuses(&[flag, &key(file, "image")], FAILED, &parts);
        }
        assert_eq!(std::fs::read(place.0.path("image")).expect("the image"), image);
    }
}

/// What the guest would write behind the image's end no flush could keep.
#[test]
fn a_pmem_with_a_tail() {
    if lacks(&["pmem"]) {
        return;
    }
    let place = Place::new();
    let image = place.0.file("image", vec![0; 1_052_672]);
    let parts = ["--pmem image", "1052672 bytes", "would be lost", "truncate -s %2M image"];
    place.refuses(
        &["--pmem", "file=image"],
        FAILED,
        &[&parts[..], &["discard_writes=on"]].concat(),
    );
    // Both mends are some: what is not kept anyway, and the command that it names.
    run(&mut place.command(&["--pmem", "file=image,discard_writes=on"])).silent().with_status(0);
    let mut mend = std::process::Command::new("truncate");
    mend.args(["-s", "%2M", "image"]).current_dir(place.0.path(""));
    assert!(mend.status().expect("truncate(1)").success());
    assert_eq!(std::fs::metadata(image).expect("the image").len(), 2 << 20);
    run(&mut place.command(&["--pmem", "file=image"])).silent().with_status(0);
}

/// 64 bytes of RAM for each page that is mapped.
#[test]
fn a_pmem_that_needs_more_ram_than_there_is() {
    if lacks(&["pmem", "logging"]) {
        return;
    }
    let place = Place::new();
    let image = std::fs::File::create(place.0.path("image")).expect("a file");
    for (size, warns) in [(256 << 20, false), (2 << 30, true), (64 << 30, true)] {
        image.set_len(size).expect("a sparse file");
        let ended = run(&mut place.command(&["--pmem", "file=image"])).with_status(0);
        assert_eq!(ended.stderr.contains("page structures"), warns, "{size}: {ended:?}");
        let needs = format!("{} MiB of its 16 MiB", size >> 26);
        assert!(!warns || ended.stderr.contains(&needs), "{ended:?}");
    }
}

#[test]
fn images_that_may_not_be_written() {
    let place = Place::new();
    let image = place.0.file("image", vec![0; 2 << 20]);
    for (flag, file, mend) in IMAGES.iter() {
        for (mode, why) in [(0o444, *mend), (0o000, "Permission denied")] {
            std::fs::set_permissions(&image, PermissionsExt::from_mode(mode)).expect("chmod");
            let mut command = place.command(&[flag, &key(file, "image")]);
            sandbox::obey_permissions(&mut command);
            place.command_refuses(&mut command, FAILED, &[flag, "image", "Permission denied", why]);
        }
        // The mend that it names is one.
        std::fs::set_permissions(&image, PermissionsExt::from_mode(0o444)).expect("chmod");
        let mut command = place.command(&[flag, &format!("{file}=image,{mend}")]);
        sandbox::obey_permissions(&mut command);
        run(&mut command).silent().with_status(0);
    }
}

#[test]
fn one_image_for_two_devices() {
    let place = Place::new();
    place.0.file("image", vec![0; 2 << 20]);
    for (flag, file, mend) in IMAGES.iter() {
        for (other, other_file, other_mend) in IMAGES.iter() {
            let (writes, other_writes) = (key(file, "image"), key(other_file, "image"));
            let (reads, other_reads) =
                (format!("{writes},{mend}"), format!("{other_writes},{other_mend}"));
            let refuses = |one: &str, two: &str, part| {
                place.refuses(&[flag, one, other, two], FAILED, &["image", part]);
            };
            refuses(&writes, &other_writes, "in use by another disk");
            // Which of the two is named depends on which is opened first.
            refuses(&writes, &other_reads, "another disk");
            run(&mut place.command(&[flag, &reads, other, &other_reads])).silent().with_status(0);
        }
    }
}

#[test]
fn a_disk_of_half_a_sector() {
    if lacks(&["block"]) {
        return;
    }
    let place = Place::new();
    place.0.file("image", vec![0; 1000]);
    let parts = ["--disk image", "1000", "multiple of 512", "truncate"];
    place.refuses(&["--disk", "path=image"], FAILED, &parts);
}

#[test]
fn a_disk_of_no_engine() {
    if lacks(&["block"]) {
        return;
    }
    let place = Place::new();
    place.0.file("image", vec![0; 512]);
    place.refuses(&["--disk", "path=image,engine=steam"], USAGE, &["--disk", "steam", "io_uring"]);
}

#[test]
fn more_devices_than_slots() {
    if lacks(&["block"]) {
        return;
    }
    let place = Place::new();
    place.0.file("image", vec![0; 512]);
    let more = ["--disk", "path=image,readonly=on"].repeat(100);
    place.refuses(&more, USAGE, &["--disk", "room for"]);
}
