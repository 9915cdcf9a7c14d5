//! An image in an OCI layout: found, checked, unpacked, and what is to be run in it.
//!
//! Layers are unpacked by umoci, which knows whiteouts, hard links, sparse files, devices, owners and
//! extended attributes, and lets no layer out of the root.

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Recipe, bare, remove_tree};
use crate::cache;
use crate::guest::images::quiet;
use crate::ui::Step;

/// A pointer to a blob (OCI image specification 1.0, descriptor.md).
#[derive(Deserialize, Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    /// What it is.
    pub(super) media_type: String,
    /// `sha256:` and 64 hex digits.
    pub(super) digest: String,
    /// Bytes.
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    /// `org.opencontainers.image.ref.name` is the tag.
    pub(super) annotations: BTreeMap<String, String>,
    /// For an index of several machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

/// A machine.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Platform {
    /// `amd64`
    pub(super) architecture: String,
    /// `linux`
    pub(super) os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    config: Config,
}

/// OCI image specification 1.0, config.md.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

const TAG: &str = "org.opencontainers.image.ref.name";

/// An image of an OCI layout, its blobs checked.
pub(super) struct Layout {
    dir: PathBuf,
    manifest: Descriptor,
    pub(super) digest: String,
    config: Config,
}

impl Layout {
    /// Reads LAYOUT or LAYOUT:TAG, and checks every blob that will be needed.
    pub(super) fn open(reference: &str) -> Result<Layout> {
        let wrong = || format!("--oci {reference}");
        let whole = Path::new(reference);
        let (dir, tag) = match reference.rsplit_once(':') {
            Some((dir, tag)) if !whole.is_dir() => (Path::new(dir), Some(tag)),
            _ => (whole, None),
        };
        Self::read(dir, tag).with_context(wrong)
    }

    fn read(dir: &Path, tag: Option<&str>) -> Result<Layout> {
        ensure!(dir.is_dir(), "no such directory");
        ensure!(dir.join("oci-layout").is_file(), "no OCI layout: it has no file oci-layout");
        let text = fs::read(dir.join("index.json")).context("no OCI layout: index.json")?;
        let index: Index = serde_json::from_slice(&text).context("index.json")?;
        let name = |d: &Descriptor| d.annotations.get(TAG).cloned();
        let tags: Vec<String> = index.manifests.iter().filter_map(name).collect();
        let tags = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
        let mut found: Vec<Descriptor> = index.manifests;
        if let Some(tag) = tag {
            found.retain(|d| name(d).as_deref() == Some(tag));
            ensure!(!found.is_empty(), "no image is tagged {tag}; tags: {tags}");
        }
        let [found] = &found[..] else {
            bail!("{} images; name one by its tag, LAYOUT:TAG; tags: {tags}", found.len());
        };
        let mut manifest = found.clone();
        if manifest.media_type.ends_with("index.v1+json") {
            let index: Index = serde_json::from_slice(&blob(dir, &manifest)?)
                .context("the image's index of machines")?;
            let ours = Platform { architecture: "amd64".into(), os: "linux".into() };
            let found = index.manifests.into_iter().find(|d| d.platform.as_ref() == Some(&ours));
            manifest = found.context("has no image for linux/amd64")?;
        }
        let parsed: Manifest = serde_json::from_slice(&blob(dir, &manifest)?)
            .with_context(|| format!("manifest {}", manifest.digest))?;
        let config: ConfigFile = serde_json::from_slice(&blob(dir, &parsed.config)?)
            .with_context(|| format!("configuration {}", parsed.config.digest))?;
        for layer in &parsed.layers {
            let sum = cache::file_sum(&place(dir, layer)?)?;
            check(layer, &sum)?;
        }
        let digest = manifest.digest.clone();
        Ok(Layout { dir: dir.to_owned(), manifest, digest, config: config.config })
    }

    /// Unpacks it below `work`, and returns the root.
    pub(super) fn unpack(&self, work: &Path) -> Result<PathBuf> {
        remove_tree(work)?;
        // A layout with just this image, under a name that umoci finds it by.
        let own = work.join("layout");
        fs::create_dir_all(&own)?;
        std::os::unix::fs::symlink(self.dir.canonicalize()?.join("blobs"), own.join("blobs"))?;
        fs::copy(self.dir.join("oci-layout"), own.join("oci-layout"))?;
        let mut manifest = self.manifest.clone();
        manifest.annotations.insert(TAG.to_owned(), "brisk".to_owned());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(own.join("index.json"), serde_json::to_vec(&index)?)?;
        let step = Step::start("unpacking the image");
        let image = format!("{}:brisk", own.display());
        let root = work.join("root");
        let words = ["--log=error", "raw", "unpack", "--image", &image];
        let words = words.map(std::ffi::OsString::from).into_iter().chain([root.clone().into()]);
        quiet(&cmd("umoci", words), "umoci unpack")?;
        step.done();
        Ok(root)
    }

