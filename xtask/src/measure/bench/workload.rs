//! What a workload is that VMMs are compared with.

use super::patch::Patch;
use crate::guest::{Console, Kernel};

/// A workload that VMMs are compared with. Words in braces in arguments and command lines are
/// filled in, see [`super::vmm::Filler`].
pub struct Workload {
    /// The name that `--scenario` takes.
    pub name: &'static str,
    /// One line for the head of the tables.
    pub about: &'static str,
    /// The guest's memory.
    pub memory_mib: u32,
    /// Features that brisk is built with, without the default ones.
    pub features: &'static [&'static str],
    /// What brisk's source is changed by before.
    pub patch: Option<&'static Patch>,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// What is measured one after the other.
    pub steps: &'static [Step],
}

/// Where the guest's userspace is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Root {
    /// In an initial RAM file system.
    Initramfs,
    /// In a raw image that is an ext4 file system.
    Ext4,
    /// In a raw image that is an EROFS file system.
    Erofs,
    /// In the first partition of a raw image, in an ext4 file system.
    Ext4Partition,
    /// A Debian in the first partition of a raw image, in an EROFS file system.
    Debian,
}

/// One way to start the guest.
pub struct Step {
    /// Name of the row, `None` in a scenario with one step.
    pub name: Option<&'static str>,
    /// brisk's arguments, which are those of Cloud Hypervisor too.
    pub args: &'static str,
    /// The guest kernel's command line.
    pub cmdline: &'static str,
    /// The guest's console.
    pub console: Console,
    /// What the guest's userspace is started from.
    pub root: Root,
    /// The device that the image is behind.
    pub disk: Disk,
    /// Whether the guest's memory is in pages of 2 MiB.
    pub hugepages: bool,
}

/// The device that a guest's image is behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// There is none.
    None,
    /// virtio-block.
    Block,
    /// virtio-pmem.
    Pmem,
}

/// Pages of 2 MiB that a kernel needs on a hugetlbfs, and some to spare.
const PLACED_PAGES: u32 = 16;

impl Root {
    /// Name of the image among the files that all VMMs share.
    pub fn image(self) -> Option<&'static str> {
        match self {
            Self::Initramfs => None,
            Self::Ext4 => Some("ext4.new"),
            Self::Erofs => Some("erofs.new"),
            Self::Ext4Partition => Some("ext4-partition.new"),
            Self::Debian => Some("debian.new"),
        }
    }
}

impl Workload {
    /// Seconds of the machine's own in which each boot is done, however busy it is.
    pub fn patience(&self) -> u64 {
        match self.kernel {
            Kernel::Own(_) | Kernel::File(_) => 60,
            Kernel::Stock(_) => 300,
        }
    }

    /// Pages of 2 MiB that the host needs free for any step.
    pub fn hugepages(&self) -> u32 {
        let guest =
            if self.steps.iter().any(|s| s.hugepages) { self.memory_mib.div_ceil(2) } else { 0 };
        guest + if self.places_kernel() { PLACED_PAGES } else { 0 }
    }

    /// Whether a step wants its kernel in a file of huge pages.
    pub fn places_kernel(&self) -> bool {
        self.steps.iter().any(Step::places_kernel)
    }
}

impl Step {
    /// Whether it wants its kernel in a file of huge pages.
    pub fn places_kernel(&self) -> bool {
        self.args.contains("{hugetlbfs}") || self.args.contains("{huge-tmpfs}")
    }
}
