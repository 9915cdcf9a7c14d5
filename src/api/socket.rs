//! `--api-socket`: where clients come to.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;

use super::keeper;
use crate::cli::words::os_string;
use crate::config::usage;
use crate::error::{Error, Result, errno};
use crate::fd::Fd;

pub(super) const FLAG: &str = "--api-socket";
/// Connections that wait to be accepted; more have to wait themselves.
const BACKLOG: libc::c_int = 64;

/// What the flag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The path of one to be made, or the words for one that is inherited.
    text: String,
    /// That one, as systemd's are from 3 on (sd_listen_fds(3)); -1 for a path.
    inherited: RawFd,
}

impl Socket {
    /// Parses `PATH`, `path=PATH` or `fd=N`.
    ///
    /// # Errors
    /// No path, or no number.
    pub fn parse(text: &str) -> Result<Socket> {
        let (place, inherited) = match text.strip_prefix("fd=") {
            // The standard ones are something else's.
            Some(number) => (text, number_of(number.as_bytes()).filter(|number| *number > 2)),
            None => (text.strip_prefix("path=").unwrap_or(text), Some(-1)),
        };
        if let (false, Some(inherited)) = (place.is_empty(), inherited) {
            return Ok(Socket { text: place.into(), inherited });
        }
        usage([FLAG, " ", text, ": give a path, path=PATH or fd=N, N from 3 on"].concat())
    }

    /// The socket, to which clients can come from now on; it does not block.
    ///
    /// # Errors
    /// It cannot be made, something else is there, or what was inherited is no such socket.
    pub fn open(&self) -> Result<Fd> {
        let opened = match self.path() {
            Some(path) => bind(&path),
            None => inherited(self.inherited),
        };
        opened.map_err(|why| match why {
            Why::System => Error::file(FLAG, &self.text)(io::Error::last_os_error()),
            Why::Other(why) => Error::failed([FLAG, " ", &self.text, ": ", why].concat()),
        })
    }

    /// What it is called in messages.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The path of one to be made, as the system has it: to its first zero byte, of which no argument of a
    /// program has one.
    pub(super) fn path(&self) -> Option<Vec<u8>> {
        if self.inherited >= 0 {
            return None;
        }
        let mut bytes = os_string(&self.text).into_vec();
        bytes.push(0);
        Some(bytes)
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

/// Why there is no socket at a path.
enum Why {
    /// The last call's error.
    System,
    /// This.
    Other(&'static str),
}

/// `name` ends with a zero byte.
fn bind(name: &[u8]) -> std::result::Result<Fd, Why> {
    // SAFETY: all zeroes are an address, lstat(2) fills what is of the file where it succeeds, and the rest
    // are plain calls on them and on new descriptors.
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
            let number = libc::syscall(libc::SYS_socket, libc::AF_UNIX, kind, 0);
            Fd::new(number as RawFd).ok_or(Why::System)
        };
        let socket = new()?;
        let number = socket.number();

        // A symbolic link is not followed: who may make one here may not choose where the socket is.
        let mut meta = MaybeUninit::<libc::stat>::uninit();
        if libc::lstat(name, meta.as_mut_ptr()) == 0 {
            if meta.assume_init_ref().st_mode & libc::S_IFMT != libc::S_IFSOCK {
                return Err(Why::Other(
                    "is there already, and no socket; remove it, or give another path",
                ));
            }
            // What nobody listens at is nobody's any more. Of another kind of socket this is not known.
            let alive = libc::connect(new()?.number(), address, len);
            if alive == 0 || errno() != libc::ECONNREFUSED {
                return Err(Why::Other("another process listens there; give another path"));
            }
            if libc::unlink(name) != 0 {
                return Err(Why::System);
            }
        }
        // What bind(2) makes has the socket's own mode, so it is nobody else's at any time.
        if libc::syscall(libc::SYS_fchmod, number, 0o600) != 0
            || libc::bind(number, address, len) != 0
        {
            return Err(Why::System);
        }
        // Before anybody can have seen that it is there.
        keeper::made();
        if libc::listen(number, BACKLOG) != 0 {
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
        let socket = |text: &str, inherited| Ok::<_, ()>(Socket { text: text.into(), inherited });
        let parse = |text: &str| Socket::parse(text).map_err(|_| ());
        assert_eq!(parse("/run/vm"), socket("/run/vm", -1));
        assert_eq!(parse("path=/run/vm"), socket("/run/vm", -1));
        assert_eq!(parse("path=fd=3"), socket("fd=3", -1));
        assert_eq!(parse("fd=3"), socket("fd=3", 3));
        for wrong in ["", "path=", "fd=", "fd=x", "fd=2", "fd=-1", "fd=99999999999", "fd=3x"] {
            assert_eq!(parse(wrong), Err(()), "{wrong}");
        }
        assert_eq!(named(b"--api-socket=fd=4"), Some(4));
        assert_eq!(named(b"fd=5"), Some(5));
        assert_eq!(named(b"--pmem=fd=4"), None);
        assert_eq!(named(b"/fd=5"), None);
    }
}
