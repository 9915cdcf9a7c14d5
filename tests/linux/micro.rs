//! The kernels that are tuned for brisk, `micro` and `micro-smp`: what they must still do.

use std::path::Path;

use super::common::key;
use super::{Guest, artifact};

/// Boots `kernel` from an image behind each device, the console on hvc0, to what `words` ask for.
/// Returns each one's root and what it printed.
fn boots(kernel: &str, words: &str, more: &[&str]) -> Vec<(&'static str, String)> {
    let pmem = |image: &Path| format!("{},discard_writes=on", key("file", image));
    let disk = |image: &Path| format!("{},readonly=on", key("path", image));
    let mut outputs = Vec::new();
    for fs in ["ext4", "erofs"] {
        let image = artifact(&format!("BRISK_DISK_{}", fs.to_uppercase()));
        for (root, flags) in [
            ("/dev/pmem0 rootflags=dax", ["--pmem", &pmem(&image)]),
            ("/dev/vda", ["--disk", &disk(&image)]),
        ] {
            let mut guest = Guest::doing("").with(&flags).with(more);
            guest.kernel = artifact(kernel);
            guest.initramfs = None;
            guest.cmdline =
                format!("console=hvc0 quiet root={root} rootfstype={fs} brisk.say {words}");
            guest.serial = "off".into();
            let console = key("file", guest.scratch.path("serial"));
            let guest = guest.with(&["--console", &console]);
            guest.reaches_userspace();
            outputs.push((root, guest.output()));
        }
    }
    outputs
}

/// By its program headers: 64-bit ELF, `e_phoff` at 32, `e_phnum` at 56; in a header of 56 bytes `p_type` at 0,
/// `p_paddr` at 24, `p_memsz` at 40.
fn end_of(kernel: &[u8]) -> u64 {
    let number = |at: usize| u64::from_le_bytes(kernel[at..at + 8].try_into().unwrap());
    let (table, count) = (number(32) as usize, number(56) & 0xffff);
    let headers = (0..count as usize).map(|index| table + 56 * index);
    let loaded = headers.filter(|at| number(*at) as u32 == 1);
    loaded.map(|at| number(at + 24) + number(at + 40)).max().unwrap()
}

/// One byte more in `.bss`, and host and guest have a third huge page to zero (0.3 ms).
#[test]
fn micro_is_two_huge_pages() {
    let end = end_of(&std::fs::read(artifact("BRISK_MICRO")).unwrap());
    assert!(end <= 6 << 20, "the image of micro ends at {end:#x}");
}

#[test]
fn micro() {
    for (asked, text) in boots("BRISK_MICRO", "brisk.do=cat=/proc/mounts,cat=/proc/cpuinfo", &[]) {
        let root = text.lines().find(|line| line.contains(" / ")).unwrap_or_default();
        let (fs, dax) = (root.contains("ext4") || root.contains("erofs"), root.contains("dax"));
        assert!(fs && dax == asked.contains("dax"), "{root}\n{text}");
        assert_eq!(text.matches("processor\t:").count(), 1, "{text}");
    }
}

#[cfg(feature = "smp")]
#[test]
fn micro_smp() {
    let more = ["--cpus", "boot=2"];
    for (_, text) in boots("BRISK_MICRO_SMP", "brisk.do=cat=/proc/cpuinfo", &more) {
        assert_eq!(text.matches("processor\t:").count(), 2, "{text}");
    }
}

/// Both to an initramfs, and out of it in each way that there is.
#[test]
fn ends_of_micro() {
    for (verb, status) in [("poweroff", 0), ("reboot", 0), ("panic", 3), ("reset=triple", 0)] {
        let mut guest = Guest::doing(verb);
        guest.kernel = artifact("BRISK_MICRO");
        guest.cmdline = format!("console=hvc0 quiet brisk.do={verb}");
        guest.serial = "off".into();
        let guest = guest.with(&["--console", "null"]);
        let ended = guest.run();
        assert_eq!(ended.status, Some(status), "{verb}: {ended:#?}");
        assert!(guest.codes().contains(&0x60), "{verb}: {:x?}", guest.codes());
    }
}
