//! Files and directories by the names that the command line gives. By system calls, where std's own
//! functions bring along more than they do here: it makes directories within directories, for instance.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::cli::words::os_string;

fn name(path: &str) -> CString {
    // One with a zero byte, which no argument of a program has, is none.
    CString::new(os_string(path).into_vec()).unwrap_or_default()
}

fn done(status: libc::c_int) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What is in a directory by this name.
#[inline(never)]
pub fn below(directory: &str, name: &str) -> String {
    [directory, "/", name].concat()
}

/// Under which name something is made, in this process.
#[inline(never)]
pub fn partial(path: &str) -> String {
    format!("{path}.partial-{}", std::process::id())
}

/// Makes a directory.
///
/// # Errors
/// It is there already, for instance.
pub fn make_directory(path: &str) -> io::Result<()> {
    // SAFETY: reads the name.
    done(unsafe { libc::mkdir(name(path).as_ptr(), 0o777) })
}

/// Gives `from` the name `to`, which only an empty directory or a file may have.
///
/// # Errors
/// Another has it, for instance.
pub fn rename(from: &str, to: &str) -> io::Result<()> {
    // SAFETY: reads both names.
    done(unsafe { libc::rename(name(from).as_ptr(), name(to).as_ptr()) })
}

/// Removes a file, or an empty directory.
pub fn remove(path: &str) {
    let path = name(path);
    // SAFETY: each reads the name.
    unsafe {
        if libc::unlink(path.as_ptr()) != 0 {
            libc::rmdir(path.as_ptr());
        }
    }
}

/// Whether something is there that is not an empty directory.
pub fn is_taken(path: &str) -> bool {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    let directory = match options.open(os_string(path)) {
        Ok(directory) => directory,
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    // struct linux_dirent64: two numbers of eight bytes, the entry's length, a byte, the name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut entries = [0u8; 1024];
    // SAFETY: fills as many bytes as there are.
    let len = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            entries.as_mut_ptr(),
            entries.len(),
        )
    };
    let mut left = entries.get(..len.max(0) as usize).unwrap_or_default();
    while let Some(&[low, high]) = left.get(LENGTH..LENGTH + 2) {
        let entry = left.get(NAME..).unwrap_or_default();
        if !entry.starts_with(b".\0") && !entry.starts_with(b"..\0") {
            return true;
        }
        left = left.get(usize::from(u16::from_le_bytes([low, high]))..).unwrap_or_default();
    }
    false
}

/// Opens a file to be read. A FIFO is not waited for: it is as long as an empty file.
///
/// # Errors
/// It is not there, or may not be read.
pub fn open(path: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(os_string(path))
}

/// All that is in a file.
///
/// # Errors
/// It is not there, or cannot be read.
pub fn read(path: &str) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Makes a file that nobody else may read.
///
/// # Errors
/// It is there already, for instance.
pub fn make(path: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(os_string(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_not_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a").to_str().unwrap().to_owned();
        let within = format!("{path}/b");
        assert!(!is_taken(&path));
        make_directory(&path).unwrap();
        assert!(!is_taken(&path));
        assert!(make_directory(&path).is_err());
        drop(make(&within).unwrap());
        assert!(is_taken(&path) && is_taken(&within));
        assert!(make(&within).is_err());
        rename(&within, &format!("{path}/.hidden")).unwrap();
        assert!(is_taken(&path));
        std::fs::write(&within, "text").unwrap();
        assert_eq!(read(&within).unwrap(), b"text");
        remove(&within);
        remove(&format!("{path}/.hidden"));
        assert!(!is_taken(&path));
        remove(&path);
        assert!(!scratch.path().join("a").exists());
    }
}
