//! What stands for clients in a build without the feature `api`: there are none.

use crate::config::Config;
use crate::error::Result;
use crate::machine::Machine;

/// The command line names none.
#[derive(Debug)]
pub enum Socket {}

/// Nobody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {}

/// The machine has nobody to serve.
pub struct Api;

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that has one")]
impl Socket {
    #[inline(always)]
    pub fn parse(_: &str) -> Result<Socket> {
        crate::config::usage(String::new())
    }
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "as in the module that has one")]
impl Api {
    #[inline(always)]
    pub fn prepare(_: &Config) -> Result<Api> {
        Ok(Api)
    }

    #[inline(always)]
    pub fn button(&mut self, _: Option<Option<u32>>, _: bool, _: u32) -> Option<u32> {
        None
    }

    #[cfg(feature = "snapshot")]
    #[inline(always)]
    pub fn gsi(&self) -> Option<u32> {
        None
    }

    #[inline(always)]
    pub fn open(&self) -> Result<()> {
        Ok(())
    }

    #[inline(always)]
    pub fn serve(&self, _: &Machine) {}
}

#[allow(missing_docs, reason = "as in the module that has one")]
#[inline(always)]
pub fn asked(_: u8) -> Option<Asked> {
    None
}

#[allow(missing_docs, reason = "as in the module that has one")]
#[inline(always)]
pub fn end() {}

#[allow(missing_docs, reason = "as in the module that has one")]
#[inline(always)]
pub fn named(_: &[u8]) -> Option<u32> {
    None
}
