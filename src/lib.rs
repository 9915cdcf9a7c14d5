//! brisk: a VMM for Linux/KVM that boots Linux to userspace as soon as possible.
//!
//! The host side: KVM, guest memory, files, the command line. Device models are in `brisk-devices`,
//! what is in guest memory before the first instruction in `brisk-boot`; both are `no_std`.
//!
//! The way in: [`cli`] makes a [`config::Config`], [`machine`] builds the machine from it, [`vcpu`] runs
//! it, and [`bus`] takes each access to its device.

#[cfg(all(
    feature = "mmio",
    not(any(feature = "block", feature = "console", feature = "pmem", feature = "rng"))
))]
compile_error!(
    "feature `mmio` is a transport without a device: add `block`, `console`, `pmem` or `rng`"
);

#[cfg(all(
    feature = "pci",
    not(any(feature = "block", feature = "console", feature = "pmem", feature = "rng"))
))]
compile_error!(
    "feature `pci` is a transport without a device: add `block`, `console`, `pmem` or `rng`"
);

mod access;
#[cfg(feature = "api")]
pub mod api;
#[cfg(not(feature = "api"))]
#[path = "api/off.rs"]
mod api;
#[cfg(feature = "bundle")]
mod bundle;
#[cfg(not(feature = "bundle"))]
#[path = "bundle/off.rs"]
mod bundle;
pub mod bus;
#[cfg(any(feature = "api", feature = "snapshot"))]
mod child;
pub mod cli;
mod cmdline;
#[cfg(feature = "coalesced-serial")]
mod coalesced;
#[cfg(not(feature = "coalesced-serial"))]
#[path = "coalesced/off.rs"]
mod coalesced;
pub mod config;
mod cpuid;
mod descriptors;
mod error;
pub mod events;
mod exit;
#[cfg(feature = "exit-status")]
mod exit_status;
#[cfg(not(feature = "exit-status"))]
#[path = "exit_status/off.rs"]
mod exit_status;
#[cfg(feature = "pio-fast-path")]
mod fast_path;
#[cfg(not(feature = "pio-fast-path"))]
#[path = "fast_path/off.rs"]
mod fast_path;
#[cfg(any(feature = "api", feature = "snapshot"))]
mod fd;
#[cfg(feature = "smp")]
mod gate;
#[cfg(not(feature = "smp"))]
#[path = "gate/off.rs"]
mod gate;
#[cfg(any(test, target_feature = "crt-static", target_env = "musl"))]
pub mod heap;
#[cfg(any(feature = "block", feature = "pmem"))]
mod image;
mod inputs;
pub mod interrupts;
pub mod kvm;
mod last_words;
mod load;
pub mod machine;
mod measure;
mod memory;
#[cfg(feature = "notify")]
mod notify;
#[cfg(not(feature = "notify"))]
#[path = "notify/off.rs"]
mod notify;
#[cfg(any(
    feature = "boot-timer",
    feature = "exit-stats",
    feature = "trace",
    feature = "serial",
    feature = "console"
))]
pub mod output;
#[cfg(not(any(
    feature = "boot-timer",
    feature = "exit-stats",
    feature = "trace",
    feature = "serial",
    feature = "console"
)))]
#[path = "output/off.rs"]
mod output;
pub mod paused;
#[cfg(feature = "seccomp")]
mod seccomp;
#[cfg(not(feature = "seccomp"))]
#[path = "seccomp/off.rs"]
mod seccomp;
mod shared;
#[cfg(feature = "snapshot")]
pub mod snapshot;
#[cfg(not(feature = "snapshot"))]
#[path = "snapshot/off.rs"]
mod snapshot;
#[cfg(feature = "pmem")]
mod stuck;
#[cfg(not(feature = "pmem"))]
#[path = "stuck/off.rs"]
mod stuck;
#[cfg(any(feature = "serial", feature = "console"))]
mod terminal;
#[cfg(not(any(feature = "serial", feature = "console")))]
#[path = "terminal/off.rs"]
mod terminal;
#[cfg(any(feature = "smp", feature = "io-uring", feature = "async-loader", feature = "api"))]
mod threads;
#[cfg(not(any(feature = "smp", feature = "io-uring", feature = "async-loader", feature = "api")))]
#[path = "threads/off.rs"]
mod threads;
#[cfg(feature = "serial")]
mod uart;
#[cfg(not(feature = "serial"))]
#[path = "uart/off.rs"]
mod uart;
pub mod vcpu;
#[cfg(feature = "mmio")]
pub mod virtio;
#[cfg(not(feature = "mmio"))]
#[path = "virtio/off.rs"]
mod virtio;
#[cfg(feature = "streams")]
mod workload;
#[cfg(not(feature = "streams"))]
#[path = "workload/off.rs"]
mod workload;

use std::io::Write;

use machine::Machine;

/// Runs the command with these arguments and ends the process with its exit status.
pub fn main(arguments: Vec<std::ffi::OsString>) -> ! {
    descriptors::fill_standard();
    // Before there is anything to say to a reader that may be gone.
    events::install();
    descriptors::close_inherited(&arguments);
    let result = match cli::parse(arguments) {
        Ok(cli::Command::Run(config)) => run(config),
        Ok(cli::Command::Print(text)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(0)
        }
        Err(error) => Err(error),
    };
    exit(result)
}

fn run(config: Box<config::Config>) -> error::Result<u8> {
    Machine::build(Box::leak(config))?.run()
}

/// Ends the process without taking the VM apart: the kernel does that faster, and all at once.
pub(crate) fn exit(result: error::Result<u8>) -> ! {
    terminal::restore();
    let status = match result {
        Ok(status) => status,
        Err(error) => {
            output::discard();
            match error.status() {
                0 => exit_status::of_signal(),
                status => {
                    descriptors::say(&format!("brisk: {error}\n"));
                    exit_status::own(status)
                }
            }
        }
    };
    api::end();
    // SAFETY: ends the process; what had to be written was written without buffers.
    unsafe { libc::_exit(status.into()) }
}
