//! One device: its registers, which the bus has, and its queues, each behind a lock of its own.

#[cfg(feature = "snapshot")]
mod saved;

use brisk_devices::virtio::{Common, Device, Effect, Interrupt};
use vm_memory::GuestMemoryMmap;

use super::{Backend, Found, Halt, Lane, Queue};
use crate::access::End;
use crate::events::Events;

/// A queue, where the driver has started it, and what serves it.
pub struct Pump<B> {
    queue: Option<Queue>,
    backend: B,
}

impl<B: Backend> Pump<B> {
    /// For a queue that is not started.
    pub(super) fn new(backend: B) -> Self {
        Pump { queue: None, backend }
    }

    /// Moves the queue, if the driver has started it.
    pub(super) fn serve(&mut self) -> Result<bool, Halt> {
        self.queue.as_mut().map_or(Ok(false), |queue| self.backend.process(queue))
    }

    /// Finishes what is on its way.
    fn quiesce(&mut self) -> Result<bool, Halt> {
        self.queue.as_mut().map_or(Ok(false), |queue| self.backend.quiesce(queue))
    }

    /// Takes the queue away.
    fn stop(&mut self) {
        self.backend.stop();
        self.queue = None;
    }
}

/// One device: what was negotiated, what its driver sees, and its queues.
pub struct VirtioDevice<B: Backend, const Q: usize> {
    pub(super) common: Common<Q>,
    pub(super) model: B::Model,
    pub(super) lanes: Vec<Lane<B>>,
    /// That the driver broke a queue was said.
    warned: bool,
}

impl<B: Backend, const Q: usize> VirtioDevice<B, Q> {
    /// See [`Backend::OFTEN`].
    pub(super) fn interrupts_often(&self) -> bool {
        B::OFTEN
    }

    /// A device after reset, with what stands behind each of its queues.
    pub fn new(model: B::Model, backends: impl IntoIterator<Item = B>) -> Self {
        let lanes = backends.into_iter().map(Lane::new).collect();
        VirtioDevice { common: Common::new(), model, lanes, warned: false }
    }

    /// How many queues the driver finds.
    #[cfg(feature = "pci")]
    pub(super) fn queue_count(&self) -> usize {
        (0..Q as u16).filter(|&queue| self.model.queue_max_size(queue) > 0).count()
    }

    /// Does what a transport's register write came to.
    pub(super) fn apply(&mut self, effect: Effect, memory: &GuestMemoryMmap) -> Reply {
        match effect {
            Effect::None => Reply::Nothing,
            Effect::Activate => self.activate(memory),
            Effect::Reset => {
                self.stop();
                Reply::Nothing
            }
            Effect::Notify(index) => Reply::Notified(index),
            Effect::QueueStop(index) => {
                if let Some(lane) = self.lanes.get_mut(usize::from(index)) {
                    lane.lock().stop();
                }
                Reply::Nothing
            }
        }
    }

    fn stop(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.lock().stop());
    }

    fn activate(&mut self, memory: &GuestMemoryMmap) -> Reply {
        let broken = self.start(memory, &[]);
        let reset = broken && self.common.needs_reset();
        Reply::config(reset || !self.common.interrupt_status().is_empty())
    }

    /// Starts what the driver has made ready, queues that were in use where they were; true where one's rings
    /// are not in guest memory.
    fn start(&mut self, memory: &GuestMemoryMmap, positions: &[[u16; 2]]) -> bool {
        let features = self.common.features();
        let mut broken = false;
        for (index, lane) in (0..).zip(&mut self.lanes) {
            let Pump { queue, backend } = &mut *lane.lock();
            backend.activate(features);
            let Some(setup) = self.common.queue(index).filter(|setup| setup.ready()) else {
                continue;
            };
            *queue = Queue::start(setup, features, memory);
            if let (Some(queue), Some(at)) = (&mut *queue, positions.get(usize::from(index))) {
                queue.set_positions(*at);
            }
            broken |= queue.is_none();
        }
        broken
    }

    /// Some of `events` came, and `own` is the device's. A bit for each queue that is then to be moved,
    /// and the rest of what its backends answer.
    pub(super) fn poll(&mut self, events: Events, own: Events) -> (u32, Found) {
        let mut all = Found::default();
        let mut queues = 0;
        if !events.intersects(B::EVENTS | own) {
            return (queues, all);
        }
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let polled = lane.lock().backend.poll(events, &mut self.model);
            queues |= u32::from(polled.queue) << index;
            all.config |= polled.config;
            all.repaired |= polled.repaired;
            all.end = all.end.or(polled.end);
        }
        (queues, all)
    }

    /// The VM has ended: hands on what waits.
    pub(super) fn hand_on(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.lock().backend.hand_on());
    }

    /// Moves queue `index`, if the driver has started it, while the registers wait.
    pub fn process(&mut self, index: u16) -> Reply {
        let Some(lane) = self.lanes.get_mut(usize::from(index)) else { return Reply::Nothing };
        let served = lane.lock().serve();
        self.finish(index, served)
    }

    /// Finishes what is on its way in all queues, and hands `tell` what its driver is to know of each.
    pub fn quiesce(&mut self, mut tell: impl FnMut(Reply)) {
        for index in 0..self.lanes.len() {
            let settled = self.lanes[index].lock().quiesce();
            let reply = self.finish(index as u16, settled);
            tell(reply);
        }
    }

    /// What [`Pump::serve`] of queue `index` came to.
    pub(super) fn finish(&mut self, index: u16, served: Result<bool, Halt>) -> Reply {
        // Another vCPU may have taken the queue back since.
        if !self.common.active() || self.common.queue(index).is_none_or(|queue| !queue.ready()) {
            return match served {
                Err(Halt::End(end)) => Reply::End(end),
                _ => Reply::Nothing,
            };
        }
        match served {
            Ok(false) => Reply::Nothing,
            Ok(true) => {
                self.common.interrupt(Interrupt::VRING);
                Reply::Queue(index)
            }
            Err(Halt::End(end)) => Reply::End(end),
            Err(Halt::Broken) => {
                if !std::mem::replace(&mut self.warned, true) {
                    log::warn!(
                        "virtio device {}: the driver broke queue {index}: a chain longer than it, or \
                         an address where the guest has no memory; the device waits for its reset",
                        B::Model::ID
                    );
                }
                self.stop();
                Reply::config(self.common.needs_reset())
            }
        }
    }
}

