//! What stands for jobs in a build without the feature `smp`: the only vCPU moves a queue right where it
//! is notified, so there is no lock, and nothing is left to be done.

use std::convert::Infallible;

use super::table::each;
use super::{Access, Backend, Devices, Polled, Pump};
use crate::access::End;
use crate::interrupts::Sink;

/// A queue, which nobody else moves.
pub struct Lane<B>(Pump<B>);

#[allow(missing_docs, reason = "as in the module with locks")]
impl<B: Backend> Lane<B> {
    #[inline(always)]
    pub fn new(backend: B) -> Self {
        Lane(Pump::new(backend))
    }

    #[inline(always)]
    pub fn lock(&mut self) -> &mut Pump<B> {
        &mut self.0
    }
}

/// There is none.
pub struct Job(Infallible);

/// There is none.
pub struct Served(Infallible);

/// Nothing is left to be done.
pub type Jobs = [Job; 0];

#[allow(missing_docs, reason = "as in the module with locks")]
impl Job {
    #[inline(always)]
    pub fn run(self) -> Served {
        Served(self.0)
    }
}

impl Devices {
    /// Queue `queue` of device `index` was notified: moves it.
    pub(super) fn notified(&mut self, index: usize, queue: u16, sink: &mut impl Sink) -> Access {
        Access::done(self.process(index, queue, sink))
    }

    /// Moves queue `queue` of device `index` since an event came.
    pub(super) fn begin(
        &mut self,
        index: usize,
        queue: u16,
        polled: &mut Polled,
        sink: &mut impl Sink,
    ) {
        let end = self.process(index, queue, sink);
        polled.end = polled.end.or(end);
    }

    fn process(&mut self, index: usize, queue: u16, sink: &mut impl Sink) -> Option<End> {
        let slot = self.slots.get_mut(index)?;
        let reply = each!(slot, device => device.process(queue));
        self.conclude(index, reply, sink)
    }

    /// There is no job.
    #[inline(always)]
    pub fn finish(&mut self, done: Served, _: &mut impl Sink) -> Option<End> {
        match done.0 {}
    }
}
