//! The MSI-X table as memory: what a driver writes to it costs nothing at all.
//!
//! Linux makes 15 accesses to the table for each vector, 75 for a console and a pmem: without them such
//! a boot has 591 exits for 667 and takes 49.8 ms for 50.3. None needs us: an entry matters when its
//! message is to be sent, and then it is read from memory. Only a vector that is raised while it is
//! masked does, for it has to be sent when it is unmasked: then the page is taken away, and each
//! access is an exit until MSI-X is set up anew. So there is memory only while nothing is pending,
//! and the pending bits, which are in the same page, are all zero.

use std::sync::atomic::{AtomicU32, Ordering};

use brisk_boot::{Range, layout};
use brisk_devices::virtio::pci::{BAR_SIZE, Function, MSIX_TABLE};

use crate::kvm::Vm;
use crate::virtio::transport::pages::{Page, Window};

const ENTRY_WORDS: usize = 4;

/// Where one function's table is.
pub struct Table {
    /// None where each access is to be an exit.
    window: Option<Window>,
    page: Option<&'static Page>,
}

impl Table {
    /// A table that is not memory, until it has a place.
    pub const fn new() -> Table {
        Table { window: None, page: None }
    }

    /// It may be memory, in `slot` of `vm`.
    pub fn set_place(&mut self, vm: &'static Vm, slot: u32) {
        self.window = Some(Window::new(vm, slot));
    }

    /// Lets the guest access the table as memory, where MSI-X is on, nothing is pending and the BAR is
    /// in its window.
    pub fn show(&mut self, function: &Function) {
        let Some(window) = self.window.as_mut().filter(|window| !window.is_open()) else { return };
        let in_window =
            |bar: &u64| layout::PCI_MEM32.contains(&Range { start: *bar, len: BAR_SIZE });
        let Some(bar) = function.bar().filter(in_window) else { return };
        if !function.msix.enabled() || function.msix.has_pending() {
            return;
        }
        let page = *self.page.get_or_insert_with(|| &Page::zeroed(1)[0]);
        for (vector, words) in (0..).zip(page.0.chunks_exact(ENTRY_WORDS)) {
            let Some(entry) = function.msix.entry(vector) else { break };
            words.iter().zip(entry).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        }
        // Where another BAR or RAM is in the way, accesses stay what they were.
        let _ = window.open(bar + MSIX_TABLE, std::slice::from_ref(page), true);
    }

    /// Makes each access an exit again.
    pub fn hide(&mut self, function: &mut Function) {
        if self.window.as_mut().is_some_and(Window::close) {
            self.load_shown(function);
        }
    }

    /// Tells the function what the guest has written.
    pub fn load(&self, function: &mut Function) {
        if self.is_shown() {
            self.load_shown(function);
        }
    }

    /// What the guest accesses as memory.
    #[cfg(test)]
    #[cfg(all(feature = "console", feature = "block"))]
    pub fn shown(&self) -> Option<&'static [AtomicU32]> {
        self.page.filter(|_| self.is_shown()).map(|page| page.0.as_slice())
    }

    fn is_shown(&self) -> bool {
        self.window.as_ref().is_some_and(Window::is_open)
    }

    fn load_shown(&self, function: &mut Function) {
        let Some(page) = self.page else { return };
        for (vector, words) in (0..).zip(page.0.chunks_exact(ENTRY_WORDS)) {
            if function.msix.entry(vector).is_none() {
                break;
            }
            function.msix.set_entry(vector, read(words));
        }
    }
}

/// An entry that another vCPU may be writing: read until it is the same twice, which it is unless
/// that CPU does nothing else.
fn read(words: &[AtomicU32]) -> [u32; ENTRY_WORDS] {
    let once = || {
        let mut entry = [0; ENTRY_WORDS];
        entry.iter_mut().zip(words).for_each(|(to, word)| *to = word.load(Ordering::Acquire));
        entry
    };
    let mut entry = once();
    for _ in 0..100 {
        let again = once();
        if again == entry {
            break;
        }
        entry = again;
    }
    entry
}
