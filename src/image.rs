//! What disk and pmem images have in common: opening, locking, checking.

use std::fs::{File, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;

use crate::error::{Error, Result};

/// An image that cannot be opened; one that may only be read names the key that helps.
pub fn open_error(flag: &'static str, path: &str, error: io::Error, readonly: &str) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::Failed(format!("{flag} {path}: {error}; to use it without writing: {readonly}"))
        }
        io::ErrorKind::IsADirectory => {
            Error::Failed(format!("{flag} {path}: is a directory; give an image file"))
        }
        _ => Error::File { flag, path: path.into(), error },
    }
}

/// Checks that the image is a file or block device with something in it and that nobody else uses
/// it in a way that does not go with ours; its bytes. The lock lasts until the file is closed.
///
/// # Errors
/// What is wrong with it.
pub fn check(flag: &'static str, path: &str, file: &File, writes: bool) -> Result<u64> {
    let fail = |text: &str| Err(Error::Failed(format!("{flag} {path}: {text}")));
    let meta = file.metadata().map_err(Error::file(flag, path))?;
    let len = if meta.file_type().is_block_device() {
        let mut file = file;
        file.seek(SeekFrom::End(0)).map_err(Error::file(flag, path))?
    } else if meta.is_file() {
        meta.len()
    } else if meta.is_dir() {
        return fail("is a directory; give an image file");
    } else {
        return fail("not a file or block device; give an image file");
    };
    if len == 0 {
        return fail("is empty; give an image file");
    }
    match if writes { file.try_lock() } else { file.try_lock_shared() } {
        Ok(()) => Ok(len),
        Err(TryLockError::WouldBlock) if writes => {
            fail("in use by another disk or VM; a writable image can have only one user")
        }
        Err(TryLockError::WouldBlock) => fail("being written by another disk or VM"),
        Err(TryLockError::Error(error)) => Err(Error::File { flag, path: path.into(), error }),
    }
}

/// Checks that a disk has whole sectors.
///
/// # Errors
/// It has not.
#[cfg(feature = "block")]
pub fn check_sectors(flag: &'static str, path: &str, len: u64) -> Result<()> {
    if len.is_multiple_of(512) {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{flag} {path}: {len} bytes are not a multiple of 512; try: truncate -s %512 {path}"
    )))
}

/// What a disk says it is: the end of its path.
#[cfg(feature = "block")]
pub fn id(path: &str) -> [u8; 20] {
    let mut id = [0; 20];
    let name = path.rsplit('/').next().unwrap_or(path).as_bytes();
    for (to, from) in id.iter_mut().zip(name) {
        *to = *from;
    }
    id
}
