//! The VM generation id: tells a guest's clones apart. Linux makes new random numbers when it is told
//! that the id has changed, before it hands any out ("Virtual Machine Generation ID", Microsoft, 2018;
//! Linux' drivers/virt/vmgenid.c).
//!
//! A machine has it, and the pin of the IOAPIC that it needs, only where it may come to be a snapshot.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use brisk_boot::{GenerationId, layout};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::parts::{Kind, Parts, Writer, Wrong};
use crate::error::{self, Error};
use crate::interrupts::{Interrupts, Signal, Sink};

/// Where the guest has it.
const ID: GuestAddress = GuestAddress(layout::GENERATION_ID.start);

/// What is saved. Each run has an id of its own, so it tells whose the guest's memory is as well.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default)]
#[repr(C)]
struct Saved {
    gsi: U32,
    /// As it is in the guest's memory.
    id: [u8; 16],
}

impl Saved {
    fn of(from: &Parts<'_>) -> Option<Saved> {
        from.read(Kind::Generation, 0).ok()
    }
}

/// Looks whether `memory` is the file that was saved with these parts, as far as an id tells.
///
/// # Errors
/// It is another's.
pub fn check(from: &Parts<'_>, memory: &File) -> Result<(), Wrong> {
    let Some(saved) = Saved::of(from) else { return Ok(()) };
    let mut id = [0; 16];
    match memory.read_exact_at(&mut id, layout::GENERATION_ID.start) {
        Ok(()) if id == saved.id => Ok(()),
        _ => Err(Wrong::Memory),
    }
}

/// The interrupt by which the guest hears of a new id, where there is one.
#[derive(Clone, Copy, Default)]
pub struct Generation(Option<u32>);

impl Generation {
    /// Of a machine that boots, with its first interrupt that no device has, if it is to have an id.
    pub fn new(gsi: Option<u32>) -> Generation {
        Generation(gsi)
    }

    /// Of one that was saved.
    pub fn saved(from: &Parts<'_>) -> Generation {
        Generation(Saved::of(from).map(|saved| saved.gsi.get()))
    }

    /// The interrupt, for the IOAPIC.
    pub fn gsi(self) -> Option<u32> {
        self.0
    }

    /// What is written with the boot data.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn first(self) -> error::Result<Option<GenerationId>> {
        self.0.map(|gsi| Ok(GenerationId { id: random()?, gsi })).transpose()
    }

    /// Saves it, with the id that is in the guest's memory.
    pub fn save(self, memory: &GuestMemoryMmap, to: &mut Writer) {
        let Some(gsi) = self.0 else { return };
        let mut saved = Saved { gsi: U32::new(gsi), ..Saved::default() };
        if let Ok(id) = memory.get_slice(ID, saved.id.len()) {
            id.copy_to(&mut saved.id);
        }
        to.add(Kind::Generation, 0, saved.as_bytes());
    }

    /// Gives a guest that goes on another id, and tells it.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn change(
        self,
        memory: &GuestMemoryMmap,
        interrupts: &mut Interrupts,
    ) -> error::Result<()> {
        let Some(gsi) = self.0 else { return Ok(()) };
        let none = |_| Error::failed("--restore: too little memory for an id".into());
        let id = random()?;
        memory.get_slice(ID, id.len()).map_err(none)?.copy_from(&id);
        interrupts.signal(Signal::Gsi(gsi as u8));
        Ok(())
    }
}

fn random() -> error::Result<[u8; 16]> {
    let mut id = [0; 16];
    // SAFETY: writes as many bytes as there are.
    let len = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    match usize::try_from(len) {
        Ok(len) if len == id.len() => Ok(id),
        _ => Err(Error::file("getrandom", "16 bytes")(io::Error::last_os_error())),
    }
}
