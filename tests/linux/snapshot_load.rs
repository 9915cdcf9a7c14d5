//! A Linux that is saved in the middle of its work.

use std::fs;
use std::path::{Path, PathBuf};

use super::Guest;
use super::common::{Scratch, brisk, key, run};
use super::loops::{Loop, sh};
use super::snapshot::{ID, READY, nonce, restore, save, uptime};

/// Two disks with an ext4 each, a device's flag and the key of its path.
const DISKS: [(&str, &str); 2] = [("--disk", "path"), ("--pmem", "file")];

/// Makes them in `scratch`.
fn file_systems(scratch: &Scratch) -> [PathBuf; 2] {
    DISKS.map(|(flag, _)| {
        let image = scratch.file(&flag[2..], "");
        sh(&format!("truncate -s 24M {0} && mkfs.ext4 -q -b 4096 {0}", image.display()));
        image
    })
}

fn flags(images: &[PathBuf; 2]) -> Vec<String> {
    let flags = DISKS.iter().zip(images);
    flags.flat_map(|((flag, key_), image)| [(*flag).to_owned(), key(key_, image)]).collect()
}

/// fsck finds nothing, and each file has the bytes of one round of `load`.
#[track_caller]
fn is_whole(scratch: &Scratch, image: &Path) {
    sh(&format!("e2fsck -fn {}", image.display()));
    let device = Loop::new(image, "--read-only");
    let at = scratch.path("mounted");
    let _ = fs::create_dir(&at);
    sh(&format!("mount -t ext4 -o ro {} {}", device.0.display(), at.display()));
    let files: Vec<Vec<u8>> =
        ('a'..='h').map(|name| fs::read(at.join(name.to_string()))).flatten().collect();
    sh(&format!("umount {}", at.display()));
    assert!(files.iter().filter(|file| file.len() == 65536).count() >= 7, "{} files", files.len());
    assert!(files.iter().all(|file| file.iter().all(|byte| *byte == file[0])), "a torn file");
}

/// One by requests, one by its mapping, both in the middle of everything.
#[test]
fn ext4_is_whole_in_each_clone() {
    let doing = format!(
        "mount=/dev/vda:/a,mount=/dev/pmem0:/b,load=/a,load=/b,say=before,touch=16,{READY},touch=16,\
         stop=/a,stop=/b,say=after"
    );
    let scratch = Scratch::new();
    let images = file_systems(&scratch);
    let words = flags(&images);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let guest = Guest::doing(&doing).with(&words);
    let dir = save(&guest);
    assert!(!guest.output().contains("not mounted"), "{}", guest.output());
    let copies = ["copy-0", "copy-1"].map(|name| scratch.path(name));
    for (from, to) in images.iter().zip(&copies) {
        fs::copy(from, to).expect("a copy");
    }
    let ends_well = |from: &str, more: &[&str], images: &[PathBuf; 2]| {
        let text = restore(&guest, from, "--serial", more);
        for wrong in ["load: cannot", "not unmounted", "EXT4-fs error", "I/O error"] {
            assert!(!text.contains(wrong), "{text}");
        }
        images.iter().for_each(|image| is_whole(&scratch, image));
    };
    // With the images as they are, and another clone with others that are what those were.
    ends_well(&dir, &[], &images);
    let words = flags(&copies);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    ends_well(&format!("source_url=file://{dir},images=any"), &words, &copies);
}

/// Each of the one before, with two CPUs, under load: the same guest, whose time never runs backwards.
#[cfg(feature = "smp")]
#[test]
fn snapshots_of_snapshots() {
    const ROUNDS: usize = 8;
    let scratch = Scratch::new();
    let images = file_systems(&scratch);
    let words = flags(&images);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut doing = format!(
        "mount=/dev/vda:/a,mount=/dev/pmem0:/b,load=/a,load=/b,{ID},cat=/proc/uptime,say=before,{READY}"
    );
    for code in 1..=ROUNDS {
        doing += &format!(",{ID},cat=/proc/uptime,touch=1,drain,out=80:{:x}", 0xa0 + code);
    }
    doing += &format!(",{ID},stop=/a,stop=/b,say=after");
    let guest = Guest::doing(&doing).with(&words).with(&["--cpus", "boot=2"]);
    let mut dir = save(&guest);
    let (id, mut time) = (nonce(&guest.output()), uptime(&guest.output()));
    for code in 1..=ROUNDS {
        let next = guest.scratch.path(&format!("snapshot-{code}"));
        let flag = format!("path={},at={}", next.display(), 0xa0 + code);
        let mut command = brisk();
        command.args(["--restore", &dir, "--snapshot", &flag, "--serial"]);
        command.arg(key("file", guest.scratch.path("between")));
        run(&mut command).silent().with_status(0);
        let text = guest.scratch.text("between");
        assert_eq!(nonce(&text), id, "not the same guest");
        assert!(uptime(&text) >= time, "{time} s, then {text}");
        time = uptime(&text);
        fs::remove_dir_all(&dir).expect("a snapshot");
        dir = next.to_str().expect("UTF-8").to_owned();
    }
    assert_eq!(nonce(&restore(&guest, &dir, "--serial", &[])), id, "not the same guest");
    images.iter().for_each(|image| is_whole(&scratch, image));
}

/// A file system that is full: the guest runs on, and its blocks are there again.
#[test]
fn no_room() {
    let guest = Guest::doing(&format!("touch=8,say=before,{READY},touch=8,say=after"));
    let small = guest.scratch.path("small");
    fs::create_dir(&small).expect("a directory");
    sh(&format!("mount -t tmpfs -o size=4M none {}", small.display()));
    let flag = format!("path={}/snapshot,at=0xa0,then=go-on", small.display());
    let ended = run(guest.command().args(["--snapshot", &flag])).with_status(0);
    let text = guest.output();
    let left = sh(&format!("ls {0}; df --output=used {0} | tail -1; umount {0}", small.display()));
    assert!(ended.stderr.contains("No space left on device"), "{ended:#?}");
    assert!(ended.stderr.contains("the guest runs on"), "{ended:#?}");
    assert!(text.contains("brisk-init: after"), "{text}");
    assert_eq!(left.trim(), "0");
}
