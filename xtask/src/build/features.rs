//! What cargo knows of a package's features.

use anyhow::{Context, Result, bail};
use duct::cmd;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::build::guards;
use crate::paths;

/// A package's features.
pub struct Features {
    /// The package's version.
    pub version: String,
    /// Where its `Cargo.toml` is.
    pub directory: PathBuf,
    /// Each feature and what it implies.
    table: BTreeMap<String, Vec<String>>,
}

/// What is used of cargo's metadata.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
    features: BTreeMap<String, Vec<String>>,
}

/// Those of package brisk.
///
/// # Errors
/// cargo failed.
pub fn of_brisk() -> Result<Features> {
    of("brisk")
}

/// Asks cargo for those of a package of the workspace.
///
/// # Errors
/// cargo failed.
pub fn of(name: &str) -> Result<Features> {
    of_workspace(paths::workspace(), name)
}

/// Asks cargo for those of a package of the workspace in this directory.
///
/// # Errors
/// cargo failed.
pub fn of_workspace(workspace: &Path, name: &str) -> Result<Features> {
    let words = ["metadata", "--no-deps", "--format-version=1"];
    let text = cmd("cargo", words).dir(workspace).read().context("cargo metadata")?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    let package = metadata.packages.into_iter().find(|package| package.name == name);
    let package = package.with_context(|| format!("cargo metadata: no package {name}"))?;
    let directory = package.manifest_path.parent().context("a manifest in no directory")?.into();
    Ok(Features { version: package.version, directory, table: package.features })
}

/// A feature that this one cannot be built without and does not bring itself: a device for a
/// transport. The guards know.
///
/// # Errors
/// The guards cannot be read.
pub fn companion(known: &Features, feature: &str) -> Result<Option<String>> {
    let source = std::fs::read_to_string(known.directory.join("src/lib.rs"))?;
    let guards = guards::read(&source)?;
    let refused = |features: &[&str]| {
        let closure = known.closure(features);
        guards.iter().any(|guard| guard.fires(&closure))
    };
    if !refused(&[feature]) {
        return Ok(None);
    }
    let found = known.single().into_iter().find(|other| !refused(&[feature, other]));
    found.map(Some).with_context(|| format!("{feature}: refused with any other feature"))
}

/// Crates that package brisk has with `features` and not with `below`, with their versions.
///
/// # Errors
/// cargo failed.
pub fn dependencies(features: &str, below: &str) -> Result<Vec<String>> {
    let tree = |features: &str| -> Result<BTreeSet<String>> {
        let words = "tree --quiet --package=brisk --edges=normal,no-proc-macro --prefix=none";
        let words = words.split(' ').chain(["--no-default-features", "--features", features]);
        let text = cmd("cargo", words).dir(paths::workspace()).read().context("cargo tree")?;
        let name = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        Ok(text.lines().map(name).collect())
    };
    Ok(tree(features)?.difference(&tree(below)?).cloned().collect())
}

impl Features {
    /// All features but `default`.
    pub fn names(&self) -> Vec<String> {
        self.table.keys().filter(|name| *name != "default").cloned().collect()
    }

    /// The features that are for something of their own, not only names for sets of others.
    pub fn single(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name != "full").collect()
    }

    /// Whether part of the feature is in brisk-devices, which is `no_std`.
    pub fn is_in_devices(&self, name: &str) -> bool {
        let implied = self.table.get(name).into_iter().flatten();
        name != "full" && implied.into_iter().any(|other| other.starts_with("brisk-devices/"))
    }

    /// Says what the guards would, before anything is compiled.
    ///
    /// # Errors
    /// These features make no sense together.
    pub fn check(&self, features: &[String]) -> Result<()> {
        let closure = self.closure(features);
        let source = std::fs::read_to_string(self.directory.join("src/lib.rs"))?;
        match guards::read(&source)?.into_iter().find(|guard| guard.fires(&closure)) {
            Some(guard) => bail!("--features {}: {}", features.join(","), guard.message),
            None => Ok(()),
        }
    }

    /// These features and all that they imply, of package brisk.
    pub fn closure<S: AsRef<str>>(&self, features: &[S]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut todo: Vec<String> = features.iter().map(|f| f.as_ref().to_owned()).collect();
        while let Some(next) = todo.pop() {
            // What is of another package (`dep:x`, `x/y`) is not in the table.
            if let Some(implied) = self.table.get(&next)
                && found.insert(next)
            {
                todo.extend(implied.iter().cloned());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `brisk --features` has a list of its own.
    #[test]
    fn the_product_names_all_of_them() {
        let known = of_brisk().unwrap();
        let text = std::fs::read_to_string(known.directory.join("src/cli/features.rs")).unwrap();
        for name in known.single() {
            let entry = format!("    #[cfg(feature = \"{name}\")]\n    \"{name}\",\n");
            assert!(text.contains(&entry), "src/cli/features.rs lacks {name}");
        }
        assert_eq!(text.matches("#[cfg(").count(), known.single().len());
    }

    #[test]
    fn closure_follows_what_is_implied() {
        let known = of_brisk().unwrap();
        let pmem: Vec<String> = known.closure(&["pmem"]).into_iter().collect();
        assert_eq!(pmem, ["mmio", "pmem"]);
        let full = known.closure(&["full"]);
        assert!(full.contains("mmio") && full.contains("full") && !full.contains("default"));
        assert!(known.names().contains(&"full".to_owned()));
        assert!(!known.single().contains(&"full".to_owned()));
        assert_eq!(companion(&known, "pmem").unwrap(), None);
        assert_eq!(companion(&known, "pci").unwrap().as_deref(), Some("block"));
    }
}
