//! What clients ask and are answered: HTTP/1.1 (RFC 9112) in the words of Cloud Hypervisor's API, without
//! any I/O. Whatever bytes come, they are a command, a refusal, or not all of a request yet.

use httparse::{EMPTY_HEADER, Error, Header, Request, Status};

use super::json;
use crate::fd::Moved;

/// The most bytes of a request, head and body.
pub const MOST: usize = 4096;
/// The most lines of a head; curl sends five.
const HEADERS: usize = 16;
const ROOT: &[u8] = b"/api/v1/";

const NO_CONTENT: &str = "204 No Content";
const BAD: &str = "400 Bad Request";
const WRONG_METHOD: &str = "405 Method Not Allowed";
const TOO_LARGE: &str = "413 Content Too Large";
const NOT_IMPLEMENTED: &str = "501 Not Implemented";

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// `vmm.ping`
    Ping,
    /// `vm.info`
    Info,
    /// `vm.counters`
    Counters,
    /// `vm.pause`
    Pause,
    /// `vm.resume`
    Resume,
    /// `vm.snapshot`
    Snapshot,
    /// `vm.power-button`
    PowerButton,
    /// `vm.shutdown`, `vmm.shutdown`
    Shutdown,
}

/// Makes [`NAMES`] and [`COMMANDS`] of one list.
macro_rules! commands {
    ($first:literal => $command:ident, $($name:literal => $more:ident,)*) => {
        /// Their names, with spaces between, in the order of [`COMMANDS`].
        const NAMES: &[u8] = concat!($first, $(" ", $name),*).as_bytes();
        const COMMANDS: &[Command] = &[Command::$command, $(Command::$more),*];
    };
}

// Each at the place of its number; the last one has another name besides.
commands! {
    "vmm.ping" => Ping,
    "vm.info" => Info,
    "vm.counters" => Counters,
    "vm.pause" => Pause,
    "vm.resume" => Resume,
    "vm.snapshot" => Snapshot,
    "vm.power-button" => PowerButton,
    "vm.shutdown" => Shutdown,
    "vmm.shutdown" => Shutdown,
}

const _: () = {
    let mut at = 0;
    while at < COMMANDS.len() {
        let number = COMMANDS[at] as usize;
        assert!(COMMANDS[number] as usize == number, "a command at another's place");
        at += 1;
    }
};

impl Command {
    /// The one whose number this is.
    pub(super) fn numbered(number: u8) -> Option<Command> {
        COMMANDS.get(usize::from(number)).copied()
    }

    fn method(self) -> &'static str {
        match self {
            Command::Ping | Command::Info | Command::Counters => "GET",
            _ => "PUT",
        }
    }
}

/// A request that is all there.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The command, or why there is none.
    pub what: Result<Command, Answer>,
    /// Where to a snapshot is to be written, `file://` and a directory; empty for other commands.
    pub url: Vec<u8>,
    /// The client may ask again on this connection.
    pub stays: bool,
}

/// An answer: its status (RFC 9110, 15), and a body of JSON, empty for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    status: &'static str,
    body: Vec<u8>,
}

impl Answer {
    /// It is done.
    pub const fn done() -> Answer {
        Answer { status: NO_CONTENT, body: Vec::new() }
    }

    /// Here it is.
    pub fn json(body: impl Into<Vec<u8>>) -> Answer {
        Answer { status: "200 OK", body: body.into() }
    }

    /// It cannot be done. As Cloud Hypervisor has it, the body is a list of what went wrong.
    pub fn failed(why: &str) -> Answer {
        Answer::refused("500 Internal Server Error", &[why])
    }

    /// As [`Self::failed`], with another status, and with what to say in pieces.
    pub fn refused(status: &'static str, why: &[&str]) -> Answer {
        let mut body = b"[".to_vec();
        json::quote(why.concat().as_bytes(), &mut body);
        body.push(b']');
        Answer { status, body }
    }

    /// Adds its bytes to `out`.
    pub fn write(&self, stays: bool, out: &mut Vec<u8>) {
        let Answer { status, body } = self;
        add(out, "HTTP/1.1 ");
        add(out, status);
        add(out, "\r\nServer: brisk\r\nConnection: ");
        add(out, if stays { "keep-alive" } else { "close" });
        // Each command has one method (RFC 9110, 15.5.6), and who took the wrong one took the other.
        if *status == WRONG_METHOD {
            add(out, "\r\nAllow: GET, PUT");
        }
        // None has neither a length nor a type (RFC 9110, 8.6).
        if !body.is_empty() {
            add(out, "\r\nContent-Type: application/json\r\nContent-Length: ");
            json::number(body.len() as u64, out);
        }
        add(out, "\r\n\r\n");
        out.extend_from_slice(body);
    }
}

