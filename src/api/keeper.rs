//! Who removes the socket from its directory.
//!
//! Once the guest runs, brisk may not remove a file, since that call knows no directory that it is for. So
//! a child that was made before waits: when brisk ends, however it ends, it removes the socket, if it is
//! still the one that brisk made.

use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::child;
use crate::fd::{self, Fd, Moved};

/// Milliseconds that an end waits at most; where signals come, so often as long as the next takes to come.
const PATIENCE: libc::c_int = 1000;
const SIGNALS: usize = 20;

/// What it is told: the socket is there; it is to go.
const MADE: u8 = 1;
const END: u8 = 2;

/// The end of the line to the child.
static LINE: AtomicI32 = AtomicI32::new(-1);

/// Makes the child, before there is a guest's memory that it would share. `path` ends with a zero byte.
///
/// # Errors
/// There is no room for a process.
pub fn start(path: &[u8]) -> io::Result<()> {
    let line = ManuallyDrop::new(child::start(|line| life(line, path))?);
    LINE.store(line.number(), Ordering::Relaxed);
    Ok(())
}

fn line() -> Option<ManuallyDrop<Fd>> {
    // SAFETY: nobody closes it.
    unsafe { Fd::new(LINE.load(Ordering::Relaxed)).map(ManuallyDrop::new) }
}

/// The socket is there from now on.
pub fn made() {
    if let Some(line) = line() {
        line.write(&[MADE]);
        // Only when the child has seen it does it know which one it is.
        line.read(&mut [0]);
    }
}

/// Has the socket removed, at the end.
pub fn end() {
    let Some(line) = line() else { return };
    line.write(&[END]);
    // A signal ends a wait, and what ended the VM comes again and again.
    let _ = (0..SIGNALS).any(|_| fd::poll(&mut [line.poll(libc::POLLIN)], PATIENCE));
}

/// The child's life.
fn life(line: &Fd, path: &[u8]) {
    let mut word = [0];
    if matches!(line.read(&mut word), Moved::Bytes(_)) && word == [MADE] {
        let made = id(path);
        line.write(&[0]);
        // A byte, or the end of brisk.
        line.read(&mut [0]);
        if made.is_some() && id(path) == made {
            // SAFETY: a path that ends.
            unsafe { libc::unlink(path.as_ptr().cast()) };
        }
    }
}

/// Which file is at `path`.
fn id(path: &[u8]) -> Option<(libc::dev_t, libc::ino_t)> {
    // SAFETY: a structure, which the call fills where it succeeds, and a path that ends.
    unsafe {
        let mut meta = MaybeUninit::<libc::stat>::uninit();
        if libc::lstat(path.as_ptr().cast(), meta.as_mut_ptr()) != 0 {
            return None;
        }
        let meta = meta.assume_init_ref();
        Some((meta.st_dev, meta.st_ino))
    }
}
