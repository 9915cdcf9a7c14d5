//! What stands for threads in a build without a feature that makes any.

/// There is none to wait for.
#[cfg(feature = "seccomp")]
#[inline(always)]
pub fn settle() {}
