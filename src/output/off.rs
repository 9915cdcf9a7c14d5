//! What stands for the files that brisk writes in a build that writes none: nothing.

use crate::error::Result;

/// Opens nothing.
#[inline(always)]
#[allow(clippy::missing_errors_doc, reason = "as in the module that opens some")]
pub fn open() -> Result<()> {
    Ok(())
}

/// Removes nothing.
#[inline(always)]
pub fn discard() {}
