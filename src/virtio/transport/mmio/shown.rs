//! Registers that the guest reads as memory, so that only its writes leave for us.
//!
//! What a register reads changes when the driver writes another one, and when the device has something to
//! say, and both are ours to do: so the memory is put right then, before an interrupt says that there is
//! something to read.
//!
//! A change of the configuration space is one word that changes, at once, and then the generation
//! (virtio 1.3, 2.5.3); a driver that reads in between is told by the interrupt that comes after.

use std::sync::atomic::{AtomicU32, Ordering};

use brisk_boot::layout;
use brisk_devices::virtio::mmio;

use crate::error::Result;
use crate::kvm::Vm;
use crate::virtio::transport::pages::{Page, WORDS, Window};
use crate::virtio::{Backend, MAX_VIRTIO, VirtioDevice};

/// Bytes of a window behind its registers: more than the longest configuration space, block's, has.
const CONFIG_SIZE: usize = 0x80;
/// All windows are in one page: so there is one fault of the guest's, and one of ours.
const WINDOW_WORDS: usize = WORDS / MAX_VIRTIO;
const _: () = assert!(
    layout::VIRTIO_MMIO_SIZE as usize == 4 * WINDOW_WORDS
        && mmio::CONFIG as usize + CONFIG_SIZE <= 4 * WINDOW_WORDS
);

/// The registers of one device.
pub type Registers = [AtomicU32];

/// The page of all devices' windows.
pub struct Shown(&'static Page);

impl Shown {
    /// The page, given to the guest in memory slot `slot`; `fill` fills each of `count` windows.
    ///
    /// # Errors
    /// KVM did not take the slot.
    pub fn new(
        vm: &'static Vm,
        slot: u32,
        count: usize,
        mut fill: impl FnMut(usize, &Registers),
    ) -> Result<Shown> {
        let pages = Page::zeroed(1);
        let windows = pages[0].0.chunks_exact(WINDOW_WORDS).enumerate();
        windows.take(count).for_each(|(index, registers)| fill(index, registers));
        Window::new(vm, slot).open(layout::VIRTIO_MMIO_BASE, pages, false)?;
        Ok(Shown(&pages[0]))
    }

    /// The registers of device `index`.
    pub fn window(&self, index: usize) -> Option<&'static Registers> {
        self.0.0.chunks_exact(WINDOW_WORDS).nth(index)
    }
}

/// What is to be put right.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The reasons for an interrupt.
    Interrupt,
    /// Any register.
    Registers,
    /// The configuration space too.
    Config,
}

impl<B: Backend, const Q: usize> VirtioDevice<B, Q> {
    /// Puts all of `to` right, which is all zero.
    pub(super) fn fill(&self, to: &Registers) {
        mmio::CONSTANT.iter().for_each(|at| self.show_register(to, *at));
        self.show(to, Change::Config);
    }

    /// Puts in `to` right what may have changed.
    pub(super) fn show(&self, to: &Registers, change: Change) {
        if change == Change::Interrupt {
            return self.show_register(to, mmio::INTERRUPT_STATUS);
        }
        if change == Change::Config {
            let mut config = [0; CONFIG_SIZE];
            mmio::read(&self.common, &self.model, mmio::CONFIG, &mut config);
            for (at, word) in (mmio::CONFIG..).step_by(4).zip(config.as_chunks().0) {
                store(to, at, *word);
            }
        }
        mmio::CHANGING.iter().for_each(|at| self.show_register(to, *at));
    }

    fn show_register(&self, to: &Registers, at: u64) {
        let mut word = [0; 4];
        mmio::read(&self.common, &self.model, at, &mut word);
        store(to, at, word);
    }
}

fn store(registers: &Registers, at: u64, word: [u8; 4]) {
    if let Some(to) = registers.get((at / 4) as usize) {
        to.store(u32::from_le_bytes(word), Ordering::Relaxed);
    }
}
