//! What the frames are, for both sides: the guest's init is compiled with this file too.
//!
//! A frame is a kind, the length of what follows in three bytes, and that many bytes. Numbers are
//! little-endian. The guest speaks first, when its terminal is raw; before that nothing may be sent to
//! it. Each stream has a window of [`WINDOW`] bytes, and no more of it is on its way than its receiver
//! has said that it has room for.

/// Bytes before a frame's content.
pub const HEADER: usize = 4;
/// Bytes of a stream that its receiver keeps at most. An output's is open from the start, the input's
/// when the first [`READY`] comes.
pub const WINDOW: usize = 64 << 10;

/// To the guest: bytes of the workload's standard input; none for its end.
pub const INPUT: u8 = 0;
/// To the guest: the number of a signal (one byte) for the workload.
pub const SIGNAL: u8 = 1;
/// To the guest: of an output, [`OUTPUT`] or [`ERRORS`] (one byte), that many bytes (four) are written
/// to where they go, so as many more may be sent.
pub const TAKEN: u8 = 2;
/// To the guest: the workload's arguments, a NUL behind each.
pub const ARGUMENTS: u8 = 3;

/// To the guest: nobody reads an output, [`OUTPUT`] or [`ERRORS`] (one byte), any more.
pub const CLOSED: u8 = 4;

/// To the host: room for that many more bytes of input (four).
pub const READY: u8 = 0;
/// To the host: what the workload wrote to its standard output; none when nobody can write to it any
/// more.
pub const OUTPUT: u8 = 1;
/// To the host: the same of its standard error.
pub const ERRORS: u8 = 2;

/// The header of a frame with `len` bytes.
pub const fn header(kind: u8, len: usize) -> [u8; HEADER] {
    [kind, len as u8, (len >> 8) as u8, (len >> 16) as u8]
}

/// Kind and length.
pub const fn parse(header: [u8; HEADER]) -> (u8, usize) {
    let [kind, a, b, c] = header;
    (kind, u32::from_le_bytes([a, b, c, 0]) as usize)
}
