//! Which thread runs which vCPU.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, Ordering};

/// `--cpus` takes no more.
const MAX: usize = 254;
static THREADS: [AtomicI32; MAX] = [const { AtomicI32::new(0) }; MAX];

thread_local! {
    static THIS: Cell<u8> = const { Cell::new(0) };
}

pub fn attach(id: u8) {
    THIS.set(id);
    if let Some(thread) = THREADS.get(usize::from(id)) {
        // SAFETY: asks for a number.
        thread.store(unsafe { libc::gettid() }, Ordering::Release);
    }
}

pub fn this() -> u8 {
    THIS.get()
}

/// Brings all vCPUs but the first, which gets the process's signals, out of the guest or a call.
pub fn kick_others() {
    (1..MAX as u8).for_each(super::kick);
}

pub fn thread(id: u8) -> Option<libc::pid_t> {
    THREADS
        .get(usize::from(id))
        .map(|thread| thread.load(Ordering::Acquire))
        .filter(|thread| *thread != 0)
}
