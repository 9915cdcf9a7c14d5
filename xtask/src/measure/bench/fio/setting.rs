//! Where a disk's requests are measured, and with what: `cargo xtask bench --fio --fio-on WORDS`.

use anyhow::Result;
use serde::{Serialize, Serializer};
use std::str::FromStr;

use crate::cache::Cache;
use crate::lab;

/// Features of the brisk that is measured.
const FEATURES: [&str; 4] = ["serial", "block", "io-uring", "seccomp"];
/// vCPUs, and queues of the disk.
const CPUS: u32 = 4;
/// Where L1 mounts the ext4: its image is on the tmpfs, behind a loop device that hands each request to a
/// thread. So requests wait for something that is not the VMM, as on a disk, and for nothing outside L1.
const MOUNT: &str = "/tmp/fio/ext4";

/// Unless a word says otherwise: one vCPU, and an image on a tmpfs through the host's page cache, to which
/// O_DIRECT is no different.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Setting {
    /// `ext4`: the image is a file on an ext4, and both VMMs go past the page cache.
    ext4: bool,
    /// `smp`: four vCPUs, and as many queues.
    smp: bool,
    /// `pci`: brisk's devices are PCI functions. QEMU's stay what they are.
    pci: bool,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut setting = Self::default();
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word {
                "ext4" => setting.ext4 = true,
                "smp" => setting.smp = true,
                "pci" => setting.pci = true,
                _ => return Err(format!("{word}: neither ext4, smp nor pci")),
            }
        }
        Ok(setting)
    }
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.words().serialize(to)
    }
}

impl Setting {
    /// With as many vCPUs and queues as `smp` has.
    pub const SMP: Self = Self { ext4: false, smp: true, pci: false };

    fn words(self) -> Vec<&'static str> {
        let words = [(self.ext4, "ext4"), (self.smp, "smp"), (self.pci, "pci")];
        words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect()
    }

    /// Its name in the history.
    pub fn suite(self) -> String {
        let mut words = self.words();
        words.insert(0, "fio");
        words.join("-")
    }

    /// What a table says of it.
    pub fn about(self) -> String {
        let cpus = if self.smp { "4 vCPUs and queues" } else { "1 vCPU" };
        let transport = if self.pci { "brisk's disk over PCI" } else { "virtio over MMIO" };
        let place = if self.ext4 { "ext4 past the page cache" } else { "tmpfs" };
        format!("{cpus}, {transport}, {place}")
    }

    /// Features of brisk.
    pub fn features(self) -> Vec<&'static str> {
        let more = [(self.smp, "smp"), (self.pci, "pci")];
        let more = more.into_iter().filter(|(is, _)| *is).map(|(_, feature)| feature);
        FEATURES.into_iter().chain(more).collect()
    }

    /// What follows the disk's `engine=`.
    pub fn brisk(self) -> String {
        let words = [
            (self.ext4, ",direct=on".to_owned()),
            (self.smp, format!(" --cpus boot={CPUS}")),
            (self.pci, " --transport pci".to_owned()),
        ];
        words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect()
    }

    /// The same for QEMU: options, the drive's cache, and what follows the device.
    pub fn qemu(self) -> (String, &'static str, &'static str) {
        let cache = if self.ext4 { "none" } else { "writeback" };
        match self.smp {
            true => (format!(" -smp {CPUS}"), cache, ",num-queues=4"),
            false => (String::new(), cache, ""),
        }
    }

    /// The disk's image.
    pub fn data(self, dir: &str) -> String {
        if self.ext4 { format!("{MOUNT}/data.raw") } else { format!("{dir}/data.raw") }
    }

    /// Shell that makes the disk, of `mib` MiB.
    ///
    /// # Errors
    /// L1's modules are not there.
    pub fn prepare(self, cache: &Cache, mib: u32) -> Result<String> {
        Ok(self.commands(&lab::load_modules(cache)?, mib))
    }

    /// The same, where `load` loads L1's modules.
    pub fn commands(self, load: &str, mib: u32) -> String {
        let mount = match self.ext4 {
            true => format!(
                "{load}truncate -s {}M $dir/ext4.raw\nmkfs.ext4 -q $dir/ext4.raw || exit 1\n\
                 mkdir {MOUNT} && mount -t ext4 -o loop $dir/ext4.raw {MOUNT} || exit 1\n",
                mib * 8
            ),
            false => String::new(),
        };
        let data = self.data("$dir");
        format!("{mount}dd if=/dev/zero of={data} bs=1M count={mib} conv=fsync 2> /dev/null\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_how() {
        let plain: Setting = "".parse().unwrap();
        assert_eq!((plain, &*plain.suite()), (Setting::default(), "fio"));
        assert_eq!((plain.brisk(), plain.features().len()), (String::new(), 4));
        let all: Setting = "pci,ext4,smp".parse().unwrap();
        assert_eq!(all.suite(), "fio-ext4-smp-pci");
        assert_eq!(all.brisk(), ",direct=on --cpus boot=4 --transport pci");
        assert_eq!(all.features()[4..], ["smp", "pci"]);
        assert_eq!(all.qemu(), (" -smp 4".to_owned(), "none", ",num-queues=4"));
        assert!("ext4,tmpfs".parse::<Setting>().unwrap_err().starts_with("tmpfs: neither"));
    }

    #[test]
    fn the_image_is_where_the_disk_is() {
        for (words, path) in [("smp", "/d/data.raw"), ("ext4", "/tmp/fio/ext4/data.raw")] {
            let setting: Setting = words.parse().unwrap();
            assert_eq!(setting.data("/d"), path);
            let made = setting.commands("load\n", 8);
            assert_eq!(made.contains("mkfs.ext4"), words == "ext4");
            assert_eq!(made.starts_with("load\n"), words == "ext4");
        }
    }
}
