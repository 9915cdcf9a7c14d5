//! `--api-socket`: a running guest's clients, with the sandbox on.

#[path = "api/hostile.rs"]
mod hostile;
#[cfg(feature = "snapshot")]
#[path = "api/saved.rs"]
mod saved;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::common::client::{Answer, Client};
use super::common::kernel::{Code, bytes};
use super::common::{Running, boot_log, run, wait_for};
use super::{Lab, guests};

/// A guest with a socket.
struct Served {
    lab: Lab,
    socket: PathBuf,
    running: Running,
}

impl Served {
    #[track_caller]
    fn start(guest: Code) -> Served {
        Served::with(Lab::new(guest), &[])
    }

    #[track_caller]
    fn with(lab: Lab, more: &[&str]) -> Served {
        let socket = lab.scratch.path("api");
        let running = Running::start(lab.command(more).arg("--api-socket").arg(&socket));
        Served { lab, socket, running }
    }

    #[track_caller]
    fn client(&self) -> Client {
        Client::to(&self.socket)
    }

    /// Ends with status 0, all reports written, and the socket gone.
    #[track_caller]
    fn ends(self) -> Lab {
        self.running.end().silent().with_status(0);
        let (points, _) = boot_log(self.lab.scratch.path("log"));
        assert_eq!(points.last().map(|point| &*point.name), Some("exit"));
        assert!(!self.socket.exists(), "the socket stays");
        self.lab
    }

    /// Its own threads' names.
    fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.running.id())).expect("threads");
        let name =
            |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).expect("a name");
        let names = tasks.map(|task| name(task.expect("a thread")).trim().to_owned());
        // KVM's own, of a kernel that has such.
        names.filter(|name| !name.starts_with("kvm")).collect()
    }

    /// Ticks of CPU time that it has used: user's, guests' in it, and the kernel's (proc(5)).
    fn ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.running.id())).expect("stat");
        let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split(' ').collect();
        fields[12].parse::<u64>().expect("utime") + fields[13].parse::<u64>().expect("stime")
    }
}

/// How often a kind of exit was counted in what `vm.counters` answers.
fn counted(counters: &serde_json::Value, kind: &str, address: &str) -> u64 {
    let mut rows = counters["exits"].as_array().expect("rows").iter();
    let row = rows.find(|row| row["kind"] == kind && row["address"] == address);
    row.map_or(0, |row| row["count"].as_u64().expect("a count"))
}

/// How often the guest wrote to the timer.
fn beats(client: &mut Client) -> u64 {
    counted(&client.get("vm.counters"), "pio_out", "0x80")
}

