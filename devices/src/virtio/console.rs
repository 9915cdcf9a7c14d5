//! virtio-console with one port (virtio 1.3, 5.3): hvc0.

use super::{Device, copy_config};

/// Queue that the device fills with the user's input.
pub const RX: u16 = 0;
/// Queue that the guest fills with its output.
pub const TX: u16 = 1;
/// Number of queues; without VIRTIO_CONSOLE_F_MULTIPORT there are no control queues.
pub const QUEUES: usize = 2;

/// VIRTIO_CONSOLE_F_SIZE: the configuration has the terminal's size.
const F_SIZE: u64 = 1 << 0;
/// Linux fills the receive queue with a page a descriptor while it boots, and sends one buffer at a
/// time: 16 descriptors are 64 KiB of input, more than anyone pastes.
const QUEUE_SIZE: u16 = 16;

/// A console's size, if it is a terminal.
#[derive(Default)]
pub struct Console {
    size: Option<(u16, u16)>,
}

impl Console {
    /// A console on a terminal of `size` columns and rows, or on something that has no size.
    pub const fn new(size: Option<(u16, u16)>) -> Self {
        Self { size }
    }

    /// The terminal's size has changed. Returns true if that is news for the driver: then call
    /// [`State::config_changed`](super::State::config_changed). A console made without a size does
    /// not get one later, since features cannot change.
    #[must_use]
    pub fn resize(&mut self, columns: u16, rows: u16) -> bool {
        match &mut self.size {
            Some(size) if *size != (columns, rows) => {
                *size = (columns, rows);
                true
            }
            _ => false,
        }
    }
}

impl Device for Console {
    const ID: u32 = 3;

    fn queue_max_size(&self, queue: u16) -> u16 {
        if queue <= TX { QUEUE_SIZE } else { 0 }
    }

    fn features(&self) -> u64 {
        if self.size.is_some() { F_SIZE } else { 0 }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let (columns, rows) = self.size.unwrap_or_default();
        let mut config = [0; 4];
        let (low, high) = config.split_at_mut(2);
        low.copy_from_slice(&columns.to_le_bytes());
        high.copy_from_slice(&rows.to_le_bytes());
        copy_config(&config, offset, data);
    }

    /// A terminal's driver still asks for a size where there is none, which is then 0 by 0; and it knows
    /// the other terminal's, so that any is news.
    #[cfg(feature = "snapshot")]
    fn replaces(&mut self, features: u64) {
        if features & F_SIZE != 0 {
            self.size = Some((0, 0));
        }
    }
}

#[cfg(test)]
mod tests;
