//! Where vCPUs wait while the VM is paused (feature `smp`). The first one needs no such place: it is its
//! thread that pauses the VM.

use std::sync::{Condvar, Mutex, MutexGuard};

use crate::events;

/// Open, or closed to all vCPUs but the first.
pub struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// An open one.
    pub const fn new() -> Gate {
        Gate { closed: Mutex::new(false), opened: Condvar::new() }
    }

    /// Closes it, and brings all of `count` vCPUs but the first out of the guest. One that looks from here
    /// on does not enter; one that looked before is where a kick reaches it, as it told which thread it is
    /// on before it looked.
    pub fn close(&self, count: usize) {
        *self.lock() = true;
        (1..count).for_each(|id| events::kick(id as u8));
    }

    /// Closes it for the first vCPU's thread to see: it pauses the VM as soon as it looks.
    pub fn shut(&self) {
        *self.lock() = true;
        events::kick(0);
    }

    /// Lets all go on.
    pub fn open(&self) {
        *self.lock() = false;
        self.opened.notify_all();
    }

    /// Whether a vCPU has to wait.
    pub fn closed(&self) -> bool {
        *self.lock()
    }

    /// Waits while it is closed.
    pub fn wait(&self) {
        let mut closed = self.lock();
        while *closed {
            closed = self.opened.wait(closed).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
