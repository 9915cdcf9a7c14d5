//! Without the feature `bundle` no brisk is one.

use std::ffi::OsString;
use std::fs::File;

use crate::error::Result;

/// Bytes of brisk's own file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {}

/// Never.
pub type Bundled = Option<Part>;

/// What the arguments ask of a bundle.
#[allow(dead_code, reason = "nobody makes one")]
pub enum Asked {
    /// To print this.
    Print(String),
    /// To run with these flags.
    Run(Part, String),
}

/// None.
///
/// # Errors
/// Never.
pub fn find(_: &[OsString]) -> Result<Option<Asked>> {
    Ok(None)
}

/// None.
#[cfg(feature = "pmem")]
pub fn image(_: Bundled) -> Option<Part> {
    None
}

/// Whether this is one.
#[cfg(feature = "streams")]
pub fn is_one() -> bool {
    false
}

/// Never called.
pub fn kernel(_: Bundled) -> Option<Part> {
    None
}

/// Never called.
pub fn initramfs(_: Bundled) -> Option<Part> {
    None
}

/// Never called.
///
/// # Errors
/// Never.
pub fn open(part: Part) -> Result<(File, u64, u64)> {
    match part {}
}
