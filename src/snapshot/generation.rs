//! The VM generation id: tells a guest's clones apart. Linux makes new random numbers when it is told
//! that the id has changed, before it hands any out ("Virtual Machine Generation ID", Microsoft, 2018;
//! Linux' drivers/virt/vmgenid.c).
//!
//! A machine has it, and the pin of the IOAPIC that it needs, only where it may come to be a snapshot.

use std::io;

use brisk_boot::{GenerationId, layout};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::parts::{Kind, Parts, Writer};
use crate::error::{Error, Result};
use crate::interrupts::{Interrupts, Signal, Sink};

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
        Generation(from.read::<U32>(Kind::Generation, 0).ok().map(U32::get))
    }

    /// The interrupt, for the IOAPIC.
    pub fn gsi(self) -> Option<u32> {
        self.0
    }

    /// What is written with the boot data.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn first(self) -> Result<Option<GenerationId>> {
        self.0.map(|gsi| Ok(GenerationId { id: random()?, gsi })).transpose()
    }

    /// Saves it; the id itself is in the guest's memory.
    pub fn save(self, to: &mut Writer) {
        if let Some(gsi) = self.0 {
            to.add(Kind::Generation, 0, U32::new(gsi).as_bytes());
        }
    }

    /// Gives a guest that goes on another id, and tells it.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn change(self, memory: &GuestMemoryMmap, interrupts: &mut Interrupts) -> Result<()> {
        let Some(gsi) = self.0 else { return Ok(()) };
        let at = GuestAddress(layout::GENERATION_ID.start);
        let none = |_| Error::failed("--restore: too little memory for an id".into());
        let id = random()?;
        memory.get_slice(at, id.len()).map_err(none)?.copy_from(&id);
        interrupts.signal(Signal::Gsi(gsi as u8));
        Ok(())
    }
}

fn random() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    // SAFETY: writes as many bytes as there are.
    let len = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    match usize::try_from(len) {
        Ok(len) if len == id.len() => Ok(id),
        _ => Err(Error::file("getrandom", "16 bytes")(io::Error::last_os_error())),
    }
}
