//! Queues that are moved without the bus (feature `smp`): each is behind a lock of its own, so that the
//! vCPU that moves one, and waits for the host, keeps no other vCPU from its exits.

use std::sync::Arc;

use super::table::{AnyLane, each};
use super::{Access, Backend, Devices, Halt, Polled, Pump, VirtioDevice};
use crate::access::End;
use crate::interrupts::Sink;
use crate::shared::{Guard, Shared};

/// A queue's way past its device's registers.
pub struct Lane<B>(Arc<Shared<Pump<B>>>);

impl<B> Clone for Lane<B> {
    fn clone(&self) -> Self {
        Lane(Arc::clone(&self.0))
    }
}

impl<B: Backend> Lane<B> {
    /// A queue that is not started, with what stands behind it.
    pub fn new(backend: B) -> Self {
        Lane(Arc::new(Shared::new(Pump::new(backend))))
    }

    /// Waits until nobody moves the queue any more.
    pub fn lock(&self) -> Guard<'_, Pump<B>> {
        self.0.lock()
    }

    /// Moves the queue, if the driver has started it.
    pub fn serve(&self) -> Result<bool, Halt> {
        self.lock().serve()
    }
}

impl<B: Backend, const Q: usize> VirtioDevice<B, Q> {
    /// The way to queue `index`.
    pub(super) fn lane(&self, index: u16) -> Option<Lane<B>> {
        self.lanes.get(usize::from(index)).cloned()
    }
}

/// A queue that is to be moved, by whoever has not the bus.
pub struct Job {
    device: usize,
    queue: u16,
    lane: AnyLane,
}

/// A job that is done: [`Devices::finish`] takes it.
pub struct Served {
    device: usize,
    queue: u16,
    result: Result<bool, Halt>,
}

/// What several queues leave to be done.
pub type Jobs = Vec<Job>;

impl Job {
    /// Does it, however long that takes.
    pub fn run(self) -> Served {
        let Job { device, queue, lane } = self;
        Served { device, queue, result: lane.serve() }
    }
}

impl Devices {
    /// Queue `queue` of device `index` was notified.
    pub(super) fn notified(&mut self, index: usize, queue: u16, _: &mut impl Sink) -> Access {
        self.job(index, queue).map_or(Access::Done, Access::Notified)
    }

    /// Queue `queue` of device `index` is to be moved since an event came.
    pub(super) fn begin(
        &mut self,
        index: usize,
        queue: u16,
        polled: &mut Polled,
        _: &mut impl Sink,
    ) {
        polled.jobs.extend(self.job(index, queue));
    }

    fn job(&self, index: usize, queue: u16) -> Option<Job> {
        let lane = self.slots.get(index)?.lane(queue)?;
        Some(Job { device: index, queue, lane })
    }

    /// A job is done.
    pub fn finish(&mut self, done: Served, sink: &mut impl Sink) -> Option<End> {
        let Served { device: index, queue, result } = done;
        let slot = self.slots.get_mut(index)?;
        let reply = each!(slot, device => device.finish(queue, result));
        self.conclude(index, reply, sink)
    }
}
