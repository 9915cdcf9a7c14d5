//! What is typed at a terminal reaches the guest, but for what ends it.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use super::common::kernel::Code;
use super::common::{Running, run};
use super::{Lab, guests};

#[test]
fn typed_bytes_reach_the_serial_port() {
    let lab = Lab::new(guests::ECHO);
    let mut command = lab.command(&["--serial", "tty"]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = running.child().stdin.take().expect("a pipe");
    // More than the FIFO holds, and Ctrl-A twice for one.
    stdin.write_all(b"0123456789abcdefghijklmnop\x01\x01\nq").expect("brisk reads its input");
    let ended = running.end().silent().with_status(0);
    assert_eq!(ended.stdout, "0123456789abcdefghijklmnop\x01\nq");
}

/// Types `parts`, each when the guest has said its first byte, with some time in between.
#[track_caller]
fn quits_after(guest: Code, parts: &[&[u8]]) {
    let lab = Lab::new(guest);
    let mut command = lab.command(&["--serial", "tty"]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = running.child().stdin.take().expect("a pipe");
    for part in parts {
        sleep(Duration::from_millis(200));
        stdin.write_all(part).expect("brisk reads its input");
    }
    running.end().silent().with_status(0);
}

#[test]
fn ctrl_a_x_quits() {
    for guest in [guests::ECHO, guests::ends::HLT, guests::ends::SPIN] {
        quits_after(guest, &[b"\x01", b"x"]);
    }
}

#[test]
fn ctrl_a_x_quits_a_guest_that_reads_nothing() {
    quits_after(guests::ends::HLT, &[b"typed before, and not taken by the guest", b"\x01x"]);
}

/// Input that was there before brisk was, and is found in a port access and not by a signal.
#[test]
fn ctrl_a_x_quits_at_once() {
    for guest in [guests::ECHO, guests::ends::HLT] {
        let lab = Lab::new(guest);
        let typed = File::open(lab.scratch.file("typed", b"\x01x")).expect("the file");
        run(lab.command(&["--serial", "tty"]).stdin(typed)).silent().with_status(0);
    }
}

#[test]
fn the_end_of_the_input_is_not_the_end_of_the_vm() {
    let lab = Lab::new(guests::ends::HLT);
    let mut running = Running::start(&mut lab.command(&["--serial", "tty"]));
    sleep(Duration::from_millis(300));
    assert!(running.runs());
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().silent().with_status(0).stdout, "\n");
}
