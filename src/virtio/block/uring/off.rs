//! What stands for the ring in a build without the feature `io-uring`: each request is done in its exit.

use std::convert::Infallible;

use super::disk::Disk;
use super::flight::{Flight, Operation};
use super::{DiskConfig, Options};
use crate::events::Events;

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
