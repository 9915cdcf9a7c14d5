//! Saved state: for each model a structure of fixed size, little-endian, without padding, which its
//! `save` fills and its `restore` takes back.
//!
//! `restore` trusts nothing: a structure that is no state of that model is refused, and what a guest
//! could not have written itself is never taken over, so a file from anywhere does no more harm than a
//! guest can. A model that refused is in no defined state and is to be dropped.

use core::fmt;

/// The bytes are not a state that this model can be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a state of this device")
    }
}

impl core::error::Error for Invalid {}

/// [`Invalid`] unless `holds`.
pub(crate) fn check(holds: bool) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(Invalid) }
}

/// A flag, which is 0 or 1.
#[cfg(any(feature = "serial", feature = "streams", feature = "virtio"))]
pub(crate) fn flag(byte: u8) -> Result<bool, Invalid> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Invalid),
    }
}

#[cfg(test)]
mod tests;
