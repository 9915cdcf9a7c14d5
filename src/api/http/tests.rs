use proptest::collection;
use proptest::prelude::*;

use super::*;

fn inbox(text: &str) -> Inbox {
    let mut inbox = Inbox::default();
    inbox.put(text.as_bytes());
    inbox
}

fn status(answer: &Answer) -> u16 {
    answer.status[..3].parse().unwrap()
}

/// The one request in `text`, and whether the client may ask again.
#[track_caller]
fn asked(text: &str) -> (Result<Command, u16>, bool) {
    let Asked { what, stays, .. } = inbox(text).take().expect("a request");
    (what.map_err(|answer| status(&answer)), stays)
}

/// As curl asks.
fn curl(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\nAccept: */*\r\n{more}\r\n")
}

#[test]
fn each_command_has_its_method() {
    for (line, command) in [
        ("GET /api/v1/vmm.ping", Command::Ping),
        ("GET /api/v1/vm.info", Command::Info),
        ("GET /api/v1/vm.counters", Command::Counters),
        ("PUT /api/v1/vm.pause", Command::Pause),
        ("PUT /api/v1/vm.resume", Command::Resume),
        ("PUT /api/v1/vm.power-button", Command::PowerButton),
        ("PUT /api/v1/vm.shutdown", Command::Shutdown),
        ("PUT /api/v1/vmm.shutdown", Command::Shutdown),
        ("GET http://localhost/api/v1/vmm.ping", Command::Ping),
    ] {
        assert_eq!(asked(&curl(line, "")), (Ok(command), true), "{line}");
        let (method, target) = line.split_once(' ').unwrap();
        let other = if method == "GET" { "PUT" } else { "GET" };
        assert_eq!(asked(&curl(&format!("{other} {target}"), "")), (Err(405), true), "{line}");
    }
    for target in
        ["/", "/api/v1/", "/api/v1/vm.create", "/api/v1/vmm.ping/", "/api/v2/vmm.ping", "*"]
    {
        assert_eq!(asked(&curl(&format!("GET {target}"), "")), (Err(404), true), "{target}");
    }
}

#[test]
fn a_request_may_come_in_any_pieces_and_several_at_once() {
    let text = curl("PUT /api/v1/vm.pause", "Content-Length: 3\r\n") + "{ }";
    let mut inbox = Inbox::default();
    for byte in text.bytes() {
        assert_eq!(inbox.take(), None);
        inbox.put(&[byte]);
    }
    assert_eq!(inbox.take().unwrap().what, Ok(Command::Pause));
    assert_eq!(inbox.take(), None);
    assert_eq!(inbox.room(), MOST);

    inbox.put((curl("GET /api/v1/vmm.ping", "") + &text + &curl("GET /x", "")).as_bytes());
    assert_eq!(inbox.take().unwrap().what, Ok(Command::Ping));
    assert_eq!(inbox.take().unwrap().what, Ok(Command::Pause));
    assert!(inbox.take().unwrap().what.is_err());
    assert_eq!(inbox.take(), None);
}

#[test]
fn a_snapshot_has_a_directory() {
    let ask = |body: &str| {
        let length = format!("Content-Length: {}\r\n", body.len());
        asked(&(curl("PUT /api/v1/vm.snapshot", &length) + body))
    };
    let body = "{\"destination_url\":\"file:///a/b/\"}";
    assert_eq!(ask(body), (Ok(Command::Snapshot), true));
    let length = format!("Content-Length: {}\r\n", body.len());
    let text = curl("PUT /api/v1/vm.snapshot", &length) + body;
    assert_eq!(inbox(&text).take().unwrap().url, b"file:///a/b/");
    let more = format!("{body} x");
    for body in ["", "{}", "{\"destination_url\":\"/a/b\"}", "{\"destination_url\":1}", &more] {
        assert_eq!(ask(body), (Err(400), true), "{body}");
    }
}

#[test]
fn who_says_so_asks_once() {
    let ping = "GET /api/v1/vmm.ping";
    for (text, stays) in [
        (curl(ping, "Connection: close\r\n"), false),
        (curl(ping, "connection: x , Close\r\n"), false),
        (curl(ping, "Connection: keep-alive\r\n"), true),
        (format!("{ping} HTTP/1.0\r\n\r\n"), false),
        (format!("{ping} HTTP/1.0\r\nExpect: 100-continue\r\n\r\n"), false),
    ] {
        assert_eq!(asked(&text), (Ok(Command::Ping), stays), "{text}");
    }
    // Behind a body that it does not expect, it would look for the next answer.
    assert_eq!(asked(&curl("HEAD /api/v1/vmm.ping", "")), (Err(405), false));
}

#[test]
fn what_is_no_request_is_the_connections_last() {
    let put = "PUT /api/v1/vm.pause";
    let many = "a: b\r\n".repeat(HEADERS + 1);
    for (text, status) in [
        ("\0\0\0".into(), 400),
        ("GET\r\n\r\n".into(), 400),
        ("GET / HTTP/2.0\r\n\r\n".into(), 400),
        (curl(put, "Content-Length: x\r\n"), 400),
        (curl(put, "Content-Length: +1\r\n"), 400),
        (curl(put, "Content-Length:\r\n"), 400),
        (curl(put, "Content-Length: 1\r\nContent-Length: 2\r\n"), 400),
        (curl(put, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 501),
        (curl(put, "Connection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"), 417),
        (curl(put, "Content-Length: 4000\r\n"), 413),
        (curl(put, "Content-Length: 99999999999999999999999\r\n"), 413),
        (curl(put, "Content-Length: 18446744073709551615\r\n"), 413),
        (curl(put, &many), 431),
        (curl(put, &format!("a: {}\r\n", "b".repeat(1 << 20))), 431),
        ("\r\n".repeat(MOST), 431),
    ] {
        let text: String = text;
        let start = &text[..text.len().min(60)];
        let mut inbox = inbox(&text);
        let asked = inbox.take().unwrap_or_else(|| panic!("{start}"));
        assert_eq!(super::tests::status(&asked.what.unwrap_err()), status, "{start}");
        assert!(!asked.stays, "{start}");
        assert_eq!(inbox.take(), None, "{start}");
    }
}

#[test]
fn answers() {
    let text = |answer: Answer, stays| {
        let mut out = Vec::new();
        answer.write(stays, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        text(Answer::done(), true),
        "HTTP/1.1 204 No Content\r\nServer: brisk\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        text(Answer::json("{}"), false),
        "HTTP/1.1 200 OK\r\nServer: brisk\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    );
    let refused = text(Answer::refused(WRONG_METHOD, &["a ", "\"b\""]), true);
    assert!(refused.contains("\r\nAllow: GET, PUT\r\n"), "{refused}");
    assert!(refused.ends_with("\r\n\r\n[\"a \\\"b\\\"\"]"), "{refused}");
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let near = proptest::sample::select(&b"\r\n: GETPUT/1.vm"[..]);
    collection::vec(prop_oneof![any::<u8>(), near], 0..600)
}

proptest! {
    /// Whatever comes, there is room for more or a request to take, and nothing is taken twice.
    #[test]
    fn any_bytes(chunks in collection::vec(bytes(), 0..20)) {
        let mut inbox = Inbox::default();
        for chunk in chunks {
            inbox.put(&chunk);
            let mut room = inbox.room();
            while let Some(asked) = inbox.take() {
                prop_assert!(inbox.room() > room && (asked.stays || asked.what.is_ok() || inbox.room() == MOST));
                room = inbox.room();
            }
            prop_assert!(inbox.room() > 0);
        }
    }
}
