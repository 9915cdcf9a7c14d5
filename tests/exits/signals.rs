//! SIGTERM ends the VM whatever it waits for, and a shell's job control works.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use super::common::{brisk, limit, wait_for};
use super::{Lab, guests};

/// A pipe that holds a page, and whose reader reads nothing.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: fills two descriptors, which are then owned here.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        assert_eq!(libc::fcntl(ends[0], libc::F_SETPIPE_SZ, 4096), 4096);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let mut status = None;
    let since = std::time::Instant::now();
    while status.is_none() {
        status = child.try_wait().expect("wait");
        if since.elapsed() > limit() {
            let _ = child.kill();
            panic!("still running after {:?}", limit());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    status.expect("it ended")
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the child was not waited for, so the id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Sends SIGTERM to a brisk that waits for whoever reads; it ends as if it had not waited.
#[track_caller]
fn ends(mut command: Command, reader: &OwnedFd) {
    let mut child = command.spawn().expect("brisk");
    wait_for("a pipe that is full", || {
        let mut waiting = 0;
        // SAFETY: writes the one number it is given.
        unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &mut waiting) };
        waiting > 3900
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(child.try_wait().expect("wait").is_none(), "it does not wait");
    signal(&child, libc::SIGTERM);
    let status = wait(&mut child);
    assert_eq!(status.code(), Some(0), "{status:?}");
}

#[test]
fn with_output_that_nobody_reads() {
    let (reader, writer) = full_pipe();
    let lab = Lab::new(guests::LINES);
    let mut command = lab.command(&["--serial", "tty"]);
    command.stdout(writer).stderr(Stdio::null());
    ends(command, &reader);
}

#[cfg(feature = "logging")]
#[test]
fn with_messages_that_nobody_reads() {
    let (reader, writer) = full_pipe();
    let lab = Lab::new(guests::LINES);
    let mut command = lab.command(&["--serial", "file=/dev/full", "--log-level", "debug"]);
    command.stdout(Stdio::null()).stderr(writer);
    ends(command, &reader);
}

/// The second vCPU waits, with all that the first one needs in its hands.
#[cfg(feature = "smp")]
#[test]
fn with_another_vcpu_that_waits() {
    let (reader, writer) = full_pipe();
    let lab = Lab::with_data(
        guests::cpus::WAKE_OTHER,
        &super::common::kernel::bytes(guests::cpus::OTHER_LINES),
    );
    let mut command = lab.command(&["--serial", "tty", "--cpus", "boot=2"]);
    command.stdout(writer).stderr(Stdio::null());
    ends(command, &reader);
}

/// A terminal with a shell on it that has job control.
struct Shell {
    child: Child,
    terminal: File,
    screen: Arc<Mutex<String>>,
}

impl Shell {
    fn start() -> Shell {
        let (mut ours, mut theirs) = (0, 0);
        let (name, settings, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
        // SAFETY: fills two descriptors, which are then owned here.
        let (ours, theirs) = unsafe {
            assert_eq!(libc::openpty(&mut ours, &mut theirs, name, settings, size), 0, "a pty");
            (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
        };
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile", "--noediting", "-i"]).env("PS1", "ready$ ");
        let (child, screen) = super::common::terminal::start(command, &ours, &theirs);
        let terminal = File::from(ours);
        Shell { child, terminal, screen }
    }

    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).expect("the terminal");
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        let shown = || self.screen.lock().expect("screen").contains(text);
        let since = std::time::Instant::now();
        while !shown() {
            let screen = self.screen.lock().expect("screen");
            assert!(since.elapsed() < limit(), "no `{text}` on the screen:\n{screen}");
            drop(screen);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn is_raw(&self) -> bool {
        // SAFETY: fills the one structure it is given.
        unsafe {
            let mut termios: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.terminal.as_raw_fd(), &mut termios), 0);
            termios.c_lflag & libc::ICANON == 0
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a user does: starts it in the background, goes on, brings it to the front, types, quits; and
/// stops one in the front, lets it end in the background.
#[test]
fn a_job_in_the_background() {
    let lab = Lab::new(guests::ECHO);
    let kernel = lab.scratch.file("kernel", lab.elf.file());
    let (program, kernel) = (brisk().get_program().to_owned(), kernel.display().to_string());
    let line =
        format!("{} --kernel {kernel} --memory size=16M --serial tty", program.to_string_lossy());
    let mut shell = Shell::start();
    shell.shows("ready$ ");
    shell.types(&format!("{line} & echo started $((6*7))\n"));
    shell.shows("started 42");
    // Neither stopped nor the terminal changed, now and once the guest runs.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    shell.types("jobs -r | grep -c memory; echo looked $((6*8))\n");
    shell.shows("looked 48");
    shell.shows("\n1\r\n");
    shell.types("fg\n");
    wait_for("the terminal to be the guest's", || shell.is_raw());
    shell.types("hey");
    shell.shows("hey");
    shell.types("q");
    wait_for("the terminal to be the shell's", || !shell.is_raw());
    shell.types("echo ended $? $((6*9))\n");
    shell.shows("ended 0 54");

    // Stopped from elsewhere, brought back: its terminal again.
    shell.types(&format!("{line}\n"));
    wait_for("the terminal to be the guest's", || shell.is_raw());
    let stop = format!("pkill -TSTP -P {}", shell.child.id());
    assert!(Command::new("sh").args(["-c", &stop]).status().expect("sh").success());
    shell.shows("Stopped");
    shell.types("stty sane; echo back $((6*10))\n");
    shell.shows("back 60");
    shell.types("fg\n");
    wait_for("the terminal to be the guest's again", || shell.is_raw());
    // And to the background, where it ends without a word to the terminal.
    assert!(Command::new("sh").args(["-c", &stop]).status().expect("sh").success());
    shell.types("stty sane; bg; echo on $((6*11))\n");
    shell.shows("on 66");
    shell.types(&format!("pkill -TERM -P {}; wait; jobs; echo over $((6*12))\n", shell.child.id()));
    shell.shows("over 72");
}

/// As where a guest has brisk touch memory of an image that somebody made shorter.
#[test]
fn memory_that_is_gone_leaves_no_raw_terminal() {
    let lab = Lab::new(guests::ECHO);
    let kernel = lab.scratch.file("kernel", lab.elf.file()).display().to_string();
    let program = brisk().get_program().to_string_lossy().into_owned();
    let mut shell = Shell::start();
    shell.shows("ready$ ");
    shell.types(&format!(
        "{program} --kernel {kernel} --memory size=16M --serial tty; echo ended $? $((6*7))\n"
    ));
    wait_for("the terminal to be the guest's", || shell.is_raw());
    let signal = format!("pkill -BUS -P {}", shell.child.id());
    assert!(Command::new("sh").args(["-c", &signal]).status().expect("sh").success());
    shell.shows("brisk: memory of a file is gone");
    shell.shows("ended 1 42");
    wait_for("the terminal to be the shell's", || !shell.is_raw());
}
