//! The files that brisk writes. They are named while the VM is built, and opened together when all of
//! its inputs were and it is about to run: a run that comes to nothing makes no file and empties none.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
#[cfg(any(feature = "serial", feature = "console"))]
use std::os::fd::FromRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::cli::words::os_string;
use crate::descriptors;
use crate::error::{Error, Result};
use crate::inputs::{self, Id};

/// Only for who runs brisk: what the guest prints may be anything.
const MODE: u32 = 0o600;

/// A file that is open from when the VM is about to run.
#[derive(Debug, Clone, Copy)]
pub struct Output(&'static OnceLock<File>);

struct Planned {
    flag: &'static str,
    path: &'static str,
    file: &'static OnceLock<File>,
    made: bool,
    /// Called with one that may have a slow reader.
    slow: fn(&File),
}

static PLANNED: Mutex<Vec<Planned>> = Mutex::new(Vec::new());

fn planned() -> MutexGuard<'static, Vec<Planned>> {
    PLANNED.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Output {
    /// The file that `flag` names, which [`open`] will open.
    pub fn to(flag: &'static str, path: &'static str) -> Output {
        Output::slow_to(flag, path, |_| ())
    }

    /// The same, of which `slow` is told where writes to it may have to wait.
    pub fn slow_to(flag: &'static str, path: &'static str, slow: fn(&File)) -> Output {
        let file = Box::leak(Box::new(OnceLock::new()));
        planned().push(Planned { flag, path, file, made: false, slow });
        Output(file)
    }

    /// A file that is open.
    #[cfg(any(feature = "serial", feature = "console"))]
    pub fn from(file: File) -> Output {
        Output(Box::leak(Box::new(OnceLock::from(file))))
    }

    /// Standard output.
    #[cfg(any(feature = "serial", feature = "console"))]
    pub fn standard() -> Output {
        // SAFETY: a duplicate in its own right would be a call more; the descriptor is never closed.
        Output::from(unsafe { File::from_raw_fd(libc::STDOUT_FILENO) })
    }

    /// The file, once the VM is about to run. Writes to one that is not regular may have to wait.
    pub fn file(self) -> Option<&'static File> {
        self.0.get()
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As `descriptors::write_all`.
    pub fn write_all(self, bytes: &[u8]) -> io::Result<()> {
        self.file().map_or(Ok(()), |file| descriptors::write_all(file, bytes))
    }
}

/// Opens all files, then empties them. All of the inputs are known by now.
///
/// # Errors
/// One cannot be written to, or another flag uses it too; then none was emptied.
pub fn open() -> Result<()> {
    let mut planned = planned();
    let mut files = Vec::with_capacity(planned.len());
    for output in planned.iter_mut() {
        let Planned { flag, path, .. } = *output;
        let (file, new) = open_one(flag, path)?;
        output.made = new;
        let meta = file.metadata().map_err(Error::file(flag, path))?;
        if meta.file_type().is_block_device() {
            return Err(Error::failed(format!("{flag} {path}: is a block device; give a file")));
        }
        inputs::claim(flag, path, Id::of(&meta), true)?;
        if !meta.is_file() {
            (output.slow)(&file);
        }
        files.push((file, !new && meta.is_file()));
    }
    for (output, (file, empty)) in planned.iter().zip(files) {
        if empty {
            file.set_len(0).map_err(Error::file(output.flag, output.path))?;
        }
        let _ = output.file.set(file);
    }
    planned.clear();
    Ok(())
}

/// Removes what was made for a VM that never ran.
pub fn discard() {
    for output in planned().drain(..).filter(|output| output.made) {
        let _ = std::fs::remove_file(os_string(output.path));
    }
}

/// The file, and whether it was made.
fn open_one(flag: &'static str, path: &str) -> Result<(File, bool)> {
    let name = os_string(path);
    // A FIFO that nobody reads, or a reader that is slow, is no reason to wait.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).mode(MODE);
    match options.clone().custom_flags(flags).create_new(true).open(&name) {
        Ok(file) => return Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::of_file(flag, path, error)),
    }
    // With O_CREAT, as the kernel then refuses another user's file in a directory for all
    // (fs.protected_regular, fs.protected_fifos).
    options.create(true);
    let mut opened = options.clone().custom_flags(flags | libc::O_NOFOLLOW).open(&name);
    if opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ELOOP)) {
        if others_may_write(directory(name.as_ref())) {
            return Err(Error::failed(format!(
                "{flag} {path}: a symbolic link in a directory that others may write to; give the \
                 file that it stands for"
            )));
        }
        opened = options.custom_flags(flags).open(&name);
    }
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => {
            Error::failed(format!("{flag} {path}: nobody reads this FIFO; start its reader first"))
        }
        _ => Error::of_file(flag, path, error),
    });
    file.map(|file| (file, false))
}

fn directory(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn others_may_write(directory: &Path) -> bool {
    directory.metadata().map_or(true, |meta: Metadata| meta.mode() & 0o022 != 0)
}
