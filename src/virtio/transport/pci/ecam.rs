//! Configuration space that the guest reads as memory: a page a function, which only its writes
//! leave for us.
//!
//! Of the accesses by which Linux enumerates a virtio function nine in ten are reads, 200 a function.
//! They are what a boot over PCI costs more than one over MMIO, and none of them needs us: between
//! two writes a function's configuration space is constant. So each page is a slot of memory that
//! the guest may read, and after each write the word written is put right in it.
//!
//! One register is not constant: what the window into BAR 0 (virtio 1.3, 4.1.4.9) shows. A guest that
//! sets the window up, which no Linux does, has its reads handled one by one from then on.

use std::sync::atomic::{AtomicU32, Ordering};

use brisk_boot::layout;

use crate::error::Result;
use crate::kvm::Vm;

/// Bytes of configuration space of a conventional function (PCI 3.0, 6.1); the rest of its page is
/// all ones.
const CONFIG_SIZE: u16 = 0x100;
const WORDS: usize = 1024;

/// The enhanced configuration space of one function.
#[repr(C, align(4096))]
struct Page([AtomicU32; WORDS]);

/// The pages of the first functions of the bus.
pub struct Readable {
    vm: &'static Vm,
    slot: u32,
    pages: &'static [Page],
    /// False where the guest's reads are exits.
    shown: bool,
}

impl Readable {
    /// Pages for `count` functions, given to the guest in memory slot `slot`; `read(function,
    /// register)` is 32 bits of configuration space.
    ///
    /// # Errors
    /// KVM did not take the slot.
    pub fn new(
        vm: &'static Vm,
        slot: u32,
        count: usize,
        mut read: impl FnMut(usize, u16) -> u32,
    ) -> Result<Readable> {
        let mut page = |function| {
            let page = Page([const { AtomicU32::new(u32::MAX) }; WORDS]);
            for (register, word) in (0..CONFIG_SIZE).step_by(4).zip(&page.0) {
                word.store(read(function, register), Ordering::Relaxed);
            }
            page
        };
        let pages: &'static [Page] = Vec::leak((0..count).map(&mut page).collect());
        let host = pages.as_ptr() as u64;
        // SAFETY: the pages are leaked, so they stay; nothing but the guest's CPU reads them, and we
        // write them word by word.
        unsafe { vm.set_readable(slot, layout::PCI_ECAM_BASE, size_of_val(pages) as u64, host)? };
        Ok(Readable { vm, slot, pages, shown: true })
    }

    /// The word at `register` of `function` has become `value`.
    pub fn set(&self, function: usize, register: u16, value: u32) {
        if let Some(page) = self.pages.get(function)
            && let Some(word) = page.0.get(usize::from(register / 4))
        {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// What the guest reads at `register` of `function` without an exit.
    #[cfg(test)]
    #[cfg(feature = "console")]
    pub fn get(&self, function: usize, register: u16) -> Option<u32> {
        let page = self.pages.get(function).filter(|_| self.shown)?;
        Some(page.0.get(usize::from(register / 4))?.load(Ordering::Relaxed))
    }

    /// From now on each read is an exit.
    pub fn hide(&mut self) {
        if std::mem::take(&mut self.shown) {
            // SAFETY: gives the guest no memory.
            let result = unsafe { self.vm.set_readable(self.slot, layout::PCI_ECAM_BASE, 0, 0) };
            if let Err(error) = result {
                log::error!("--transport pci: {error}");
            }
        }
    }
}
