//! Without the feature `streams` nobody has a workload's arguments to hand on.

use std::ffi::OsString;

/// Those for brisk itself: all.
pub fn own(own: Vec<OsString>) -> Vec<OsString> {
    own
}
