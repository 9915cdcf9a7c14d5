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

use std::sync::atomic::Ordering;

use brisk_boot::layout;

use crate::error::Result;
use crate::kvm::Vm;
use crate::virtio::transport::pages::{Page, Window};

/// Bytes of configuration space of a conventional function (PCI 3.0, 6.1); the rest of its page is
/// all ones.
const CONFIG_SIZE: u16 = 0x100;

/// The pages of the first functions of the bus.
pub struct Readable {
    pages: &'static [Page],
    window: Window,
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
        let pages = Page::zeroed(count);
        for (function, page) in pages.iter().enumerate() {
            for (register, word) in (0..).step_by(4).zip(&page.0) {
                let value =
                    if register < CONFIG_SIZE { read(function, register) } else { u32::MAX };
                word.store(value, Ordering::Relaxed);
            }
        }
        let mut window = Window::new(vm, slot);
        window.open(layout::PCI_ECAM_BASE, pages, false)?;
        Ok(Readable { pages, window })
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
        let page = self.pages.get(function).filter(|_| self.window.is_open())?;
        Some(page.0.get(usize::from(register / 4))?.load(Ordering::Relaxed))
    }

    /// From now on each read is an exit.
    pub fn hide(&mut self) {
        self.window.close();
    }
}
