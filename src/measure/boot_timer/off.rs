//! What stands for the boot timer in a build without the feature `boot-timer`: nothing.

use crate::config::Config;

/// As in the module that logs.
#[allow(missing_docs, dead_code, reason = "as in the module that logs")]
pub enum Point {
    VmCreated,
    MemoryReady,
    KernelLoaded,
    FirstEntry,
    Code(u8),
}

/// Logs nothing.
pub struct BootTimer;

#[allow(missing_docs, reason = "as in the module that logs")]
impl BootTimer {
    pub const LISTENS: bool = false;

    #[inline(always)]
    pub fn start(_: &Config) -> BootTimer {
        BootTimer
    }

    #[inline(always)]
    pub fn mark(&mut self, _: Point) {}

    #[inline(always)]
    pub fn finish(&mut self) {}
}
