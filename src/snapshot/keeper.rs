//! Who gives a finished snapshot its name.
//!
//! Once the guest runs, brisk may not rename or remove a file, since those calls know no directory that
//! they are for. So a child that was made before waits for a word: on it, it renames the directory; if
//! brisk ends without, however it ends, it removes what is half written.

use std::fs::File;
use std::io;

use super::files;
use crate::child;
use crate::fd::{Fd, Moved};

/// What the keeper is told.
const KEEP: u8 = 1;
const DISCARD: u8 = 0;

/// Its end of the line.
pub struct Keeper(Fd);

impl Keeper {
    /// Makes the child, for a directory or file `partial` that is to become `path`.
    ///
    /// # Errors
    /// There is no room for a process; then nothing has that name any more.
    pub fn start(partial: &str, path: &str) -> io::Result<Keeper> {
        let line = child::start(|line| life(line, partial, path));
        line.inspect_err(|_| files::remove(partial)).map(Keeper)
    }

    /// Has the directory renamed.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn keep(&self) -> io::Result<()> {
        self.0.write(&[KEEP]);
        match read(&self.0) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code.into())),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Has it removed, if it is not renamed. Without names, its `files` would have their blocks until the
    /// process ends.
    pub fn discard(&self, files: &[&File]) {
        for file in files {
            let _ = file.set_len(0);
        }
        self.0.write(&[DISCARD]);
    }
}

/// The other end's word, or that there is none any more.
fn read(line: &Fd) -> Option<u8> {
    let mut word = [0];
    loop {
        match line.read(&mut word) {
            Moved::Bytes(1) => return Some(word[0]),
            Moved::Later => {}
            _ => return None,
        }
    }
}

/// Gives `partial` its name, which it keeps when the power fails.
fn named(partial: &str, path: &str) -> io::Result<()> {
    // A file system that cannot sync a directory is no fault of the snapshot's.
    let sync = |path: &str| files::open(path).and_then(|directory| directory.sync_all());
    let _ = sync(partial);
    files::rename(partial, path)?;
    let _ = sync(&files::below(path, ".."));
    Ok(())
}

/// The child's life.
fn life(line: &Fd, partial: &str, path: &str) {
    // Each error's number is one byte.
    let code = match read(line) {
        Some(KEEP) => match named(partial, path) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO) as u8,
        },
        _ => libc::ENOENT as u8,
    };
    line.write(&[code]);
    if code != 0 {
        // A file, or a directory with the files of a snapshot.
        for name in super::FILES {
            files::remove(&files::below(partial, name));
        }
        files::remove(partial);
    }
}
