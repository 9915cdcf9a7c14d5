//! The `log` facade's end: lines on standard error.

use std::sync::atomic::{AtomicU32, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::descriptors;
use crate::error::{Error, Result};

/// The most lines of each level. What a guest can cause (a broken ring, a disk that fails, a flush of
/// an image that shrank) it can cause without end, and the host's log is not its to fill.
const MOST: u32 = 1000;

/// Lines so far of each level, by its number: a flood of one hides no other.
type Lines = [AtomicU32; LevelFilter::Trace as usize + 1];

/// Brisk's own lines, and those of the libraries it uses: neither hide the other.
struct Stderr([Lines; 2]);

const fn none() -> Stderr {
    Stderr([const { [const { AtomicU32::new(0) }; LevelFilter::Trace as usize + 1] }; 2])
}

static STDERR: Stderr = none();

impl Stderr {
    /// Counts a line of this level, by the module `target`. What is to be said besides, after the last
    /// one; `None` where there were too many.
    fn admit(&self, level: Level, target: &str) -> Option<&'static str> {
        let lines = &self.0[usize::from(!target.starts_with("brisk"))];
        let count = |lines| (lines < MOST).then_some(lines + 1);
        match lines[level as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) {
            Ok(before) if before + 1 == MOST => Some(" (the last of this level: too many)"),
            Ok(_) => Some(""),
            Err(_) => None,
        }
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata())
            && let Some(more) = self.admit(record.level(), record.target())
        {
            // The carriage return is for a terminal that a guest has in raw mode.
            let line = format!("brisk: {}: {}{more}\r\n", record.level(), record.args());
            descriptors::say(&line);
        }
    }

    fn flush(&self) {}
}

/// Logs from now on what is at least as urgent as `level`: off, error, warn, info, debug or trace.
///
/// # Errors
/// Another word.
pub fn start(level: &str) -> Result<()> {
    let level: LevelFilter = level.parse().map_err(|_| {
        Error::usage(format!("--log-level {level}: give off, error, warn, info, debug or trace"))
    })?;
    // Fails only where a logger is set already, which is then somebody else's choice.
    let _ = log::set_logger(&STDERR);
    log::set_max_level(level);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_level_ends_and_hides_no_other() {
        let log = none();
        let admit = |level| log.admit(level, "brisk::virtio");
        let admitted = (0..3 * MOST).filter(|_| admit(Level::Debug).is_some()).count();
        assert_eq!(admitted, MOST as usize);
        // A library's lines are its own.
        let theirs = (0..3 * MOST).filter(|_| log.admit(Level::Error, "virtio_queue").is_some());
        assert_eq!(theirs.count(), MOST as usize);
        assert_eq!(admit(Level::Error), Some(""));
        let more: Vec<_> = (1..MOST).map(|_| admit(Level::Error)).collect();
        let (last, rest) = more.split_last().unwrap();
        assert!(rest.iter().all(|more| *more == Some("")));
        assert!(last.unwrap().contains("too many"));
        assert_eq!(admit(Level::Error), None);
    }
}
