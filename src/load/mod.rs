//! When kernel and initramfs are loaded: after the VM and its devices are made, or, with the feature
//! `async-loader` and a second CPU to do it on, meanwhile.

#[cfg(feature = "async-loader")]
mod ahead;
#[cfg(not(feature = "async-loader"))]
#[path = "ahead/off.rs"]
mod ahead;
#[cfg(feature = "hugepages")]
mod fill;
#[cfg(not(feature = "hugepages"))]
#[path = "fill/off.rs"]
mod fill;
mod kernel;
mod pieces;

use self::ahead::Ahead;
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
    /// On a thread of its own.
    #[cfg_attr(not(feature = "async-loader"), allow(dead_code, reason = "there is none"))]
    Meanwhile(Ahead),
}

impl Loading {
    /// Begins where that gains something.
    pub fn start(config: &'static Config, ram: Ram) -> Loading {
        ahead::start(config, ram)
    }

    /// Does it now, or what the other thread has not yet begun of it, and waits for the rest.
    ///
    /// # Errors
    /// As [`kernel::load`].
    pub fn finish(self, trace: &mut Trace) -> Result<(Ram, Loaded)> {
        let (done, own_thread) = match self {
            Loading::Later(config, ram) => (load(config, ram, &Pieces::new(false)), false),
            Loading::Meanwhile(ahead) => (ahead.finish(trace), true),
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
