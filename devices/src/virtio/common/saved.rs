//! What a driver and a device have agreed on, as bytes.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Queue, State};
use crate::snapshot::{Invalid, check, flag};
use crate::virtio::{Device, Interrupt, Status, offered_features};

/// The most queues of a device whose state can be saved.
pub const MAX_SAVED_QUEUES: usize = 16;

/// A [`Queue`]'s state.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SavedQueue {
    addresses: [U64; 3],
    size: U16,
    vector: U16,
    ready: u8,
    zero: [u8; 3],
}

/// A [`State`]'s state: of a device with fewer queues the rest are zeroes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Saved {
    device_id: U32,
    status: u8,
    interrupt: u8,
    generation: u8,
    zero: u8,
    device_features_select: U32,
    driver_features_select: U32,
    driver_features: U64,
    queue_select: U32,
    queue_count: U32,
    queues: [SavedQueue; MAX_SAVED_QUEUES],
}

const NO_QUEUE: SavedQueue = SavedQueue {
    addresses: [U64::ZERO; 3],
    size: U16::ZERO,
    vector: U16::ZERO,
    ready: 0,
    zero: [0; 3],
};

#[cfg(feature = "pci")]
impl Queue {
    fn saved_vector(&self) -> u16 {
        self.vector
    }

    fn restore_vector(&mut self, vector: u16) {
        self.vector = vector;
    }
}

#[cfg(not(feature = "pci"))]
impl Queue {
    const fn saved_vector(&self) -> u16 {
        0
    }

    fn restore_vector(&mut self, _: u16) {}
}

impl State {
    /// The state of `device`'s part that every virtio device has, as it is now.
    pub fn save<D: Device>(&self, _device: &D) -> Saved {
        self.save_as(D::ID)
    }

    /// Once, not for each type of device.
    #[inline(never)]
    fn save_as(&self, id: u32) -> Saved {
        let mut queues = [NO_QUEUE; MAX_SAVED_QUEUES];
        for (to, from) in queues.iter_mut().zip(&self.queues) {
            *to = SavedQueue {
                addresses: from.addresses.map(U64::new),
                size: U16::new(from.size),
                vector: U16::new(from.saved_vector()),
                ready: from.ready.into(),
                zero: [0; 3],
            };
        }
        Saved {
            device_id: U32::new(id),
            status: self.status.bits(),
            interrupt: self.interrupt.bits(),
            generation: self.generation,
            zero: 0,
            device_features_select: U32::new(self.device_features_select),
            driver_features_select: U32::new(self.driver_features_select),
            driver_features: U64::new(self.driver_features),
            queue_select: U32::new(self.queue_select),
            queue_count: U32::new(self.queues.len() as u32),
            queues,
        }
    }

    /// Takes over a state of a device of the same type with as many queues, whose driver asked for no
    /// more features than `device` can offer.
    ///
    /// # Errors
    /// It is none.
    pub fn restore<D: Device>(&mut self, device: &mut D, saved: &Saved) -> Result<(), Invalid> {
        device.replaces(saved.driver_features.get());
        let offered = offered_features(device);
        self.take_over(D::ID, offered, &|index| device.queue_max_size(index), saved)
    }

    #[inline(never)]
    fn take_over(
        &mut self,
        id: u32,
        offered: u64,
        queue_max_size: &dyn Fn(u16) -> u16,
        saved: &Saved,
    ) -> Result<(), Invalid> {
        check(saved.device_id.get() == id && saved.zero == 0)?;
        check(saved.queue_count.get() as usize == self.queues.len())?;
        self.status = Status::from_bits(saved.status).ok_or(Invalid)?;
        self.interrupt = Interrupt::from_bits(saved.interrupt).ok_or(Invalid)?;
        self.generation = saved.generation;
        self.device_features_select = saved.device_features_select.get();
        self.driver_features_select = saved.driver_features_select.get();
        self.queue_select = saved.queue_select.get();
        self.driver_features = saved.driver_features.get();
        let agreed = self.driver_features & !offered == 0;
        check(agreed || !self.status.contains(Status::FEATURES_OK))?;
        let (used, rest) = saved.queues.split_at_checked(self.queues.len()).ok_or(Invalid)?;
        check(rest.iter().all(|queue| *queue == NO_QUEUE))?;
        for ((index, to), from) in (0..).zip(&mut self.queues).zip(used) {
            let mut queue = Queue::NEW;
            queue.addresses = from.addresses.map(U64::get);
            queue.size = from.size.get();
            queue.ready = flag(from.ready)?;
            queue.restore_vector(from.vector.get());
            check(from.zero == [0; 3] && queue.size <= queue_max_size(index))?;
            check(!queue.ready || queue.valid())?;
            *to = queue;
        }
        Ok(())
    }
}