    /// What the image's configuration says, with names of users looked up in `root`.
    pub(super) fn recipe(&self, root: &Path) -> Result<Recipe> {
        let config = &self.config;
        let (uid, gid, groups) = user(root, config.user.as_deref().unwrap_or(""))?;
        let mut env = config.env.clone().unwrap_or_default();
        if !env.iter().any(|pair| pair.starts_with("PATH=")) {
            env.extend(bare().env);
        }
        let cwd = config.working_dir.clone().filter(|dir| !dir.is_empty());
        Ok(Recipe {
            entrypoint: config.entrypoint.clone().unwrap_or_default(),
            cmd: config.cmd.clone().unwrap_or_default(),
            env,
            cwd: cwd.unwrap_or_else(|| "/".to_owned()),
            uid,
            gid,
            groups,
            digest: String::new(),
        })
    }
}

/// Where a blob is, which is there.
fn place(dir: &Path, of: &Descriptor) -> Result<PathBuf> {
    let hex = of.digest.strip_prefix("sha256:").unwrap_or_default();
    let good = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    ensure!(good, "digest {}: sha256 and 64 hex digits are wanted", of.digest);
    let path = dir.join("blobs/sha256").join(hex);
    ensure!(path.is_file(), "blob {} is missing", of.digest);
    Ok(path)
}

fn check(of: &Descriptor, sum: &str) -> Result<()> {
    let found = format!("sha256:{sum}");
    ensure!(found == of.digest, "blob {} is damaged: it has the digest {found}", of.digest);
    Ok(())
}

/// The content of a blob, checked.
fn blob(dir: &Path, of: &Descriptor) -> Result<Vec<u8>> {
    let bytes = fs::read(place(dir, of)?)?;
    check(of, &cache::sum(&bytes))?;
    Ok(bytes)
}

/// `user[:group]`, names or numbers, by the image's own /etc/passwd and /etc/group.
fn user(root: &Path, text: &str) -> Result<(u32, u32, Vec<u32>)> {
    if text.is_empty() {
        return Ok((0, 0, Vec::new()));
    }
    let read = |name: &str| -> Vec<Vec<String>> {
        // Not followed out of the root.
        let path = root.join("etc").join(name);
        let plain = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
        let text = if plain { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
    };
    let field = |line: &[String], at: usize| line.get(at).and_then(|text| text.parse().ok());
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let (passwd, groups) = (read("passwd"), read("group"));
    let entry = passwd.iter().find(|line| {
        line.first().is_some_and(|first| first == name) || line.get(2).is_some_and(|n| n == name)
    });
    let uid = match (entry.and_then(|line| field(line, 2)), name.parse()) {
        (Some(uid), _) | (None, Ok(uid)) => uid,
        _ => bail!("the image's user {name} is not in its /etc/passwd"),
    };
    let gid = match group {
        None => entry.and_then(|line| field(line, 3)).unwrap_or(0),
        Some(group) => {
            let entry = groups.iter().find(|line| line.first().is_some_and(|first| first == group));
            match (entry.and_then(|line| field(line, 2)), group.parse()) {
                (Some(gid), _) | (None, Ok(gid)) => gid,
                _ => bail!("the image's group {group} is not in its /etc/group"),
            }
        }
    };
    let login = entry.and_then(|line| line.first());
    let member = |line: &&Vec<String>| {
        let names = line.get(3).map(|names| names.split(',').collect::<Vec<_>>());
        login.is_some_and(|login| names.unwrap_or_default().contains(&login.as_str()))
    };
    // As docker does: further groups only where none was named.
    let more = match group {
        None => groups.iter().filter(member).filter_map(|line| field(line, 2)).collect(),
        Some(_) => Vec::new(),
    };
    Ok((uid, gid, more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_by_number() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("passwd"), "root:x:0:0::/:\nweb:x:33:34::/:\n").unwrap();
        fs::write(etc.join("group"), "root:x:0:\nweb:x:34:\nlog:x:40:web,root\n").unwrap();
        let user = |text| user(root.path(), text);
        assert_eq!(user("").unwrap(), (0, 0, vec![]));
        assert_eq!(user("web").unwrap(), (33, 34, vec![40]));
        assert_eq!(user("33").unwrap(), (33, 34, vec![40]));
        assert_eq!(user("web:log").unwrap(), (33, 40, vec![]));
        assert_eq!(user("1000:1001").unwrap(), (1000, 1001, vec![]));
        assert_eq!(user("1000").unwrap(), (1000, 0, vec![]));
        assert!(user("web:nogroup").is_err());
    }
}
