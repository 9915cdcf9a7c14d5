//! The register file of virtio over MMIO, in front of each device.
#![no_main]

use arbitrary::Arbitrary;
use brisk_devices::virtio::block::{Block, Options};
use brisk_devices::virtio::console::Console;
use brisk_devices::virtio::pmem::Pmem;
use brisk_devices::virtio::{Common, Device, Effect, Interrupt, State, mmio};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Access {
    Read {
        offset: u16,
        width: u8,
    },
    Write {
        offset: u16,
        width: u8,
        value: u64,
    },
    /// A 32-bit write to a register's own offset.
    Register {
        register: u8,
        value: u32,
    },
    /// The host's side.
    Interrupt,
    ConfigChanged,
    NeedsReset,
}

fn drive<D: Device>(mut device: D, accesses: &[Access]) {
    let mut common = Common::<3>::new();
    let common: &mut State = &mut common;
    let mut active = false;
    for access in accesses {
        let effect = match *access {
            Access::Read { offset, width } => {
                mmio::read(
                    common,
                    &device,
                    (offset & 0xfff).into(),
                    &mut [0; 8][..1 << (width & 3)],
                );
                Effect::None
            }
            Access::Write { offset, width, value } => {
                let value = &value.to_le_bytes()[..1 << (width & 3)];
                mmio::write(common, &mut device, (offset & 0xfff).into(), value)
            }
            Access::Register { register, value } => {
                let offset = u64::from(register & 0x3f) * 4;
                mmio::write(common, &mut device, offset, &value.to_le_bytes())
            }
            Access::Interrupt => {
                common.interrupt(Interrupt::VRING);
                Effect::None
            }
            Access::ConfigChanged => {
                assert_eq!(common.config_changed(), active);
                Effect::None
            }
            Access::NeedsReset => {
                assert_eq!(common.needs_reset(), active);
                Effect::None
            }
        };
        match effect {
            Effect::None => {}
            Effect::Activate => assert!(!std::mem::replace(&mut active, true)),
            Effect::Reset => assert!(std::mem::replace(&mut active, false)),
            Effect::Notify(queue) => {
                let queue = common.queue(queue).expect("a queue");
                assert!(active && queue.ready() && queue.size().is_power_of_two());
            }
            Effect::QueueStop(queue) => {
                assert!(active && !common.queue(queue).expect("a queue").ready());
            }
        }
        for index in 0..3 {
            let queue = common.queue(index).expect("a queue");
            assert!(!queue.ready() || queue.size() <= device.queue_max_size(index));
        }
    }
}

fuzz_target!(|input: (u8, Vec<Access>)| {
    let (which, accesses) = input;
    match which % 3 {
        0 => drive(Block::new(&Options { capacity: 1000, ..Options::default() }), &accesses),
        1 => drive(Console::new(Some((80, 25))), &accesses),
        _ => drive(Pmem::new(4 << 30, 2 << 20), &accesses),
    }
});
