//! virtio over PCI, modern (virtio 1.3, 4.1): a function with one memory BAR and MSI-X.
//!
//! Everything lies in BAR 0, the registers in its first page and the MSI-X table with its pending bits
//! in the second, so that a host can let the guest access them as memory. The capabilities stand in the
//! order in which Linux looks for them, since each step along the list is an exit.
//!
//! A host with devices of different numbers of queues and vectors holds a [`VirtioPci`] and a
//! [`Common`](super::Common) for each, and lends them as `&mut Function` and `&mut State`:
//!
//! ```
//! use brisk_devices::virtio::pci::{Effect, Function, VirtioPci};
//! use brisk_devices::virtio::{Common, State, Device};
//! # struct Entropy;
//! # impl Device for Entropy {
//! #     const ID: u32 = 4;
//! #     fn queue_max_size(&self, queue: u16) -> u16 { if queue == 0 { 16 } else { 0 } }
//! #     fn features(&self) -> u64 { 0 }
//! #     fn read_config(&self, _offset: u32, _data: &mut [u8]) {}
//! # }
//! let mut device = Entropy;
//! let (mut slot, mut common) = (VirtioPci::<2>::new(0xf000_0000), Common::<1>::new());
//! let (function, common): (&mut Function, &mut State) = (&mut slot, &mut common);
//! // The guest switches memory decoding on in the command register.
//! let effect = function.config_write(common, &mut device, 0x04, &[2, 0]);
//! assert_eq!((effect, function.bar()), (Effect::BarMoved, Some(0xf000_0000)));
//! ```

mod space;

use super::{Device, Effect as Virtio, Interrupt, State, offered_features};
use crate::pci::{Entry, Msix, read_config_part, read_part, read_words, write_part};
pub use space::MSIX_CONTROL;
use space::{COMMAND_MEMORY, WINDOW_DATA};

/// Size of BAR 0 in bytes; it is aligned to that.
pub const BAR_SIZE: u64 = 0x2000;
/// Where in BAR 0 queue `q` is notified, at `NOTIFY + q * NOTIFY_STEP`, for a host that lets the
/// kernel match notifications (ioeventfd): a write of any value.
pub const NOTIFY: u64 = 0x400;
/// Bytes from one queue's notification address to the next.
pub const NOTIFY_STEP: u64 = 4;
/// Where in BAR 0 the MSI-X table begins, on a page with nothing but its pending bits besides.
pub const MSIX_TABLE: u64 = 0x1000;
/// VIRTIO_MSI_NO_VECTOR: no interrupt wanted.
pub const NO_VECTOR: u16 = 0xffff;

// BAR 0.
const COMMON_LEN: u64 = 0x38;
const ISR: u64 = 0x40;
const DEVICE: u64 = 0x100;
const DEVICE_END: u64 = 0x200;
const NOTIFY_END: u64 = 0x800;
const TABLE: u64 = MSIX_TABLE;
const PENDING: u64 = 0x1800;

/// What an access asks of the host.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// As over any transport; never [`Virtio::None`].
    Virtio(Virtio),
    /// [`Function::bar`] became another.
    BarMoved,
    /// The message of this MSI-X vector became another; it may be pending
    /// ([`Msix::take_pending`]).
    Vector(u16),
    /// The messages of several vectors became others: as `Vector` for each.
    Vectors,
}

impl From<Virtio> for Effect {
    fn from(effect: Virtio) -> Self {
        match effect {
            Virtio::None => Self::None,
            effect => Self::Virtio(effect),
        }
    }
}

/// [`Function`] with `V` MSI-X vectors (1 to 64): best one for the configuration and one a queue.
pub type VirtioPci<const V: usize> = Function<[Entry; V]>;

/// A virtio device as a PCI function. Make it as a [`VirtioPci`], and access it with the number of
/// vectors forgotten, by coercion of the reference.
pub struct Function<T: ?Sized = [Entry]> {
    command: u16,
    bar: u64,
    /// BAR, offset and length of the access through configuration space.
    window: [u32; 3],
    /// MSI-X vector of configuration changes.
    config_vector: u16,
    /// Table and pending bits.
    pub msix: Msix<T>,
}

