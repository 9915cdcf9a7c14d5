//! File descriptors: which ones are ours from the start, and writing to those whose other side may be
//! slow.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};

use crate::api;
use crate::cli::words::os_string;
use crate::events;

/// Who writes may have to wait.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::call(libc::SYS_poll)];

/// The first descriptor that is nobody's standard one.
const FIRST: u32 = 3;

/// Fills those of descriptors 0 to 2 that are closed, so that no file of the user's gets one of these
/// numbers and what is written to the standard ones. What fills them takes no writes and gives no
/// reads. Rust's start-up code does the same, and we have none.
pub fn fill_standard() {
    let mut all = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: three entries, as said; no waiting.
    unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, 0) };
    for closed in all.iter().filter(|poll| poll.revents & libc::POLLNVAL != 0) {
        // SAFETY: a constant path. It is the lowest free descriptor that open(2) gives, so this one.
        let fd = unsafe { libc::open(c"/".as_ptr(), libc::O_PATH) };
        if fd != closed.fd {
            // SAFETY: ends the process, which could only harm files.
            unsafe { libc::_exit(1) };
        }
    }
}

/// Closes what was inherited beyond descriptors 0 to 2, but for those that `arguments` name by
/// `/dev/fd/N`, `/proc/self/fd/N` or `--api-socket fd=N`.
pub fn close_inherited(arguments: &[OsString]) {
    let mut kept = Vec::new();
    for argument in arguments {
        kept.extend(named(argument.as_encoded_bytes()));
        kept.extend(api::named(argument.as_encoded_bytes()));
    }
    let mut from = FIRST;
    // The next one each time: a sort would be 4 KB for what are a few numbers at most.
    while let Some(fd) = kept.iter().copied().filter(|fd| *fd >= from).min() {
        close(from, fd.saturating_sub(1));
        match fd.checked_add(1) {
            Some(next) => from = next,
            None => return,
        }
    }
    close(from, u32::MAX);
}

/// The descriptors that an argument names.
fn named(argument: &[u8]) -> impl Iterator<Item = u32> {
    const BEFORE: &[u8] = b"/fd/";
    let rests = (0..argument.len()).filter_map(|at| argument[at..].strip_prefix(BEFORE));
    rests.filter_map(|rest| {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    })
}

fn close(from: u32, to: u32) {
    if from <= to {
        // SAFETY: plain numbers of descriptors that nothing here has opened. A kernel before 5.9, which
        // has no such call, leaves them open.
        unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
    }
}

/// Writes all of `bytes`, waiting for a slow reader, until the VM is to end.
///
/// # Errors
/// The file cannot be written to, or a signal ended the wait.
pub fn write_all(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    use io::{ErrorKind, Write};
    while !bytes.is_empty() {
        let mut to = file;
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) => match error.kind() {
                _ if events::stopping() => return Err(error),
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => wait_for_room(file),
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// Waits until `file` takes a write, or a signal comes.
fn wait_for_room(file: &File) {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry, as said.
    unsafe { libc::poll(&mut poll, 1, -1) };
}

/// Writes a text, in which paths may be as they were given, to standard error, as far as it takes it.
pub fn say(text: &str) {
    // SAFETY: standard error is never closed.
    let stderr = ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDERR_FILENO) });
    let _ = write_all(&stderr, os_string(text).as_encoded_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_named_by_their_paths() {
        let of = |text: &str| named(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(of("path=/dev/fd/5,readonly=on"), [5]);
        assert_eq!(of("/proc/self/fd/17"), [17]);
        assert_eq!(of("file=/dev/fd/3 /dev/fd/44"), [3, 44]);
        assert!(of("/fd/x").is_empty());
        assert!(of("vmlinux").is_empty());
        assert!(of("/dev/fd/99999999999").is_empty());
    }
}
