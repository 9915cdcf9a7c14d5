//! When kernel and initramfs are loaded: after the VM and its devices are made, or, with the feature
//! `async-loader` and a second CPU to do it on, meanwhile.

#[cfg(feature = "hugepages")]
mod fill;
mod kernel;
mod pieces;

#[cfg(feature = "async-loader")]
use std::{sync::Arc, thread::JoinHandle};

pub use self::kernel::Loaded;
use self::pieces::Pieces;
use crate::config::Config;
use crate::error::Result;
use crate::measure::trace::{Laps, Trace};
use crate::memory::Ram;

/// What a load gives back.
type Done = Result<(Ram, Loaded, Laps)>;

/// Guest memory, and what is to be in it.
pub enum Loading {
    /// Not begun.
    Later(&'static Config, Ram),
    /// On a thread of its own, which has the memory until it is done.
    #[cfg(feature = "async-loader")]
    Meanwhile(JoinHandle<Done>, Arc<Pieces>),
}

impl Loading {
    /// Begins where another CPU is free to do it, and a thread to be had; on the only one that would be
    /// a thread more and nothing gained.
    pub fn start(config: &'static Config, ram: Ram) -> Loading {
        #[cfg(feature = "async-loader")]
        if cpus() > 1 {
            let pieces = Arc::new(Pieces::new(true));
            let its = Arc::clone(&pieces);
            // SAFETY: the thread has it, or, where there is no thread, we.
            let ours = unsafe { ram.again() };
            let thread = crate::threads::start(crate::events::block, "loader".into(), move || {
                load(config, ram, &its)
            });
            match thread {
                Ok(thread) => return Loading::Meanwhile(thread, pieces),
                Err(error) => {
                    log::info!("no thread to load the kernel meanwhile: {error}");
                    return Loading::Later(config, ours);
                }
            }
        }
        Loading::Later(config, ram)
    }

    /// Does it now, or what the other thread has not yet begun of it, and waits for the rest.
    ///
    /// # Errors
    /// As [`kernel::load`].
    pub fn finish(self, trace: &mut Trace) -> Result<(Ram, Loaded)> {
        let (done, own_thread) = match self {
            Loading::Later(config, ram) => (load(config, ram, &Pieces::new(false)), false),
            #[cfg(feature = "async-loader")]
            Loading::Meanwhile(thread, pieces) => {
                let helped = pieces.work(|name| trace.step(name));
                match thread.join() {
                    Ok(done) => (done.and_then(|done| helped.map(|()| done)), true),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        };
        let (ram, loaded, laps) = done?;
        trace.loaded(laps, own_thread);
        Ok((ram, loaded))
    }
}

fn load(config: &Config, mut ram: Ram, pieces: &Pieces) -> Done {
    let mut laps = Laps::start();
    if config.memory.prefault {
        ram.prefault()?;
        laps.lap("prefault");
    }
    let loaded = kernel::load(config, &mut ram, pieces, &mut laps)?;
    Ok((ram, loaded, laps))
}

/// CPUs that this process may use. The standard library's answer reads files of the cgroup's too.
#[cfg(feature = "async-loader")]
fn cpus() -> i32 {
    // SAFETY: fills and counts a set of our own; where that fails it stays empty.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        libc::CPU_COUNT(&set)
    }
}
