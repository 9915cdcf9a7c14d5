//! The state that a driver negotiates with any device: status, features, queues, interrupts.

#[cfg(feature = "snapshot")]
pub mod saved;

use super::{Device, Effect, F_VERSION_1, Interrupt, Status};

/// A queue as its driver has set it up (virtio 1.3, 2.6 and 2.7). The addresses are guest-physical
/// and were checked only for alignment and for not wrapping: whether there is memory is the
/// host's to check.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    size: u16,
    ready: bool,
    /// Descriptor table, available ring, used ring.
    addresses: [u64; 3],
    /// MSI-X vector (virtio 1.3, 4.1.5.1.2).
    #[cfg(feature = "pci")]
    vector: u16,
}

impl Queue {
    const NEW: Self = Self {
        size: 0,
        ready: false,
        addresses: [0; 3],
        #[cfg(feature = "pci")]
        vector: super::pci::NO_VECTOR,
    };

    /// Number of descriptors, a power of two; 0 before the driver has set the queue up.
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Whether the driver has handed the queue over.
    pub const fn ready(&self) -> bool {
        self.ready
    }

    /// Address of the descriptor table, a multiple of 16 if ready.
    pub const fn desc_table(&self) -> u64 {
        self.addresses[0]
    }

    /// Address of the available ring (driver area), a multiple of 2 if ready.
    pub const fn avail_ring(&self) -> u64 {
        self.addresses[1]
    }

    /// Address of the used ring (device area), a multiple of 4 if ready.
    pub const fn used_ring(&self) -> u64 {
        self.addresses[2]
    }

    /// MSI-X vector to raise for this queue, or [`NO_VECTOR`](super::pci::NO_VECTOR).
    #[cfg(feature = "pci")]
    pub const fn vector(&self) -> u16 {
        self.vector
    }

    /// Whether the areas are aligned and end below 2^64 (virtio 1.3, 2.7).
    fn valid(&self) -> bool {
        let size = u64::from(self.size);
        let fits = |address: u64, align: u64, fixed: u64, each: u64| {
            address & align.wrapping_sub(1) == 0
                && each
                    .checked_mul(size)
                    .and_then(|bytes| bytes.checked_add(fixed))
                    .and_then(|bytes| address.checked_add(bytes))
                    .is_some()
        };
        self.size.is_power_of_two()
            && fits(self.desc_table(), 16, 0, 16)
            && fits(self.avail_ring(), 2, 6, 2)
            && fits(self.used_ring(), 4, 6, 8)
    }
}

/// [`State`] with room for `Q` queues.
pub type Common<const Q: usize> = State<[Queue; Q]>;

/// What a driver and a device have agreed on so far.
///
/// Make it as a [`Common`]; the transports take it with the number of queues forgotten, by
/// coercion of the reference.
pub struct State<T: ?Sized = [Queue]> {
    status: Status,
    interrupt: Interrupt,
    generation: u8,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    driver_features: u64,
    queues: T,
}

impl<const Q: usize> Default for Common<Q> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const Q: usize> Common<Q> {
    /// The state after reset.
    pub const fn new() -> Self {
        Self {
            status: Status::empty(),
            interrupt: Interrupt::empty(),
            generation: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            driver_features: 0,
            queues: [Queue::NEW; Q],
        }
    }
}

impl<T: AsRef<[Queue]> + ?Sized> State<T> {
    /// Queue `index`, `None` if there is no such queue.
    pub fn queue(&self, index: u16) -> Option<&Queue> {
        self.queues.as_ref().get(usize::from(index))
    }
}

impl<T: ?Sized> State<T> {
    /// Device status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether the device may use its queues: the driver is ready and nothing has broken.
    pub fn active(&self) -> bool {
        self.status & (Status::DRIVER_OK | Status::NEEDS_RESET) == Status::DRIVER_OK
    }

    /// The features that the driver has chosen; final once the device is active.
    pub fn features(&self) -> u64 {
        self.driver_features
    }

