//! Clients that are slow, broken or too many: whoever asks properly beside them is answered, and the
//! guest has nothing of them.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::super::common::client::{Answer, Client};
use super::super::common::wait_for;
use super::super::guests;
use super::{Lab, Served, beats, counted};

/// More than brisk keeps.
const CROWD: usize = 1000;

fn start() -> Served {
    let served = Served::start(guests::ends::SPIN);
    wait_for("the guest's line", || served.lab.serial() == "\n");
    served
}

/// Somebody is still answered, and the VM ends as ever.
#[track_caller]
fn is_well(served: Served) {
    let mut client = served.client();
    client.get("vmm.ping");
    client.put("vm.pause");
    client.put("vm.resume");
    client.put("vmm.shutdown");
    served.ends();
}

/// Whether brisk has closed the connection, after what it answered.
fn closed(mut socket: &UnixStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn who_asks_slowly_waits_alone() {
    let served = start();
    let mut slow = served.client();
    for byte in b"GET /api/v1/vmm.ping HTTP/1.1\r\n" {
        slow.0.write_all(&[*byte]).expect("a byte");
        served.client().get("vmm.ping");
    }
    slow.0.write_all(b"\r\n").expect("the end");
    assert_eq!(slow.answer().expect("an answer").0, 200);
    is_well(served);
}

#[test]
fn who_asks_nonsense_is_told_so_once() {
    let served = start();
    let long = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(1 << 20)).into_bytes();
    let body = b"PUT /api/v1/vm.pause HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    for (text, status) in [(vec![0xff; 100], 400), (long, 431), (body, 413)] {
        let mut client = served.client();
        // It need not be taken to its end.
        let _ = client.0.write_all(&text);
        assert_eq!(client.answer().expect("an answer").0, status);
        assert!(closed(&client.0), "{status}: goes on");
    }
    is_well(served);
}

#[test]
fn a_crowd_takes_no_more_than_there_is() {
    let served = start();
    let mut crowd = Vec::new();
    for at in 0..CROWD {
        let mut client = served.client();
        let _ = client.0.write_all(b"GET /api");
        crowd.push(client);
        if at % 100 == 0 {
            served.client().get("vmm.ping");
        }
    }
    served.client().get("vmm.ping");
    let left = crowd.iter().filter(|client| {
        client.0.set_read_timeout(Some(Duration::from_millis(1))).expect("a limit");
        !closed(&client.0)
    });
    assert!(left.count() <= 8);
    // One that is kept is not a stranger's.
    let last = crowd.last_mut().expect("the last");
    last.0.write_all(b"/v1/vmm.ping HTTP/1.1\r\n\r\n").expect("the rest");
    last.0.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    assert_eq!(last.answer().expect("an answer").0, 200);
    is_well(served);
}

#[test]
fn who_goes_away_while_it_is_answered_is_no_harm() {
    let served = start();
    for at in 0..200 {
        let mut client = served.client();
        for command in ["vm.counters", "vm.info", "vm.counters"] {
            let head = format!("GET /api/v1/{command} HTTP/1.1\r\n\r\n");
            let _ = client.0.write_all(head.as_bytes());
        }
        if at % 2 == 0 {
            client.0.shutdown(Shutdown::Read).expect("half of it");
        }
    }
    let (mut gone, mut client) = (served.client(), served.client());
    gone.send("PUT", "vm.pause", "");
    wait_for("the pause", || client.get("vm.info")["state"] == "Paused");
    drop(gone);
    client.put("vm.resume");
    is_well(served);
}

#[test]
fn who_reads_nothing_keeps_nobody_waiting() {
    let served = start();
    let deaf = served.client();
    deaf.0.set_nonblocking(true).expect("it");
    let mut sent = 0;
    // Until nothing more goes in: what came is not answered, as what was answered is not taken.
    wait_for("all buffers to be full", || {
        while (&deaf.0).write(b"GET /api/v1/vm.info HTTP/1.1\r\n\r\n").is_ok() {
            sent += 1;
        }
        sleep(Duration::from_millis(50));
        (&deaf.0).write(b"GET /api/v1/vm.info HTTP/1.1\r\n\r\n").is_err()
    });
    assert!(sent > 100);
    served.client().get("vmm.ping");
    drop(deaf);
    is_well(served);
}

/// What comes in pieces, is nonsense or needs no machine is none of the guest's.
#[test]
fn the_guest_has_no_exits_of_it() {
    let lab = Lab::new(guests::ends::HLT);
    let served = Served::with(lab, &[]);
    wait_for("the guest's line", || served.lab.serial() == "\n");
    let mut client = served.client();
    let interrupted =
        |client: &mut Client| counted(&client.get("vm.counters"), "interrupted", "0x0");
    let before = interrupted(&mut client);
    for _ in 0..300 {
        client.get("vmm.ping");
        client.get("vm.info");
        let mut other = served.client();
        other.0.write_all(b"\x01").expect("a byte");
        assert_eq!(client.fails("GET", "nothing", "").0, 404);
    }
    // The one that asks, and what the host has of its own.
    let exits = interrupted(&mut client) - before;
    assert!(exits <= 3, "{exits} exits");
    is_well(served);
}

/// Where there is no descriptor for a client it waits, and brisk does not ask again without end.
#[test]
fn no_descriptor_is_a_wait() {
    let served = Served::start(guests::ends::HLT);
    wait_for("the guest's line", || served.lab.serial() == "\n");
    served.client().get("vmm.ping");
    let limit = |number: u32| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--pid={}", served.running.id())).arg(format!("--nofile={number}:"));
        assert!(command.status().expect("prlimit").success());
    };
    limit(5);
    let mut client = served.client();
    client.send("GET", "vmm.ping", "");
    sleep(Duration::from_millis(50));
    let before = served.ticks();
    sleep(Duration::from_millis(500));
    assert!(served.ticks() - before <= 5, "{} of 50 ticks", served.ticks() - before);
    limit(100);
    assert!(matches!(client.answer(), Some(Answer(200, _))));
    is_well(served);
}

/// Commands from many at once are done one after the other.
#[test]
fn many_commands_at_once() {
    let served = Served::start(guests::BEAT);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut client = served.client();
                for _ in 0..100 {
                    for command in ["vm.pause", "vm.resume"] {
                        let Answer(status, _) = client.ask("PUT", command, "");
                        assert!([204, 500].contains(&status), "{command}: {status}");
                    }
                    beats(&mut client);
                }
            });
        }
    });
    let mut client = served.client();
    client.ask("PUT", "vm.resume", "");
    is_well(served);
}
