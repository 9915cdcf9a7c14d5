//! virtio's host side under a simulated driver, without KVM: each device does its work on real
//! files, and outlives drivers that break every rule.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "virtio/any.rs"]
mod any;
#[path = "virtio/block.rs"]
mod block;
#[path = "virtio/console.rs"]
mod console;
#[path = "virtio/driver.rs"]
mod driver;
#[cfg(feature = "io-uring")]
#[path = "virtio/durable.rs"]
mod durable;
#[path = "virtio/failing.rs"]
mod failing;
#[path = "virtio/hostile.rs"]
mod hostile;
#[path = "virtio/pmem.rs"]
mod pmem;
#[path = "virtio/rng.rs"]
mod rng;
