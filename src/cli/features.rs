//! `--features`: what this binary was built with. A test of xtask compares it with Cargo.toml.

/// Their names, in the order of Cargo.toml.
const NAMES: &[&str] = &[
    #[cfg(feature = "serial")]
    "serial",
    #[cfg(feature = "coalesced-serial")]
    "coalesced-serial",
    #[cfg(feature = "console")]
    "console",
    #[cfg(feature = "streams")]
    "streams",
    #[cfg(feature = "block")]
    "block",
    #[cfg(feature = "pmem")]
    "pmem",
    #[cfg(feature = "rng")]
    "rng",
    #[cfg(feature = "io-uring")]
    "io-uring",
    #[cfg(feature = "mmio")]
    "mmio",
    #[cfg(feature = "pci")]
    "pci",
    #[cfg(feature = "pio-fast-path")]
    "pio-fast-path",
    #[cfg(feature = "hugepages")]
    "hugepages",
    #[cfg(feature = "thp")]
    "thp",
    #[cfg(feature = "smp")]
    "smp",
    #[cfg(feature = "exit-status")]
    "exit-status",
    #[cfg(feature = "bundle")]
    "bundle",
    #[cfg(feature = "bzimage")]
    "bzimage",
    #[cfg(feature = "async-loader")]
    "async-loader",
    #[cfg(feature = "seccomp")]
    "seccomp",
    #[cfg(feature = "notify")]
    "notify",
    #[cfg(feature = "api")]
    "api",
    #[cfg(feature = "boot-timer")]
    "boot-timer",
    #[cfg(feature = "exit-stats")]
    "exit-stats",
    #[cfg(feature = "trace")]
    "trace",
    #[cfg(feature = "logging")]
    "logging",
    #[cfg(feature = "snapshot")]
    "snapshot",
];

/// All with commas between, as `cargo xtask build --features` takes them.
pub fn list() -> String {
    NAMES.join(",") + "\n"
}
