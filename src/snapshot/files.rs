//! Files and directories by the names that the command line gives. By system calls, where std's own
//! functions bring along more than they do here: it makes directories within directories, for instance.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

use crate::cli::words::os_string;
use crate::error::errno;

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

const TAKEN: &str = "is there already; remove it, or give another path";
const MOUNT_POINT: &str = "is a mount point; give a directory in it";

/// Why a directory could not get this name at last. What a rename can replace is what the kernel would remove,
/// and of that it knows all: an empty directory, which comes back, and no symbolic link to one, no ".", no
/// mounted file system's root. To be asked where directories can be made.
pub fn obstacle(path: &str) -> Option<&'static str> {
    let name = name(path);
    // SAFETY: both read the name.
    let error = unsafe {
        match libc::rmdir(name.as_ptr()) {
            0 => {
                libc::mkdir(name.as_ptr(), 0o777);
                libc::ENOENT
            }
            _ => errno(),
        }
    };
    match error {
        libc::ENOENT => None,
        libc::EBUSY => Some(MOUNT_POINT),
        _ => Some(TAKEN),
    }
}

#[inline(never)]
fn open_with(path: &str, flags: libc::c_int) -> io::Result<File> {
    // Nobody else may read a file that is made.
    const MODE: libc::mode_t = 0o600;
    let path = name(path);
    // SAFETY: reads the name; a descriptor is nobody else's.
    unsafe {
        loop {
            match libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, MODE) {
                -1 if errno() == libc::EINTR => {}
                -1 => return Err(io::Error::last_os_error()),
                fd => return Ok(File::from_raw_fd(fd)),
            }
        }
    }
}

/// Opens a file to be read. A FIFO is not waited for: it is as long as an empty file.
///
/// # Errors
/// It is not there, or may not be read.
pub fn open(path: &str) -> io::Result<File> {
    open_with(path, libc::O_NONBLOCK)
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
    open_with(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_not_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a").to_str().unwrap().to_owned();
        let within = format!("{path}/b");
        assert_eq!(obstacle(&path), None);
        make_directory(&path).unwrap();
        assert_eq!(obstacle(&path), None);
        assert!(make_directory(&path).is_err());
        drop(make(&within).unwrap());
        assert_eq!([&path, &within].map(|path| obstacle(path)), [Some(TAKEN); 2]);
        assert!(make(&within).is_err());
        rename(&within, &format!("{path}/.hidden")).unwrap();
        assert_eq!(obstacle(&path), Some(TAKEN));
        std::fs::write(&within, "text").unwrap();
        assert_eq!(read(&within).unwrap(), b"text");
        remove(&within);
        remove(&format!("{path}/.hidden"));
        assert_eq!(obstacle(&path), None);
        remove(&path);
        assert!(!scratch.path().join("a").exists());
    }
}
