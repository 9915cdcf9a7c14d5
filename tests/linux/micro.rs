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
