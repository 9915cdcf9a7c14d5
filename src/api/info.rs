//! What brisk says of itself and of its VM, in the words of Cloud Hypervisor's.

use std::os::unix::ffi::OsStrExt;

use super::http::add;
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

    /// Whether a snapshot may be written there; the machine is not asked.
    ///
    /// # Errors
    /// Why not.
    pub fn may_write_to(&self, url: &[u8]) -> Result<(), String> {
        crate::snapshot::may_write_to(self.config, url)
    }

    /// `vmm.ping`
    #[inline(never)]
    pub fn ping() -> Vec<u8> {
        let mut to = Vec::new();
        add(
            &mut to,
            concat!(
                "{\"build_version\":\"brisk ",
                env!("CARGO_PKG_VERSION"),
                "\",\"version\":\"",
                env!("CARGO_PKG_VERSION"),
                "\",\"features\":[],\"pid\":"
            ),
        );
        json::number(std::process::id().into(), &mut to);
        add(&mut to, "}");
        to
    }

    /// `vm.info`
    #[inline(never)]
    pub fn of_vm(&self, paused: bool) -> Vec<u8> {
        let Config { cpus, memory, kernel, initramfs, cmdline, .. } = self.config;
        let mut to = Vec::new();
        add(&mut to, "{\"state\":\"");
        add(&mut to, if paused { "Paused" } else { "Running" });
        for (before, number) in [
            ("\",\"memory_actual_size\":", memory.size),
            (",\"config\":{\"cpus\":{\"boot_vcpus\":", (*cpus).into()),
            (",\"max_vcpus\":", (*cpus).into()),
            ("},\"memory\":{\"size\":", memory.size),
        ] {
            add(&mut to, before);
            json::number(number, &mut to);
        }
        for (before, text) in [
            ("},\"payload\":{\"kernel\":", Some(kernel)),
            (",\"initramfs\":", initramfs.as_ref()),
            (",\"cmdline\":", Some(cmdline)),
        ] {
            add(&mut to, before);
            match text {
                Some(text) => json::quote(os_string(text).as_bytes(), &mut to),
                None => add(&mut to, "null"),
            }
        }
        add(&mut to, "}}}");
        to
    }
}
