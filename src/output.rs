//! The files that brisk writes: made new, and gone again where the VM never was.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::Mutex;

use crate::error::{Error, Result};

/// Files that were not there before.
static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Makes the file that `flag` names, or empties it where it is there already.
///
/// # Errors
/// It cannot be written to.
pub fn create(flag: &'static str, path: &str) -> Result<File> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => {
            MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(path.into());
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::create(path).map_err(Error::file(flag, path))
        }
        Err(error) => Err(Error::File { flag, path: path.into(), error }),
    }
}

/// The VM is about to run: whatever happens, its files stay.
pub fn keep() {
    MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
}

/// Removes what was made for a VM that never ran.
pub fn discard() {
    for path in MADE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).drain(..) {
        let _ = std::fs::remove_file(path);
    }
}
