//! Who gives a finished snapshot its name.
//!
//! Once the guest runs, brisk may not rename or remove a file, since those calls know no directory that
//! they are for. So a child that was made before waits for a word: on it, it renames the directory; if
//! brisk ends without, however it ends, it removes what is half written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::files;
use crate::child;

/// What the keeper is told.
const KEEP: u8 = 1;
const DISCARD: u8 = 0;

/// Its end of the line.
pub struct Keeper(UnixStream);

impl Keeper {
    /// Makes the child, for a directory or file `partial` that is to become `path`.
    ///
    /// # Errors
    /// There is no room for a process.
    pub fn start(partial: &str, path: &str) -> io::Result<Keeper> {
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: the process has one thread yet, so its child may do what it likes.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(ours);
                wait(theirs, partial, path)
            }
            _ => Ok(Keeper(ours)),
        }
    }

    /// Has the directory renamed.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn keep(&self) -> io::Result<()> {
        let mut line = &self.0;
        line.write_all(&[KEEP])?;
        let mut code = [0; 4];
        line.read_exact(&mut code)?;
        match i32::from_le_bytes(code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Has it removed, if it is not renamed. Without names, its `files` would have their blocks until the
    /// process ends.
    pub fn discard(&self, files: &[&File]) {
        for file in files {
            let _ = file.set_len(0);
        }
        let mut line = &self.0;
        let _ = line.write_all(&[DISCARD]);
    }
}

/// The child's life.
fn wait(mut line: UnixStream, partial: &str, path: &str) -> ! {
    child::stays(line.as_raw_fd() as libc::c_uint);
    let mut word = [0];
    let told = line.read_exact(&mut word).is_ok() && word == [KEEP];
    let kept = match told {
        true => files::rename(partial, path),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let code = kept.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    let _ = line.write_all(&code.to_le_bytes());
    if kept.is_err() {
        // A file, or a directory with the files of a snapshot.
        for name in super::FILES {
            files::remove(&format!("{partial}/{name}"));
        }
        files::remove(partial);
    }
    // SAFETY: ends the child.
    unsafe { libc::_exit(0) }
}
