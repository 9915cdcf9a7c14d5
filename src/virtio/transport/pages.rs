//! Memory that stands for registers: the guest accesses it without an exit.

use std::sync::atomic::AtomicU32;

use crate::error::Result;
use crate::kvm::Vm;

/// Words of a page.
pub const WORDS: usize = 1024;

/// A page of registers.
#[repr(C, align(4096))]
pub struct Page(pub [AtomicU32; WORDS]);

impl Page {
    /// So many for good, all zero; made where they stay.
    pub fn zeroed(count: usize) -> &'static [Page] {
        // SAFETY: a page is numbers, and 0 is one.
        Box::leak(unsafe { Box::new_zeroed_slice(count).assume_init() })
    }
}

/// A memory slot in which the guest finds pages, or nothing.
pub struct Window {
    vm: &'static Vm,
    slot: u32,
    open: bool,
}

impl Window {
    /// Slot `slot` of `vm`, in which nothing is yet.
    pub fn new(vm: &'static Vm, slot: u32) -> Window {
        Window { vm, slot, open: false }
    }

    /// Whether the guest finds pages.
    #[cfg(feature = "pci")]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Lets the guest read `pages` at the guest-physical address `at`, and with `writable` write them.
    ///
    /// # Errors
    /// KVM did not take them: other memory is there.
    pub fn open(&mut self, at: u64, pages: &'static [Page], writable: bool) -> Result<()> {
        let (size, host) = (size_of_val(pages) as u64, pages.as_ptr() as u64);
        // SAFETY: the pages stay for ever, and hold nothing but words that are read and written one by
        // one.
        unsafe {
            match writable {
                true => self.vm.set_memory(self.slot, at, size, host)?,
                false => self.vm.set_readable(self.slot, at, size, host)?,
            }
        }
        self.open = true;
        Ok(())
    }

    /// Takes them away again, so that each access is an exit. Whether there were some.
    #[cfg(feature = "pci")]
    pub fn close(&mut self) -> bool {
        if !std::mem::take(&mut self.open) {
            return false;
        }
        // SAFETY: gives the guest no memory.
        if let Err(error) = unsafe { self.vm.set_memory(self.slot, 0, 0, 0) } {
            log::error!("--transport pci: {error}");
        }
        true
    }
}
