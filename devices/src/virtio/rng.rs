//! virtio-rng, an entropy device (virtio 1.3, 5.4): buffers that come back full of random bytes.

use super::Device;

/// Number of queues.
pub const QUEUES: usize = 1;
/// Queue of buffers to fill (requestq).
pub const REQUESTS: u16 = 0;
/// Linux has one buffer of 64 bytes on its way, and waits for it.
const QUEUE_SIZE: u16 = 16;
/// The most bytes that a host puts into one chain, however long that is: a device "MAY use less than the
/// entire buffer length" (virtio 1.3, 5.4.6.2).
pub const MOST: usize = 4096;

/// The device: it has no feature and no configuration space.
pub struct Rng;

impl Device for Rng {
    const ID: u32 = 4;

    fn queue_max_size(&self, queue: u16) -> u16 {
        if queue == REQUESTS { QUEUE_SIZE } else { 0 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u32, _data: &mut [u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::{Common, mmio};

    #[test]
    fn shows_itself_with_one_queue_and_nothing_else() {
        let (mut common, mut rng) = (Common::<QUEUES>::new(), Rng);
        let read = |common: &Common<QUEUES>, offset| {
            let mut data = [0x55; 4];
            mmio::read(common, &Rng, offset, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!(read(&common, 0x008), 4);
        assert_eq!(read(&common, 0x010), 1 << 28 | 1 << 29, "what the transport offers");
        assert_eq!(read(&common, 0x034), QUEUE_SIZE.into());
        assert_eq!([0x100, 0x104, 0xffc].map(|offset| read(&common, offset)), [0; 3]);
        let _ = mmio::write(&mut common, &mut rng, 0x100, &[0xff; 4]);
        let _ = mmio::write(&mut common, &mut rng, 0x030, &[1, 0, 0, 0]);
        assert_eq!(read(&common, 0x034), 0, "a second queue");
    }
}
