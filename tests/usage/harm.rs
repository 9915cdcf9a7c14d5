//! Nothing of the user's is harmed: closed descriptors, files that are named twice, logs of runs before,
//! links of others, locks, FIFOs.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::common::kernel::Elf;
use super::common::{Running, brisk, has, key, lacks, run, wait_for};
use super::place::{FAILED, IMAGES, OFF, OUTPUTS, Place};

/// Does `prepare`, which only makes system calls, in the child before its exec.
pub fn before_exec(command: &mut Command, prepare: fn() -> std::io::Result<()>) {
    // SAFETY: as said.
    unsafe { command.pre_exec(prepare) };
}

/// Closes the standard descriptors from `first` on in the child, and leaves it one CPU, so that it opens
/// its files in the same order each time.
fn close_standard(command: &mut Command, first: i32) {
    let close = move || {
        // SAFETY: the child's own descriptors, and a set of CPUs of our own.
        unsafe {
            for fd in first..3 {
                libc::close(fd);
            }
            let mut cpus: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&cpus), &mut cpus);
            let some = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &cpus));
            cpus = std::mem::zeroed();
            libc::CPU_SET(some.unwrap_or(0), &mut cpus);
            libc::sched_setaffinity(0, size_of_val(&cpus), &cpus);
        }
        Ok(())
    };
    // SAFETY: as said.
    unsafe { command.pre_exec(close) };
}

/// One of the files that brisk opens would be standard error.
#[test]
fn what_is_said_goes_to_no_file_of_the_users() {
    let place = Place::new();
    let pattern = vec![0x5a; 2 << 20];
    place.0.file("image", &pattern);
    let closed = |first: i32, more: &[&str]| {
        let mut command = place.command(more);
        close_standard(&mut command, first);
        command.status().expect("brisk").code()
    };
    for first in 0..3 {
        for (flag, file, _) in IMAGES.iter() {
            // The guest runs; then brisk has something to say.
            let image = key(file, "image");
            assert_eq!(closed(first, &[flag, &image]), Some(0));
            assert_eq!(closed(first, &[flag, &image, flag, &key(file, "missing")]), Some(FAILED));
            assert!(fs::read(place.0.path("image")).expect("the image") == pattern, "{flag}");
        }
        for (flag, value) in OUTPUTS.iter() {
            let value = value.replace("PATH", "out");
            assert_eq!(closed(first, &[flag, &value]), Some(0), "{flag}");
            let text = place.0.text("out");
            assert!(!text.contains("brisk:"), "{flag}: {text}");
            fs::remove_file(place.0.path("out")).expect("the file");
        }
    }
    // A crash, said at the end.
    if has("boot-timer") {
        let place = Place::with(&Elf::new(&[(&[0x0f, 0x0b], "ud2")], &[]).file());
        for first in 0..3 {
            let mut command = place.command(&["--boot-log", "log", "--timeline"]);
            close_standard(&mut command, first);
            command.status().expect("brisk");
            let text = place.0.text("log");
            assert!(text.contains("first-entry"), "{text}");
            assert!(!text.contains("brisk:") && !text.contains("since start"), "{text}");
        }
    }
}

/// Numbers of descriptors, and what they are of.
fn descriptors(running: &Running) -> Vec<(String, String)> {
    let fds = fs::read_dir(format!("/proc/{}/fd", running.id())).expect("the process");
    let link = |entry: fs::DirEntry| {
        let to = fs::read_link(entry.path()).unwrap_or_default();
        (entry.file_name().to_string_lossy().into(), to.to_string_lossy().into())
    };
    fds.map(|entry| link(entry.expect("an entry"))).collect()
}

/// Waits until all images are open.
pub fn wait_for_vcpu(running: &Running) {
    wait_for("a vCPU", || descriptors(running).iter().any(|(_, to)| to.contains("kvm-vcpu")));
}