    /// Interrupts raised and not yet acknowledged.
    pub fn interrupt_status(&self) -> Interrupt {
        self.interrupt
    }

    /// Counts the changes of the configuration space (virtio 1.3, 2.5).
    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// Notes why the host is about to raise the interrupt.
    pub fn interrupt(&mut self, reason: Interrupt) {
        self.interrupt |= reason;
    }

    /// The device's configuration space has changed. Returns whether the host is to raise the
    /// interrupt now; before the driver is ready, the reason waits for [`Effect::Activate`].
    #[must_use]
    pub fn config_changed(&mut self) -> bool {
        self.generation = self.generation.wrapping_add(1);
        self.interrupt |= Interrupt::CONFIG;
        self.status.contains(Status::DRIVER_OK)
    }

    /// The device cannot go on, for instance because of a broken ring (virtio 1.3, 2.1.2). Returns
    /// whether the host is to raise the interrupt.
    #[must_use]
    pub fn needs_reset(&mut self) -> bool {
        self.status |= Status::NEEDS_RESET;
        self.interrupt |= Interrupt::CONFIG;
        self.status.contains(Status::DRIVER_OK)
    }
}

/// What a transport calls, one method a register. None checks more of the order of calls than the
/// specification asks of a device, and none trusts its argument.
impl State {
    /// Acknowledges interrupts, one bit a reason.
    pub fn acknowledge(&mut self, reason: u32) {
        self.interrupt.remove(Interrupt::from_bits_truncate(reason as u8));
    }

    /// Selects the half that [`Self::device_features`] returns.
    pub fn select_device_features(&mut self, select: u32) {
        self.device_features_select = select;
    }

    /// Selects the half that [`Self::set_driver_features`] sets.
    pub fn select_driver_features(&mut self, select: u32) {
        self.driver_features_select = select;
    }

    /// Selects the queue that the queue registers are about.
    pub fn select_queue(&mut self, select: u32) {
        self.queue_select = select;
    }

    /// What [`Self::select_device_features`] set.
    pub fn device_features_select(&self) -> u32 {
        self.device_features_select
    }

    /// What [`Self::select_driver_features`] set.
    pub fn driver_features_select(&self) -> u32 {
        self.driver_features_select
    }

    /// What [`Self::select_queue`] set.
    pub fn queue_select(&self) -> u32 {
        self.queue_select
    }

    /// The selected half of the driver's features.
    pub fn selected_driver_features(&self) -> u32 {
        half(self.driver_features, self.driver_features_select)
    }

    /// How many queues `device` has, of those that there is room for.
    pub fn queue_count<D: Device>(&self, device: &D) -> u16 {
        let room = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        (0..room).find(|&index| device.queue_max_size(index) == 0).unwrap_or(room)
    }

    /// Sets the MSI-X vector of the selected queue.
    #[cfg(feature = "pci")]
    pub fn set_queue_vector(&mut self, vector: u16) {
        if let Ok(index) = usize::try_from(self.queue_select)
            && let Some(queue) = self.queues.get_mut(index)
        {
            queue.vector = vector;
        }
    }

    /// The selected half of the features `offered`; 0 beyond the two halves there are.
    pub fn device_features(&self, offered: u64) -> u32 {
        half(offered, self.device_features_select)
    }

    /// Sets the selected half of the driver's features, until FEATURES_OK fixes them.
    pub fn set_driver_features(&mut self, value: u32) {
        if !self.status.contains(Status::FEATURES_OK) {
            set_half(&mut self.driver_features, self.driver_features_select, value);
        }
    }

