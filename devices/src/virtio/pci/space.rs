//! The function's configuration space: header, BAR, capabilities.

use super::{
    BAR_SIZE, COMMON_LEN, DEVICE, DEVICE_END, Effect, Function, ISR, NOTIFY, NOTIFY_END,
    NOTIFY_STEP, PENDING, TABLE,
};

// Configuration space (PCI 3.0, 6.1).
const ID: u16 = 0x00;
const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const BAR0: u16 = 0x10;
const BAR1: u16 = 0x14;
const SUBSYSTEM: u16 = 0x2c;
const CAPABILITIES: u16 = 0x34;
const FIRST_CAPABILITY: u16 = 0x40;

/// Memory decoding, bus mastering, INTx off: what a driver can set.
pub(super) const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 10;
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
/// There is a list of capabilities.
const STATUS: u32 = 1 << 4 << 16;
/// BAR type: 64-bit memory.
const BAR_64: u32 = 0b100;
/// Red Hat, for virtio.
const VENDOR: u32 = 0x1af4;

/// First word of a virtio capability (virtio 1.3, 4.1.4) of type `kind` with `next` after it.
const fn capability(kind: u32, len: u32, next: u32) -> u32 {
    0x09 | next << 8 | len << 16 | kind << 24
}

/// The list, without what changes in it.
const LIST: [u32; 25] = [
    // 0x40: common configuration, in BAR 0.
    capability(1, 16, 0x50),
    0,
    0,
    COMMON_LEN as u32,
    // 0x50: ISR status.
    capability(3, 16, 0x60),
    0,
    ISR as u32,
    1,
    // 0x60: notifications.
    capability(2, 20, 0x74),
    0,
    NOTIFY as u32,
    (NOTIFY_END - NOTIFY) as u32,
    NOTIFY_STEP as u32,
    // 0x74: device configuration.
    capability(4, 16, 0x84),
    0,
    DEVICE as u32,
    (DEVICE_END - DEVICE) as u32,
    // 0x84: access to BAR 0 through configuration space.
    capability(5, 20, 0x98),
    0,
    0,
    0,
    0,
    // 0x98: MSI-X, table and pending bits in BAR 0.
    0x11,
    TABLE as u32,
    PENDING as u32,
];
const WINDOW_BAR: u16 = 0x88;
const WINDOW_OFFSET: u16 = 0x8c;
const WINDOW_LENGTH: u16 = 0x90;
pub(super) const WINDOW_DATA: u16 = 0x94;
/// The MSI-X capability, whose first word has message control.
pub const MSIX_CONTROL: u16 = 0x98;

impl Function {
    /// The 32 bits of configuration space at `register`.
    pub(super) fn config_word(&self, id: u32, register: u16) -> u32 {
        let [window_bar, window_offset, window_length] = self.window;
        let fixed = register
            .checked_sub(FIRST_CAPABILITY)
            .and_then(|offset| LIST.get(usize::from(offset >> 2)))
            .copied()
            .unwrap_or(0);
        match register {
            // Modern devices only (virtio 1.3, 4.1.2).
            ID => 0x1040u32.wrapping_add(id) << 16 | VENDOR,
            COMMAND => STATUS | u32::from(self.command),
            // Revision 1 says so too.
            CLASS => class(id) << 8 | 1,
            BAR0 => self.bar as u32 | BAR_64,
            BAR1 => (self.bar >> 32) as u32,
            SUBSYSTEM => 0x40 << 16 | VENDOR,
            CAPABILITIES => FIRST_CAPABILITY.into(),
            WINDOW_BAR => window_bar,
            WINDOW_OFFSET => window_offset,
            WINDOW_LENGTH => window_length,
            MSIX_CONTROL => fixed | u32::from(self.msix.control()) << 16,
            _ => fixed,
        }
    }

    /// Writes those bits at `register` that are in `mask`.
    pub(super) fn set_config_word(&mut self, register: u16, value: u32, mask: u32) -> Effect {
        let merge = |old: u32| old & !mask | value & mask;
        let before = self.bar();
        let [window_bar, window_offset, window_length] = &mut self.window;
        match register {
            COMMAND => self.command = merge(self.command.into()) as u16 & COMMAND_WRITABLE,
            // Writing all ones shows the size (PCI 3.0, 6.2.5.1).
            BAR0 => {
                let low = u64::from(merge(self.bar as u32)) & !(BAR_SIZE.wrapping_sub(1));
                self.bar = self.bar >> 32 << 32 | low;
            }
            BAR1 => {
                let high = u64::from(merge((self.bar >> 32) as u32));
                self.bar = high << 32 | self.bar & 0xffff_ffff;
            }
            WINDOW_BAR => *window_bar = merge(*window_bar) & 0xff,
            WINDOW_OFFSET => *window_offset = merge(*window_offset),
            WINDOW_LENGTH => *window_length = merge(*window_length),
            MSIX_CONTROL => {
                let control = merge(u32::from(self.msix.control()) << 16) >> 16;
                if self.msix.set_control(control as u16) {
                    return Effect::Vectors;
                }
            }
            _ => {}
        }
        if self.bar() == before { Effect::None } else { Effect::BarMoved }
    }

    /// Offset and length of the access through configuration space, if they are as specified
    /// (virtio 1.3, 4.1.4.9).
    pub(super) fn window(&self) -> Option<(u64, usize)> {
        match self.window {
            [0, offset, len @ (1 | 2 | 4)] if offset & len.wrapping_sub(1) == 0 => {
                Some((offset.into(), len as usize))
            }
            _ => None,
        }
    }
}

/// Class code of virtio device type `id`: what lspci shows; drivers do not look at it.
fn class(id: u32) -> u32 {
    match id {
        // Mass storage, other.
        2 => 0x01_8000,
        // Communication, other.
        3 => 0x07_8000,
        // Memory, other.
        27 => 0x05_8000,
        // Fits no class.
        _ => 0xff_0000,
    }
}
