//! Flags that other VMMs have, and brisk has not: what to use instead.

/// Names as they are typed, then, behind a tab, what to say. One text rather than a table of pointers: it
/// is looked at when everything else has failed, and is half the size.
const HINTS: &str = "\
--net -net -netdev -nic --vhost-user-net --vdpa\tthere is no network device
--fs --vsock --balloon --tpm --watchdog --pvpanic --ivshmem --generic-vhost-user\tthere is no such device
--device --user-device -device\tthere are --disk, --pmem, --console and --serial, and no devices of the host's
--firmware -bios -pflash\tno firmware is needed or run: give --kernel a vmlinux or a bzImage
--api-sock\tuse --api-socket PATH, for Cloud Hypervisor's API
--no-api --event-monitor --gdb -gdb -s -S -monitor -qmp\ta VM is run from its start to its end; what to run is all on the command line
--landlock --landlock-rules --no-seccomp -sandbox\t--seccomp true is what there is
--debug-console\tport 0x80 is the boot timer's: --boot-log, --timeline
--log-file\tmessages go to standard error: 2> FILE
--numa --memory-zone --sgx-epc --pvmemcontrol\tthere is one piece of memory: --memory size=
--pci-segment --platform -M -machine\tthere is one machine; --transport mmio|pci says how devices are reached
--rate-limit-group\tdisks run as fast as they can
--config-file --id\twhat to run is all on the command line
-m --mem --ram -memory\tuse --memory size=512M
-smp --smp\tuse --cpus boot=2
-cpu -enable-kvm -accel\tthe guest has the host's CPU, by KVM
-kernel -initrd --initrd -append --append\tuse --kernel, --initramfs, --cmdline
-drive -hda -blockdev --block-device\tuse --disk path=FILE
-object -mem-path -mem-prealloc\tuse --memory hugepages=on, shared=on, prefault=on
-serial -chardev -nographic -display -vga\tuse --serial tty, --console tty; there is no screen
-no-reboot\ta reboot ends the VM
";

/// What to say to `flag`.
pub fn find(flag: &str) -> Option<&'static str> {
    let lines = HINTS.lines().filter_map(|line| line.split_once('\t'));
    lines
        .into_iter()
        .find(|(names, _)| names.split(' ').any(|name| name == flag))
        .map(|(_, hint)| hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_there_is_has_no_hint() {
        let Ok(crate::cli::Command::Print(help)) = crate::cli::parse(vec!["--help".into()]) else {
            panic!("no help")
        };
        for line in HINTS.lines() {
            let (names, hint) = line.split_once('\t').unwrap();
            assert!(!hint.is_empty() && !hint.contains('\t'), "{line}");
            for name in names.split(' ') {
                assert!(name.starts_with('-') && find(name) == Some(hint), "{line}: {name}");
                assert!(
                    !help.split_whitespace().any(|word| word == name),
                    "there is a flag {name}"
                );
            }
        }
    }
}
