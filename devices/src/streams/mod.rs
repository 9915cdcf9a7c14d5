//! A workload's standard streams on one console, in frames: this side takes apart what the guest sends.

#[cfg(feature = "snapshot")]
mod saved;
pub mod wire;

#[cfg(feature = "snapshot")]
pub use saved::Saved;
use wire::{ERRORS, HEADER, OUTPUT, READY};

/// What the guest sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// It has room for that many more bytes of input.
    Ready(u32),
    /// Bytes of an output.
    Data(Output, &'a [u8]),
    /// Nobody can write to the output any more.
    End(Output),
    /// No frame: what the guest's kernel prints when it panics, or what no init of ours sends. All that
    /// follows is of this kind too.
    Text(&'a [u8]),
}

/// One of the outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Standard output.
    Standard,
    /// Standard error.
    Errors,
}

impl Output {
    /// Its number in frames.
    pub const fn kind(self) -> u8 {
        match self {
            Output::Standard => OUTPUT,
            Output::Errors => ERRORS,
        }
    }

    const fn of(kind: u8) -> Option<Output> {
        match kind {
            OUTPUT => Some(Output::Standard),
            ERRORS => Some(Output::Errors),
            _ => None,
        }
    }
}

/// Where in a frame the bytes that came end.
#[derive(Default)]
pub struct Frames {
    header: [u8; HEADER],
    have: usize,
    /// Bytes of the frame's content that are to come.
    left: usize,
    /// The content of [`READY`] so far.
    room: [u8; 4],
    text: bool,
}

impl Frames {
    /// Between two frames.
    pub const fn new() -> Frames {
        Frames { header: [0; HEADER], have: 0, left: 0, room: [0; 4], text: false }
    }

    /// Takes the next event out of the front of `bytes`; `None` where they end within a frame.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Event<'a>> {
        if self.text {
            let text = core::mem::take(bytes);
            return (!text.is_empty()).then_some(Event::Text(text));
        }
        while let Some(to) = self.header.get_mut(self.have) {
            let (first, rest) = bytes.split_first()?;
            if self.have == 0 && !matches!(*first, READY | OUTPUT | ERRORS) {
                self.text = true;
                return self.next(bytes);
            }
            *to = *first;
            *bytes = rest;
            self.have = self.have.saturating_add(1);
            if self.have == HEADER {
                self.left = wire::parse(self.header).1;
            }
        }
        let (kind, length) = wire::parse(self.header);
        let (part, rest) = bytes.split_at_checked(self.left).unwrap_or((bytes, &[]));
        let before = length.saturating_sub(self.left);
        *bytes = rest;
        self.left = self.left.saturating_sub(part.len());
        if self.left == 0 {
            self.have = 0;
        }
        match Output::of(kind) {
            Some(output) if length == 0 => Some(Event::End(output)),
            Some(output) => (!part.is_empty()).then_some(Event::Data(output, part)),
            None => {
                for (to, from) in self.room.iter_mut().skip(before).zip(part) {
                    *to = *from;
                }
                // Anything longer than a number is skipped; the first four bytes count.
                (self.left == 0).then(|| Event::Ready(u32::from_le_bytes(self.room)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    type Events = (Vec<u32>, Vec<u8>, Vec<u8>, Vec<Output>, Vec<u8>);

    /// Events of `bytes` that come in pieces of `size`, data joined.
    fn events(bytes: &[u8], size: usize) -> Events {
        let mut frames = Frames::new();
        let (mut ready, mut out, mut err) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ends, mut text) = (Vec::new(), Vec::new());
        for mut piece in bytes.chunks(size) {
            while let Some(event) = frames.next(&mut piece) {
                match event {
                    Event::Ready(count) => ready.push(count),
                    Event::Data(Output::Standard, data) => out.extend_from_slice(data),
                    Event::Data(Output::Errors, data) => err.extend_from_slice(data),
                    Event::End(output) => ends.push(output),
                    Event::Text(more) => text.extend_from_slice(more),
                }
            }
        }
        (ready, out, err, ends, text)
    }

    fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
        [&wire::header(kind, content.len())[..], content].concat()
    }

    #[test]
    fn frames_in_pieces_of_every_size() {
        let long: Vec<u8> = (0..70_000_u32).map(|n| n as u8).collect();
        let bytes = [
            frame(READY, &65536_u32.to_le_bytes()),
            frame(OUTPUT, &long),
            frame(ERRORS, b"oh"),
            frame(READY, &7_u32.to_le_bytes()),
            frame(ERRORS, b""),
            frame(OUTPUT, b"!"),
            frame(OUTPUT, b""),
            b"[    1.0] Kernel panic\n".to_vec(),
        ]
        .concat();
        for size in [1, 2, 3, 4, 5, 7, 2048, bytes.len()] {
            let (ready, out, err, ends, text) = events(&bytes, size);
            assert_eq!(ready, [65536, 7]);
            assert!(out == [&long[..], b"!"].concat() && err == b"oh", "{size}");
            assert_eq!(ends, [Output::Errors, Output::Standard]);
            assert_eq!(text, b"[    1.0] Kernel panic\n", "{size}");
        }
    }

    proptest! {
        /// Whoever goes on from a state takes apart what follows as the one whose it was.
        #[test]
        #[cfg(feature = "snapshot")]
        fn a_state_goes_on(before: Vec<u8>, behind: Vec<u8>, kind in 0_u8..3, length in 0_usize..99) {
            let mut frames = Frames::new();
            let start = frame(kind, &std::vec![7; length]);
            for bytes in [&start[..start.len() / 2], &before] {
                let mut bytes = bytes;
                while frames.next(&mut bytes).is_some() {}
            }
            let saved = frames.save();
            let mut other = Frames::new();
            prop_assert_eq!(other.restore(&saved), Ok(()));
            prop_assert_eq!(other.save(), saved);
            let (mut one, mut two) = (&behind[..], &behind[..]);
            loop {
                let event = frames.next(&mut one);
                prop_assert_eq!(event, other.next(&mut two));
                if event.is_none() {
                    break;
                }
            }
        }

        #[test]
        fn any_bytes_come_to_an_end(bytes: Vec<u8>, size in 1_usize..40) {
            let (_, out, err, _, text) = events(&bytes, size);
            prop_assert!(out.len() + err.len() + text.len() <= bytes.len());
        }
    }
}
