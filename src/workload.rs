//! The workload's arguments among brisk's own (feature `streams`): all behind `--`, and in a bundle all.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

use crate::bundle;

static ARGUMENTS: OnceLock<Vec<u8>> = OnceLock::new();

/// Keeps the workload's and hands on those for brisk itself.
pub fn own(mut own: Vec<OsString>) -> Vec<OsString> {
    let separator = own.iter().position(|word| word == "--");
    let theirs = match (bundle::is_one(), separator) {
        (true, Some(0)) => Some(own.drain(..).skip(1).collect()),
        (true, _) if own.is_empty() => None,
        (true, _) => Some(std::mem::take(&mut own)),
        (false, Some(at)) => Some(own.drain(at..).skip(1).collect::<Vec<_>>()),
        (false, None) => None,
    };
    if let Some(theirs) = theirs {
        let mut all = Vec::new();
        for word in theirs {
            all.extend(word.into_vec());
            all.push(0);
        }
        let _ = ARGUMENTS.set(all);
    }
    own
}

/// The workload's, as they were given, a NUL behind each; `None` where there are none and no `--`.
pub fn arguments() -> Option<&'static [u8]> {
    ARGUMENTS.get().map(Vec::as_slice)
}
