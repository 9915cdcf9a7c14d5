//! What is in a snapshot's state file.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// Bytes before the first part.
pub const HEADER: usize = 32;
/// The machine's clock, and parts of a vCPU's.
const CLOCK: u32 = 3;
pub const MSRS: u32 = 25;
pub const TSC_RATE: u32 = 26;
/// KVM_CLOCK_REALTIME.
const REALTIME: u64 = 1 << 2;

/// Where the bytes of part `kind` and `number` are.
pub fn part(state: &[u8], kind: u32, number: u32) -> Range<usize> {
    let word = |at: usize| u32::from_le_bytes(state[at..at + 4].try_into().unwrap());
    let mut at = HEADER;
    while (word(at), word(at + 4)) != (kind, number) {
        at += 16 + (word(at + 8) as usize).next_multiple_of(8);
    }
    at + 16..at + 16 + word(at + 8) as usize
}

/// Part `kind` of the first, in words of 64 bits.
pub fn words(state: &[u8], kind: u32) -> Vec<u64> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    state[part(state, kind, 0)].chunks_exact(8).map(word).collect()
}

/// What a guest's clocks said when it was saved.
pub struct Clocks {
    /// KVM's, and whether it knew the real time.
    pub clock: Duration,
    pub is_real: bool,
    /// The first vCPU's TSC, as time.
    pub tsc: Duration,
}

impl Clocks {
    /// In the snapshot in `dir`.
    pub fn of(dir: &Path) -> Clocks {
        let state = fs::read(dir.join("state")).unwrap();
        let rate = u32::from_le_bytes(state[part(&state, TSC_RATE, 0)].try_into().unwrap());
        let (clock, msrs) = (words(&state, CLOCK), words(&state, MSRS));
        assert_eq!(msrs[0], 0x10, "the TSC");
        let tsc = u128::from(msrs[1]) * 1_000_000 / u128::from(rate);
        Clocks {
            clock: Duration::from_nanos(clock[0]),
            is_real: clock[1] & REALTIME != 0,
            tsc: Duration::from_nanos(tsc as u64),
        }
    }
}
