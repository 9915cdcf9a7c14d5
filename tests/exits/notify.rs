//! The service manager's socket.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::common::kernel::{BASE, Bits, Code, check_disassembly};
use super::common::run;
use super::{Lab, guests};

/// What arrives at a manager's socket from a guest that writes 0x11, 0x22 and 0x33.
fn told(more: &[&str]) -> Vec<String> {
    told_of(guests::TO_TIMER, more)
}

fn told_of(guest: Code, more: &[&str]) -> Vec<String> {
    let lab = Lab::new(guest);
    let path = lab.scratch.path("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    run(lab.command(more).env("NOTIFY_SOCKET", &path)).silent().with_status(0);
    let mut messages = Vec::new();
    let mut message = [0; 64];
    loop {
        match manager.recv(&mut message) {
            Ok(len) => messages.push(String::from_utf8(message[..len].to_vec()).unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return messages,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn the_manager_is_told_once_when_the_code_comes() {
    assert_eq!(told(&["--notify", "0x22"]), ["READY=1"]);
    assert_eq!(told(&["--notify", "51"]), ["READY=1"]);
    // Userspace's own is not among this guest's.
    assert_eq!(told(&[]), [""; 0]);
}

/// Without the flag it is what userspace's first program writes.
#[test]
fn userspace_is_ready() {
    const USERSPACE: Code = &[
        (&[0xb0, 0x60], "mov al,0x60"),
        (&[0xe6, 0x80], "out 0x80,al"),
        (&[0x66, 0xba, 0x00, 0x06], "mov dx,0x600"),
        (&[0xb0, 0x34], "mov al,0x34"),
        (&[0xee], "out dx,al"),
    ];
    check_disassembly("USERSPACE", USERSPACE, Bits::B32, BASE);
    assert_eq!(told_of(USERSPACE, &[]), ["READY=1"]);
    assert_eq!(told_of(USERSPACE, &["--notify", "0x61"]), [""; 0]);
}

#[test]
fn a_manager_that_is_not_there_is_no_harm() {
    let lab = Lab::new(guests::TO_TIMER);
    let mut command = lab.command(&["--notify", "0x22"]);
    let ended = run(command.env("NOTIFY_SOCKET", lab.scratch.path("nobody"))).with_status(0);
    assert_eq!(lab.codes(), [0x11, 0x22, 0x33]);
    let said = ended.stderr.contains("NOTIFY_SOCKET");
    assert!(said || !cfg!(feature = "logging"), "{ended:#?}");
}
