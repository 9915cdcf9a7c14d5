//! Loading on a thread of its own (feature `async-loader`).

use std::sync::Arc;

use super::pieces::Pieces;
use super::{Done, Loading, load};
use crate::config::Config;
use crate::events;
use crate::measure::trace::Trace;
use crate::memory::Ram;
use crate::threads::{self, Thread};

/// The thread, which has the memory until it is done.
pub struct Ahead {
    thread: Thread<Done>,
    pieces: Arc<Pieces>,
}

/// Begins where another CPU is free to do it, and a thread to be had; on the only one that would be a
/// thread more and nothing gained.
pub fn start(config: &'static Config, ram: Ram) -> Loading {
    if threads::cpus() < 2 {
        return Loading::Later(config, ram);
    }
    let pieces = Arc::new(Pieces::new(true));
    let its = Arc::clone(&pieces);
    // SAFETY: the thread has it, or, where there is no thread, we.
    let ours = unsafe { ram.again() };
    match threads::start(events::block, "loader", move || load(config, ram, &its)) {
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
        let done = self.thread.join()?;
        helped.map(|()| done)
    }
}