impl<const V: usize> VirtioPci<V> {
    /// The function after reset, its BAR at the guest-physical address `bar`, a multiple of
    /// [`BAR_SIZE`], but not decoded yet.
    pub const fn new(bar: u64) -> Self {
        Self {
            command: 0,
            bar: bar & !(BAR_SIZE - 1),
            window: [0; 3],
            config_vector: NO_VECTOR,
            msix: Msix::<[Entry; V]>::new(),
        }
    }
}

impl Function {
    /// Where BAR 0 is in guest-physical memory, `None` while it is not decoded. The guest chooses
    /// it: it may lie anywhere, over RAM or another device, and it is the host's to ignore it there.
    pub fn bar(&self) -> Option<u64> {
        if self.command & COMMAND_MEMORY != 0 { Some(self.bar) } else { None }
    }

    /// Whether the guest has set up the access to BAR 0 through configuration space (virtio 1.3,
    /// 4.1.4.9). As long as it has not, configuration space changes only by writes to it.
    pub fn uses_window(&self) -> bool {
        self.window != [0; 3]
    }

    /// MSI-X vector to raise when the configuration changes, or [`NO_VECTOR`]. A queue's own is
    /// [`Queue::vector`](super::Queue::vector).
    pub fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// Reads configuration space. Reading through the window into BAR 0 can acknowledge an
    /// interrupt, hence the mutable state.
    pub fn config_read<D: Device>(
        &mut self,
        common: &mut State,
        device: &D,
        register: u16,
        data: &mut [u8],
    ) {
        let value = match register & !3 {
            WINDOW_DATA => {
                let mut value = [0; 4];
                if let Some((offset, len)) = self.window()
                    && let Some(part) = value.get_mut(..len)
                {
                    self.bar_read(common, device, offset, part);
                }
                u32::from_le_bytes(value)
            }
            aligned => self.config_word(D::ID, aligned),
        };
        read_config_part(register, data, value);
    }

    /// Writes configuration space.
    pub fn config_write<D: Device>(
        &mut self,
        common: &mut State,
        device: &mut D,
        register: u16,
        data: &[u8],
    ) -> Effect {
        let Some((value, mask)) = write_part(register.into(), data) else { return Effect::None };
        if register & !3 == WINDOW_DATA {
            if let Some((offset, len)) = self.window()
                && let Some(part) = data.get(..len)
                && register == WINDOW_DATA
            {
                return self.bar_write(common, device, offset, part);
            }
            return Effect::None;
        }
        self.set_config_word(register & !3, value, mask)
    }

    /// Reads `data.len()` bytes at `offset` into BAR 0.
    pub fn bar_read<D: Device>(
        &self,
        common: &mut State,
        device: &D,
        offset: u64,
        data: &mut [u8],
    ) {
        match offset {
            0..COMMON_LEN => {
                let features = offered_features(device);
                let max = common.selected_max(device);
                let queues = if offset & !3 == 0x10 { common.queue_count(device) } else { 0 };
                read_words(offset, data, |offset| {
                    self.common_word(common, features, max, queues, offset)
                });
            }
            ISR => {
                // Reading acknowledges (virtio 1.3, 4.1.4.5).
                let reasons = common.interrupt_status().bits();
                common.acknowledge(Interrupt::all().bits().into());
                read_part(offset, data, reasons.into());
            }
            DEVICE..DEVICE_END => {
                data.fill(0);
                device.read_config(offset.saturating_sub(DEVICE) as u32, data);
            }
            TABLE..PENDING => self.msix.read_table(offset.saturating_sub(TABLE), data),
            PENDING..BAR_SIZE => self.msix.read_pending(offset.saturating_sub(PENDING), data),
            _ => data.fill(0),
        }
    }

