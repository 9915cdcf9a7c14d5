//! What stands for the terminal in a build that has no use for it: nothing.

/// Puts nothing back.
#[inline(always)]
pub fn restore() {}

/// What is to be said where the guest failed.
pub fn hint() -> &'static str {
    "; nothing was shown: this brisk was built without `console` and `serial`"
}