/// What a shell or a supervisor left open is not the VMM's, unless a flag names it.
#[test]
fn inherited_descriptors_are_closed_unless_named() {
    // It waits for an interrupt that never comes.
    let place =
        Place::with(&Elf::new(&[(&[0xf4], "hlt"), (&[0xeb, 0xfd], "jmp 0x100000")], &[]).file());
    let leave_open = || {
        for fd in [17, 19] {
            // SAFETY: makes two descriptors of the child's, which exec leaves open.
            if unsafe { libc::dup2(0, fd) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    let mut command = place.command(&[]);
    before_exec(&mut command, leave_open);
    let running = Running::start(&mut command);
    wait_for_vcpu(&running);
    wait_for("/dev/kvm to be closed", || {
        descriptors(&running).iter().all(|(_, to)| to != "/dev/kvm")
    });
    let open = descriptors(&running);
    assert!(open.iter().all(|(fd, _)| fd != "17" && fd != "19"), "{open:?}");
    running.signal(libc::SIGTERM);
    running.end().silent().with_status(0);

    let mut command = brisk();
    command.args(["--kernel", "/dev/fd/19", "--memory", "size=16M"]);
    let kernel = place.0.file("kernel", Elf::new(OFF, &[]).file());
    command.stdin(File::open(kernel).expect("the kernel"));
    before_exec(&mut command, leave_open);
    run(&mut command).silent().with_status(0);
}

#[test]
fn a_file_is_not_used_twice() {
    let place = Place::new();
    let pattern = vec![0x5a; 2 << 20];
    place.0.file("image", &pattern);
    fs::hard_link(place.0.path("image"), place.0.path("other")).expect("a link");
    let kernel = fs::read(place.0.path("kernel")).expect("the kernel");
    for (flag, value) in OUTPUTS.iter() {
        for (image, file, _) in IMAGES.iter() {
            let parts = [*flag, image, "the same file"];
            let value = value.replace("PATH", "other");
            place.refuses(&[flag, &value, image, &key(file, "image")], FAILED, &parts);
            assert!(fs::read(place.0.path("image")).expect("the image") == pattern, "{flag}");
        }
        let parts = [*flag, "--kernel", "the same file"];
        place.refuses(&[flag, &value.replace("PATH", "kernel")], FAILED, &parts);
        let initramfs = ["--initramfs", "image", *flag, &value.replace("PATH", "image")];
        place.refuses(&initramfs, FAILED, &[flag, "--initramfs", "the same file"]);
    }
    for (image, file, _) in IMAGES.iter() {
        place.refuses(&[image, &key(file, "kernel")], FAILED, &["kernel"]);
    }
    assert!(fs::read(place.0.path("kernel")).expect("the kernel") == kernel);
    assert!(fs::read(place.0.path("image")).expect("the image") == pattern);
    if let [(one, value), (two, other), ..] = &OUTPUTS[..] {
        let words = [*one, &value.replace("PATH", "out"), *two, &other.replace("PATH", "out")];
        place.refuses(&words, FAILED, &[one, two, "the same file"]);
    }
}

#[test]
fn a_run_that_comes_to_nothing_empties_no_log() {
    let place = Place::new();
    for (flag, value) in OUTPUTS.iter() {
        place.0.file("log", "the last good run's");
        let value = value.replace("PATH", "log");
        place.refuses(&[flag, &value, "--initramfs", "missing"], FAILED, &["--initramfs"]);
        place.refuses(&[flag, &value, "--memory", "size=4096T"], FAILED, &["--memory"]);
        for (image, file, _) in IMAGES.iter() {
            place.refuses(&[flag, &value, image, &key(file, "missing")], FAILED, &[image]);
        }
        for (other, bad) in OUTPUTS.iter().filter(|(other, _)| other != flag) {
            let bad = bad.replace("PATH", "missing/log");
            place.refuses(&[flag, &value, other, &bad], FAILED, &[other]);
        }
        assert_eq!(place.0.text("log"), "the last good run's", "{flag}");
        run(&mut place.command(&[flag, &value])).silent().with_status(0);
        assert!(!place.0.text("log").contains("last"), "{flag}: not emptied for a good run");
    }
}

/// What somebody else adds to a log while the VM runs is not written over.
#[test]
fn outputs_are_private_and_appended_to() {
    if lacks(&["boot-timer"]) {
        return;
    }
    let place = Place::new();
    for (flag, value) in OUTPUTS.iter() {
        run(&mut place.command(&[flag, &value.replace("PATH", "new")])).silent().with_status(0);
        let mode = fs::metadata(place.0.path("new")).expect("the file").mode();
        assert_eq!(mode & 0o777, 0o600, "{flag}");
        fs::remove_file(place.0.path("new")).expect("the file");
    }
    let guest = Elf::new(&[(&[0xf4], "hlt"), (&[0xeb, 0xfd], "jmp 0x100000")], &[]);
    let place = Place::with(&guest.file());
    let log = place.0.file("log", "old");
    let running = Running::start(&mut place.command(&["--boot-log", "log"]));
    wait_for("the log to be emptied", || fs::metadata(&log).expect("the log").len() == 0);
    let mut other = OpenOptions::new().append(true).open(&log).expect("the log");
    other.write_all(b"from somebody else\n").expect("room");
    running.signal(libc::SIGTERM);
    running.end().silent().with_status(0);
    let text = place.0.text("log");
    assert!(text.starts_with("from somebody else\n") && text.contains("\"exit\""), "{text}");
}

#[test]
fn links_of_others_are_not_followed() {
    let place = Place::new();
    let mine = place.0.file("mine", "precious");
    for (directory, mode, followed) in [("open", 0o1777, false), ("own", 0o755, true)] {
        let directory = place.0.path(directory);
        fs::create_dir(&directory).expect("a directory");
        fs::set_permissions(&directory, Permissions::from_mode(mode)).expect("chmod");
        let link = directory.join("log");
        symlink(&mine, &link).expect("a link");
        for (flag, value) in OUTPUTS.iter() {
            fs::write(&mine, "precious").expect("the file");
            let value = value.replace("PATH", link.to_str().expect("UTF-8"));
            if followed {
                run(&mut place.command(&[flag, &value])).silent().with_status(0);
            } else {
                place.refuses(&[flag, &value], FAILED, &[flag, "symbolic link", "others"]);
            }
            let kept = fs::read_to_string(&mine).is_ok_and(|text| text == "precious");
            assert_eq!(kept, !followed, "{flag}");
        }
    }
}

/// An open file description's lock, as Cloud Hypervisor and QEMU have it. The last one may still be held for
/// a moment by a child of another test that has not come to its exec.
fn lock_description(file: &File, kind: libc::c_int) -> bool {
    // SAFETY: a structure of numbers, which the call reads.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as libc::c_short;
        libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) == 0
    }
}

#[test]
fn locks_of_others() {
    let place = Place::new();
    let image = place.0.file("image", vec![0; 2 << 20]);
    for (flag, file, mend) in IMAGES.iter() {
        let writes = key(file, "image");
        let reads = format!("{writes},{mend}");
        let open = || OpenOptions::new().read(true).write(true).open(&image).expect("the image");
        let other = open();
        wait_for("the lock", || lock_description(&other, libc::F_WRLCK));
        place.refuses(&[flag, &writes], FAILED, &[flag, "in use by", "only one user"]);
        place.refuses(&[flag, &reads], FAILED, &[flag, "being written by"]);
        drop(other);
        let other = open();
        wait_for("the lock", || lock_description(&other, libc::F_RDLCK));
        place.refuses(&[flag, &writes], FAILED, &[flag, "in use by"]);
        run(&mut place.command(&[flag, &reads])).silent().with_status(0);
        drop(other);
        // flock(2), and who has it. One for whoever reads is no reason not to read.
        let other = File::open(&image).expect("the image");
        other.lock().expect("flock");
        let process = format!("process {} (", std::process::id());
        place.refuses(&[flag, &writes], FAILED, &[flag, "in use by", &process]);
        run(&mut place.command(&[flag, &reads])).silent().with_status(0);
        drop(other);
        // And the other way round.
        let place = Place::with(&hold().file());
        let image = place.0.file("image", vec![0; 2 << 20]);
        let mut command = place.command(&[flag, &writes]);
        let running = Running::start(&mut command);
        let other = OpenOptions::new().read(true).write(true).open(&image).expect("the image");
        wait_for_vcpu(&running);
        assert!(!lock_description(&other, libc::F_RDLCK), "{flag}: others are not kept off");
        assert!(other.try_lock_shared().is_err(), "{flag}: udev is not kept off");
        running.signal(libc::SIGTERM);
        running.end().silent().with_status(0);
    }
}

/// Who may read an image and not write to it, does not keep its owner from it.
#[test]
fn a_reader_does_not_lock_the_owner_out() {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        return; // another user's process is what only root can start
    }
    let place = Place::new();
    fs::set_permissions(place.0.path(""), Permissions::from_mode(0o755)).expect("chmod");
    let image = place.0.file("image", vec![0; 2 << 20]);
    fs::set_permissions(&image, Permissions::from_mode(0o644)).expect("chmod");
    let mut stranger = Command::new("flock");
    stranger.arg("--no-fork");
    stranger.arg(&image).args(["sh", "-c", "echo locked; exec sleep 60"]).uid(65534).gid(65534);
    let mut stranger = stranger.stdout(Stdio::piped()).spawn().expect("flock(1)");
    let mut word = [0; 7];
    let mut stdout = stranger.stdout.take().expect("a pipe");
    stdout.read_exact(&mut word).expect("the lock");
    for (flag, file, _) in IMAGES.iter() {
        let ended = run(&mut place.command(&[flag, &key(file, "image")])).with_status(0);
        assert!(!has("logging") || ended.stderr.contains("may only read it"), "{ended:?}");
        fs::set_permissions(&image, Permissions::from_mode(0o666)).expect("chmod");
        place.refuses(&[flag, &key(file, "image")], FAILED, &[flag, "in use by process"]);
        fs::set_permissions(&image, Permissions::from_mode(0o644)).expect("chmod");
    }
    stranger.kill().expect("kill");
    stranger.wait().expect("wait");
}

