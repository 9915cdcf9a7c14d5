//! A workload as one executable: its arguments, environment, streams, signals and exit status.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;

use super::artifact;
use super::common::{Ended, Running, run, wait_for};
use super::less::Setting;

/// The example.
fn hello(words: &[&str]) -> Command {
    bundle("BRISK_BUNDLE", words)
}

/// A root with busybox, by its applets.
fn shell(script: &str) -> Command {
    bundle("BRISK_BUNDLE_SHELL", &["sh", "-c", script])
}

fn bundle(name: &str, words: &[&str]) -> Command {
    let mut command = Command::new(artifact(name));
    command.args(words).stdin(Stdio::null());
    command
}

#[track_caller]
fn says(ended: &Ended, stdout: &str, status: i32) {
    assert_eq!((ended.status, &*ended.stdout), (Some(status), stdout), "{ended:#?}");
}

#[test]
fn it_prints_and_returns_its_status() {
    says(&run(&mut hello(&[])).silent(), "Hello from a VM.\n", 0);
    says(&run(&mut hello(&["exit", "7"])).silent(), "", 7);
    says(&run(&mut hello(&["exit", "255"])).silent(), "", 255);
    // By a signal, as a shell says it.
    says(&run(&mut hello(&["kill", "11"])).silent(), "", 139);
    says(&run(&mut bundle("BRISK_BUNDLE_FIXED", &[])).silent(), "Hello from a VM.\n", 0);
}

#[test]
fn arguments_and_environment() {
    let words = ["args", "a", "b c", "", "--help", "-x", "\u{fc}\n\"'$", "--"];
    let wanted: String = words[1..].iter().map(|word| format!("{word}\n")).collect();
    says(&run(&mut hello(&words)).silent(), &wanted, 0);
    // All behind `--`; more than a kernel's command line holds.
    let long = "x".repeat(100_000);
    says(&run(&mut hello(&["--", "args", &long])).silent(), &format!("{long}\n"), 0);
    let script = "echo $GREETING, $0 $HOSTNAME; pwd; id -u; hostname";
    says(&run(&mut shell(script)).silent(), "hello there, sh shell\n/\n0\nshell\n", 0);
}

#[test]
fn what_it_says_of_itself() {
    let help = run(&mut hello(&["--help"])).silent().with_status(0);
    assert!(help.stdout.contains("/hello") && help.stdout.contains("128M"), "{}", help.stdout);
    let manifest = run(&mut hello(&["--brisk-manifest"])).silent().with_status(0);
    let manifest: serde_json::Value = serde_json::from_str(&manifest.stdout).expect("JSON");
    assert_eq!(manifest["command"][0], "/hello");
    assert!(manifest["kernel"]["sha256"].as_str().is_some_and(|sum| sum.len() == 64));
}

#[test]
fn outputs_are_apart_and_have_their_ends() {
    let ended = run(&mut shell("echo out; echo err >&2; exit 3"));
    assert_eq!((ended.status, &*ended.stdout, &*ended.stderr), (Some(3), "out\n", "err\n"));
    // Opened again by its name, which a terminal would allow and a device might not.
    says(&run(&mut shell("echo again > /dev/stdout")).silent(), "again\n", 0);
    // Closed early: the reader finds the end while the workload goes on.
    let mut child = shell("echo last; exec >&-; read line; exit 4")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a bundle");
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    assert_eq!(text, "last\n");
    assert!(child.try_wait().expect("wait").is_none(), "the workload goes on");
    child.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
    assert_eq!(child.wait().expect("wait").code(), Some(4));
}

/// KVM's directories of VMs that there are.
fn vms() -> Vec<String> {
    let entries = fs::read_dir("/sys/kernel/debug/kvm").expect("debugfs");
    let names =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    // One is PID-FD.
    names.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).collect()
}

