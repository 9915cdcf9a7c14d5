//! What the guest sees of its machine: memory and CPUs.

use super::Guest;

/// The number before `kB` of a line of /proc/meminfo.
#[track_caller]
fn meminfo(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
}

#[test]
fn memory_of_each_size() {
    // The smallest; below, at and above the hole for devices.
    for (size, mib) in
        [("size=32M", 32u64), ("size=1G", 1024), ("size=3G", 3072), ("size=3584M", 3584)]
    {
        for protocol in ["pvh", "linux64"] {
            let mut guest = Guest::doing("cat=/proc/meminfo").with(&["--boot-protocol", protocol]);
            guest.memory = size;
            guest.reaches_userspace();
            let total = meminfo(&guest.output(), "MemTotal") / 1024;
            // The kernel itself and its page structures are not in it, 64 bytes for each 4 KiB. Buffers
            // for devices that reach 4 GiB only would be 64 MiB more.
            let least = (mib - mib / 64).saturating_sub(34);
            assert!((least..mib).contains(&total), "{size}: {total} MiB");
        }
    }
}

#[test]
fn memory_holds_what_is_written_to_it() {
    let mut guest = Guest::doing("touch=96");
    guest.memory = "size=160M";
    guest.reaches_userspace();
    assert!(guest.output().contains("brisk-init: touched"), "{}", guest.output());
}

/// The lab's KVM can nest.
#[test]
fn guests_of_the_guest_only_where_asked_for() {
    for nested in [false, true] {
        let mut guest = Guest::doing("cat=/proc/cpuinfo");
        if nested {
            guest = guest.with(&["--cpus", "nested=on"]);
        }
        guest.reaches_userspace();
        let text = guest.output();
        let flags = text.lines().find(|line| line.starts_with("flags")).expect("flags");
        assert_eq!(flags.split(' ').any(|flag| flag == "svm" || flag == "vmx"), nested, "{flags}");
    }
}

#[cfg(feature = "smp")]
#[test]
fn two_cpus() {
    let doing = "cat=/sys/devices/system/cpu/online,cat=/proc/cpuinfo";
    let guest = Guest::doing(doing).with(&["--cpus", "boot=2"]);
    guest.reaches_userspace();
    let text = guest.output();
    assert!(text.lines().any(|line| line == "0-1"), "{text}");
    let value = |name: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.split('\t').next() == Some(name));
        lines.filter_map(|line| Some(line.split_once(": ")?.1.to_owned())).collect()
    };
    assert_eq!(value("processor"), ["0", "1"]);
    assert_eq!(value("apicid"), ["0", "1"]);
    assert_eq!(value("siblings"), ["2", "2"]);
    assert_eq!(value("cpu cores"), ["2", "2"]);
    assert_eq!(guest.stats().vcpus(), 2);
}

#[cfg(feature = "smp")]
#[test]
fn two_cpus_end_in_each_way() {
    for (verb, status) in [("poweroff", 0), ("reboot", 0), ("panic", 3), ("reset=triple", 0)] {
        let guest = Guest::doing(verb).with(&["--cpus", "boot=2"]);
        let ended = guest.run();
        assert_eq!(ended.status, Some(status), "{verb}: {ended:#?}\n{}", guest.output());
    }
}
