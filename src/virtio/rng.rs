//! virtio-rng's host side (feature `rng`): random bytes from one of the host's devices.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use brisk_devices::virtio::rng::{self, MOST};

use super::queue::{self, Buffers, Taken};
use super::{Backend, Found, Halt, Host, Kind, Queue};
use crate::cli::Flags;
use crate::config::{pairs, unknown, usage};
use crate::error::{Error, Result};
use crate::events::{self, Events};

/// A source is read, and tells by itself when it has bytes again.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::call(libc::SYS_readv)];

/// `--rng src=`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RngConfig {
    /// Where the bytes come from.
    pub src: String,
}

impl RngConfig {
    /// Parses the flag's value.
    ///
    /// # Errors
    /// An unknown key, or no source.
    pub fn parse(text: &str) -> Result<RngConfig> {
        let mut config = RngConfig { src: String::new() };
        for (key, value) in pairs(text) {
            match key {
                "src" => config.src = value.into(),
                _ => return unknown("--rng", key, "src"),
            }
        }
        if config.src.is_empty() {
            return usage(format!("--rng {text}: give src=/dev/urandom"));
        }
        Ok(config)
    }
}

/// A source of random bytes.
pub struct Rng {
    source: File,
    buffers: Buffers,
}

impl Kind for Rng {
    type Config = RngConfig;

    fn configs(flags: &mut Flags<'_>) -> Result<Vec<RngConfig>> {
        flags.args.rng.iter().map(|text| RngConfig::parse(text)).collect()
    }

    fn open(config: &'static RngConfig, host: &mut Host<'_>) -> Result<(rng::Rng, Vec<Rng>)> {
        Ok((rng::Rng, vec![Rng::open_source(config, host.event())?]))
    }
}

impl Rng {
    /// Opens the source, which is to signal by `event`.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn open_source(config: &RngConfig, event: Events) -> Result<Rng> {
        let path = &config.src;
        let file = Error::file("--rng", path);
        // No read is to wait, so neither is opening it.
        let source = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(file)?;
        // A file would end, and a guest that trusts it would get the same bytes as the one before.
        if !source.metadata().is_ok_and(|meta| meta.file_type().is_char_device()) {
            return Err(Error::failed(format!(
                "--rng src={path}: not a device that gives random bytes; use src=/dev/urandom"
            )));
        }
        events::watch(&source, event);
        // SAFETY: sets flags of a description that nobody else has.
        unsafe {
            libc::fcntl(source.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC);
        }
        Ok(Rng { source, buffers: Buffers::default() })
    }

    /// Fills `buffers` in order, as far as one read goes that does not wait.
    fn read(source: &File, buffers: &[libc::iovec]) -> io::Result<usize> {
        let count = buffers.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
        // SAFETY: `collect` checked each buffer to be in guest memory, which stays mapped.
        let read = unsafe { libc::readv(source.as_raw_fd(), buffers.as_ptr(), count) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

impl Backend for Rng {
    type Model = rng::Rng;

    fn process(&mut self, queue: &mut Queue) -> std::result::Result<bool, Halt> {
        let Self { source, buffers, .. } = self;
        let interrupt = queue::drain(queue, |chain| {
            buffers.collect(chain)?;
            queue::shorten(&mut buffers.writable, MOST);
            if buffers.writable.is_empty() {
                return Ok(Taken::Used(0));
            }
            match Rng::read(source, &buffers.writable) {
                Ok(count @ 1..) => Ok(Taken::Used(count as u32)),
                // The driver gets at least a byte (virtio 1.3, 5.4.6.2), so it waits, and no vCPU: the
                // source signals when it has some.
                other => {
                    log::debug!("--rng: {other:?}");
                    Ok(Taken::Requeue)
                }
            }
        })?;
        Ok(interrupt)
    }

    fn poll(&mut self, _events: Events, _model: &mut rng::Rng) -> Found {
        Found { queue: true, ..Found::default() }
    }
}
