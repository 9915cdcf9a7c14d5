//! virtio over MMIO, version 2 of the register file (virtio 1.3, 4.2.2).
//!
//! A register is read and written in 32 bits at its own offset; anything else reads 0 and writes
//! nothing. The configuration space from 0x100 up takes any width.
//!
//! ```
//! use brisk_devices::virtio::{Common, Device, Effect, mmio};
//!
//! struct Entropy;
//! impl Device for Entropy {
//!     const ID: u32 = 4;
//!     fn queue_max_size(&self, queue: u16) -> u16 {
//!         if queue == 0 { 16 } else { 0 }
//!     }
//!     fn features(&self) -> u64 {
//!         0
//!     }
//!     fn read_config(&self, _offset: u32, _data: &mut [u8]) {}
//! }
//!
//! let (mut common, mut device) = (Common::<1>::new(), Entropy);
//! let mut id = [0; 4];
//! mmio::read(&common, &device, 0x008, &mut id);
//! assert_eq!(id, [4, 0, 0, 0]);
//! // ACKNOWLEDGE and DRIVER: the host has nothing to do yet.
//! assert_eq!(mmio::write(&mut common, &mut device, 0x070, &[3, 0, 0, 0]), Effect::None);
//! ```

use super::{Device, Effect, State, offered_features};

/// Size of the register window in bytes.
pub const SIZE: u64 = 0x1000;
/// Offset of QueueNotify, for a host that lets the kernel match notifications (ioeventfd): a 32-bit
/// write of the queue's index.
pub const QUEUE_NOTIFY: u64 = 0x050;

const MAGIC_VALUE: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_SIZE_MAX: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
/// Offset of the reasons for the interrupt.
pub const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESC_LOW: u64 = 0x080;
const QUEUE_DESC_HIGH: u64 = 0x084;
const QUEUE_DRIVER_LOW: u64 = 0x090;
const QUEUE_DRIVER_HIGH: u64 = 0x094;
const QUEUE_DEVICE_LOW: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
const SHM_LEN_LOW: u64 = 0x0b0;
const SHM_BASE_HIGH: u64 = 0x0bc;
const CONFIG_GENERATION: u64 = 0x0fc;
/// Offset of the device's configuration space.
pub const CONFIG: u64 = 0x100;

/// "virt"
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// Any value does; Linux shows it in sysfs.
const VENDOR: u32 = u32::from_le_bytes(*b"brsk");

/// Registers that read the same for as long as the device exists, in bytes into the window.
pub const CONSTANT: [u64; 8] = [
    MAGIC_VALUE,
    VERSION,
    DEVICE_ID,
    VENDOR_ID,
    SHM_LEN_LOW,
    SHM_LEN_LOW + 4,
    SHM_BASE_HIGH - 4,
    SHM_BASE_HIGH,
];
/// Registers that read as something else after a write to one, or when the device has something to say:
/// for a host that lets the guest read the window as memory, which it has to keep up to date. All others
/// below [`CONFIG`] read 0.
pub const CHANGING: [u64; 6] =
    [DEVICE_FEATURES, QUEUE_SIZE_MAX, QUEUE_READY, INTERRUPT_STATUS, STATUS, CONFIG_GENERATION];

/// Reads `data.len()` bytes at `offset` into the window.
pub fn read<D: Device>(common: &State, device: &D, offset: u64, data: &mut [u8]) {
    data.fill(0);
    if let Some(offset) = offset.checked_sub(CONFIG) {
        if let Ok(offset) = u32::try_from(offset) {
            device.read_config(offset, data);
        }
    } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
        *data = register(common, Info::of(device, common), offset).to_le_bytes();
    }
}

/// Writes `data` at `offset` into the window; returns what the host has to do.
pub fn write<D: Device>(common: &mut State, device: &mut D, offset: u64, data: &[u8]) -> Effect {
    if let Some(offset) = offset.checked_sub(CONFIG) {
        if let Ok(offset) = u32::try_from(offset) {
            device.write_config(offset, data);
        }
    } else if let Ok(&data) = <&[u8; 4]>::try_from(data) {
        let info = Info::of(device, common);
        return set_register(common, info, offset, u32::from_le_bytes(data));
    }
    Effect::None
}

/// What the registers show of a device, so that their code is not generic.
struct Info {
    id: u32,
    features: u64,
    /// Size limit of the selected queue.
    queue_max: u16,
}

impl Info {
    fn of<D: Device>(device: &D, common: &State) -> Self {
        Self {
            id: D::ID,
            features: offered_features(device),
            queue_max: common.selected_max(device),
        }
    }
}

fn register(common: &State, info: Info, offset: u64) -> u32 {
    match offset {
        MAGIC_VALUE => MAGIC,
        VERSION => 2,
        DEVICE_ID => info.id,
        VENDOR_ID => VENDOR,
        DEVICE_FEATURES => common.device_features(info.features),
        QUEUE_SIZE_MAX => info.queue_max.into(),
        QUEUE_READY => common.selected().is_some_and(|queue| queue.ready()).into(),
        INTERRUPT_STATUS => common.interrupt_status().bits().into(),
        STATUS => common.status().bits().into(),
        // A length of all ones: there is no such shared memory region.
        SHM_LEN_LOW..=SHM_BASE_HIGH if offset & 3 == 0 => u32::MAX,
        CONFIG_GENERATION => common.generation().into(),
        _ => 0,
    }
}

fn set_register(common: &mut State, info: Info, offset: u64, value: u32) -> Effect {
    match offset {
        DEVICE_FEATURES_SEL => common.select_device_features(value),
        DRIVER_FEATURES => common.set_driver_features(value),
        DRIVER_FEATURES_SEL => common.select_driver_features(value),
        QUEUE_SEL => common.select_queue(value),
        QUEUE_SIZE => common.set_queue_size(value, info.queue_max),
        QUEUE_READY => match value {
            0 => return common.stop_queue(),
            _ => common.start_queue(info.queue_max),
        },
        QUEUE_NOTIFY => return common.notify(value),
        INTERRUPT_ACK => common.acknowledge(value),
        STATUS => return common.set_status(value, info.features),
        QUEUE_DESC_LOW => common.set_queue_address(0, 0, value),
        QUEUE_DESC_HIGH => common.set_queue_address(0, 1, value),
        QUEUE_DRIVER_LOW => common.set_queue_address(1, 0, value),
        QUEUE_DRIVER_HIGH => common.set_queue_address(1, 1, value),
        QUEUE_DEVICE_LOW => common.set_queue_address(2, 0, value),
        QUEUE_DEVICE_HIGH => common.set_queue_address(2, 1, value),
        _ => {}
    }
    Effect::None
}

#[cfg(test)]
mod tests;
