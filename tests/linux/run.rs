//! `cargo xtask run`: a root with busybox, by the command lines of brisk that it makes (a word a line).

use std::fs;
use std::process::{Command, Stdio};

use super::common::{brisk, run};
use super::terminals::OnTerminal;
use super::{Scratch, artifact};

/// brisk with the words of one of xtask's command lines.
fn command(name: &str) -> Command {
    let mut command = brisk();
    let words = fs::read_to_string(artifact(name)).expect("words");
    command.args(words.lines()).stdin(Stdio::null());
    command
}

#[test]
fn a_command_has_its_streams_and_status() {
    let scratch = Scratch::new();
    scratch.file("input", "typed\n");
    let mut command = command("BRISK_RUN_COMMAND");
    command.stdin(fs::File::open(scratch.path("input")).expect("a file"));
    let ended = run(&mut command).with_status(7);
    assert_eq!((&*ended.stdout, &*ended.stderr), ("out\ntyped\nnew\n", "err\n"));
}

#[test]
fn the_same_from_a_disk() {
    let ended = run(&mut command("BRISK_RUN_DISK")).with_status(7);
    assert_eq!((&*ended.stdout, &*ended.stderr), ("out\nnew\n", "err\n"));
}

#[test]
fn a_shell_is_typed_into() {
    let mut on = OnTerminal::new(command("BRISK_RUN_SHELL"));
    on.shows("# ");
    on.types("stty size; tty\n");
    on.shows("23 81");
    on.shows("/dev/hvc0");
    on.interrupts_a_program();
    on.types("exit 9\n");
    assert_eq!(on.end(), Some(9));
}

#[test]
fn the_roots_own_init_is_process_1() {
    let ended = run(&mut command("BRISK_RUN_INIT")).silent().with_status(0);
    assert!(ended.stdout.contains("own init is 1\r\nwritten\r\n"), "{ended:#?}");
}

#[test]
fn what_is_written_to_a_writable_root_stays() {
    let scratch = Scratch::new();
    let copy = scratch.path("image");
    fs::copy(artifact("BRISK_RUN_IMAGE"), &copy).expect("a copy");
    for count in 1..=3 {
        let mut command = brisk();
        let words = fs::read_to_string(artifact("BRISK_RUN_WRITABLE")).expect("words");
        let image = artifact("BRISK_RUN_IMAGE");
        let (old, new) = (image.to_string_lossy(), copy.to_string_lossy());
        command.args(words.lines().map(|word| word.replace(&*old, &new))).stdin(Stdio::null());
        let ended = run(&mut command).with_status(0);
        assert_eq!(ended.stdout, "kept\n".repeat(count), "{ended:#?}");
    }
}
