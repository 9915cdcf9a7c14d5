//! Loading on a thread of its own (feature `async-loader`).

use std::sync::Arc;
use std::thread::JoinHandle;

use super::pieces::Pieces;
use super::{Done, Loading, load};
use crate::config::Config;
use crate::events;
use crate::measure::trace::Trace;
use crate::memory::Ram;
use crate::threads;

/// The thread, which has the memory until it is done.
pub struct Ahead {
    thread: JoinHandle<Done>,
    pieces: Arc<Pieces>,
}

/// Begins where another CPU is free to do it, and a thread to be had; on the only one that would be a
/// thread more and nothing gained.
pub fn start(config: &'static Config, ram: Ram) -> Loading {
    if cpus() < 2 {
        return Loading::Later(config, ram);
    }
    let pieces = Arc::new(Pieces::new(true));
    let its = Arc::clone(&pieces);
    // SAFETY: the thread has it, or, where there is no thread, we.
    let ours = unsafe { ram.again() };
    match threads::start(events::block, "loader".into(), move || load(config, ram, &its)) {
        Ok(thread) => Loading::Meanwhile(Ahead { thread, pieces }),
        Err(error) => {
            log::info!("no thread to load the kernel meanwhile: {error}");
            Loading::Later(config, ours)
        }
    }
}

impl Ahead {
    /// Does what the thread has not yet begun, and waits for the rest.
    ///
    /// # Errors
    /// As [`load`].
    pub fn finish(self, trace: &mut Trace) -> Done {
        let helped = self.pieces.work(|name| trace.step(name));
        match self.thread.join() {
            Ok(done) => done.and_then(|done| helped.map(|()| done)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// CPUs that this process may use. The standard library's answer reads files of the cgroup's too.
fn cpus() -> i32 {
    // SAFETY: fills and counts a set of our own; where that fails it stays empty.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        libc::CPU_COUNT(&set)
    }
}
