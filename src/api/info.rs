//! What brisk says of itself and of its VM, in the words of Cloud Hypervisor's.

use std::os::unix::ffi::OsStrExt;

use super::json;
use crate::cli::words::os_string;
use crate::config::Config;

/// All that does not change while the VM runs.
pub struct Info {
    config: &'static Config,
}

impl Info {
    /// Of a VM.
    pub const fn new(config: &'static Config) -> Info {
        Info { config }
    }

    /// `vmm.ping`
    pub fn ping() -> String {
        let pid = std::process::id();
        format!(
            concat!(
                "{{\"build_version\":\"brisk ",
                env!("CARGO_PKG_VERSION"),
                "\",\"version\":\"",
                env!("CARGO_PKG_VERSION"),
                "\",\"features\":[],\"pid\":{}}}"
            ),
            pid
        )
    }

    /// `vm.info`
    pub fn of_vm(&self, paused: bool) -> String {
        let Config { cpus, memory, .. } = self.config;
        let state = if paused { "Paused" } else { "Running" };
        let size = memory.size;
        format!(
            "{{\"state\":\"{state}\",\"memory_actual_size\":{size},\"config\":{{\
             \"cpus\":{{\"boot_vcpus\":{cpus},\"max_vcpus\":{cpus}}},\"memory\":{{\"size\":{size}}},\
             \"payload\":{{\"kernel\":{},\"initramfs\":{},\"cmdline\":{}}}}}}}",
            string(Some(&self.config.kernel)),
            string(self.config.initramfs.as_deref()),
            string(Some(&self.config.cmdline)),
        )
    }
}

/// A text of the command line's.
fn string(text: Option<&str>) -> String {
    let Some(text) = text else { return "null".into() };
    let mut to = Vec::new();
    json::quote(os_string(text).as_bytes(), &mut to);
    String::from_utf8_lossy(&to).into_owned()
}
