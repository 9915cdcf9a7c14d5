//! What a run tells of itself: the boot timer, counts of exits, the trace, the log.

#[cfg(feature = "boot-timer")]
pub mod boot_timer;
#[cfg(not(feature = "boot-timer"))]
#[path = "boot_timer/off.rs"]
pub mod boot_timer;
#[cfg(feature = "boot-timer")]
pub(crate) mod clock;
pub mod exit_kind;
#[cfg(feature = "exit-stats")]
pub mod exit_stats;
#[cfg(not(feature = "exit-stats"))]
#[path = "exit_stats/off.rs"]
pub mod exit_stats;
#[cfg(feature = "logging")]
pub mod log;
#[cfg(not(feature = "logging"))]
#[path = "log/off.rs"]
pub mod log;
#[cfg(feature = "trace")]
pub mod trace;
#[cfg(not(feature = "trace"))]
#[path = "trace/off.rs"]
pub mod trace;
