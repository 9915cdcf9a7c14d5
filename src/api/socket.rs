//! `--api-socket`: where clients come to.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;

use super::keeper;
use crate::cli::words::os_string;
use crate::config::usage;
use crate::error::{Error, Result};
use crate::fd::Fd;

pub(super) const FLAG: &str = "--api-socket";
/// Connections that wait to be accepted; more have to wait themselves.
const BACKLOG: libc::c_int = 64;

/// What the flag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// A socket to be made here.
    Path(String),
    /// One that is inherited, as systemd's are from 3 on (sd_listen_fds(3)).
    Descriptor(RawFd),
}

impl Socket {
    /// Parses `PATH`, `path=PATH` or `fd=N`.
    ///
    /// # Errors
    /// No path, or no number.
    pub fn parse(text: &str) -> Result<Socket> {
        if let Some(number) = text.strip_prefix("fd=") {
            // The standard ones are something else's.
            if let Some(number @ 3..) = number_of(number.as_bytes()) {
                return Ok(Socket::Descriptor(number));
            }
        } else {
            let path = text.strip_prefix("path=").unwrap_or(text);
            if !path.is_empty() {
                return Ok(Socket::Path(path.into()));
            }
        }
        usage([FLAG, " ", text, ": give a path, path=PATH or fd=N, N from 3 on"].concat())
    }

    /// The socket, to which clients can come from now on; it does not block.
    ///
    /// # Errors
    /// It cannot be made, something else is there, or what was inherited is no such socket.
    pub fn open(&self) -> Result<Fd> {
        let opened = match self {
            Socket::Path(path) => bind(&c_path(path)),
            Socket::Descriptor(number) => inherited(*number),
        };
        opened.map_err(|why| {
            let error = io::Error::last_os_error();
            let text = match self {
                Socket::Path(path) => path.clone(),
                Socket::Descriptor(number) => format!("fd={number}"),
            };
            match why {
                Why::System => Error::file(FLAG, &text)(error),
                Why::Other(why) => Error::Failed([FLAG, " ", &text, ": ", why].concat()),
            }
        })
    }
}

/// The descriptor that `argument` names, which is not to be closed.
pub fn named(argument: &[u8]) -> Option<u32> {
    let value = argument.strip_prefix(FLAG.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
    number_of(value.unwrap_or(argument).strip_prefix(b"fd=")?).map(|number| number as u32)
}

/// A descriptor's number in decimal.
fn number_of(digits: &[u8]) -> Option<RawFd> {
    let add = |sum: RawFd, digit: &u8| match digit.wrapping_sub(b'0') {
        digit @ 0..10 => sum.checked_mul(10)?.checked_add(digit.into()),
        _ => None,
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// A path as the system has it: to its first zero byte, of which no argument of a program has one.
pub(super) fn c_path(path: &str) -> Vec<u8> {
    let mut bytes = os_string(path).into_vec();
    bytes.push(0);
    bytes
}

/// Why there is no socket at a path.
enum Why {
    /// The last call's error.
    System,
    /// This.
    Other(&'static str),
}

/// `name` ends with a zero byte.
fn bind(name: &[u8]) -> std::result::Result<Fd, Why> {
    // SAFETY: all zeroes are an address and a file's, and the rest are plain calls on them and on new
    // descriptors.
    unsafe {
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        if name.len() > address.sun_path.len() {
            return Err(Why::Other("the path of a socket has at most 107 bytes"));
        }
        let place = address.sun_path.as_mut_ptr().cast::<u8>();
        place.copy_from_nonoverlapping(name.as_ptr(), name.len());
        let name = place.cast::<libc::c_char>();
        let address = (&raw const address).cast();
        let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // By its number, as in `Fd::pair`; the last one is a single call in any case.
        let new = || {
            let fd = libc::syscall(libc::SYS_socket, libc::AF_UNIX, kind, 0);
            Fd::new(fd as RawFd).ok_or(Why::System)
        };
        let socket = new()?;
        let fd = socket.number();

        // A symbolic link is not followed: who may make one here may not choose where the socket is.
        let mut meta: libc::stat = std::mem::zeroed();
        if libc::lstat(name, &mut meta) == 0 {
            if meta.st_mode & libc::S_IFMT != libc::S_IFSOCK {
                return Err(Why::Other(
                    "is there already, and no socket; remove it, or give another path",
                ));
            }
            // What nobody listens at is nobody's any more. Of another kind of socket this is not known.
            let alive = libc::connect(new()?.number(), address, len);
            if alive == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ECONNREFUSED) {
                return Err(Why::Other("another process listens there; give another path"));
            }
            if libc::unlink(name) != 0 {
                return Err(Why::System);
            }
        }
        // What bind(2) makes has the socket's own mode, so it is nobody else's at any time.
        if libc::syscall(libc::SYS_fchmod, fd, 0o600) != 0 || libc::bind(fd, address, len) != 0 {
            return Err(Why::System);
        }
        // Before anybody can have seen that it is there.
        keeper::made();
        if libc::listen(fd, BACKLOG) != 0 {
            return Err(Why::System);
        }
        Ok(socket)
    }
}

fn inherited(number: RawFd) -> std::result::Result<Fd, Why> {
    let option = |name| {
        let mut value: libc::c_int = -1;
        let mut len = size_of_val(&value) as libc::socklen_t;
        let to = (&raw mut value).cast();
        // SAFETY: fills one number.
        unsafe { libc::getsockopt(number, libc::SOL_SOCKET, name, to, &mut len) };
        value
    };
    // What listens is a stream, or made of packets in order, and those are for us the same.
    if [option(libc::SO_DOMAIN), option(libc::SO_ACCEPTCONN)] != [libc::AF_UNIX, 1] {
        return Err(Why::Other(
            "is no Unix socket that listens; inherit one, as systemd's units do",
        ));
    }
    // SAFETY: plain calls; the flag says that this descriptor is ours.
    unsafe {
        let flags = libc::fcntl(number, libc::F_GETFL);
        libc::fcntl(number, libc::F_SETFL, flags | libc::O_NONBLOCK);
        libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
        Fd::new(number).ok_or(Why::System)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_the_flag() {
        let path = |text: &str| Ok::<_, ()>(Socket::Path(text.into()));
        let parse = |text: &str| Socket::parse(text).map_err(|_| ());
        assert_eq!(parse("/run/vm"), path("/run/vm"));
        assert_eq!(parse("path=/run/vm"), path("/run/vm"));
        assert_eq!(parse("fd=3"), Ok(Socket::Descriptor(3)));
        for wrong in ["", "path=", "fd=", "fd=x", "fd=2", "fd=-1", "fd=99999999999", "fd=3x"] {
            assert_eq!(parse(wrong), Err(()), "{wrong}");
        }
        assert_eq!(named(b"--api-socket=fd=4"), Some(4));
        assert_eq!(named(b"fd=5"), Some(5));
        assert_eq!(named(b"--pmem=fd=4"), None);
        assert_eq!(named(b"/fd=5"), None);
    }
}
