//! `vm.snapshot` and `vm.power-button`.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::super::common::client::{Answer, Client};
use super::super::common::{Running, brisk, codes, wait_for};
use super::super::guests;
use super::{Lab, Served, beats};

/// A guest that counts, and the one directory that it may be saved to.
struct Saved {
    served: Served,
    dir: PathBuf,
}

impl Saved {
    fn start(more: &str) -> Saved {
        let lab = Lab::new(guests::BEAT);
        let dir = lab.scratch.path("saved");
        let flag = format!("path={}{more}", dir.display());
        Saved { served: Served::with(lab, &["--snapshot", &flag]), dir }
    }

    fn body(&self) -> String {
        // With a slash at its end it is the same one.
        format!("{{\"destination_url\": \"file://{}/\"}}", self.dir.display())
    }

    #[track_caller]
    fn save(&self, client: &mut Client) {
        assert_eq!(client.ask("PUT", "vm.snapshot", &self.body()), Answer(204, Value::Null));
    }

    /// The first code that a clone writes.
    #[track_caller]
    fn first_code(&self, more: &[&str]) -> u8 {
        let mut command = brisk();
        command.arg("--restore").arg(&self.dir);
        command.arg("--boot-log").arg(self.served.lab.scratch.path("again")).args(more);
        let running = Running::start(&mut command);
        // It says nothing that could be waited for.
        let socket = self.served.lab.scratch.path("second");
        if more.contains(&"--api-socket") {
            let mut client = Client::to(&socket);
            wait_for("the clone", || beats(&mut client) > 0);
            client.put("vmm.shutdown");
        } else {
            sleep(Duration::from_millis(300));
            running.signal(libc::SIGTERM);
        }
        running.end().silent().with_status(0);
        codes(self.served.lab.scratch.path("again"))[0]
    }
}

#[test]
fn a_guest_that_is_paused_is_saved_and_goes_on_twice() {
    let saved = Saved::start("");
    let mut client = saved.served.client();
    wait_for("the guest", || beats(&mut client) > 300);
    client.put("vm.pause");
    let count = beats(&mut client);
    saved.save(&mut client);
    assert_eq!(client.get("vm.info")["state"], "Paused");
    assert_eq!(beats(&mut client), count);
    client.put("vm.resume");
    wait_for("the guest to go on", || beats(&mut client) > count);
    client.put("vmm.shutdown");
    let wanted = (count + 1) as u8;
    let second = saved.served.lab.scratch.path("second").display().to_string();
    // It had a button; whether the clone has clients is the clone's.
    assert_eq!(saved.first_code(&["--api-socket", &second]), wanted);
    assert_eq!(saved.first_code(&[]), wanted);
    saved.served.ends();
}

#[test]
fn a_guest_that_runs_is_saved_and_runs_on() {
    let saved = Saved::start(",at=0x0,then=go-on");
    let mut client = saved.served.client();
    // The guest counts through the code first: that was the one time.
    wait_for("the guest", || beats(&mut client) > 300);
    assert!(client.fails("PUT", "vm.snapshot", &saved.body()).1.contains("a run writes one"));
    client.put("vmm.shutdown");
    assert_eq!(saved.first_code(&[]), 1);
    saved.served.ends();

    let saved = Saved::start("");
    let mut client = saved.served.client();
    saved.save(&mut client);
    let count = beats(&mut client);
    wait_for("the guest to go on", || beats(&mut client) > count);
    assert!(client.fails("PUT", "vm.snapshot", &saved.body()).1.contains("a run writes one"));
    client.put("vmm.shutdown");
    saved.first_code(&[]);
    saved.served.ends();
}

#[test]
fn where_a_guest_may_be_saved_is_said_at_its_start() {
    let served = Served::start(guests::BEAT);
    let mut client = served.client();
    let body = "{\"destination_url\":\"file:///nowhere\"}";
    let (status, why) = client.fails("PUT", "vm.snapshot", body);
    assert!(status == 500 && why.contains("--snapshot path=DIR"), "{why}");
    client.put("vmm.shutdown");
    served.ends();

    let saved = Saved::start("");
    let mut client = saved.served.client();
    for other in ["/nowhere", "", "/etc/passwd"] {
        let body = format!("{{\"destination_url\":\"file://{other}\"}}");
        let (status, why) = client.fails("PUT", "vm.snapshot", &body);
        assert!(
            status == 500 && why.contains(&format!("file://{} only", saved.dir.display())),
            "{why}"
        );
    }
    assert_eq!(client.fails("PUT", "vm.snapshot", "{}").0, 400);
    saved.save(&mut client);
    client.put("vmm.shutdown");
    saved.served.ends();
}

#[test]
fn no_room_for_a_snapshot_leaves_the_guest_and_nothing_else() {
    let saved = Saved::start("");
    let mut client = saved.served.client();
    client.put("vm.pause");
    let id = saved.served.running.id();
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={id}")).arg("--fsize=1048576:");
    assert!(command.status().expect("prlimit").success());
    let (status, why) = client.fails("PUT", "vm.snapshot", &saved.body());
    assert!(status == 500 && why.contains("--snapshot"), "{why}");
    assert_eq!(client.get("vm.info")["state"], "Paused");
    client.put("vm.resume");
    let count = beats(&mut client);
    wait_for("the guest to go on", || beats(&mut client) > count);
    client.put("vmm.shutdown");
    let scratch = &saved.served.lab.scratch;
    wait_for("the half of a snapshot to go", || {
        !scratch.names().iter().any(|name| name.contains("partial"))
    });
    assert!(!saved.dir.exists());
    saved.served.ends();
}

/// What a guest that has a driver for it makes of it, `cargo xtask linux` shows.
#[test]
fn a_button_that_nobody_hears_says_so() {
    for (cmdline, part) in [("", "not that far yet"), ("acpi=off", "without ACPI")] {
        let served = Served::with(Lab::new(guests::ends::SPIN), &["--cmdline", cmdline]);
        let mut client = served.client();
        let (status, why) = client.fails("PUT", "vm.power-button", "");
        assert!(status == 500 && why.contains(part), "{why}");
        client.put("vmm.shutdown");
        served.ends();
    }
}
