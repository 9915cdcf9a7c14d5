//! `xtask/measured.json`: what was measured last, for features.md.

use anyhow::{Context, Result};
use duct::cmd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::paths;

/// All of it.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The compiler, as `rustc -V` says it.
    pub compiler: String,
    /// A build without features.
    pub core: Linked,
    /// Each feature.
    pub features: BTreeMap<String, Cost>,
    /// Each scenario.
    pub scenarios: BTreeMap<String, Linked>,
    /// What was tried for size, the first as shipped.
    pub trials: Vec<(String, Linked)>,
}

/// Bytes of a stripped binary.
#[derive(Serialize, Deserialize, Default, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Linked {
    /// With the C library of the system.
    pub dynamic: u64,
    /// With glibc in it.
    pub r#static: u64,
}

/// What a feature costs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Bytes of a dynamic binary with this feature and, if it asks for another, that.
    pub alone: u64,
    /// What of them is for this feature.
    pub over: u64,
    /// The other feature: a device for a transport.
    pub with: Option<String>,
    /// Crates that only this feature brings.
    pub dependencies: Vec<String>,
}

impl Measured {
    /// Nothing measured yet, by the compiler that is here.
    ///
    /// # Errors
    /// There is none.
    pub fn new() -> Result<Self> {
        let compiler = cmd!("rustc", "-V").dir(paths::workspace()).read().context("rustc -V")?;
        Ok(Self { compiler, ..Self::default() })
    }

    /// The last measurement.
    ///
    /// # Errors
    /// The file is wrong.
    pub fn read() -> Result<Self> {
        let path = path();
        let Ok(text) = fs::read_to_string(&path) else { return Ok(Self::default()) };
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Makes this the last measurement.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> Result<()> {
        let path = path();
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

fn path() -> PathBuf {
    paths::workspace().join("xtask/measured.json")
}
