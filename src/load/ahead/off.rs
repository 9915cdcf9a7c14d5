//! What stands for the loader's thread in a build without the feature `async-loader`: none.

use super::{Done, Loading};
use crate::config::Config;
use crate::measure::trace::Trace;
use crate::memory::Ram;

/// Nothing is one.
pub enum Ahead {}

/// Begins nothing.
#[inline(always)]
pub fn start(config: &'static Config, ram: Ram) -> Loading {
    Loading::Later(config, ram)
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that begins")]
impl Ahead {
    #[inline(always)]
    pub fn finish(self, _: &mut Trace) -> Done {
        match self {}
    }
}