#[inline(never)]
pub(super) fn add(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// What came from a client and is not answered yet: [`MOST`] bytes and no more.
#[derive(Default)]
pub struct Inbox(Vec<u8>);

impl Inbox {
    /// How many bytes it takes; some, unless [`Self::take`] has a request to give.
    pub fn room(&self) -> usize {
        MOST - self.0.len()
    }

    /// Takes bytes, no more than there is room for.
    pub fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&bytes[..bytes.len().min(self.room())]);
    }

    /// Takes what `read` puts into the room that there is.
    pub(super) fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> Moved) -> Moved {
        let len = self.0.len();
        self.0.resize(MOST, 0);
        let moved = read(&mut self.0[len..]);
        let count = if let Moved::Bytes(count) = moved { count } else { 0 };
        self.0.truncate(len + count);
        moved
    }

    /// The next request, if it is there.
    pub fn take(&mut self) -> Option<Asked> {
        let (len, asked) = read(&self.0)?;
        self.0.drain(..len);
        Some(asked)
    }
}

/// The request at the start of `bytes`, and how many of them it takes. (Not within its caller, here and
/// below: what has few locals of its own is reached by shorter instructions.)
#[inline(never)]
fn read(bytes: &[u8]) -> Option<(usize, Asked)> {
    // Where the next request begins is not known after one that is none.
    let refused = |status, why| {
        let what = Err(Answer::refused(status, &[why]));
        Some((bytes.len(), Asked { what, url: Vec::new(), stays: false }))
    };
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if bytes.len() < MOST => return None,
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => {
            return refused(
                "431 Request Header Fields Too Large",
                "a request has at most 4096 bytes and 16 headers",
            );
        }
        Err(_) => return refused(BAD, "not a request of HTTP/1.1"),
    };
    let Framing { length, stays } = match framing(request.headers, request.version == Some(1)) {
        Ok(framing) => framing,
        Err((status, why)) => return refused(status, why),
    };
    let len = head + length;
    if len > MOST {
        return refused(TOO_LARGE, "a request has at most 4096 bytes");
    }
    let body = bytes.get(head..len)?;
    let mut url = Vec::new();
    let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
    let what = command(method, target, body, &mut url);
    // An answer to HEAD has no body (RFC 9110, 9.3.2); a refusal's is the last that the client gets.
    Some((len, Asked { what, url, stays: stays && method != "HEAD" }))
}

/// Where a request ends, and whether another follows (RFC 9112, 6.3 and 9.3).
struct Framing {
    length: usize,
    stays: bool,
}

#[inline(never)]
fn framing(headers: &[Header<'_>], stays: bool) -> Result<Framing, (&'static str, &'static str)> {
    let mut framing = Framing { length: 0, stays };
    let mut told = None;
    for Header { name, value } in headers {
        let name = name.as_bytes();
        if same(name, b"content-length") {
            // More than there is room for is too long in any case.
            let add = |sum: usize, digit: &u8| (sum * 10 + usize::from(digit - b'0')).min(2 * MOST);
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            framing.length = if digits { value.iter().fold(0, add) } else { 0 };
            if !digits || told.is_some_and(|told| told != framing.length) {
                return Err((BAD, "Content-Length: not one number"));
            }
            told = Some(framing.length);
        } else if same(name, b"transfer-encoding") {
            return Err((NOT_IMPLEMENTED, "Transfer-Encoding: give a Content-Length"));
        } else if stays && same(name, b"expect") {
            // An answer of some kind has to come before the body does (RFC 9110, 10.1.1).
            return Err(("417 Expectation Failed", "Expect: send the body at once"));
        } else if same(name, b"connection") {
            framing.stays &= !value.windows(5).any(|part| same(part, b"close"));
        }
    }
    Ok(framing)
}

/// Whether they are the same but for the case of letters; `other` has small ones. (By std's function,
/// which looks at more bytes at once, it is four times the code.)
#[inline(never)]
fn same(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len()
        && name.iter().zip(other).all(|(a, b)| a == b || a | 0x20 == *b && a.is_ascii_uppercase())
}

#[inline(never)]
fn command(method: &str, target: &str, body: &[u8], url: &mut Vec<u8>) -> Result<Command, Answer> {
    let mut path = target.as_bytes();
    // A target may be whole (RFC 9112, 3.2.2); whoever it names, we are asked.
    if let Some(rest) = path.strip_prefix(b"http://") {
        path = rest;
        while !path.starts_with(b"/")
            && let Some((_, rest)) = path.split_first()
        {
            path = rest;
        }
    }
    let known = |name| NAMES.split(|byte| *byte == b' ').position(|known| known == name);
    let number = path.strip_prefix(ROOT).and_then(known);
    let Some(command) = number.and_then(|number| Command::numbered(number as u8)) else {
        return Err(Answer::refused("404 Not Found", &[target, ": brisk has no such command"]));
    };
    let wanted = command.method();
    if method != wanted {
        return Err(Answer::refused(WRONG_METHOD, &[target, ": its method is ", wanted]));
    }
    if command == Command::Snapshot
        && !(json::member(body, b"destination_url", url) && url.starts_with(b"file://"))
    {
        return Err(Answer::refused(BAD, &["give {\"destination_url\":\"file://DIR\"}"]));
    }
    Ok(command)
}

#[cfg(test)]
mod tests;
