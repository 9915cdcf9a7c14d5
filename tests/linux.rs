//! Boots of a real Linux, by the program that users get: each way in, each device, each way out.
//!
//! `cargo xtask test` runs this in the lab, where a KVM is that runs an unmodified Linux, and hands
//! over the kernels and images by the environment. Where a number is judged it is a count, never a
//! time.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test")]

#[cfg(feature = "api")]
#[path = "linux/api.rs"]
mod api;
#[path = "linux/boots.rs"]
mod boots;
#[cfg(feature = "bundle")]
#[path = "linux/bundle.rs"]
mod bundle;
mod common;
#[path = "linux/disks.rs"]
mod disks;
#[path = "linux/durable.rs"]
mod durable;
#[cfg(feature = "bundle")]
#[path = "linux/engines.rs"]
mod engines;
#[path = "linux/interrupts.rs"]
mod interrupts;
#[path = "linux/less.rs"]
mod less;
#[path = "linux/loops.rs"]
mod loops;
#[path = "linux/machine.rs"]
mod machine;
#[cfg(feature = "console")]
#[path = "linux/mappings.rs"]
mod mappings;
#[path = "linux/memory.rs"]
mod memory;
#[cfg(all(feature = "console", feature = "block", feature = "pmem"))]
#[path = "linux/micro.rs"]
mod micro;
#[cfg(feature = "console")]
#[path = "linux/outside.rs"]
mod outside;
#[cfg(all(feature = "streams", feature = "exit-status", feature = "block", feature = "pmem"))]
#[path = "linux/run.rs"]
mod run_a_root;
#[cfg(feature = "snapshot")]
#[path = "linux/snapshot.rs"]
mod snapshot;
#[cfg(all(feature = "snapshot", feature = "smp"))]
#[path = "linux/snapshot_cpus.rs"]
mod snapshot_cpus;
#[cfg(all(feature = "snapshot", feature = "block", feature = "pmem"))]
#[path = "linux/snapshot_load.rs"]
mod snapshot_load;
#[cfg(all(feature = "snapshot", feature = "pmem", feature = "hugepages"))]
#[path = "linux/snapshot_places.rs"]
mod snapshot_places;
#[cfg(feature = "bzimage")]
#[path = "linux/stock.rs"]
mod stock;
#[path = "linux/terminals.rs"]
mod terminals;

use std::path::PathBuf;
use std::process::Command;

use common::{Ended, Scratch, Stats, brisk, codes, key, run};

/// What our init says first when it is asked to.
const USERSPACE: &str = "brisk-init: userspace";

/// A file that xtask made.
#[track_caller]
fn artifact(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(path) => path.into(),
        None => panic!("{name} names no file: run these tests by `cargo xtask test`"),
    }
}

/// A guest with kernel and initramfs, its console on the serial port, in a file.
struct Guest {
    scratch: Scratch,
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    cmdline: String,
    memory: &'static str,
    serial: String,
    more: Vec<String>,
}

impl Guest {
    /// One that does `what`, verbs of our init, and powers off.
    fn doing(what: &str) -> Guest {
        let scratch = Scratch::new();
        Guest {
            kernel: artifact("BRISK_KERNEL"),
            initramfs: Some(artifact("BRISK_INITRAMFS")),
            cmdline: format!("console=ttyS0 quiet brisk.say brisk.do={what}"),
            memory: "size=128M",
            serial: key("file", scratch.path("serial")),
            more: Vec::new(),
            scratch,
        }
    }

    /// One whose root file system is on `device`; the image is in `flags`.
    fn from_root(device: &str, flags: &[&str]) -> Guest {
        let mut guest = Guest::doing("").with(flags);
        guest.initramfs = None;
        guest.cmdline += &format!(" root={device}");
        guest
    }

    fn with(mut self, more: &[&str]) -> Guest {
        self.more.extend(more.iter().map(|word| (*word).to_owned()));
        self
    }

    fn command(&self) -> Command {
        let mut command = brisk();
        command.arg("--kernel").arg(&self.kernel);
        if let Some(initramfs) = &self.initramfs {
            command.arg("--initramfs").arg(initramfs);
        }
        command.args(["--cmdline", &self.cmdline, "--memory", self.memory]);
        command.args(["--serial", &self.serial]);
        command.arg("--boot-log").arg(self.scratch.path("log"));
        command.arg("--stats").arg(self.scratch.path("stats"));
        command.args(&self.more);
        command
    }

    #[track_caller]
    fn run(&self) -> Ended {
        run(&mut self.command())
    }

    /// Runs it to a power-off, with userspace reached and nothing for brisk to complain of.
    #[track_caller]
    fn reaches_userspace(&self) {
        let ended = self.run();
        let text = self.output();
        assert_eq!(ended.status, Some(0), "{ended:#?}\n{text}");
        assert!(text.contains(USERSPACE), "{text}");
        assert_eq!(ended.stderr, "", "{text}");
        assert!(self.codes().contains(&0x60), "{:x?}", self.codes());
    }

    fn output(&self) -> String {
        self.scratch.text("serial")
    }

    fn codes(&self) -> Vec<u8> {
        codes(self.scratch.path("log"))
    }

    fn stats(&self) -> Stats {
        Stats::read(self.scratch.path("stats"))
    }
}
