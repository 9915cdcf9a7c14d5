//! A virtio function on PCI: configuration accesses by port and by ECAM, BAR 0, MSI-X.
#![no_main]

use arbitrary::Arbitrary;
use brisk_devices::pci::{Address, ConfigPorts, HostBridge};
use brisk_devices::virtio::block::{Block, Options};
use brisk_devices::virtio::pci::{BAR_SIZE, Effect, Function, VirtioPci};
use brisk_devices::virtio::{Common, Effect as Virtio, State};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Access {
    Port { offset: u8, width: u8, value: Option<u32> },
    Ecam { offset: u32, width: u8, value: Option<u32> },
    Bar { offset: u16, width: u8, value: Option<u64> },
    Raise { vector: u16 },
}

fuzz_target!(|accesses: Vec<Access>| {
    let mut device = Block::new(&Options { capacity: 1000, ..Options::default() });
    let (mut slot, mut common) = (VirtioPci::<3>::new(0xf000_0000), Common::<2>::new());
    let (function, common): (&mut Function, &mut State) = (&mut slot, &mut common);
    let mut ports = ConfigPorts::new();
    let mut active = false;
    for access in accesses {
        let mut data = [0; 8];
        let (effect, address) = match access {
            Access::Port { offset, width, value: Some(value) } => {
                let len = 1 << (width % 3);
                let address = ports.write((offset & 7).into(), &value.to_le_bytes()[..len]);
                (Effect::None, address.map(|address| (address, len, Some(value))))
            }
            Access::Port { offset, width, value: None } => {
                let len = 1 << (width % 3);
                let address = ports.read((offset & 7).into(), &mut data[..len]);
                (Effect::None, address.map(|address| (address, len, None)))
            }
            Access::Ecam { offset, width, value } => {
                let address = Address::from_ecam(offset.into());
                assert_eq!(address.is_some(), offset < 1 << 20);
                (Effect::None, address.map(|address| (address, 1 << (width % 3), value)))
            }
            Access::Bar { offset, width, value } => {
                let (offset, len) = (u64::from(offset) % BAR_SIZE, 1 << (width & 3));
                let effect = match value {
                    Some(value) => {
                        let value = &value.to_le_bytes()[..len];
                        function.bar_write(common, &mut device, offset, value)
                    }
                    None => {
                        function.bar_read(common, &device, offset, &mut data[..len]);
                        Effect::None
                    }
                };
                (effect, None)
            }
            Access::Raise { vector } => {
                if function.msix.raise(vector).is_some() {
                    assert!(function.msix.enabled() && vector < function.msix.vectors());
                }
                (Effect::None, None)
            }
        };
        let effect = match address {
            Some((address, len, value)) => {
                assert!(address.device < 32 && address.function < 8 && address.register < 0x1000);
                match value {
                    Some(value) => {
                        let value = &value.to_le_bytes()[..len];
                        function.config_write(common, &mut device, address.register, value)
                    }
                    None => {
                        HostBridge::config_read(address.register, &mut data[..len]);
                        function.config_read(common, &device, address.register, &mut data[..len]);
                        Effect::None
                    }
                }
            }
            None => effect,
        };
        match effect {
            Effect::Virtio(Virtio::Activate) => assert!(!std::mem::replace(&mut active, true)),
            Effect::Virtio(Virtio::Reset) => assert!(std::mem::replace(&mut active, false)),
            Effect::Virtio(Virtio::Notify(queue)) => {
                assert!(active && common.queue(queue).expect("a queue").ready());
            }
            Effect::Vector(vector) => assert!(vector < function.msix.vectors()),
            _ => {}
        }
        if let Some(bar) = function.bar() {
            assert!(bar.is_multiple_of(BAR_SIZE));
        }
    }
});
