//! Frames of a workload's standard streams, as the guest sends them: in pieces or at once they say the
//! same.
#![no_main]

use brisk_devices::streams::{Event, Frames, Output};
use libfuzzer_sys::fuzz_target;

/// Events, of which data in pieces is one.
#[derive(Default, PartialEq, Debug)]
struct Seen {
    ready: Vec<u32>,
    data: [Vec<u8>; 2],
    ends: [usize; 2],
    text: Vec<u8>,
}

fn take(bytes: &[u8], size: usize) -> Seen {
    let (mut frames, mut seen) = (Frames::new(), Seen::default());
    for mut piece in bytes.chunks(size) {
        while let Some(event) = frames.next(&mut piece) {
            let at = |output| usize::from(output == Output::Errors);
            match event {
                Event::Ready(room) => seen.ready.push(room),
                Event::Data(output, data) => seen.data[at(output)].extend_from_slice(data),
                Event::End(output) => seen.ends[at(output)] += 1,
                Event::Text(text) => seen.text.extend_from_slice(text),
            }
        }
        assert!(piece.is_empty(), "bytes that nobody took");
    }
    seen
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let seen = take(bytes, usize::from(size) + 1);
    let data = seen.data.iter().map(Vec::len).sum::<usize>();
    assert!(data + seen.text.len() <= bytes.len());
    assert_eq!(seen, take(bytes, usize::MAX));
});
