//! What stands for the log in a build without the feature `logging`: nothing.

use crate::error::Result;

/// Logs nothing.
#[inline(always)]
#[allow(clippy::missing_errors_doc, reason = "as in the module that logs")]
pub fn start(_: &str) -> Result<()> {
    Ok(())
}
