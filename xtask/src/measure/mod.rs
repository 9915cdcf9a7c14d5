//! What is measured, and the pages that say so.

pub mod bench;
pub mod filters;
pub mod metrics;
pub mod readme;
pub mod trace;
