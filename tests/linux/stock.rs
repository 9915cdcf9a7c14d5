//! Debian's own kernels, unmodified, to the userspace of a Debian: the modules for the root file
//! system's device are in an initramfs.

use super::{Guest, artifact};

/// The kernels of `cargo xtask boot --kernel`.
pub const KERNELS: [&str; 3] = ["debian-cloud", "debian-6.1-cloud", "debian-generic"];

/// What PID 1 of the Debian says.
const USERSPACE: &str = "brisk-debian: userspace";

/// A Debian whose root file system is on `device`; the image is in `flags`.
pub fn debian(kernel: &str, device: &str, flags: &[&str]) -> Guest {
    let stock = artifact("BRISK_STOCK");
    let mut guest = Guest::from_root(device, flags);
    guest.kernel = stock.join(format!("{kernel}.vmlinuz"));
    guest.initramfs = Some(stock.join(format!("{kernel}.initramfs")));
    guest.memory = "size=256M";
    guest
}

/// Runs it to its power-off.
#[track_caller]
fn reaches_userspace(guest: &Guest) {
    let ended = guest.run();
    let text = guest.output();
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{text}");
    assert!(text.contains("ID=debian") && text.contains(USERSPACE), "{text}");
    assert!(guest.codes().contains(&0x60), "{:x?}", guest.codes());
}

#[cfg(all(feature = "pci", feature = "block"))]
#[test]
fn by_pci_from_block() {
    let image = artifact("BRISK_DISK_DEBIAN_EXT4_PARTITION");
    let disk = format!("path={},readonly=on", image.display());
    for kernel in KERNELS {
        let flags = ["--transport", "pci", "--disk", &disk];
        reaches_userspace(&debian(kernel, "/dev/vda1", &flags));
    }
}

/// With the kernel's own hwrng, which is virtio-rng's.
#[cfg(all(feature = "pci", feature = "pmem", feature = "rng"))]
#[test]
fn by_pci_from_pmem() {
    let image = artifact("BRISK_DISK_DEBIAN_EROFS_PARTITION");
    let pmem = format!("file={},discard_writes=on", image.display());
    for kernel in KERNELS {
        let flags = ["--transport", "pci", "--pmem", &pmem, "--rng", "src=/dev/urandom"];
        reads_random_bytes(debian(kernel, "/dev/pmem0p1", &flags));
    }
}

/// A Debian as it comes, where systemd is PID 1, by an absolute link: all of it is started.
#[cfg(all(feature = "pci", feature = "block", feature = "smp"))]
#[test]
fn a_debian_with_systemd() {
    let scratch = super::common::Scratch::new();
    let image = super::disks::copy(&scratch, "BRISK_DISK_DEBIAN_SYSTEMD");
    let disk = super::common::key("path", &image);
    let flags = ["--transport", "pci", "--disk", &disk, "--cpus", "boot=2"];
    let mut guest = debian("debian-cloud", "/dev/vda1", &flags);
    guest.cmdline += " rw";
    let ended = guest.run();
    let text = guest.output();
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{text}");
    for line in ["brisk-debian: running", "brisk-debian: 0 failed units", "brisk-debian: 2 CPUs"] {
        assert!(text.contains(line), "no `{line}`:\n{text}");
    }
    assert!(guest.codes().contains(&0x60), "{:x?}", guest.codes());
}

/// Reads from the device in the initramfs, twice 16 bytes, and goes on.
#[cfg(feature = "rng")]
#[track_caller]
fn reads_random_bytes(mut guest: Guest) {
    guest.cmdline += " brisk_hwrng=1";
    reaches_userspace(&guest);
    let text = guest.output();
    let said: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once("hwrng: "))
        .map(|(_, said)| said.trim_end())
        .collect();
    assert_eq!(said.len(), 3, "{text}");
    assert!(said[0].starts_with("virtio_rng"), "{text}");
    let random =
        |bytes: &str| bytes.len() == 32 && bytes.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(random(said[1]) && random(said[2]) && said[1] != said[2], "{text}");
}

/// All functions are there for `lspci`, on one bus, with capabilities that it can read, MSI-X in use
/// and the kernel's drivers bound.
#[cfg(all(feature = "pci", feature = "block", feature = "console"))]
#[test]
fn lspci_reads_the_bus() {
    let image = artifact("BRISK_DISK_DEBIAN_EXT4_PARTITION");
    let disk = format!("path={},readonly=on", image.display());
    let flags = ["--transport", "pci", "--disk", &disk, "--console", "null"];
    let mut guest = debian("debian-cloud", "/dev/vda1", &flags);
    guest.cmdline += " brisk_lspci=1";
    reaches_userspace(&guest);
    let text = guest.output();
    let lines = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    let functions: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("00:0"))
        .map(|line| line.split_once(' ').expect("an address").1.trim_end())
        .collect();
    assert_eq!(functions.len(), 3, "{text}");
    assert!(functions[0].starts_with("Host bridge: "), "{text}");
    assert_eq!(lines("MSI-X: Enable+"), 2, "{text}");
    assert_eq!(lines("Kernel driver in use: virtio-pci"), 2, "{text}");
    for kind in ["CommonCfg", "ISR", "Notify", "DeviceCfg"] {
        assert_eq!(lines(&format!("VirtIO: {kind}")), 2, "{kind}: {text}");
    }
    for complaint in ["access denied", "!!!", "unassigned", "disabled]"] {
        assert_eq!(lines(complaint), 0, "{complaint}: {text}");
    }
    // The tree: one bus, all functions on it.
    assert_eq!(lines("-[0000:00]-"), 1, "{text}");
}

#[cfg(all(feature = "mmio", feature = "pmem", feature = "rng"))]
#[test]
fn by_mmio_from_pmem() {
    let image = artifact("BRISK_DISK_DEBIAN_EXT4_PARTITION");
    let pmem = format!("file={},discard_writes=on", image.display());
    let flags = ["--transport", "mmio", "--pmem", &pmem, "--rng", "src=/dev/urandom"];
    reads_random_bytes(debian("debian-cloud", "/dev/pmem0p1", &flags));
}

/// XFS, which our own kernel has not, with its files mapped straight from the image.
#[cfg(all(feature = "mmio", feature = "pmem"))]
#[test]
fn xfs_with_dax() {
    use super::common::{Scratch, key};

    let scratch = Scratch::new();
    let image = super::disks::copy(&scratch, "BRISK_DISK_XFS");
    let mut guest = debian("debian-cloud", "/dev/pmem0", &["--pmem", &key("file", &image)]);
    guest.initramfs = Some(artifact("BRISK_STOCK").join("debian-cloud.initramfs-xfs"));
    let doing = "cat=/proc/mounts,write=/data:by_way_of_DAX,cat=/data";
    guest.cmdline += &format!(" rw rootflags=dax=always brisk.do={doing}");
    guest.reaches_userspace();
    let text = guest.output();
    let root = text.lines().find(|line| line.contains(" / xfs ")).unwrap_or_default();
    assert!(root.contains(" rw,") && root.contains("dax=always"), "{text}");
    let (_, after) = text.split_once("brisk-init: written").unwrap_or_else(|| panic!("{text}"));
    assert!(after.contains("by_way_of_DAX"), "{text}");
    let bytes = std::fs::read(&image).expect("the image");
    assert!(bytes.windows(13).any(|window| window == b"by_way_of_DAX"));
}