/// The last run's, by io_uring, which the kernel takes apart when that process is gone.
#[test]
fn a_lock_of_nobody_is_waited_for() {
    let place = Place::new();
    let image = place.0.file("image", vec![0; 2 << 20]);
    for (flag, file, _) in IMAGES.iter() {
        let open = OpenOptions::new().read(true).write(true).open(&image);
        let other = open.expect("the image");
        wait_for("the lock", || lock_description(&other, libc::F_WRLCK));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(300));
                drop(other);
            });
            run(&mut place.command(&[flag, &key(file, "image")])).silent().with_status(0);
        });
    }
    if has("io-uring") {
        for _ in 0..10 {
            let mut command = place.command(&["--disk", "path=image,engine=io_uring"]);
            run(&mut command).silent().with_status(0);
        }
    }
}

/// Runs until it is stopped.
pub fn hold() -> Elf {
    Elf::new(&[(&[0xf4], "hlt"), (&[0xeb, 0xfd], "jmp 0x100000")], &[])
}

fn fifo(path: &Path) {
    let name = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: a terminated path.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(fs::metadata(path).expect("the FIFO").file_type().is_fifo());
}

/// With nobody at its other end a FIFO would be waited for for ever.
#[test]
fn fifos_are_refused_at_once() {
    let place = Place::new();
    fifo(&place.0.path("fifo"));
    let kernel = ["--kernel", "fifo", "--memory", "size=16M"];
    let mut command = brisk();
    command.current_dir(place.0.path("")).args(kernel);
    place.command_refuses(&mut command, FAILED, &["--kernel fifo", "not a regular file"]);
    place.refuses(&["--initramfs", "fifo"], FAILED, &["--initramfs fifo", "not a regular file"]);
    for (flag, file, _) in IMAGES.iter() {
        for more in ["", ",readonly=on", ",discard_writes=on"] {
            if !more.is_empty() && more.starts_with(",readonly") != (*flag == "--disk") {
                continue;
            }
            let value = format!("{file}=fifo{more}");
            place.refuses(&[flag, &value], FAILED, &[flag, "not a file or block device"]);
        }
    }
    for (flag, value) in OUTPUTS.iter() {
        let value = value.replace("PATH", "fifo");
        place.refuses(&[flag, &value], FAILED, &[flag, "nobody reads this FIFO"]);
    }
    // One that is read is as good as a file.
    let open =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(place.0.path("fifo"));
    let _reader = open.expect("the FIFO");
    for (flag, value) in OUTPUTS.iter() {
        run(&mut place.command(&[flag, &value.replace("PATH", "fifo")])).silent().with_status(0);
    }
}
