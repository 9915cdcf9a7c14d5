//! A Linux that is asked, paused, saved and switched off from outside.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::Guest;
use super::common::client::{Answer, Client};
use super::common::{Running, brisk, wait_for};

/// Starts `guest` with a socket.
fn start(guest: &Guest) -> (Running, PathBuf) {
    let socket = guest.scratch.path("api");
    (Running::start(guest.command().arg("--api-socket").arg(&socket)), socket)
}

/// What README.md has of curl.
#[track_caller]
fn curl(socket: &Path, words: &[&str], command: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--unix-socket"]).arg(socket).args(words);
    let output = curl.arg(format!("http://localhost/api/v1/{command}")).output().expect("curl");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// How often the guest wrote to port 0x80. Each look brings its first vCPU out of it: not so often that the
/// guest, on the lab's slow machine, gets nowhere.
fn beats(client: &mut Client) -> u64 {
    sleep(Duration::from_millis(300));
    let counters = client.get("vm.counters");
    let mut rows = counters["exits"].as_array().expect("rows").iter();
    let row = rows.find(|row| row["kind"] == "pio_out" && row["address"] == "0x80");
    row.map_or(0, |row| row["count"].as_u64().expect("a count"))
}

#[test]
fn a_linux_is_paused_and_goes_on_by_curl() {
    for cpus in ["boot=1", "boot=2"] {
        let guest = Guest::doing("beat").with(&["--cpus", cpus]);
        let (running, socket) = start(&guest);
        let mut client = Client::to(&socket);
        wait_for("the guest", || beats(&mut client) > 10);
        assert!(curl(&socket, &[], "vm.info").contains("\"state\":\"Running\""));
        curl(&socket, &["-X", "PUT"], "vm.pause");
        assert!(curl(&socket, &[], "vm.info").contains("\"state\":\"Paused\""));
        let before = beats(&mut client);
        sleep(Duration::from_millis(500));
        assert_eq!(beats(&mut client), before);
        curl(&socket, &["-X", "PUT"], "vm.resume");
        wait_for("the guest to go on", || beats(&mut client) > before);
        curl(&socket, &["-X", "PUT"], "vmm.shutdown");
        running.end().silent().with_status(0);
        assert!(!socket.exists());
    }
}

#[cfg(feature = "snapshot")]
#[test]
fn a_linux_is_saved_when_a_client_says_so() {
    let guest = Guest::doing("beat");
    let dir = guest.scratch.path("saved");
    let flag = format!("path={}", dir.display());
    let guest = guest.with(&["--snapshot", &flag]);
    let (running, socket) = start(&guest);
    let mut client = Client::to(&socket);
    wait_for("the guest", || beats(&mut client) > 10);
    let body = format!("{{\"destination_url\":\"file://{}\"}}", dir.display());
    curl(&socket, &["-X", "PUT", "-d", &body], "vm.snapshot");
    let before = beats(&mut client);
    wait_for("the guest to go on", || beats(&mut client) > before);
    client.put("vmm.shutdown");
    running.end().silent().with_status(0);

    let mut command = brisk();
    command.arg("--restore").arg(&dir).args(["--serial", "null", "--api-socket"]).arg(&socket);
    let running = Running::start(&mut command);
    let mut client = Client::to(&socket);
    wait_for("the clone", || beats(&mut client) > 10);
    client.put("vmm.shutdown");
    running.end().silent().with_status(0);
}

/// Debian's kernels, with the driver that they have as a module and an init that waits for the key.
#[cfg(feature = "bzimage")]
#[test]
fn the_power_button_is_pressed() {
    for kernel in super::stock::KERNELS {
        let mut guest = super::stock::debian(kernel, "/dev/none", &[]);
        guest.cmdline += " brisk_button=here";
        let (running, socket) = start(&guest);
        wait_for("the guest to wait", || guest.output().contains("waits for its button"));
        curl(&socket, &["-X", "PUT"], "vm.power-button");
        let ended = running.end();
        let text = guest.output();
        assert!(
            ended.status == Some(0) && text.contains("initramfs: pressed"),
            "{ended:?}\n{text}"
        );
    }
}

/// A Debian that runs until somebody switches it off: systemd-logind hears of the button.
#[cfg(all(feature = "bzimage", feature = "pci", feature = "block"))]
#[test]
fn a_debian_with_systemd_is_switched_off() {
    let scratch = super::common::Scratch::new();
    let image = super::disks::copy(&scratch, "BRISK_DISK_DEBIAN_SYSTEMD");
    let disk = super::common::key("path", &image);
    let flags = ["--transport", "pci", "--disk", &disk];
    let mut guest = super::stock::debian("debian-cloud", "/dev/vda1", &flags);
    guest.cmdline += " rw brisk_button=on systemd.mask=brisk-test.service";
    let (mut running, socket) = start(&guest);
    let mut client = Client::to(&socket);
    let (mut unheard, mut heard) = (0, 0);
    wait_for("the guest to switch itself off", || {
        // At the end nobody is there.
        let _ = client.0.write_all(b"PUT /api/v1/vm.power-button HTTP/1.1\r\n\r\n");
        match client.answer() {
            Some(Answer(204, _)) => heard += 1,
            // Not that far yet.
            _ => unheard += 1,
        }
        sleep(Duration::from_secs(1));
        !running.runs()
    });
    let ended = running.end();
    assert_eq!(ended.status, Some(0), "{heard} {unheard} {ended:?}\n{}", guest.output());
    assert!(heard > 0);
}
