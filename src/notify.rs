//! Tells the service manager when the guest is ready (feature `notify`): sd_notify(3), so nobody has to
//! ask again and again.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::config::Config;

/// Userspace's first code of the boot timer.
const USERSPACE: u8 = 0x60;
const READY: &[u8] = b"READY=1";

/// The manager's socket, if one listens, and the code that it is told at.
#[derive(Default)]
pub struct Notify(Option<(UnixDatagram, u8)>);

impl Notify {
    /// Connects to `$NOTIFY_SOCKET`; before a sandbox keeps that from being done.
    pub fn open(config: &Config) -> Notify {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Notify(None) };
        let socket = connect(&name).inspect_err(|error| {
            log::warn!("NOTIFY_SOCKET {}: {error}; nobody is told", name.to_string_lossy());
        });
        Notify(socket.ok().map(|socket| (socket, config.notify.unwrap_or(USERSPACE))))
    }

    /// The guest wrote `code`.
    pub fn mark(&mut self, code: u8) {
        let Some((socket, _)) = self.0.take_if(|(_, at)| *at == code) else { return };
        // Not send(2), which a sandbox does not let through.
        // SAFETY: reads as many bytes as there are.
        let sent = unsafe { libc::write(socket.as_raw_fd(), READY.as_ptr().cast(), READY.len()) };
        if sent < 0 {
            log::warn!("NOTIFY_SOCKET: {}", io::Error::last_os_error());
        }
        // It stays open: close(2) is no call of the sandbox's either.
        std::mem::forget(socket);
    }
}

/// A path, or a name behind an `@` that no file has.
fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A manager that reads nothing does not hold the guest.
    socket.set_nonblocking(true)?;
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(name)?,
    }
    Ok(socket)
}
