//! The `log` facade's end: lines on standard error.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

use crate::error::{Error, Result};

struct Stderr;

static STDERR: Stderr = Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // The carriage return is for a terminal that a guest has in raw mode.
            let line = format!("brisk: {}: {}\r\n", record.level(), record.args());
            let _ = std::io::stderr().write_all(line.as_bytes());
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
        Error::Usage(format!("--log-level {level}: give off, error, warn, info, debug or trace"))
    })?;
    // Fails only where a logger is set already, which is then somebody else's choice.
    let _ = log::set_logger(&STDERR);
    log::set_max_level(level);
    Ok(())
}
