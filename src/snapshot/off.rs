//! What stands for snapshots in a build without the feature `snapshot`: every VM boots.

use kvm_bindings::CpuId;
use std::convert::Infallible;
use vm_memory::GuestMemoryMmap;

use crate::bus::Bus;
use crate::config::{Config, MemoryConfig};
use crate::error::Result;
use crate::kvm::{System, Vcpu, Vm};
use crate::memory::Ram;
use crate::paused::Paused;
use crate::virtio::Devices;
use at::At;
use generation::Generation;

/// The command line asks for none.
#[derive(Debug)]
pub struct SnapshotConfig(Infallible);

/// The command line names none.
#[derive(Debug)]
pub struct Restored(Infallible);

/// None is taken.
pub struct Snapshot;

/// The kernel's file.
pub struct Source;

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that has one")]
impl Snapshot {
    #[inline(always)]
    pub fn prepare(_: &Config) -> Result<Snapshot> {
        Ok(Snapshot)
    }

    #[inline(always)]
    pub fn look_at(&mut self, _: &System, _: &Vm, _: &Vcpu) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn generation(&self, _: &Source, _: bool, _: u32) -> Generation {
        Generation
    }

    #[inline(always)]
    pub fn at(&self) -> At {
        At
    }

    #[inline(always)]
    pub fn take(&self, _: Paused<'_>) -> Result<bool> {
        Ok(true)
    }

    #[cfg(feature = "api")]
    #[inline(always)]
    pub fn write<'a>(
        &self,
        _: impl FnOnce() -> Paused<'a>,
        _: &mut Option<Paused<'a>>,
    ) -> std::result::Result<(), String> {
        Ok(())
    }
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that has one")]
#[cfg(feature = "api")]
pub fn may_write_to(_: &Config, _: &[u8]) -> std::result::Result<(), String> {
    Err("vm.snapshot: this brisk was built without the feature `snapshot`".into())
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that has one")]
impl Source {
    #[inline(always)]
    pub fn of(_: &Config) -> Result<Source> {
        Ok(Source)
    }

    #[inline(always)]
    pub fn boots(&self) -> bool {
        true
    }

    #[inline(always)]
    pub fn button(&self) -> Option<Option<u32>> {
        None
    }

    #[inline(always)]
    pub fn map_ram(&self, config: &MemoryConfig) -> Result<Ram> {
        Ram::map(config)
    }

    #[inline(always)]
    pub fn restore_devices(&self, _: &mut Devices) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn restore_vcpu(&self, _: &Vm, _: &Vcpu, _: u8, _: &CpuId) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn warm(&self, _: &Vcpu, _: &GuestMemoryMmap) {}

    #[inline(always)]
    pub fn restore_rest(&self, _: &mut Bus, _: &GuestMemoryMmap) -> Result<()> {
        Ok(())
    }
}

/// The command line is the user's alone.
#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that has more")]
pub mod arguments {
    use super::{Restored, SnapshotConfig};
    use crate::config::Config;
    use crate::error::Result;

    #[inline(always)]
    pub fn parse(_: Option<&str>, _: bool) -> Result<Option<SnapshotConfig>> {
        Ok(None)
    }

    #[inline(always)]
    pub fn open(_: &[String]) -> Result<Option<Restored>> {
        Ok(None)
    }

    #[inline(always)]
    pub fn add_saved(_: Option<&Restored>, _: &mut Vec<String>) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn set(_: &mut Config, _: Option<Restored>, _: &[String]) {}
}

/// No code saves the VM.
pub mod at {
    /// None.
    #[derive(Default)]
    pub struct At;

    #[allow(missing_docs, reason = "as in the module that has one")]
    impl At {
        #[inline(always)]
        pub fn comes(&mut self, _: u8) -> bool {
            false
        }

        #[cfg(feature = "smp")]
        #[inline(always)]
        pub fn has_come(&self) -> bool {
            false
        }
    }
}

/// No guest is the clone of another.
pub mod generation {
    use crate::error::Result;

    /// None.
    #[derive(Default)]
    pub struct Generation;

    #[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that has one")]
    impl Generation {
        #[inline(always)]
        pub fn gsi(&self) -> Option<u32> {
            None
        }

        #[inline(always)]
        pub fn first(&self) -> Result<Option<brisk_boot::GenerationId>> {
            Ok(None)
        }
    }
}