#[test]
fn a_client_is_told_of_brisk_and_its_vm() {
    let served = Served::with(Lab::new(guests::ends::SPIN), &["--cmdline", "say=\"it\""]);
    let mut client = served.client();
    let ping = client.get("vmm.ping");
    assert_eq!(ping["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(ping["pid"], served.running.id());
    let info = client.get("vm.info");
    assert_eq!(info["state"], "Running");
    assert_eq!(info["memory_actual_size"], 16 << 20);
    let config = &info["config"];
    assert_eq!(config["cpus"]["boot_vcpus"], 1);
    assert_eq!(config["memory"]["size"], 16 << 20);
    assert_eq!(config["payload"]["cmdline"], "say=\"it\"");
    assert_eq!(config["payload"]["initramfs"], serde_json::Value::Null);
    wait_for("the guest's line", || served.lab.serial() == "\n");
    let counters = client.get("vm.counters");
    assert_eq!(counted(&counters, "pio_out", "0x3f8"), 1, "{counters}");
    assert!(counters["kvm"]["vm"].is_object() && counters["kvm"]["vcpus"][0].is_object());
    assert_eq!(client.fails("GET", "vm.create", "").0, 404);
    assert_eq!(client.fails("GET", "vm.pause", "").0, 405);
    client.put("vmm.shutdown");
    served.ends();
}

/// Nothing is made that nobody asked for.
#[test]
fn there_is_no_thread_without_a_socket() {
    let lab = Lab::new(guests::ends::SPIN);
    let running = Running::start(&mut lab.command(&[]));
    wait_for("the guest's line", || lab.serial() == "\n");
    let served = Served { socket: lab.scratch.path("api"), lab, running };
    assert_eq!(served.threads().len(), 1, "{:?}", served.threads());
    served.running.signal(libc::SIGTERM);
    served.ends();

    let served = Served::start(guests::ends::SPIN);
    served.client().get("vmm.ping");
    assert_eq!(served.threads().iter().filter(|name| *name == "api").count(), 1);
    assert_eq!(served.threads().len(), 2, "{:?}", served.threads());
    served.running.signal(libc::SIGTERM);
    served.ends();
}

#[track_caller]
fn stands_still_and_goes_on(served: Served) {
    let mut client = served.client();
    wait_for("the guest", || beats(&mut client) > 100);
    for _ in 0..10 {
        client.put("vm.pause");
        assert_eq!(client.get("vm.info")["state"], "Paused");
        let before = beats(&mut client);
        sleep(Duration::from_millis(20));
        assert_eq!(beats(&mut client), before, "a guest that is paused goes on");
        let (status, why) = client.fails("PUT", "vm.pause", "");
        assert!(status == 500 && why.contains("paused already"), "{why}");
        client.put("vm.resume");
        assert_eq!(client.get("vm.info")["state"], "Running");
        wait_for("the guest to go on", || beats(&mut client) > before);
        let (status, why) = client.fails("PUT", "vm.resume", "");
        assert!(status == 500 && why.contains("not paused"), "{why}");
    }
    client.put("vm.shutdown");
    served.ends();
}

#[test]
fn a_guest_that_is_paused_stands_still_and_goes_on() {
    stands_still_and_goes_on(Served::start(guests::BEAT));
}

#[cfg(feature = "smp")]
#[test]
fn so_do_several_vcpus() {
    for cpus in ["boot=2", "boot=4"] {
        let lab = Lab::with_data(guests::cpus::BEAT_ALL, &bytes(guests::cpus::COUNT_OUT));
        stands_still_and_goes_on(Served::with(lab, &["--cpus", cpus]));
    }
}

/// A guest that never leaves by itself uses all the time that there is, but for when it is paused.
#[test]
fn a_guest_that_spins_is_paused() {
    let served = Served::start(guests::ends::SPIN);
    let mut client = served.client();
    for _ in 0..3 {
        client.put("vm.pause");
        let before = served.ticks();
        sleep(Duration::from_millis(300));
        assert!(served.ticks() - before <= 2, "{} of 30 ticks", served.ticks() - before);
        client.put("vm.resume");
        let before = served.ticks();
        wait_for("the guest to use some time", || served.ticks() - before > 10);
    }
    client.put("vm.pause");
    client.put("vm.shutdown");
    served.ends();
}

#[test]
fn a_signal_ends_a_guest_that_is_paused() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for guest in [guests::ends::HLT, guests::ends::SPIN] {
            let served = Served::start(guest);
            served.client().put("vm.pause");
            served.running.signal(signal);
            served.ends();
        }
    }
}

/// As SIGTERM's: the guest did not end by itself.
#[cfg(feature = "exit-status")]
#[test]
fn the_status_says_that_the_vm_was_ended() {
    let served = Served::with(Lab::new(guests::ends::SPIN), &["--exit-status"]);
    served.client().put("vmm.shutdown");
    served.running.end().silent().with_status(128 + libc::SIGTERM);
}

/// A vCPU that waits for a reader of its output keeps nobody from the VM's end.
#[test]
fn a_guest_whose_output_nobody_reads_can_be_ended() {
    let lab = Lab::new(guests::LINES);
    let fifo = lab.scratch.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let mut reader = fs::File::options();
    let reader = reader.read(true).write(true).open(&fifo).expect("a FIFO");
    // SAFETY: a plain call.
    assert_eq!(unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) }, 4096);
    let flag = format!("file={}", fifo.display());
    let served = Served::with(lab, &["--serial", &flag]);
    let mut stuck = served.client();
    wait_for("a pipe that is full", || {
        let mut waiting = 0;
        // SAFETY: writes the one number it is given.
        unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &mut waiting) };
        waiting > 3900
    });
    sleep(Duration::from_millis(50));
    stuck.send("PUT", "vm.pause", "");
    served.client().get("vmm.ping");
    served.client().put("vmm.shutdown");
    served.running.end().with_status(0);
}