/// Who waits for the status does not wait for KVM to take the VM apart: a ring of io_uring knows the VM, so
/// that the kernel does it afterwards. And then it is gone.
#[test]
fn the_vm_is_taken_apart_behind_it() {
    let mut child = shell("echo up; read line; exit 5")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a bundle");
    let mut up = [0; 3];
    child.stdout.as_mut().expect("piped").read_exact(&mut up).expect("it is up");
    let fds = format!("/proc/{}/fd", child.id());
    let ring = fs::read_dir(&fds).expect("descriptors").find_map(|entry| {
        let entry = entry.expect("a descriptor");
        let is_one =
            fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("anon_inode:[io_uring]"));
        is_one.then(|| entry.file_name().into_string().expect("a number"))
    });
    let info = format!("/proc/{}/fdinfo/{}", child.id(), ring.expect("a ring"));
    let info = fs::read_to_string(info).expect("what the ring knows");
    assert!(info.contains("UserFiles:\t1\n"), "{info}");
    child.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
    assert_eq!(child.wait().expect("wait").code(), Some(5));
    wait_for("the VM's end", || vms().is_empty());
    // Without io_uring the status is the same.
    let _off = Setting::new("/proc/sys/kernel/io_uring_disabled", "2");
    says(&run(&mut hello(&["exit", "7"])).silent(), "", 7);
    assert_eq!(vms(), [String::new(); 0], "the process did it");
}

#[test]
fn nothing_there_and_nothing_to_execute() {
    let ended = run(&mut shell("/bin/busybox no-such-applet")).with_status(127);
    assert!(ended.stderr.contains("no-such-applet"), "{ended:#?}");
    // The file system is a tmpfs over the image.
    let script = "cat /file; echo new > /file; cat /file; rm /file; ls /file; mkdir /d && rmdir /d";
    let ended = run(&mut shell(script)).with_status(0);
    assert_eq!(ended.stdout, "old\nnew\n");
    let ended = run(&mut shell("exec /nothing")).with_status(127);
    assert!(ended.stderr.contains("not found"), "{ended:#?}");
}

#[test]
fn what_is_written_to_a_disk_stays() {
    let scratch = super::Scratch::new();
    let app = |script: &str| {
        let mut command = bundle("BRISK_BUNDLE_DISK", &["sh", "-c", script]);
        run(command.current_dir(scratch.path("")))
    };
    let ended = app("true").with_status(125);
    assert!(ended.stderr.contains("--disk state.raw: No such file"), "{ended:#?}");
    fs::write(scratch.path("state.raw"), vec![0; 32 << 20]).expect("a file");
    let ended = app("true").with_status(125);
    assert!(ended.stderr.contains("has no ext4"), "{ended:#?}");
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(scratch.path("state.raw")).status();
    assert!(made.expect("mkfs.ext4").success());
    // And what the image has can be changed and removed.
    says(&app("cat /file; echo new > /file; echo more > /kept; exit 3").silent(), "old\n", 3);
    says(&app("cat /file /kept; rm /file; echo end >> /kept").silent(), "new\nmore\n", 0);
    says(&app("cat /kept; ls /file 2>&1 | wc -l; kill -9 $$").silent(), "more\nend\n1\n", 137);
}

/// Bytes that do not repeat.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(step).collect()
}

