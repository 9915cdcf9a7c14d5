//! Which files are in use, by which flag: none is written by one and used by another.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Mutex;

use crate::error::{Error, Result};

/// What a file is, whatever its names: device and inode, or a block device's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(u64, u64);

impl Id {
    /// Of the file that `meta` is of; `None` for what may be used by many, as a terminal.
    pub fn of(meta: &Metadata) -> Option<Id> {
        if meta.file_type().is_block_device() {
            return Some(Id(meta.rdev(), 0));
        }
        meta.is_file().then(|| Id(meta.dev(), meta.ino()))
    }
}

/// A file that a flag named.
struct Used {
    flag: &'static str,
    path: String,
    id: Id,
    writes: bool,
}

static USED: Mutex<Vec<Used>> = Mutex::new(Vec::new());

/// Nothing is used: for tests of more than one VM in a process.
#[cfg(test)]
#[cfg(all(feature = "pci", feature = "console"))]
pub fn forget() {
    USED.lock().unwrap().clear();
}

/// Notes that `flag` uses the file `path`, which is `id`, and whether it writes to it.
///
/// # Errors
/// Another flag uses it too, and one of them writes.
pub fn claim(flag: &'static str, path: &str, id: Option<Id>, writes: bool) -> Result<()> {
    let Some(id) = id else { return Ok(()) };
    let mut used = USED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(other) = used.iter().find(|other| other.id == id && (writes || other.writes)) {
        return Err(Error::failed(format!(
            "{flag} {path}: the same file as {} {}, and one of them writes to it; give another",
            other.flag, other.path
        )));
    }
    used.push(Used { flag, path: path.into(), id, writes });
    Ok(())
}