#[test]
fn the_socket_is_its_users_and_goes_with_the_vm() {
    for how in [libc::SIGTERM, libc::SIGKILL] {
        let served = Served::start(guests::ends::SPIN);
        served.client().get("vmm.ping");
        let meta = fs::symlink_metadata(&served.socket).expect("the socket");
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
        served.running.signal(how);
        if how == libc::SIGTERM {
            served.ends();
            continue;
        }
        served.running.end();
        wait_for("the socket to go", || !served.socket.exists());
    }
}

/// brisk with a socket at a path where something is ends with a line that says `part`.
#[track_caller]
fn is_refused(lab: &Lab, socket: &str, status: i32, part: &str) {
    let ended = run(lab.command(&["--api-socket", socket]).env("LC_ALL", "C")).with_status(status);
    assert!(ended.stderr.contains("--api-socket") && ended.stderr.contains(part), "{ended:#?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:#?}");
}

#[test]
fn what_is_there_and_alive_stays() {
    let lab = Lab::new(guests::BEAT);
    let path = |name: &str| lab.scratch.path(name).display().to_string();
    lab.scratch.file("file", "text");
    symlink("nowhere", lab.scratch.path("link")).expect("a link");
    fs::create_dir(lab.scratch.path("directory")).expect("a directory");
    let _stream = UnixListener::bind(path("stream")).expect("a socket");
    let _datagram = UnixDatagram::bind(path("datagram")).expect("a socket");
    for name in ["file", "link", "directory"] {
        is_refused(&lab, &path(name), 1, "no socket");
    }
    for name in ["stream", "datagram"] {
        is_refused(&lab, &path(name), 1, "another process listens");
    }
    is_refused(&lab, &path("none/socket"), 1, "No such file");
    is_refused(&lab, &path(&"x".repeat(200)), 1, "at most 107 bytes");
    is_refused(&lab, "fd=77", 1, "no Unix socket that listens");
    is_refused(&lab, "fd=2", 2, "from 3 on");
    for name in ["file", "directory", "stream", "datagram"] {
        assert!(lab.scratch.path(name).exists(), "{name}");
    }
    assert!(fs::symlink_metadata(lab.scratch.path("link")).is_ok());
    assert!(fs::symlink_metadata(lab.scratch.path("nowhere")).is_err());
}

#[test]
fn a_socket_that_is_dead_makes_room() {
    let lab = Lab::new(guests::ends::SPIN);
    drop(UnixListener::bind(lab.scratch.path("api")).expect("a socket"));
    let served = Served::with(lab, &[]);
    served.client().put("vmm.shutdown");
    served.ends();
}

/// One that somebody put in the place of brisk's is not brisk's to remove.
#[test]
fn another_socket_in_its_place_stays() {
    let served = Served::start(guests::ends::SPIN);
    let mut client = served.client();
    fs::remove_file(&served.socket).expect("its removal");
    let _other = UnixListener::bind(&served.socket).expect("another");
    client.put("vmm.shutdown");
    served.running.end().silent().with_status(0);
    assert!(served.socket.exists());
}

/// As of a socket unit of systemd's, whose descriptors begin at 3.
#[test]
fn a_socket_may_be_inherited() {
    let lab = Lab::new(guests::ends::SPIN);
    let socket = lab.scratch.path("api");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let fd = listener.as_raw_fd();
    let mut command = lab.command(&["--api-socket", "fd=3"]);
    // SAFETY: both may be called there.
    unsafe {
        command.pre_exec(move || {
            libc::dup2(fd, 3);
            libc::fcntl(3, libc::F_SETFD, 0);
            Ok(())
        });
    }
    command.env("LISTEN_FDS", "1");
    let running = Running::start(&mut command);
    let mut client = Client::to(&socket);
    client.put("vm.pause");
    client.put("vmm.shutdown");
    running.end().silent().with_status(0);
    assert!(socket.exists(), "it is whose who made it");
}

#[test]
fn several_clients_and_several_requests_at_once() {
    let served = Served::start(guests::BEAT);
    let mut clients: Vec<Client> = (0..4).map(|_| served.client()).collect();
    for client in &mut clients {
        client.send("GET", "vm.counters", "");
        client.send("GET", "vmm.ping", "");
        client.send("GET", "vm.counters", "");
    }
    for client in &mut clients {
        for body in ["exits", "version", "exits"] {
            let Some(Answer(200, answer)) = client.answer() else { panic!("no {body}") };
            assert!(answer.get(body).is_some(), "{answer}");
        }
    }
    clients[0].put("vmm.shutdown");
    served.ends();
}
