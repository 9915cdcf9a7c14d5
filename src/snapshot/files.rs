//! Files and directories by the names that the command line gives. By system calls, where std's own
//! functions bring along more than they do here: it makes directories within directories, for instance.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
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

/// Why a directory could not get this name at last: something is there that is not an empty directory, or
/// it is a mounted file system's root.
pub fn obstacle(path: &str) -> Option<&'static str> {
    let directory = match open_with(path, libc::O_DIRECTORY) {
        Ok(directory) => directory,
        Err(error) => return (error.kind() != io::ErrorKind::NotFound).then_some(TAKEN),
    };
    if is_mount_point(&directory) {
        return Some(MOUNT_POINT);
    }
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
            return Some(TAKEN);
        }
        left = left.get(usize::from(u16::from_le_bytes([low, high]))..).unwrap_or_default();
    }
    None
}

/// A kernel before 5.8 does not tell.
fn is_mount_point(directory: &File) -> bool {
    let mut meta = MaybeUninit::<libc::statx>::uninit();
    let (fd, at, flags) = (directory.as_raw_fd(), meta.as_mut_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: an empty name that ends, and a structure that is filled where the call succeeds.
    unsafe {
        libc::syscall(libc::SYS_statx, fd, c"".as_ptr(), flags, 0, at) == 0
            && (*at).stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0
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
        assert_eq!(obstacle("/proc"), Some(MOUNT_POINT));
    }
}
