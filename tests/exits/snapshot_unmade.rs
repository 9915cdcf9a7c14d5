//! What becomes of a snapshot that cannot be made: refused before the guest runs, or nothing stays of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use super::common::{Running, brisk, run, wait_for};
use super::snapshot::{Saved, partial};
use super::{Lab, guests};

#[test]
fn nothing_stays_of_a_snapshot_that_is_not_taken() {
    let lab = Lab::new(guests::TO_TIMER);
    let dir = lab.scratch.path("snapshot");
    // The guest never writes this.
    let flag = format!("path={},at=0x99", dir.display());
    lab.run(&["--snapshot", &flag]).silent().with_status(0);
    wait_for("the half of a snapshot to go", || partial(&lab.scratch).is_empty());
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
fn a_mount_point_is_refused_before_the_guest_has_run() {
    let lab = Lab::new(guests::TO_TIMER);
    let dir = lab.scratch.path("mounted");
    fs::create_dir(&dir).unwrap();
    let brisk = lab.command(&["--snapshot", &format!("path={},at=0x11", dir.display())]);
    let mut command = Command::new("unshare");
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "sh", "-c", "mount -t tmpfs tmpfs $0 && exec \"$@\""]).arg(&dir);
    let ended = run(command.arg(brisk.get_program()).args(brisk.get_args())).with_status(1);
    assert!(ended.stderr.contains("mounted: is a mount point"), "{ended:#?}");
    assert_eq!(partial(&lab.scratch), [""; 0]);
}

/// A rename cannot replace these, which the guest's last code is too late for to be known.
#[test]
fn names_that_are_no_directorys_own_are_refused_before_the_guest_has_run() {
    let lab = Lab::new(guests::TO_TIMER);
    let path = |name| lab.scratch.path(name).display().to_string();
    fs::create_dir(path("empty")).unwrap();
    symlink("empty", path("link")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    lab.scratch.file("file", "");
    for name in ["link", "dangling", "empty/.", ".", "file"] {
        let flag = format!("path={},at=0x11", if name == "." { ".".into() } else { path(name) });
        let mut command = lab.command(&["--snapshot", &flag]);
        let ended = run(command.current_dir(path("empty"))).with_status(1);
        assert!(ended.stderr.contains("is there already"), "{name}: {ended:#?}");
        assert!(!lab.scratch.path("log").exists(), "{name}: the guest has run");
    }
    // What is wrong above it is not said of it.
    let long = "a".repeat(300);
    for (name, why) in [("file/a", "Not a directory"), (&*long, "too long")] {
        let ended = lab.run(&["--snapshot", &format!("path={},at=0x11", path(name))]);
        assert!(ended.with_status(1).stderr.contains(why), "{name}");
    }
    assert_eq!(partial(&lab.scratch), [""; 0]);
    assert_eq!(fs::read_dir(path("empty")).unwrap().count(), 0);
    // And that one is as good as none.
    let flag = format!("path={},at=0x11", path("empty"));
    lab.run(&["--snapshot", &flag]).silent().with_status(0);
    assert_eq!(fs::read_dir(path("empty")).unwrap().count(), 2);
}

#[test]
fn a_limit_on_files_leaves_nothing_of_a_snapshot() {
    let saved = Saved::new();
    let dir = saved.lab.scratch.path("other");
    let flag = format!("path={},at=0x11", dir.display());
    let record = format!("source_url=file://{},record=0x22", saved.dir.display());
    for files in 4..16 {
        let start = [saved.lab.command(&["--snapshot", &flag]), {
            let mut command = brisk();
            command.args(["--restore", &record]);
            command
        }];
        for brisk in start {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={files}")).arg(brisk.get_program());
            run(command.args(brisk.get_args()));
        }
        let left = || fs::read_dir(&saved.dir).unwrap().count();
        wait_for("the half of a snapshot to go", || partial(&saved.lab.scratch).is_empty());
        wait_for("the half of a list to go", || left() <= 3);
        let _ = fs::remove_dir_all(&dir);
        let _ = fs::remove_file(saved.dir.join("working-set"));
        assert_eq!(left(), 2);
    }
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
    wait_for("the half of a snapshot to go", || partial(&lab.scratch).is_empty());
    assert!(!dir.exists());
}

/// Neither does a guest that was to run on end by it.
#[test]
fn a_guest_runs_on_where_there_is_no_room_for_its_snapshot() {
    let lab = Lab::new(guests::saved::CODE_AND_ECHO);
    let dir = lab.scratch.path("snapshot");
    let flag = format!("path={},at=0x11,then=go-on", dir.display());
    let mut command = Command::new("prlimit");
    command.arg("--fsize=1048576");
    let brisk = lab.command(&["--snapshot", &flag, "--serial", "tty"]);
    command.arg(brisk.get_program()).args(brisk.get_args()).stdin(Stdio::piped());
    let mut running = Running::start(&mut command);
    wait_for("the half of a snapshot to go", || partial(&lab.scratch).is_empty());
    assert!(running.runs());
    let input = running.child().stdin.take();
    input.expect("piped").write_all(b"xq").unwrap();
    let ended = running.end().with_status(0);
    assert!(ended.stderr.contains("the guest runs on"), "{ended:#?}");
    assert_eq!(ended.stdout, "xq");
    assert!(!dir.exists());
}
