//! What stands for the counters in a build without the feature `exit-stats`: nothing.

use crate::config::Config;
use crate::kvm::{Vcpu, Vm};
use crate::measure::exit_kind::ExitKind;

/// Counts nothing.
pub struct ExitStats;

#[allow(missing_docs, reason = "as in the module that counts")]
impl ExitStats {
    #[inline(always)]
    pub fn start(_: &Config) -> ExitStats {
        ExitStats
    }

    #[inline(always)]
    pub fn count(&mut self, _: ExitKind, _: u64, _: bool) {}

    #[inline(always)]
    pub fn watch(&mut self, _: &Vm, _: &[Vcpu]) {}

    #[cfg(feature = "api")]
    pub fn counters(&self) -> String {
        String::new()
    }

    #[inline(always)]
    pub fn finish(&mut self) {}
}
