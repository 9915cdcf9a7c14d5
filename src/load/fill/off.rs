//! What stands for the filling of huge pages in a build without the feature `hugepages`: reading.

use std::fs::File;

/// Fills nothing.
#[inline(always)]
pub fn fill(_: &File, _: u64, _: &mut [u8]) -> bool {
    false
}
