//! What stands for the trace in a build without the feature `trace`: nothing.

use crate::config::Config;
use crate::measure::exit_kind::ExitKind;

/// Records nothing.
pub struct Trace;

/// Keeps nothing.
pub struct Stamp;

/// Times nothing.
pub struct Laps;

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that records")]
impl Trace {
    #[inline(always)]
    pub fn start(_: &Config) -> Trace {
        Trace
    }

    #[inline(always)]
    pub fn step(&mut self, _: &'static str) {}

    #[inline(always)]
    pub fn loaded(&mut self, _: Laps, _: bool) {}

    #[inline(always)]
    pub fn enter(&mut self, _: u8) {}

    #[inline(always)]
    pub fn begin(&mut self, _: u8) {}

    #[inline(always)]
    pub fn stamp(&self) -> Stamp {
        Stamp
    }

    #[inline(always)]
    pub fn resume(&mut self, _: Stamp) {}

    #[inline(always)]
    pub fn exit(&mut self, _: ExitKind, _: u64) {}

    #[inline(always)]
    pub fn mark(&mut self, _: u8) {}

    #[inline(always)]
    pub fn finish(&mut self) {}
}

#[allow(missing_docs, reason = "as in the module that times")]
impl Laps {
    #[inline(always)]
    pub fn start() -> Laps {
        Laps
    }

    #[inline(always)]
    pub fn lap(&mut self, _: &'static str) {}
}
