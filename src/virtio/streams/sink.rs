//! Where an output of the workload's goes: what its reader does not take now is kept, at most a window of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;

use brisk_devices::streams::{Output, wire};
use libc::c_int;

use crate::terminal;

/// An output's other end.
pub(super) struct Sink {
    pub(super) output: Output,
    pub(super) file: ManuallyDrop<File>,
    /// What it did not take yet.
    pub(super) pending: VecDeque<u8>,
    /// Bytes that it took and the guest was not told of.
    pub(super) taken: usize,
    /// Nobody reads it any more.
    pub(super) gone: bool,
    /// The guest has closed it.
    pub(super) ended: bool,
}

impl Sink {
    /// On one of the process's own standard streams.
    pub(super) fn new(output: Output, fd: c_int) -> Sink {
        let (file, pending) = (terminal::standard(fd), VecDeque::new());
        Sink { output, file, pending, taken: 0, gone: false, ended: false }
    }

    pub(super) fn put(&mut self, mut data: &[u8]) {
        terminal::shown();
        if self.pending.is_empty() {
            while !data.is_empty() && !self.gone {
                match self.file.write(data) {
                    Ok(count) => {
                        self.taken += count;
                        data = &data[count..];
                    }
                    Err(error) if !self.goes_on(&error) => break,
                    Err(_) => {}
                }
            }
        }
        if data.is_empty() || self.gone {
            return;
        }
        if self.pending.is_empty() {
            terminal::signal_when_writable(&self.file, true);
        }
        // A guest that sends more than it may loses it.
        let room = wire::WINDOW - self.pending.len().min(wire::WINDOW);
        self.pending.extend(&data[..data.len().min(room)]);
        // There may be room since: then nothing will signal it.
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while !self.pending.is_empty() && !self.gone {
            match self.file.write(self.pending.as_slices().0) {
                Ok(count) => {
                    self.taken += count;
                    self.pending.drain(..count);
                    if self.pending.is_empty() {
                        terminal::signal_when_writable(&self.file, false);
                    }
                }
                Err(error) if !self.goes_on(&error) => break,
                Err(_) => {}
            }
        }
        if self.gone {
            self.pending.clear();
        }
        if self.ended {
            self.close();
        }
    }

    /// Whether to try again now; a reader that went away is noted.
    fn goes_on(&mut self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::Interrupted => true,
            io::ErrorKind::WouldBlock => false,
            _ => {
                self.gone = true;
                false
            }
        }
    }

    /// The guest has closed it: so is it here, when all is written, and its reader finds the end.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.close();
    }

    /// Standard output only: on standard error brisk may have something to say itself.
    fn close(&mut self) {
        if self.pending.is_empty() && self.output == Output::Standard && !self.gone {
            self.gone = true;
            terminal::close_output(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_write_now_or_ever() {
        let sink = |kind: io::ErrorKind| {
            let mut sink = Sink::new(Output::Errors, libc::STDERR_FILENO);
            (sink.goes_on(&kind.into()), sink.gone)
        };
        assert_eq!(sink(io::ErrorKind::Interrupted), (true, false));
        assert_eq!(sink(io::ErrorKind::WouldBlock), (false, false));
        assert_eq!(sink(io::ErrorKind::BrokenPipe), (false, true));
    }
}
