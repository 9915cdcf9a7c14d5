//! What stands for threads in a build without a feature that makes any.

/// There is none to wait for.
#[cfg(feature = "seccomp")]
#[inline(always)]
pub fn settle() {}

/// There is nobody to wait for.
pub struct Lock;

#[allow(dead_code, reason = "a C library that is shared has a heap of its own")]
impl Lock {
    pub const fn new() -> Lock {
        Lock
    }

    #[inline(always)]
    pub fn lock(&self) -> Option<()> {
        None
    }
}
