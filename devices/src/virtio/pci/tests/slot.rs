//! A function in its slot, and the driver that finds and probes it.

use super::super::*;
use crate::virtio::Common;
use std::vec::Vec;

pub const MAX: u16 = 64;
pub const HOME: u64 = 0xf000_0000;

pub struct Toy;

impl Device for Toy {
    const ID: u32 = 3;

    fn queue_max_size(&self, queue: u16) -> u16 {
        if queue < 2 { MAX } else { 0 }
    }

    fn features(&self) -> u64 {
        1
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        for (byte, n) in data.iter_mut().zip(offset..4) {
            *byte = n as u8 + 1;
        }
    }
}

pub struct Slot {
    pub function: VirtioPci<3>,
    pub common: Common<4>,
}

impl Slot {
    pub fn new() -> Self {
        Self { function: VirtioPci::new(HOME), common: Common::new() }
    }

    pub fn function(&mut self) -> &mut Function {
        &mut self.function
    }

    pub fn config<const N: usize>(&mut self, register: u16) -> [u8; N] {
        let mut data = [0xee; N];
        let function: &mut Function = &mut self.function;
        function.config_read(&mut self.common, &Toy, register, &mut data);
        data
    }

    pub fn config32(&mut self, register: u16) -> u32 {
        u32::from_le_bytes(self.config(register))
    }

    pub fn set_config(&mut self, register: u16, data: &[u8]) -> Effect {
        let function: &mut Function = &mut self.function;
        function.config_write(&mut self.common, &mut Toy, register, data)
    }

    pub fn get<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0xee; N];
        let function: &Function = &self.function;
        function.bar_read(&mut self.common, &Toy, offset, &mut data);
        data
    }

    pub fn get16(&mut self, offset: u64) -> u16 {
        u16::from_le_bytes(self.get(offset))
    }

    pub fn set(&mut self, offset: u64, data: &[u8]) -> Effect {
        let function: &mut Function = &mut self.function;
        function.bar_write(&mut self.common, &mut Toy, offset, data)
    }

    pub fn put(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.set(offset, data), Effect::None);
    }

    /// Walks the capabilities: (register, id, type of a virtio one).
    pub fn capabilities(&mut self) -> Vec<(u16, u8, u8)> {
        let mut found = Vec::new();
        let [mut next] = self.config::<1>(0x34);
        while next != 0 {
            assert!(next >= 0x40 && next % 4 == 0 && found.len() < 48);
            let [id, after, _, kind] = self.config(next.into());
            found.push((next.into(), id, kind));
            next = after;
        }
        found
    }

    /// vp_modern_probe() to DRIVER_OK, with one vector for the configuration and one a queue.
    pub fn linux_probe(&mut self) {
        assert_eq!(self.set_config(4, &6u16.to_le_bytes()), Effect::BarMoved);
        // MSI-X on, all masked; then each vector is written and unmasked.
        assert_eq!(self.set_config(0x9a, &0xc000u16.to_le_bytes()), Effect::None);
        assert_eq!(self.set_config(0x9a, &0x8000u16.to_le_bytes()), Effect::None);
        for vector in 0..3u16 {
            let entry = TABLE + 16 * u64::from(vector);
            self.put(entry, &0xfee0_0000u32.to_le_bytes());
            self.put(entry + 4, &[0; 4]);
            self.put(entry + 8, &(0x30 + u32::from(vector)).to_le_bytes());
            assert_eq!(self.set(entry + 12, &[0; 4]), Effect::Vector(vector));
        }
        self.put(0x14, &[0]);
        self.put(0x14, &[1]);
        self.put(0x14, &[3]);
        let mut features = [0; 2];
        for (select, half) in features.iter_mut().enumerate() {
            self.put(0x00, &(select as u32).to_le_bytes());
            *half = u32::from_le_bytes(self.get(0x04));
        }
        assert_eq!(features, [1 | 1 << 28 | 1 << 29, 1]);
        for (select, half) in features.iter().enumerate() {
            self.put(0x08, &(select as u32).to_le_bytes());
            self.put(0x0c, &half.to_le_bytes());
            assert_eq!(self.get(0x0c), half.to_le_bytes());
        }
        self.put(0x14, &[11]);
        assert_eq!(self.get(0x14), [11]);
        self.put(0x10, &0u16.to_le_bytes());
        assert_eq!(self.get16(0x10), 0);
        assert_eq!(self.get16(0x12), 2, "num_queues");
        for queue in 0..2u16 {
            self.put(0x16, &queue.to_le_bytes());
            assert_eq!(self.get16(0x18), MAX);
            assert_eq!(self.get16(0x1c), 0);
            self.put(0x18, &32u16.to_le_bytes());
            for field in 0..3u64 {
                let address = 0x1_0000_0000 + 0x10_0000 * u64::from(queue) + 0x1000 * field;
                self.put(0x20 + 8 * field, &(address as u32).to_le_bytes());
                self.put(0x24 + 8 * field, &((address >> 32) as u32).to_le_bytes());
                assert_eq!(self.get(0x20 + 8 * field), address.to_le_bytes());
            }
            self.put(0x1a, &(queue + 1).to_le_bytes());
            assert_eq!(self.get16(0x1a), queue + 1);
            assert_eq!(self.get16(0x1e), queue, "queue_notify_off");
            self.put(0x1c, &1u16.to_le_bytes());
            assert_eq!(self.get16(0x1c), 1);
        }
        assert_eq!(self.set(0x14, &[15]), Effect::Virtio(Virtio::Activate));
    }
}
