//! Programs on a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Starts a program whose terminal is the pty of which `ours` and `theirs` are the ends, and collects what it
/// shows.
pub fn start(
    mut command: Command,
    ours: &OwnedFd,
    theirs: &OwnedFd,
) -> (Child, Arc<Mutex<String>>) {
    let end = || Stdio::from(theirs.try_clone().expect("dup"));
    command.stdin(end()).stdout(end()).stderr(end());
    let control = || {
        // SAFETY: system calls only: a session of its own, with standard input as its terminal.
        let done = unsafe { libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) >= 0 };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(control) };
    let child = command.spawn().expect("the program");
    let screen = Arc::new(Mutex::new(String::new()));
    let (to, mut from) = (Arc::clone(&screen), File::from(ours.try_clone().expect("dup")));
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            to.lock().expect("screen").push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    });
    (child, screen)
}
