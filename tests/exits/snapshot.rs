//! Snapshots of guests of a few instructions: where they go on, and what is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use super::common::kernel::Code;
use super::common::{Ended, Scratch, brisk, codes, run};
use super::{Lab, guests};

/// A guest that writes 0x11, 0x22 and 0x33 to port 0x80, saved after the first.
struct Saved {
    lab: Lab,
    dir: PathBuf,
}

impl Saved {
    #[track_caller]
    fn new() -> Saved {
        let saved = Saved::after(guests::TO_TIMER, "at=0x11");
        assert_eq!(saved.lab.codes(), [0x11]);
        saved
    }

    #[track_caller]
    fn after(guest: Code, when: &str) -> Saved {
        let lab = Lab::new(guest);
        let dir = lab.scratch.path("snapshot");
        let flag = format!("path={},{when}", dir.display());
        lab.run(&["--snapshot", &flag]).silent().with_status(0);
        Saved { lab, dir }
    }

    fn restore(&self) -> Command {
        let mut command = brisk();
        command.arg("--restore").arg(&self.dir);
        command.arg("--boot-log").arg(self.lab.scratch.path("again"));
        command
    }

    fn codes(&self) -> Vec<u8> {
        codes(self.lab.scratch.path("again"))
    }

    /// Restoring fails with a line that has all of `parts`, and nothing runs.
    #[track_caller]
    fn is_refused(&self, parts: &[&str]) -> Ended {
        let ended = run(&mut self.restore()).with_status(1);
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {ended:#?}");
        }
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:#?}");
        ended
    }
}

/// What is beside the snapshot that should not be.
fn partial(scratch: &Scratch) -> Vec<String> {
    scratch.names().into_iter().filter(|name| name.contains("partial")).collect()
}

