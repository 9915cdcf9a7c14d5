//! virtio-console's host side (feature `console`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use brisk_devices::virtio::console;

use super::queue::{self, Broken, Buffers, Taken};
use super::{Backend, Found, Halt, Host, Kind, Queue};
use crate::access::End;
use crate::cli::Flags;
use crate::config;
use crate::error::Result;
use crate::events::{self, Events};
use crate::output::Output;
use crate::terminal::{self, Input};

/// The terminal's size is asked for when it changed. All else is the terminal's.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::ioctl(libc::TIOCGWINSZ)];

/// Bytes taken from the input at a time.
const CHUNK: usize = 1024;
/// Bytes written between two looks whether the VM is to end.
const MOST: usize = 1 << 20;

/// What stands behind one of hvc0's two queues: where its bytes go, or come from.
#[derive(Default)]
pub struct Console {
    transmits: bool,
    /// The output is a terminal of some size.
    has_size: bool,
    output: Option<Output>,
    /// Bytes of the transmit queue's first chain that are written already.
    sent: usize,
    waits: bool,
    input: Option<Input>,
    buffers: Buffers,
}

impl Kind for Console {
    type Config = config::Output;

    fn configs(flags: &mut Flags<'_>) -> Result<Vec<config::Output>> {
        Ok(flags
            .console
            .take()
            .filter(|output| *output != config::Output::Off)
            .into_iter()
            .collect())
    }

    fn open(
        output: &'static config::Output,
        _host: &mut Host<'_>,
    ) -> Result<(console::Console, Vec<Console>)> {
        let (model, queues) = Console::to(output);
        Ok((model, queues.into()))
    }
}

impl Console {
    /// A console whose output goes there: what its driver sees, and its receive and transmit queue.
    pub fn to(output: &'static config::Output) -> (console::Console, [Console; console::QUEUES]) {
        let is_tty = *output == config::Output::Tty;
        let mut output = terminal::output("--console", output, |file| {
            events::watch(file, Events::OUTPUT);
        });
        // A regular file takes what it is given; anything else may have a slow reader, and a signal
        // says when that has made room.
        if is_tty {
            output = output.map(terminal::nonblocking);
        }
        let input = is_tty.then(Input::open);
        let size = if is_tty { terminal::size() } else { None };
        if size.is_some() {
            events::install_for_resize();
        }
        let receives = Console { input, ..Console::default() };
        let has_size = size.is_some();
        let transmits = Console { transmits: true, has_size, output, ..Console::default() };
        (console::Console::new(size), [receives, transmits])
    }

    fn receive(&mut self, queue: &mut Queue) -> std::result::Result<bool, Halt> {
        let Self { input: Some(input), buffers, .. } = self else { return Ok(false) };
        if input.fill() {
            return Err(Halt::End(End::Quit));
        }
        let interrupt = queue::drain(queue, |chain| {
            if input.is_empty() {
                return Ok(Taken::Requeue);
            }
            buffers.collect(chain)?;
            let room = buffers.writable.iter().map(|buffer| buffer.iov_len).sum();
            let mut bytes = [0; CHUNK];
            let count = input.take(&mut bytes[..CHUNK.min(room)]);
            let written = queue::put_front(&mut buffers.writable, &bytes[..count]);
            Ok(Taken::Used(written as u32))
        })?;
        Ok(interrupt)
    }

    fn send(&mut self, queue: &mut Queue) -> std::result::Result<bool, Broken> {
        let Self { output, sent, waits, buffers, .. } = self;
        let waited = std::mem::take(waits);
        let result = queue::drain(queue, |chain| {
            let Some(output) = output.and_then(Output::file) else { return Ok(Taken::Used(0)) };
            buffers.collect(chain)?;
            terminal::shown();
            queue::advance(&mut buffers.readable, *sent);
            while let Some(buffer) = buffers.readable.first() {
                match write(output, buffer) {
                    Ok(count) => {
                        *sent += count;
                        queue::advance(&mut buffers.readable, count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // The chain stays in the queue: the guest waits only when that is full.
                        *waits = true;
                        return Ok(Taken::Requeue);
                    }
                    Err(error) => {
                        log::debug!("--console: output lost: {error}");
                        break;
                    }
                }
            }
            *sent = 0;
            Ok(Taken::Used(0))
        });
        let waits = *waits;
        if let Some(output) = output.and_then(Output::file)
            && waited != waits
        {
            terminal::signal_when_writable(output, waits);
            if waits {
                // There may be room since: then nothing will signal it.
                return Ok(self.send(queue)? || result?);
            }
        }
        result
    }
}

/// Writes from `buffer`, as much as goes without waiting, and at least a byte, until the VM is to end.
fn write(output: &File, buffer: &libc::iovec) -> io::Result<usize> {
    while !events::stopping() {
        let len = buffer.iov_len.min(MOST);
        // SAFETY: the buffer was checked to be in guest memory.
        let count = unsafe { libc::write(output.as_raw_fd(), buffer.iov_base, len) };
        if count > 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if count == 0 || error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

impl Backend for Console {
    type Model = console::Console;

    const EVENTS: Events = Events::CONSOLE;

    fn process(&mut self, queue: &mut Queue) -> std::result::Result<bool, Halt> {
        match self.transmits {
            true => Ok(self.send(queue)?),
            false => self.receive(queue),
        }
    }

    fn poll(&mut self, events: Events, model: &mut console::Console) -> Found {
        let mut polled = Found::default();
        if events.intersects(Events::INPUT)
            && let Some(input) = &mut self.input
        {
            input.wake();
            // A guest that takes nothing, or has no queue yet, can be quit too.
            polled.end = input.fill().then_some(End::Quit);
            polled.queue = true;
        }
        if events.intersects(Events::OUTPUT) && self.waits {
            polled.queue = true;
        }
        if events.intersects(Events::WINDOW) && self.has_size {
            polled.config =
                terminal::size().is_some_and(|(columns, rows)| model.resize(columns, rows));
        }
        polled
    }

    fn activate(&mut self, _features: u64) {
        self.sent = 0;
        self.waits = false;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::thread::JoinHandleExt;

    use super::*;
    use crate::virtio::failing::{interrupt, interruptible};

    /// A signal that ends no VM, while a reader is slow.
    #[test]
    fn a_signal_loses_no_output() {
        interruptible();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writes = std::thread::spawn(move || {
            let output = File::from(OwnedFd::from(writer));
            let mut bytes = vec![b'x'; 1 << 17];
            let buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            // The pipe has room for half of it; the second one finds none.
            [write(&output, &buffer), write(&output, &buffer)].map(|count| count.is_ok())
        });
        interrupt(writes.as_pthread_t());
        // To its end, which is the thread's.
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        assert_eq!(writes.join().unwrap(), [true, true]);
    }
}