/// What an access or an event came to for the driver. Over PCI each reason has a vector of its own.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It need not know.
    Nothing,
    /// The driver has put something into this queue: it is to be moved.
    Notified(u16),
    /// The configuration changed, or the device needs a reset.
    Config,
    /// This queue has used buffers.
    Queue(u16),
    /// The VM ends.
    End(End),
}

impl Reply {
    /// Whether the VM ends.
    #[cfg(feature = "pci")]
    pub(super) fn end(self) -> Option<End> {
        if let Reply::End(end) = self { Some(end) } else { None }
    }

    fn config(wanted: bool) -> Reply {
        if wanted { Reply::Config } else { Reply::Nothing }
    }
}

#[cfg(test)]
#[cfg(feature = "smp")]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
    use std::time::Duration;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    struct Model;

    impl Device for Model {
        const ID: u32 = 42;
        fn queue_max_size(&self, queue: u16) -> u16 {
            if queue < 2 { 16 } else { 0 }
        }
        fn features(&self) -> u64 {
            0
        }
        fn read_config(&self, _offset: u32, _data: &mut [u8]) {}
    }

    /// One whose host is slow: it says that it waits, and goes on when it is told to.
    struct Slow {
        waits: Sender<()>,
        goes_on: Receiver<()>,
    }

    impl Backend for Slow {
        type Model = Model;
        fn process(&mut self, _: &mut Queue) -> Result<bool, Halt> {
            self.waits.send(()).unwrap();
            let patience = Duration::from_secs(10);
            assert_ne!(self.goes_on.recv_timeout(patience), Err(RecvTimeoutError::Timeout));
            Ok(true)
        }
    }

    /// The test's ends of a [`Slow`].
    type Host = (Receiver<()>, Sender<()>);

    /// A device that runs, with both queues.
    fn device(memory: &GuestMemoryMmap) -> (VirtioDevice<Slow, 2>, [Host; 2]) {
        let ((waits0, waited0), (waits1, waited1)) = (channel(), channel());
        let ((go0, goes_on0), (go1, goes_on1)) = (channel(), channel());
        let slow = [(waits0, goes_on0), (waits1, goes_on1)]
            .map(|(waits, goes_on)| Slow { waits, goes_on });
        let mut device = VirtioDevice::new(Model, slow);
        let mut set = |offset: u64, value: u32| {
            let _ = device.write(offset, &value.to_le_bytes(), memory);
        };
        for status in [1, 3] {
            set(0x70, status);
        }
        set(0x24, 1);
        set(0x20, 1);
        set(0x70, 11);
        for queue in 0..2 {
            set(0x30, queue);
            set(0x38, 16);
            for (area, at) in [(0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000)] {
                set(area, at + queue * 0x4000);
            }
            set(0x44, 1);
        }
        set(0x70, 15);
        assert_eq!(device.common.status().bits(), 15);
        memory.write_obj(1u16, GuestAddress(0x2002)).unwrap();
        (device, [(waited0, go0), (waited1, go1)])
    }

    /// Queue 0's host is slow: meanwhile queue 1 is moved and the registers answer. A reset waits.
    #[test]
    fn a_queue_that_waits_keeps_nobody_else_waiting() {
        let memory = &GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let (mut device, [(waited0, go0), (waited1, go1)]) = device(memory);
        let Reply::Notified(0) = device.write(0x50, &[0; 4], memory) else { panic!("queue 0") };
        let lanes = [0, 1].map(|queue| device.lane(queue).unwrap());
        std::thread::scope(|scope| {
            let first = scope.spawn(|| lanes[0].serve());
            waited0.recv_timeout(Duration::from_secs(10)).unwrap();
            let second = scope.spawn(|| lanes[1].serve());
            waited1.recv_timeout(Duration::from_secs(10)).unwrap();
            go1.send(()).unwrap();
            assert_eq!(second.join().unwrap(), Ok(true));
            let mut status = [0; 4];
            device.read(0x70, &mut status);
            assert_eq!(status, [15, 0, 0, 0]);
            assert_eq!(device.finish(1, Ok(true)), Reply::Queue(1));
            let reset = scope.spawn(|| {
                assert_eq!(device.write(0x70, &[0; 4], memory), Reply::Nothing);
                device
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!reset.is_finished(), "a reset while a queue is being moved");
            go0.send(()).unwrap();
            let served = first.join().unwrap();
            let mut device = reset.join().unwrap();
            // What comes of it belongs to a device that is no more.
            assert_eq!(device.finish(0, served), Reply::Nothing);
            assert!(device.common.interrupt_status().is_empty());
            assert_eq!(lanes[0].serve(), Ok(false));
        });
    }
}

