//! The locks on an image, for as long as it is open.
//!
//! The one that counts is an open file description's (`F_OFD_SETLK`, fcntl(2)) on the whole image, which
//! Cloud Hypervisor and QEMU take too: for writing only who may write to the image gets it. What is
//! written to is locked by flock(2) as well, by which udev keeps off a block device, and backups off a
//! file. Anybody who may read an image gets that one: whoever could not write to it does not keep us off.

use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Duration;

use super::Wish;
use crate::error::{Error, Result};
use crate::events;

/// udev looks at a block device that somebody has written to, with its lock on it, for a moment. And a process
/// that is gone may have its locks for a moment: the kernel takes an io_uring with its files apart later.
const WAITS: u32 = 100;
const WAIT: Duration = Duration::from_millis(10);
/// Modes with which somebody else than the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// Who holds a lock, as far as `/proc/locks` tells.
struct Holder {
    process: u32,
    user: u32,
    name: String,
}

impl Wish<'_> {
    pub(super) fn lock(&self, file: &File, meta: &Metadata) -> Result<()> {
        let failed = |error| Error::of_file(self.flag, self.path, error);
        let mut waits = 0..WAITS;
        let mut wait = || {
            let more = waits.next().is_some() && !events::stopping();
            if more {
                std::thread::sleep(WAIT);
            }
            more
        };
        while !lock_description(file, self.writes).map_err(failed)? {
            let holder = Holder::of(meta);
            if holder.is_some() || !wait() {
                return Err(self.in_use(holder.as_ref()));
            }
        }
        if !self.writes {
            return Ok(());
        }
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            let holder = Holder::of(meta);
            let passes = meta.file_type().is_block_device() || holder.is_none();
            if passes && wait() {
                continue;
            }
            return match holder {
                Some(holder) if holder.only_reads(meta) => {
                    let Holder { process, name, .. } = holder;
                    let (flag, path) = (self.flag, self.path);
                    log::warn!(
                        "{flag} {path}: process {process} ({name}) has a lock on it, and may only \
                         read it; goes on without that lock"
                    );
                    Ok(())
                }
                holder => Err(self.in_use(holder.as_ref())),
            };
        }
    }

    fn in_use(&self, holder: Option<&Holder>) -> Error {
        let who = match holder {
            Some(holder) if holder.process == std::process::id() => {
                "another disk of this VM".into()
            }
            Some(holder) => format!("process {} ({})", holder.process, holder.name),
            None => "another disk or VM".into(),
        };
        self.wrong(&match self.writes {
            true => format!("in use by {who}; a writable image can have only one user"),
            false => format!("being written by {who}"),
        })
    }
}

/// Locks the whole file; false where somebody else's lock does not go with it.
fn lock_description(file: &File, writes: bool) -> io::Result<bool> {
    let kind = if writes { libc::F_WRLCK } else { libc::F_RDLCK };
    // SAFETY: a structure of numbers, of which zeroes mean the whole file; the call reads it.
    let status = unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as libc::c_short;
        libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock)
    };
    if status == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

impl Holder {
    /// Of a lock on the file that `meta` is of. Locks of open file descriptions name nobody.
    fn of(meta: &Metadata) -> Option<Holder> {
        let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
        let file = format!("{major:02x}:{minor:02x}:{}", meta.ino());
        let locks = fs::read_to_string("/proc/locks").ok()?;
        // 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
        let process = locks.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(4);
            let process = words.next()?.parse().ok()?;
            (words.next()? == file).then_some(process)
        })?;
        let directory = format!("/proc/{process}");
        let user = fs::metadata(&directory).ok()?.uid();
        let name = fs::read_to_string(directory + "/comm").unwrap_or_default();
        Some(Holder { process, user, name: name.trim_end().into() })
    }

    /// Whether it is a process of one who may read the file that `meta` is of and not write to it.
    fn only_reads(&self, meta: &Metadata) -> bool {
        meta.mode() & OTHERS_WRITE == 0 && ![0, meta.uid()].contains(&self.user)
    }
}
