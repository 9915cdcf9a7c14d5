//! A client's bytes: whatever they are and however they come in pieces, they are the same requests, and
//! each has an answer.
#![no_main]

use brisk::api::http::{Answer, Asked, Inbox, MOST};
use libfuzzer_sys::fuzz_target;

/// All requests up to the connection's end.
fn requests<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Asked> {
    let (mut inbox, mut all) = (Inbox::default(), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(inbox.room()));
            assert!(!now.is_empty(), "no room, and no request");
            inbox.put(now);
            piece = later;
            while let Some(asked) = inbox.take() {
                all.push(asked);
                if !all.last().is_some_and(|asked| asked.stays) {
                    return all;
                }
            }
        }
    }
    all
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, bytes)) = input.split_first() else { return };
    let all = requests(bytes.chunks(MOST));
    assert_eq!(all, requests(bytes.chunks(usize::from(size) + 1)));
    for Asked { what, stays, .. } in all {
        let answer = what.err().unwrap_or(Answer::done());
        let mut out = Vec::new();
        answer.write(stays, &mut out);
        let text = String::from_utf8(out).expect("an answer is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 ") && body.bytes().all(|byte| byte >= b' '), "{text}");
    }
});