    /// Writes `data` at `offset` into BAR 0.
    pub fn bar_write<D: Device>(
        &mut self,
        common: &mut State,
        device: &mut D,
        offset: u64,
        data: &[u8],
    ) -> Effect {
        match offset {
            NOTIFY..NOTIFY_END if offset.is_multiple_of(NOTIFY_STEP) => {
                common.notify((offset.saturating_sub(NOTIFY) / NOTIFY_STEP) as u32).into()
            }
            0..COMMON_LEN => {
                let mut value = [0; 8];
                let Some(part) = value.get_mut(..data.len()) else { return Effect::None };
                part.copy_from_slice(data);
                let max = common.selected_max(device);
                let features = offered_features(device);
                let value = u64::from_le_bytes(value);
                self.set_common(common, features, max, offset, data.len(), value).into()
            }
            DEVICE..DEVICE_END => {
                device.write_config(offset.saturating_sub(DEVICE) as u32, data);
                Effect::None
            }
            TABLE..PENDING => self
                .msix
                .write_table(offset.saturating_sub(TABLE), data)
                .map_or(Effect::None, Effect::Vector),
            _ => Effect::None,
        }
    }

    /// The 32 bits of the common configuration (virtio 1.3, 4.1.4.3) at `offset`.
    fn common_word(
        &self,
        common: &State,
        features: u64,
        queue_max: u16,
        queues: u16,
        offset: u64,
    ) -> u32 {
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let queue = if queue_max == 0 { None } else { common.selected() };
        let address = |index: usize, high: bool| {
            let Some(queue) = queue else { return 0 };
            let addresses = [queue.desc_table(), queue.avail_ring(), queue.used_ring()];
            let address = addresses.get(index).copied().unwrap_or(0);
            if high { (address >> 32) as u32 } else { address as u32 }
        };
        match offset {
            0x00 => common.device_features_select(),
            0x04 => common.device_features(features),
            0x08 => common.driver_features_select(),
            0x0c => common.selected_driver_features(),
            0x10 => pair(self.config_vector, queues),
            0x14 => pair(
                u16::from_le_bytes([common.status().bits(), common.generation()]),
                common.queue_select() as u16,
            ),
            // Before the driver chooses a size, it reads the limit.
            0x18 => match queue {
                Some(queue) if queue.size() == 0 => pair(queue_max, queue.vector()),
                Some(queue) => pair(queue.size(), queue.vector()),
                None => pair(0, NO_VECTOR),
            },
            // The notification offset is the queue's index.
            0x1c => {
                pair(queue.is_some_and(|queue| queue.ready()).into(), common.queue_select() as u16)
            }
            0x20..COMMON_LEN => {
                address((offset.saturating_sub(0x20) >> 3) as usize, offset & 4 != 0)
            }
            _ => 0,
        }
    }

    /// Writes a field of the common configuration; only in the field's own width, as drivers must.
    fn set_common(
        &mut self,
        common: &mut State,
        features: u64,
        queue_max: u16,
        offset: u64,
        len: usize,
        value: u64,
    ) -> Virtio {
        let word = value as u32;
        let vector = if value < u64::from(self.msix.vectors()) { value as u16 } else { NO_VECTOR };
        match (offset, len) {
            (0x00, 4) => common.select_device_features(word),
            (0x08, 4) => common.select_driver_features(word),
            (0x0c, 4) => common.set_driver_features(word),
            (0x10, 2) => self.config_vector = vector,
            (0x14, 1) => {
                if word == 0 {
                    self.config_vector = NO_VECTOR;
                }
                return common.set_status(word, features);
            }
            (0x16, 2) => common.select_queue(word),
            (0x18, 2) => common.set_queue_size(word, queue_max),
            (0x1a, 2) => common.set_queue_vector(vector),
            // Only a reset takes a queue back (virtio 1.3, 4.1.4.3.2).
            (0x1c, 2) if word == 1 => common.start_queue(queue_max),
            (0x20..COMMON_LEN, 4) if offset & 3 == 0 => {
                let index = (offset.saturating_sub(0x20) >> 3) as usize;
                common.set_queue_address(index, (offset >> 2 & 1) as u32, word);
            }
            (0x20..COMMON_LEN, 8) if offset & 7 == 0 => {
                let index = (offset.saturating_sub(0x20) >> 3) as usize;
                common.set_queue_address(index, 0, word);
                common.set_queue_address(index, 1, (value >> 32) as u32);
            }
            _ => {}
        }
        Virtio::None
    }
}

#[cfg(feature = "snapshot")]
mod saved;
#[cfg(test)]
mod tests;

#[cfg(feature = "snapshot")]
pub use saved::Saved;