/// Gives a bundle `input` from a thread of its own, and takes what it prints, waiting now and then.
fn through(mut child: Child, input: Vec<u8>, slow: bool) -> (Vec<u8>, Option<i32>) {
    let mut stdin = child.stdin.take().expect("piped");
    let writer = thread::spawn(move || stdin.write_all(&input));
    let mut stdout = child.stdout.take().expect("piped");
    let (mut all, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count @ 1..) = stdout.read(&mut chunk) {
        all.extend_from_slice(&chunk[..count]);
        if slow && all.len() % 7 == 0 {
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    writer.join().expect("a thread").expect("it reads all");
    (all, child.wait().expect("wait").code())
}

#[test]
fn bytes_are_unchanged_both_ways() {
    let all: Vec<u8> = (0..=255).collect();
    let input = [all, noise(3 << 20), b"\x01x\x03\x04\r\n\0".to_vec()].concat();
    for slow in [false, true] {
        let mut command = hello(&["cat"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a bundle");
        let (output, status) = through(child, input.clone(), slow);
        assert!(output == input, "{} bytes of {}, slow: {slow}", output.len(), input.len());
        assert_eq!(status, Some(0));
    }
    // By files.
    let scratch = super::Scratch::new();
    let path = scratch.path("input");
    fs::write(&path, &input).expect("a file");
    let output = scratch.path("output");
    let status = hello(&["cat"])
        .stdin(fs::File::open(&path).expect("a file"))
        .stdout(fs::File::create(&output).expect("a file"))
        .status();
    assert_eq!(status.expect("a bundle").code(), Some(0));
    assert!(fs::read(&output).expect("a file") == input);
}

#[test]
fn a_reader_that_goes_away() {
    let mut child = shell("yes; exit 5").stdout(Stdio::piped()).spawn().expect("a bundle");
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 100_000]).expect("output");
    drop(stdout);
    // `yes` gets SIGPIPE, and its shell goes on.
    assert_eq!(child.wait().expect("wait").code(), Some(5));
}

#[test]
fn whoever_is_left_behind_ends_too() {
    says(&run(&mut hello(&["zombies"])).silent(), "forked\n", 9);
}

#[test]
fn signals_are_the_workloads() {
    for (signal, text) in [(libc::SIGTERM, "SIGTERM\n"), (libc::SIGINT, "other  \n")] {
        let mut running = Running::start(&mut hello(&["wait"]));
        running.wait_for_output("ready");
        running.signal(signal);
        says(&running.end().silent(), &format!("ready\n{text}"), 7);
    }
    // One that does nothing about it dies of it.
    let mut running = Running::start(&mut shell("echo ready; exec sleep 1000"));
    running.wait_for_output("ready");
    running.signal(libc::SIGTERM);
    says(&running.end().silent(), "ready\n", 143);
    // One that ignores it has 10 s, and a reader that does not read changes nothing.
    let script = "trap '' TERM; echo ready; while true; do sleep 1; done";
    let mut running = Running::start(&mut shell(script));
    running.wait_for_output("ready");
    running.signal(libc::SIGTERM);
    says(&running.end().silent(), "ready\n", 137);
    let mut child = shell("yes").stdout(Stdio::piped()).spawn().expect("a bundle");
    thread::sleep(std::time::Duration::from_secs(5));
    let id = i32::try_from(child.id()).expect("an id");
    // SAFETY: the child was not waited for.
    assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
    let mut status = None;
    wait_for("the end of one whose output is full", || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    // At once, or after the 10 s where the signal finds it in the middle of a write.
    let code = status.and_then(|status| status.code());
    assert!(matches!(code, Some(137 | 143)), "{code:?}");
}

#[test]
fn from_anywhere() {
    // A descriptor is all that there is of the file.
    let file = fs::File::open(artifact("BRISK_BUNDLE")).expect("the bundle");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let path = format!("/proc/self/fd/{fd}");
    let mut command = Command::new(path);
    let keep = move || {
        // SAFETY: a call on a descriptor that is open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        Ok(())
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(keep) };
    says(&run(&mut command).silent(), "Hello from a VM.\n", 0);
    // Nobody's directory, and no user's rights but to KVM.
    let scratch = super::Scratch::new();
    let copy = scratch.path("app");
    fs::copy(artifact("BRISK_BUNDLE"), &copy).expect("a copy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o555)).expect("chmod");
    let mut command = Command::new(&copy);
    command.env_clear().current_dir("/proc");
    says(&run(&mut command).silent(), "Hello from a VM.\n", 0);
}

#[test]
fn fifty_guests_at_once() {
    let children: Vec<Running> =
        (0..50).map(|index| Running::start(&mut hello(&["exit", &index.to_string()]))).collect();
    for (index, running) in children.into_iter().enumerate() {
        says(&running.end().silent(), "", index as i32);
    }
}

#[test]
fn own_failures_are_125() {
    let scratch = super::Scratch::new();
    let damaged = scratch.path("damaged");
    let bytes = fs::read(artifact("BRISK_BUNDLE")).expect("the bundle");
    fs::write(&damaged, &bytes[..bytes.len() / 2]).expect("a file");
    fs::set_permissions(&damaged, fs::Permissions::from_mode(0o755)).expect("chmod");
    let ended = run(&mut Command::new(&damaged)).with_status(125);
    assert!(ended.stderr.contains("/proc/self/exe"), "{ended:#?}");
}
