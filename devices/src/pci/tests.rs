use super::*;
use proptest::prelude::*;

fn inl(ports: &ConfigPorts, offset: u16) -> (Option<Address>, u32) {
    let mut data = [0; 4];
    let address = ports.read(offset, &mut data);
    (address, u32::from_le_bytes(data))
}

/// arch/x86/pci/direct.c, pci_check_type1() and pci_sanity_check()
#[test]
fn linux_finds_mechanism_1() {
    let mut ports = ConfigPorts::new();
    assert_eq!(ports.write(3, &[1]), None);
    assert_eq!(inl(&ports, 0), (None, 0));
    assert_eq!(ports.write(0, &0x8000_0000u32.to_le_bytes()), None);
    assert_eq!(inl(&ports, 0), (None, 0x8000_0000));
    let mut id = [0; 4];
    assert_eq!(ports.read(4, &mut id), Some(Address { device: 0, function: 0, register: 0 }));
    assert_eq!(id, [0xff; 4], "nobody answers unless the host does");
    HostBridge::config_read(0, &mut id);
    assert_eq!(id, 0x0008_1b36u32.to_le_bytes());
    let mut class = [0; 2];
    HostBridge::config_read(0x0a, &mut class);
    assert_eq!(class, 0x0600u16.to_le_bytes());
}

#[test]
fn data_ports_name_the_register() {
    let mut ports = ConfigPorts::new();
    let data = [0; 2];
    assert_eq!(ports.write(6, &data), None, "not enabled");
    let _ = ports.write(0, &0x8000_1f43u32.to_le_bytes());
    let address = Some(Address { device: 3, function: 7, register: 0x42 });
    assert_eq!(ports.write(6, &data), address);
    assert_eq!(inl(&ports, 6).0, address);
    assert_eq!(ports.write(8, &data), None);
    let _ = ports.write(0, &0x8001_0000u32.to_le_bytes());
    assert_eq!(ports.write(4, &data), None, "bus 1");
    // A narrow access to the address register is none.
    let mut byte = [0];
    assert_eq!(ports.read(0, &mut byte), None);
    assert_eq!(byte, [0xff]);
}

#[cfg(feature = "snapshot")]
#[test]
fn the_address_register_is_all_that_is_saved() {
    let mut ports = ConfigPorts::new();
    let _ = ports.write(0, &0x8000_1f43u32.to_le_bytes());
    assert_eq!(ports.save(), 0x8000_1f40);
    let mut again = ConfigPorts::new();
    again.restore(ports.save());
    assert_eq!(inl(&again, 0), (None, 0x8000_1f40));
    // Whatever a file says, it is what a guest could have written.
    again.restore(u32::MAX);
    assert_eq!(inl(&again, 0), (None, 0x80ff_fffc));
}

#[test]
fn ecam_covers_bus_0() {
    let address = Address { device: 31, function: 5, register: 0xabc };
    assert_eq!(Address::from_ecam(31 << 15 | 5 << 12 | 0xabc), Some(address));
    assert_eq!(Address::from_ecam(ECAM_SIZE), None);
    assert_eq!(Address::from_ecam(u64::MAX), None);
}

#[test]
fn the_host_bridge_has_no_more() {
    let mut data = [0; 4];
    HostBridge::config_read(0x0e, &mut data[..1]);
    assert_eq!(data[0], 0x80, "several functions, header type 0");
    HostBridge::config_read(0x100, &mut data);
    assert_eq!(data, [0xff; 4], "no extended configuration space");
}

proptest! {
    #[test]
    fn both_ways_name_the_same_register(device in 0u8..32, function in 0u8..8, register in 0u16..256) {
        let mut ports = ConfigPorts::new();
        let (d, f, r) = (u32::from(device), u32::from(function), u32::from(register));
        let _ = ports.write(0, &(ENABLE | d << 11 | f << 8 | r & !3).to_le_bytes());
        let by_port = ports.write(4 + (register & 3), &[0]);
        let ecam = u64::from(d << 15 | f << 12 | r);
        prop_assert_eq!(by_port, Some(Address { device, function, register }));
        prop_assert_eq!(Address::from_ecam(ecam), by_port);
    }

    #[test]
    fn ports_survive_any_accesses(
        steps in prop::collection::vec((any::<bool>(), any::<u16>(), any::<[u8; 8]>(), 0usize..=8), 0..50)
    ) {
        let mut ports = ConfigPorts::new();
        for (read, offset, mut data, len) in steps {
            let offset = if read { offset } else { offset & 7 };
            let address =
                if read { ports.read(offset, &mut data[..len]) } else { ports.write(offset, &data[..len]) };
            if let Some(address) = address {
                prop_assert!((4..8).contains(&offset));
                prop_assert!(address.device < 32 && address.function < 8 && address.register < 256);
            }
        }
    }
}
