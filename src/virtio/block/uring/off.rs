//! What stands for the ring in a build without the feature `io-uring`: each request is done in its exit.

use std::convert::Infallible;

use super::disk::Disk;
use super::{DiskConfig, Options};
use crate::events::Events;

/// What a request would ask of the file.
#[allow(dead_code, reason = "nobody asks")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// File to guest.
    Read,
    /// Guest to file.
    Write,
    /// Make writes durable.
    Flush,
}

/// No request is on its way.
#[allow(dead_code, reason = "nobody takes one")]
pub struct Flight {
    pub head: u16,
    pub operation: Operation,
    pub buffers: Vec<libc::iovec>,
    pub offset: u64,
    pub room: u32,
    pub status: *mut u8,
}

/// There is none.
pub struct Engine(Infallible);

impl Engine {
    #[inline(always)]
    pub fn open(_: &DiskConfig, _: &Options, _: &Disk, _: Events) -> Option<Engine> {
        None
    }

    #[inline(always)]
    pub fn at_once(&mut self, _: &Disk, _: Operation, _: &mut Vec<libc::iovec>, _: u64) -> u64 {
        match self.0 {}
    }

    #[inline(always)]
    pub fn push(&mut self, _: Flight) -> Result<(), Flight> {
        match self.0 {}
    }

    #[inline(always)]
    pub fn run(&mut self, _: &Disk, _: impl FnMut(u16, u32)) {
        match self.0 {}
    }

    #[inline(always)]
    pub fn quiesce(&mut self, _: &Disk, _: impl FnMut(u16, u32)) {
        match self.0 {}
    }

    #[cfg(feature = "snapshot")]
    #[inline(always)]
    pub fn waits(&self) -> bool {
        match self.0 {}
    }

    #[inline(always)]
    pub fn done(&self) -> bool {
        match self.0 {}
    }
}
