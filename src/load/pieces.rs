//! What is to be read from files into guest memory, in pieces that more than one thread can take.
//!
//! Everything is read, so what becomes of a file once the guest runs is nothing to the guest. One that
//! becomes shorter before is an error that names it; one whose content changes meanwhile gives what a
//! `cp` of it would give.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::config::{MemoryConfig, PageSize};
use crate::error::{Error, Result};
use crate::events;
use crate::load::fill;
use crate::memory::HUGE;

/// An open file, or a part of one.
pub struct Opened {
    /// The file.
    pub file: File,
    /// Where the part starts.
    pub start: u64,
    /// Its bytes.
    pub len: u64,
    /// The size of the file's own pages, as the file system says.
    pub page: u64,
}

/// A file that a flag names.
pub struct Source {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// Its value.
    pub path: String,
    /// The file.
    file: File,
    /// Where in it that starts which the flag names.
    start: u64,
    /// Whether whole huge pages are filled from it as such: guest memory is in pages of the pool that
    /// nobody has touched, and the file's own pages are huge.
    fills: bool,
}

impl Source {
    /// The open `file` that `flag` named by `path`, and what the file system says of it.
    pub fn new(memory: &MemoryConfig, flag: &'static str, path: &str, opened: Opened) -> Source {
        let fills = memory.pool() == Some(PageSize::Size2M)
            && !memory.prefault
            && opened.page >= HUGE as u64;
        let Opened { file, start, .. } = opened;
        Source { flag, path: path.into(), file, start, fills }
    }

    /// See the field; never in a build that cannot.
    fn fills(&self) -> bool {
        cfg!(feature = "hugepages") && self.fills
    }

    /// Puts the bytes from `at` on into guest memory.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn load(&self, at: u64, to: &mut [u8]) -> Result<()> {
        if self.fills()
            && to.len().is_multiple_of(HUGE)
            && (to.as_ptr() as usize).is_multiple_of(HUGE)
            && fill::fill(&self.file, self.start + at, to)
        {
            log::debug!("{} {}: {} bytes put as huge pages", self.flag, self.path, to.len());
            return Ok(());
        }
        self.read(at, to)
    }

    /// Reads the bytes from `at` on.
    ///
    /// # Errors
    /// The file ends before, or cannot be read.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(to, self.start + at).map_err(|error| {
            Error::file(self.flag, &self.path)(match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::other("became shorter while it was loaded")
                }
                _ if error.raw_os_error() == Some(libc::EFAULT) => io::Error::other(
                    "the host has no memory for the guest's; see the limits of this process's cgroup \
                     (memory.max, hugetlb.*.max), or give the guest less --memory",
                ),
                _ => error,
            })
        })
    }
}

/// Some bytes of a file and where they go.
struct Piece {
    source: Arc<Source>,
    at: u64,
    to: &'static mut [u8],
}

/// All that is left to read.
pub struct Pieces {
    /// Whether anybody helps: alone, larger pieces are fewer calls.
    cut: bool,
    left: Mutex<Vec<Piece>>,
}

/// Pieces that nobody may take yet.
#[derive(Default)]
pub struct Plan(Vec<Piece>);

impl Plan {
    /// Adds bytes of `source` from `at` on.
    pub fn add(&mut self, source: &Arc<Source>, at: u64, to: &'static mut [u8]) {
        self.0.push(Piece { source: Arc::clone(source), at, to });
    }
}

impl Pieces {
    /// For one thread or, with `cut`, for two.
    pub fn new(cut: bool) -> Pieces {
        Pieces { cut, left: Mutex::new(Vec::new()) }
    }

    /// Gives out what `plan` has.
    pub fn publish(&self, plan: Plan) {
        let mut list = Vec::with_capacity(plan.0.len());
        for Piece { source, mut at, mut to } in plan.0 {
            while !to.is_empty() {
                let (first, rest) = to.split_at_mut(self.first(&source, to));
                let next = at + first.len() as u64;
                list.push(Piece { source: Arc::clone(&source), at, to: first });
                (at, to) = (next, rest);
            }
        }
        list.reverse();
        *self.left() = list;
    }

    /// Bytes at the start of `to` that make a piece. Pieces end where a huge page does, so that no two
    /// threads wait for the zeroing of one, and none has to be zeroed that is filled as a whole.
    fn first(&self, source: &Source, to: &[u8]) -> usize {
        let all = to.len();
        if all <= HUGE || !(self.cut || source.fills()) {
            return all;
        }
        match to.as_ptr() as usize % HUGE {
            0 if self.cut => HUGE,
            0 => all - all % HUGE,
            into => HUGE - into,
        }
    }

    /// Reads until nothing is left, and says of each piece what it was of.
    ///
    /// # Errors
    /// As [`Source::read`], and that a signal came.
    pub fn work(&self, mut done: impl FnMut(&'static str)) -> Result<()> {
        loop {
            let Some(Piece { source, at, to }) = self.left().pop() else { return Ok(()) };
            if events::stopping() {
                return Err(Error::stopped());
            }
            source.load(at, to)?;
            done(source.flag.trim_start_matches('-'));
        }
    }

    fn left(&self) -> MutexGuard<'_, Vec<Piece>> {
        self.left.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_read_all_of_it() {
        let bytes: Vec<u8> = (0..5u32 << 18).flat_map(u32::to_le_bytes).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &bytes).unwrap();
        let path = file.path().to_str().unwrap();
        let memory = MemoryConfig::default();
        let len = bytes.len() as u64;
        let opened = Opened { file: file.reopen().unwrap(), start: 0, len, page: 4096 };
        let source = Arc::new(Source::new(&memory, "--kernel", path, opened));
        for cut in [false, true] {
            let (to, rest) = vec![0; bytes.len() + 5].leak().split_at_mut(bytes.len());
            let seen: &'static [u8] = unsafe_alias(to);
            let pieces = Pieces::new(cut);
            let mut plan = Plan::default();
            plan.add(&source, 0, to);
            pieces.publish(plan);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| pieces.work(|_| ()));
                pieces.work(|name| assert_eq!(name, "kernel")).unwrap();
                other.join().unwrap().unwrap();
            });
            assert!(seen == bytes);
            let mut plan = Plan::default();
            plan.add(&source, bytes.len() as u64 - 4, rest);
            pieces.publish(plan);
            let error = pieces.work(|_| ()).unwrap_err().to_string();
            assert!(error.contains("--kernel") && error.contains("became shorter"), "{error}");
        }
    }

    fn unsafe_alias(of: &mut [u8]) -> &'static [u8] {
        // SAFETY: leaked memory; looked at only when the threads that write to it have ended.
        unsafe { std::slice::from_raw_parts(of.as_ptr(), of.len()) }
    }
}
