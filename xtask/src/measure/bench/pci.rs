//! What the guest's accesses to PCI are for, by where brisk has its bus and its registers.

use std::collections::BTreeMap;

use super::trace::Access;

/// Each group in the order of the table: its name, and why the guest makes these accesses.
pub const GROUPS: [(&str, &str); 10] = [
    (
        PORTS,
        "Linux tries both old mechanisms before it reads ACPI's tables (`pci_direct_probe`), which no \
         parameter leaves out; where it has to use them, each access is two exits",
    ),
    (
        READ,
        "31 other devices and 5 other functions are looked for; as memory each would be a nested page \
         fault instead. What there is, is memory",
    ),
    (
        SIZING,
        "14 a function, the host bridge too: six BARs and a ROM are sized by writing, whatever is there",
    ),
    (COMMAND, "decoding off and on around that, then on for good, and bus mastering"),
    (MESSAGES, "MSI-X on with all vectors masked, then unmasked"),
    (COMMON_READ, "status after each step, features, each queue's size, and vectors read back"),
    (COMMON_WRITTEN, "reset, status, features, and nine fields for each queue"),
    (DEVICE, "the pmem's start and size, in two words each"),
    (NOTIFY, "the driver has put something into a queue"),
    (TABLE, "15 a vector before the table was memory; left where a masked vector was raised"),
];
const PORTS: &str = "ports 0xcf8 to 0xcff";
const READ: &str = "configuration space, read";
const SIZING: &str = "BARs, written";
const COMMAND: &str = "command, written";
const MESSAGES: &str = "MSI-X control, written";
const COMMON_READ: &str = "common configuration, read";
const COMMON_WRITTEN: &str = "common configuration, written";
const DEVICE: &str = "device configuration";
const NOTIFY: &str = "notifications";
const TABLE: &str = "MSI-X table";

const BAR_SIZE: u64 = 0x2000;

/// How many of `accesses` are of each group.
pub fn groups(accesses: &BTreeMap<Access, u64>) -> BTreeMap<String, u64> {
    let mut groups = BTreeMap::new();
    for (access, count) in accesses {
        if let Some(group) = group(access) {
            *groups.entry(group.to_owned()).or_default() += count;
        }
    }
    groups
}

/// By `brisk_boot::layout` and `brisk_devices::virtio::pci`.
fn group(access: &Access) -> Option<&'static str> {
    let Access { port, write, address } = *access;
    Some(match (port, address) {
        (true, 0xcf8..=0xcff) => PORTS,
        (false, 0xe000_0000..0xf000_0000) => match address % 0x1000 {
            _ if !write => READ,
            0x10..0x34 => SIZING,
            0x98..0x9c => MESSAGES,
            _ => COMMAND,
        },
        (false, 0xf000_0000..0xfe00_0000) => match address % BAR_SIZE {
            0..0x40 if write => COMMON_WRITTEN,
            0..0x40 => COMMON_READ,
            0x40..0x400 => DEVICE,
            0x400..0x1000 => NOTIFY,
            _ => TABLE,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_access_to_pci_has_its_group() {
        let access = |port, write, address| Access { port, write, address };
        let accesses = BTreeMap::from([
            (access(true, true, 0xcf8), 2),
            (access(true, false, 0xcfc), 1),
            (access(true, true, 0x3f8), 100),
            (access(false, true, 0xe000_1010), 3),
            (access(false, false, 0xe000_8000), 4),
            (access(false, true, 0xf000_2404), 5),
            (access(false, false, 0xf000_100c), 6),
            (access(false, true, 0xfec0_0000), 100),
        ]);
        let groups = groups(&accesses);
        let wanted = [(PORTS, 3), (SIZING, 3), (READ, 4), (NOTIFY, 5), (TABLE, 6)];
        assert_eq!(groups, wanted.map(|(name, count)| (name.to_owned(), count)).into());
        assert!(groups.keys().all(|name| GROUPS.iter().any(|(group, _)| group == name)));
    }
}