#[test]
fn a_guest_goes_on_behind_its_code_as_often_as_one_likes() {
    let saved = Saved::new();
    for _ in 0..3 {
        run(&mut saved.restore()).silent().with_status(0);
        assert_eq!(saved.codes(), [0x22, 0x33]);
    }
    // The flag as Cloud Hypervisor has it.
    let mut command = brisk();
    command.arg("--restore").arg(format!("source_url=file://{}", saved.dir.display()));
    command.arg("--boot-log").arg(saved.lab.scratch.path("again"));
    run(&mut command).silent().with_status(0);
    assert_eq!(saved.codes(), [0x22, 0x33]);
    // What a guest's memory is in is its user's alone, and holes are holes.
    for name in ["state", "memory"] {
        let meta = fs::metadata(saved.dir.join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
        assert!(meta.blocks() * 512 < 1 << 20, "{name}: {} blocks", meta.blocks());
    }
}

#[test]
fn a_guest_can_run_on_after_it_was_saved() {
    let saved = Saved::after(guests::TO_TIMER, "at=17,then=go-on");
    assert_eq!(saved.lab.codes(), [0x11, 0x22, 0x33]);
    run(&mut saved.restore()).silent().with_status(0);
    assert_eq!(saved.codes(), [0x22, 0x33]);
}

#[test]
fn the_first_time_counts() {
    let saved = Saved::after(guests::AGAIN, "at=0x11,then=go-on");
    assert_eq!(saved.lab.codes(), [0x11, 0x11, 0x11, 0x22]);
    run(&mut saved.restore()).silent().with_status(0);
    assert_eq!(saved.codes(), [0x11, 0x11, 0x22]);
}

#[test]
fn a_snapshot_of_a_restored_guest() {
    // The page that is read last is not touched in between: it is in the first snapshot only.
    let saved = Saved::after(guests::REMEMBER, "at=0x11");
    let second = saved.lab.scratch.path("second");
    let flag = format!("path={},at=0x22", second.display());
    run(saved.restore().args(["--snapshot", &flag])).silent().with_status(0);
    assert_eq!(saved.codes(), [0x22]);
    let again = Saved { lab: Lab::new(guests::TO_TIMER), dir: second };
    run(&mut again.restore()).silent().with_status(0);
    assert_eq!(again.codes(), [0x77]);
}

#[test]
fn every_length_and_flipped_bits_of_a_state_are_refused() {
    let saved = Saved::new();
    let file = saved.dir.join("state");
    let state = fs::read(&file).unwrap();
    for len in [0, 1, 7, 8, 23, 24, 100, state.len() / 2, state.len() - 1] {
        fs::write(&file, &state[..len]).unwrap();
        saved.is_refused(&["--restore", "cut"]);
    }
    for at in [24, 40, state.len() / 2, state.len() - 1] {
        let mut changed = state.clone();
        changed[at] ^= 0x10;
        fs::write(&file, &changed).unwrap();
        saved.is_refused(&["--restore", "checksum"]);
    }
    for (at, what) in [(0, "not a snapshot"), (8, "version")] {
        let mut changed = state.clone();
        changed[at] ^= 0x10;
        fs::write(&file, &changed).unwrap();
        saved.is_refused(&["--restore", what]);
    }
    fs::write(&file, &state).unwrap();
    run(&mut saved.restore()).silent().with_status(0);
}

#[test]
fn memory_that_is_cut_or_gone_is_refused() {
    let saved = Saved::new();
    let memory = saved.dir.join("memory");
    let len = fs::metadata(&memory).unwrap().len();
    fs::File::options().write(true).open(&memory).unwrap().set_len(len - 4096).unwrap();
    saved.is_refused(&["--restore", "memory", "take the snapshot anew"]);
    fs::remove_file(&memory).unwrap();
    saved.is_refused(&["--restore", "memory", "No such file"]);
}

#[test]
fn what_the_machine_is_cannot_be_another() {
    let saved = Saved::new();
    for flag in [["--memory", "size=32M"], ["--cpus", "boot=1"], ["--kernel", "/dev/null"]] {
        let ended = run(saved.restore().args(flag)).with_status(2);
        assert!(ended.stderr.contains(flag[0]), "{ended:#?}");
    }
}

#[test]
fn nothing_stays_of_a_snapshot_that_is_not_taken() {
    let lab = Lab::new(guests::TO_TIMER);
    let dir = lab.scratch.path("snapshot");
    // The guest never writes this.
    let flag = format!("path={},at=0x99", dir.display());
    lab.run(&["--snapshot", &flag]).silent().with_status(0);
    super::wait_for("the half of a snapshot to go", || partial(&lab.scratch).is_empty());
    assert!(!dir.exists());
}

#[test]
fn what_is_there_already_stays() {
    let saved = Saved::new();
    let state = fs::read(saved.dir.join("state")).unwrap();
    let flag = format!("path={},at=0x11", saved.dir.display());
    let ended = saved.lab.run(&["--snapshot", &flag]).with_status(1);
    assert!(ended.stderr.contains("is there already"), "{ended:#?}");
    assert_eq!(fs::read(saved.dir.join("state")).unwrap(), state);
    assert_eq!(partial(&saved.lab.scratch), [""; 0]);
}

#[test]
fn no_room_for_a_snapshot_is_an_error_and_leaves_nothing() {
    let lab = Lab::new(guests::TO_TIMER);
    let dir = lab.scratch.path("snapshot");
    let flag = format!("path={},at=0x11", dir.display());
    let mut command = Command::new("prlimit");
    command.arg("--fsize=1048576");
    let brisk = lab.command(&["--snapshot", &flag]);
    command.arg(brisk.get_program()).args(brisk.get_args());
    let ended = run(&mut command).with_status(1);
    assert!(ended.stderr.contains("--snapshot"), "{ended:#?}");
    super::wait_for("the half of a snapshot to go", || partial(&lab.scratch).is_empty());
    assert!(!dir.exists());
}

#[test]
fn wrong_values_say_so() {
    for (value, part) in [
        ("path=x", "at=CODE"),
        ("at=0x60", "path=DIR"),
        ("path=x,at=256", "a byte"),
        ("path=x,at=0x60,then=stop", "exit or go-on"),
        ("path=x,at=0x60,to=y", "unknown key"),
    ] {
        let ended = run(brisk().args(["--kernel", "/dev/null", "--snapshot", value]));
        let ended = ended.with_status(2);
        assert!(ended.stderr.contains(part), "{value}: {ended:#?}");
    }
}