#[cfg(test)]
mod stopped {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use vm_memory::GuestAddress;

    use super::*;

    /// Counts how often the driver took its queue back.
    struct Stopped(Arc<AtomicU32>);
    struct Model;

    impl Device for Model {
        const ID: u32 = 42;
        fn queue_max_size(&self, _queue: u16) -> u16 {
            16
        }
        fn features(&self) -> u64 {
            0
        }
        fn read_config(&self, _offset: u32, _data: &mut [u8]) {}
    }

    impl Backend for Stopped {
        type Model = Model;
        fn process(&mut self, _: &mut Queue) -> Result<bool, Halt> {
            Err(Halt::Broken)
        }
        fn stop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What comes of a queue that was taken back meanwhile is for nobody, but for the end of the VM.
    #[test]
    fn who_has_no_queue_is_told_nothing() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let stopped = Stopped(Arc::new(AtomicU32::new(0)));
        let mut device = VirtioDevice::<_, 1>::new(Model, [stopped]);
        let end = Err(Halt::End(End::Quit));
        let all = |device: &mut VirtioDevice<Stopped, 1>| {
            [Ok(true), Ok(false), end].map(|served| device.finish(0, served))
        };
        let none = [Reply::Nothing, Reply::Nothing, Reply::End(End::Quit)];
        assert_eq!(all(&mut device), none);
        #[cfg(feature = "pci")]
        assert_eq!(none.map(Reply::end), [None, None, Some(End::Quit)]);
        // A device that runs without it.
        for (at, value) in [(0x70, 3u32), (0x24, 1), (0x20, 1), (0x70, 11)] {
            let _ = device.write(at, &value.to_le_bytes(), &memory);
        }
        assert_eq!(device.write(0x70, &[15, 0, 0, 0], &memory), Reply::Nothing);
        assert_eq!(device.common.status().bits(), 15);
        assert_eq!(all(&mut device), none);
    }

    /// A configuration that changes while the driver gets ready is told as soon as it is.
    #[test]
    fn who_was_not_ready_is_told_then() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let stopped = Stopped(Arc::new(AtomicU32::new(0)));
        let mut device = VirtioDevice::<_, 1>::new(Model, [stopped]);
        for (at, value) in [(0x70, 3u32), (0x24, 1), (0x20, 1), (0x70, 11)] {
            let _ = device.write(at, &value.to_le_bytes(), &memory);
        }
        assert!(!device.common.config_changed());
        assert_eq!(device.write(0x70, &[15, 0, 0, 0], &memory), Reply::Config);
    }

    /// Whatever takes a queue from the device, the backend lets go of its buffers first.
    #[test]
    fn who_takes_a_queue_back_stops_what_serves_it() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let count = Arc::new(AtomicU32::new(0));
        let mut device = VirtioDevice::<_, 1>::new(Model, [Stopped(Arc::clone(&count))]);
        for (stops, effect) in (1..).zip([Effect::Reset, Effect::QueueStop(0)]) {
            device.lanes[0].lock().queue = Queue::new(16, [0, 0x1000, 0x2000], false, &memory);
            let _ = device.apply(effect, &memory);
            assert_eq!(count.load(Ordering::Relaxed), stops);
            assert!(device.lanes[0].lock().queue.is_none());
        }
    }
}