    /// Writes the device status (virtio 1.3, 2.1 and 3.1). Bits can be added, and only in an order
    /// that makes sense; 0 resets. `offered` are the features that the driver may choose from.
    pub fn set_status(&mut self, value: u32, offered: u64) -> Effect {
        if value == 0 {
            return self.reset();
        }
        let old = self.status;
        let mut new = Status::from_bits_truncate(value as u8).difference(Status::NEEDS_RESET) | old;
        let acceptable = self.driver_features & !offered == 0
            && self.driver_features & F_VERSION_1 != 0
            && new.contains(Status::ACKNOWLEDGE | Status::DRIVER);
        if !acceptable && !old.contains(Status::FEATURES_OK) {
            new.remove(Status::FEATURES_OK);
        }
        if !new.contains(Status::FEATURES_OK) || new.contains(Status::FAILED) {
            new.remove(Status::DRIVER_OK.difference(old));
        }
        self.status = new;
        if new.difference(old).contains(Status::DRIVER_OK) {
            Effect::Activate
        } else {
            Effect::None
        }
    }

    fn reset(&mut self) -> Effect {
        let was_active = self.status.contains(Status::DRIVER_OK);
        self.status = Status::empty();
        self.interrupt = Interrupt::empty();
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.driver_features = 0;
        self.queues.fill(Queue::NEW);
        if was_active { Effect::Reset } else { Effect::None }
    }

    /// The notification `value` as an effect, if it names a queue that is in use.
    pub fn notify(&self, value: u32) -> Effect {
        let Ok(index) = u16::try_from(value) else { return Effect::None };
        match self.queue(index) {
            Some(queue) if queue.ready && self.active() => Effect::Notify(index),
            _ => Effect::None,
        }
    }

    /// The selected queue, if there is one.
    pub fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// Size limit of the selected queue, 0 if there is none.
    pub fn selected_max<D: Device>(&self, device: &D) -> u16 {
        match (self.selected(), u16::try_from(self.queue_select)) {
            (Some(_), Ok(index)) => device.queue_max_size(index),
            _ => 0,
        }
    }

    /// The selected queue, if the driver may set it up now: neither it nor the device is in use.
    fn selected_mut(&mut self) -> Option<&mut Queue> {
        if self.status.contains(Status::DRIVER_OK) {
            return None;
        }
        let queue = self.queues.get_mut(usize::try_from(self.queue_select).ok()?)?;
        if queue.ready { None } else { Some(queue) }
    }

    /// Sets the selected queue's size; anything but a power of two up to `max` is ignored.
    pub fn set_queue_size(&mut self, value: u32, max: u16) {
        if let Some(queue) = self.selected_mut()
            && let Ok(size) = u16::try_from(value)
            && size.is_power_of_two()
            && size <= max
        {
            queue.size = size;
        }
    }

    /// Sets half `select` (0 lower, 1 upper) of address `index` (0 descriptor table, 1 available
    /// ring, 2 used ring) of the selected queue.
    pub fn set_queue_address(&mut self, index: usize, select: u32, value: u32) {
        if let Some(queue) = self.selected_mut()
            && let Some(address) = queue.addresses.get_mut(index)
        {
            set_half(address, select, value);
        }
    }

    /// Hands the selected queue over, if it is set up well. A size never written is `max`.
    pub fn start_queue(&mut self, max: u16) {
        if let Some(queue) = self.selected_mut() {
            let size = if queue.size == 0 { max } else { queue.size };
            let started = Queue { size, ready: true, ..*queue };
            if started.valid() {
                *queue = started;
            }
        }
    }

    /// Takes the selected queue back.
    pub fn stop_queue(&mut self) -> Effect {
        let active = self.status.contains(Status::DRIVER_OK);
        let Ok(index) = u16::try_from(self.queue_select) else { return Effect::None };
        match self.queues.get_mut(usize::from(index)) {
            Some(queue) if queue.ready => {
                queue.ready = false;
                if active { Effect::QueueStop(index) } else { Effect::None }
            }
            _ => Effect::None,
        }
    }
}

/// The 32 bits of `value` that `select` (0 lower, 1 upper, other none) names.
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// Replaces the 32 bits of `target` that `select` names.
fn set_half(target: &mut u64, select: u32, value: u32) {
    match select {
        0 => *target = *target >> 32 << 32 | u64::from(value),
        1 => *target = *target & 0xffff_ffff | u64::from(value) << 32,
        _ => {}
    }
}
