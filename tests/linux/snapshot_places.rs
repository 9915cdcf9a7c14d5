//! A Linux that is saved where the kernel has no write and its pages are huge, or may be; and what it wrote
//! to an image that is not to change.

use std::fs;
use std::path::Path;

use super::Guest;
use super::common::state::part;
use super::common::{brisk, key, run};
use super::loops::sh;
use super::memory::Pool;
use super::snapshot::{ID, READY, nonce, restore};

/// The first page that a guest wrote to its pmem, the only device: where it is there, and how it begins.
#[track_caller]
fn first_private(dir: &Path) -> (u64, Vec<u8>) {
    const PRIVATE_PAGES: u32 = 39;
    let state = fs::read(dir.join("state")).expect("a state");
    let list = &state[part(&state, PRIVATE_PAGES, 0)];
    let word = |at: usize| u64::from_le_bytes(list[at..at + 8].try_into().expect("a word"));
    let at = word(0) as usize;
    let memory = fs::read(dir.join("memory")).expect("a memory");
    (word(8), memory[at..at + 3].to_vec())
}

/// On a file system of either kind: saved, recorded, restored, and saved again; each time with what it has
/// written to its pmem, and the image has nothing of it.
#[test]
fn huge_files() {
    let _pool = Pool::of(80);
    for options in ["-t tmpfs -o huge=always", "-t hugetlbfs -o pagesize=2M"] {
        let mut guest = Guest::doing(&format!(
            "{ID},write=/dev/pmem0:one,say=before,{READY},{ID},touch=4,out=80:a1,say=after"
        ));
        guest.memory = "size=64M";
        let image = guest.scratch.file("image", vec![0; 2 << 20]);
        let pmem = key("file", &image) + ",discard_writes=on";
        let guest = guest.with(&["--pmem", &pmem]);
        let mount = guest.scratch.path("huge");
        fs::create_dir(&mount).expect("a directory");
        sh(&format!("mount {options} none {}", mount.display()));
        let [first, second] = ["first", "second"].map(|name| mount.join(name));

        let flag = format!("path={},at=0xa0", first.display());
        run(guest.command().args(["--snapshot", &flag])).silent().with_status(0);
        assert!(guest.output().contains("brisk-init: written"), "{}", guest.output());
        let id = nonce(&guest.output());
        assert_eq!(first_private(&first), (0, b"one".to_vec()), "{options}");
        let dir = first.to_str().expect("UTF-8");
        let record = format!("source_url=file://{dir},record=0xa1");
        for from in [dir, &record, dir] {
            let text = restore(&guest, from, "--serial", &[]);
            assert_eq!(nonce(&text), id, "{options}: not the same guest");
        }
        assert!(first.join("working-set").exists(), "{options}");

        let flag = format!("path={},at=0xa1", second.display());
        let mut command = brisk();
        command.args(["--restore", dir, "--serial", "null", "--snapshot", &flag]);
        run(&mut command).silent().with_status(0);
        assert_eq!(first_private(&second), (0, b"one".to_vec()), "{options}: lost by the clone");
        assert!(fs::read(&image).expect("the image").iter().all(|&byte| byte == 0));
        sh(&format!("umount {}", mount.display()));
    }
}
