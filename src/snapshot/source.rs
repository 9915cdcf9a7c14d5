//! What a VM starts from: a kernel, or a snapshot, of which it becomes a clone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kvm_bindings::CpuId;
use vm_memory::GuestMemoryMmap;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::parts::{Kind, Parts, Wrong};
use super::working_set::{self, WorkingSet};
use super::{FILES, Shape, files, generation, leak, memory};
use crate::bus::Bus;
use crate::config::{Config, MemoryConfig};
use crate::error::{Error, Result};
use crate::kvm::{Vcpu, Vm};
use crate::memory::Ram;
use crate::virtio::Devices;

/// A snapshot that a VM goes on from.
#[derive(Debug)]
pub struct Restored {
    pub(super) path: String,
    pub(super) file: &'static [u8],
    pub(super) parts: Parts<'static>,
    pub(super) memory: File,
    /// The code until which the pages that the guest touches are recorded.
    pub(super) record: Option<u8>,
}

impl Restored {
    /// Opens its files.
    ///
    /// # Errors
    /// They are not there, or are none.
    pub fn open(path: &str, any_images: bool, record: Option<u8>) -> Result<Restored> {
        let [state, memory] = FILES.map(|name| files::below(path, name));
        let memory = files::open(&memory).map_err(Error::file("--restore", &memory))?;
        let state = files::read(&state).map_err(Error::file("--restore", &state))?;
        let (path, file) = (path.to_owned(), Vec::leak(state));
        let mut parts = Parts::parse(file)?;
        parts.any_images = any_images;
        Ok(Restored { path, file, parts, memory, record })
    }
}

/// What a VM starts from: a kernel, or a snapshot.
pub struct Source(Option<&'static Saved>);

struct Saved {
    parts: &'static Parts<'static>,
    from: &'static Restored,
    /// None where one is being recorded.
    working_set: Option<WorkingSet>,
}

impl Source {
    /// As `config` says.
    ///
    /// # Errors
    /// The snapshot is none, or of another machine.
    pub fn of(config: &'static Config) -> Result<Source> {
        let Some(restored) = &config.restore else { return Ok(Source(None)) };
        let parts = &restored.parts;
        let shape: Shape = parts.read(Kind::Shape, 0)?;
        let here = (config.memory.size, u32::from(config.cpus));
        if (shape.ram_size.get(), shape.cpus.get()) != here {
            return Err(parts.wrong(Kind::Shape, 0).into());
        }
        generation::check(parts, &restored.memory)?;
        let working_set = match restored.record {
            Some(_) => None,
            None => WorkingSet::open(&restored.path, restored.file),
        };
        Ok(Source(Some(leak(Saved { parts, from: restored, working_set }))))
    }

    /// The parts that were saved, if it is a snapshot.
    pub(super) fn parts(&self) -> Option<&'static Parts<'static>> {
        self.0.map(|saved| saved.parts)
    }

    /// Whether a kernel is to be loaded.
    pub fn boots(&self) -> bool {
        self.0.is_none()
    }

    /// The interrupt of the power button, as far as it is saved.
    pub fn button(&self) -> Option<Option<u32>> {
        let saved = |saved: &Saved| saved.parts.read::<U32>(Kind::PowerButton, 0).ok();
        self.0.as_ref().map(|from| saved(from).map(U32::get))
    }

    /// The guest's memory: with nothing in it, or what was saved.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn map_ram(&self, config: &MemoryConfig) -> Result<Ram> {
        let Some(saved) = &self.0 else { return Ram::map(config) };
        let ram = Ram::of_file(config, &saved.from.memory)?;
        let (base, len) = (ram.base(), config.size as usize);
        match &saved.working_set {
            Some(set) => set.fill(base, len),
            None if saved.from.record.is_some() => working_set::watch(base, len),
            None => {}
        }
        Ok(ram)
    }

    /// Makes new virtio devices what those were that were saved; before anything of them is memory.
    ///
    /// # Errors
    /// They were others.
    pub fn restore_devices(&self, devices: &mut Devices) -> Result<()> {
        let Some(saved) = &self.0 else { return Ok(()) };
        devices.restore(saved.parts)?;
        read_private(devices.private(), saved.parts, &saved.from.memory)
    }

    /// Makes a new vCPU what it was.
    ///
    /// # Errors
    /// This host cannot.
    pub fn restore_vcpu(&self, vm: &Vm, vcpu: &Vcpu, id: u8, supported: &CpuId) -> Result<()> {
        let Some(Saved { parts, .. }) = &self.0 else { return Ok(()) };
        vcpu.restore(id.into(), vm.xsave_len(), supported, parts)
    }

    /// Has what the guest will touch first mapped for it.
    pub fn warm(&self, vcpu: &Vcpu, memory: &GuestMemoryMmap) {
        if let Some(set) = self.0.as_ref().and_then(|saved| saved.working_set.as_ref()) {
            set.give(vcpu, memory);
        }
    }

    /// Makes the other devices what they were, lets the clock go on, and says that this is another.
    ///
    /// # Errors
    /// They were others.
    pub fn restore_rest(&self, bus: &mut Bus, memory: &GuestMemoryMmap) -> Result<()> {
        let Some(Saved { parts, .. }) = &self.0 else { return Ok(()) };
        bus.restore(parts)?;
        bus.vm.restore_clock(parts)?;
        bus.generation.change(memory, &mut bus.interrupts)
    }
}

/// Puts back what `Prepared::write_private` saved.
fn read_private(devices: Vec<(usize, usize, usize)>, parts: &Parts<'_>, file: &File) -> Result<()> {
    for (index, base, len) in devices {
        let wrong = || parts.wrong(Kind::PrivatePages, index);
        let list = <[U64]>::ref_from_bytes(parts.get(Kind::PrivatePages, index)?);
        let Ok([at, pages @ ..]) = list else { return Err(wrong().into()) };
        for (place, offset) in (at.get()..).step_by(memory::PAGE).zip(pages) {
            let offset = offset.get() as usize;
            if !offset.is_multiple_of(memory::PAGE) || offset > len.saturating_sub(memory::PAGE) {
                return Err(wrong().into());
            }
            // SAFETY: a page of the device's own mapping, which nothing else points into yet.
            let page =
                unsafe { std::slice::from_raw_parts_mut((base + offset) as *mut u8, memory::PAGE) };
            file.read_exact_at(page, place).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Wrong::Cut.into(),
                _ => Error::file("--restore", "memory")(error),
            })?;
        }
    }
    Ok(())
}
