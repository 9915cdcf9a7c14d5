//! A client of `--api-socket`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{limit, wait_for};

/// An answer: status, and the body's JSON, null for none.
#[derive(Debug, PartialEq)]
pub struct Answer(pub u16, pub serde_json::Value);

/// A connection.
pub struct Client(pub UnixStream);

impl Client {
    /// Connects when the socket is there.
    #[track_caller]
    pub fn to(path: &Path) -> Client {
        let mut socket = None;
        wait_for("the API's socket", || {
            socket = UnixStream::connect(path).ok();
            socket.is_some()
        });
        let socket = socket.expect("a connection");
        socket.set_read_timeout(Some(limit())).expect("a limit");
        socket.set_write_timeout(Some(limit())).expect("a limit");
        Client(socket)
    }

    /// Asks for `command`, as curl does.
    #[track_caller]
    pub fn ask(&mut self, method: &str, command: &str, body: &str) -> Answer {
        self.send(method, command, body);
        self.answer().expect("an answer")
    }

    /// Only asks.
    #[track_caller]
    pub fn send(&mut self, method: &str, command: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{method} /api/v1/{command} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.0.write_all(request.as_bytes()).expect("brisk takes a request");
    }

    /// The next answer; `None` where the connection ends before.
    pub fn answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("a head is text");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3));
        let status = status.and_then(|digits| digits.parse().ok()).expect("a status");
        let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |digits| digits.parse().expect("a length"))];
        self.0.read_exact(&mut body).ok()?;
        if body.is_empty() {
            return Some(Answer(status, serde_json::Value::Null));
        }
        Some(Answer(status, serde_json::from_slice(&body).expect("a body is JSON")))
    }

    /// A command that has no answer but that it is done.
    #[track_caller]
    pub fn put(&mut self, command: &str) {
        assert_eq!(self.ask("PUT", command, ""), Answer(204, serde_json::Value::Null), "{command}");
    }

    /// What a command answers.
    #[track_caller]
    pub fn get(&mut self, command: &str) -> serde_json::Value {
        let Answer(status, body) = self.ask("GET", command, "");
        assert_eq!(status, 200, "{command}: {body}");
        body
    }

    /// A command that cannot be done; why.
    #[track_caller]
    pub fn fails(&mut self, method: &str, command: &str, body: &str) -> (u16, String) {
        let Answer(status, why) = self.ask(method, command, body);
        assert!(status >= 400, "{command}: {status} {why}");
        (status, why[0].as_str().expect("a reason").to_owned())
    }
}
