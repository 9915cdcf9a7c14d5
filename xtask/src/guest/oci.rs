//! `cargo xtask image`: a container's image as one EROFS file that a VM can run from.
//!
//! Layers are unpacked by umoci, which knows whiteouts, hard links, sparse files, devices, owners and
//! extended attributes, and lets no layer out of the root. The same input gives the same bytes.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use duct::cmd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cache::{self, Cache, Inputs};
use crate::debian;
use crate::guest::images::{self, quiet};
use crate::ui::Step;

/// Make an EROFS image of a container's image, an archive or a directory.
#[derive(FromArgs)]
#[argh(subcommand, name = "image")]
pub struct Args {
    #[argh(option)]
    /// an OCI layout, LAYOUT or LAYOUT:TAG, as skopeo, buildah and umoci write it
    oci: Option<String>,
    #[argh(option)]
    /// a tar archive of a root directory
    tar: Option<PathBuf>,
    #[argh(option)]
    /// a root directory
    rootfs: Option<PathBuf>,
    /// smaller, at the price of memory and time in the guest, and for a kernel with EROFS_FS_ZIP
    #[argh(switch)]
    compress: bool,
    /// the image; beside it, with .json behind its name, what is to be run in it
    #[argh(option)]
    out: PathBuf,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// LAYOUT or LAYOUT:TAG.
    Oci(String),
    /// A root directory's archive.
    Tar(PathBuf),
    /// A root directory.
    Rootfs(PathBuf),
    /// An image that is there, with or without its `.json`.
    Image(PathBuf),
}

/// Reads `oci:LAYOUT:TAG`, `tar:FILE`, `rootfs:DIR` or `image:FILE`.
///
/// # Errors
/// Anything else.
pub fn parse(text: &str) -> Result<Source> {
    Ok(match text.split_once(':') {
        Some(("oci", reference)) => Source::Oci(reference.to_owned()),
        Some(("tar", path)) => Source::Tar(path.into()),
        Some(("rootfs", path)) => Source::Rootfs(path.into()),
        Some(("image", path)) => Source::Image(path.into()),
        _ => bail!("image {text}: give oci:LAYOUT:TAG, tar:FILE, rootfs:DIR or image:FILE"),
    })
}

/// What is to be run in an image, and as whom.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Recipe {
    /// The words of the command line that are always there.
    pub entrypoint: Vec<String>,
    /// Those that given ones replace.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// User, group and further groups, by number.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// More of them.
    pub groups: Vec<u32>,
    /// What it was made of.
    pub digest: String,
}

/// An image in the cache, or the user's own.
#[derive(Clone)]
pub struct Image {
    /// The EROFS.
    pub path: PathBuf,
    /// What to run.
    pub recipe: Recipe,
}

/// Runs the task.
///
/// # Errors
/// The source is wrong, or a tool failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let source = match (&args.oci, &args.tar, &args.rootfs) {
        (Some(oci), None, None) => Source::Oci(oci.clone()),
        (None, Some(tar), None) => Source::Tar(tar.clone()),
        (None, None, Some(dir)) => Source::Rootfs(dir.clone()),
        _ => bail!("give one of --oci LAYOUT[:TAG], --tar FILE and --rootfs DIR"),
    };
    debian::ensure(debian::IMAGES)?;
    let image = ensure(&Cache::open()?, &source, args.compress)?;
    // Whole or not at all.
    let cannot = || format!("--out {}: cannot write", args.out.display());
    let part = beside(&args.out, ".part");
    let copied = fs::copy(&image.path, &part)
        .and_then(|_| fs::write(beside(&args.out, ".json"), text(&image.recipe)))
        .and_then(|()| fs::rename(&part, &args.out));
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied.with_context(cannot)?;
    let size = fs::metadata(&args.out)?.len();
    println!("{}: {size} bytes", args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn text(recipe: &Recipe) -> String {
    serde_json::to_string_pretty(recipe).unwrap_or_default() + "\n"
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The image of `source`, made where it is not in the cache.
///
/// # Errors
/// The source is wrong, or a tool failed; nothing is left behind.
pub fn ensure(cache: &Cache, source: &Source, compress: bool) -> Result<Image> {
    let inputs = |digest: &str| {
        let how = if compress { "lz4hc" } else { "plain" };
        Inputs::new().with("version", "1").with("how", how).with("digest", digest)
    };
    let dir = match source {
        Source::Oci(reference) => {
            let layout = Layout::open(reference)?;
            make(cache, &inputs(&layout.digest), |work, out| {
                let root = layout.unpack(work)?;
                let mut recipe = layout.recipe(&root)?;
                recipe.digest.clone_from(&layout.digest);
                fs::write(out.join("recipe.json"), text(&recipe))?;
                erofs(&root, &out.join("image"), compress)?;
                Ok(())
            })?
        }
        Source::Tar(path) => {
            let digest = format!("sha256:{}", cache::file_sum(path)?);
            make(cache, &inputs(&digest), |work, out| {
                let root = work.join("root");
                remove_tree(work)?;
                fs::create_dir_all(&root)?;
                let words = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"];
                let tar = cmd(
                    "tar",
                    words.map(std::ffi::OsString::from).into_iter().chain([
                        path.clone().into(),
                        "-C".into(),
                        root.clone().into(),
                    ]),
                );
                quiet(&tar, "tar").with_context(|| format!("--tar {}", path.display()))?;
                let recipe = Recipe { digest: digest.clone(), ..bare() };
                fs::write(out.join("recipe.json"), text(&recipe))?;
                erofs(&root, &out.join("image"), compress)?;
                Ok(())
            })?
        }
        Source::Rootfs(dir) => {
            ensure!(dir.is_dir(), "--rootfs {}: no directory", dir.display());
            // A directory has no digest: it is packed each time.
            let work = tempfile::Builder::new().prefix("image-").tempdir_in(cache.root())?;
            let image = work.path().join("image");
            erofs(dir, &image, compress)?;
            let digest = format!("sha256:{}", cache::file_sum(&image)?);
            make(cache, &inputs(&digest), |_, out| {
                let recipe = Recipe { digest: digest.clone(), ..bare() };
                fs::write(out.join("recipe.json"), text(&recipe))?;
                fs::rename(&image, out.join("image"))?;
                Ok(())
            })?
        }
        Source::Image(path) => {
            ensure!(path.is_file(), "--image {}: no such file", path.display());
            let json = beside(path, ".json");
            let mut recipe = match fs::read_to_string(&json) {
                Ok(text) => {
                    serde_json::from_str(&text).with_context(|| format!("{}", json.display()))?
                }
                Err(_) => bare(),
            };
            recipe.digest = format!("sha256:{}", cache::file_sum(path)?);
            return Ok(Image { path: path.clone(), recipe });
        }
    };
    let recipe = serde_json::from_slice(&fs::read(dir.join("recipe.json"))?)?;
    Ok(Image { path: dir.join("image"), recipe })
}

/// An artifact, of which a failure leaves nothing behind.
fn make(
    cache: &Cache,
    inputs: &Inputs,
    build: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    cache.artifact("image", inputs, |work, out| {
        let made = build(work, out);
        remove_tree(work)?;
        if made.is_err() {
            remove_tree(out)?;
        }
        made
    })
}

/// What is run where the image says nothing: whatever the caller names, as root, in `/`.
pub fn bare() -> Recipe {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Recipe { env: vec![path.to_owned()], cwd: "/".to_owned(), ..Recipe::default() }
}

/// Packs a directory; owners stay as they are.
fn erofs(root: &Path, image: &Path, compress: bool) -> Result<()> {
    let step = Step::start("packing the image");
    let mut words: Vec<std::ffi::OsString> =
        ["--quiet", "-T0", "-U", images::UUID].map(Into::into).into();
    if compress {
        words.push("-zlz4hc".into());
    }
    words.extend([image.into(), root.into()]);
    quiet(&cmd("mkfs.erofs", words), "mkfs.erofs")?;
    step.done();
    Ok(())
}

/// Removes what a tool left, read-only directories too.
fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot remove", dir.display()))
        }
        _ => Ok(()),
    }
}

/// A pointer to a blob (OCI image specification 1.0, descriptor.md).
#[derive(Deserialize, Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:` and 64 hex digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    /// `org.opencontainers.image.ref.name` is the tag.
    pub annotations: BTreeMap<String, String>,
    /// For an index of several machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A machine.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `amd64`
    pub architecture: String,
    /// `linux`
    pub os: String,
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
struct Layout {
    dir: PathBuf,
    manifest: Descriptor,
    digest: String,
    config: Config,
}

impl Layout {
    /// Reads LAYOUT or LAYOUT:TAG, and checks every blob that will be needed.
    fn open(reference: &str) -> Result<Layout> {
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
    fn unpack(&self, work: &Path) -> Result<PathBuf> {
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
    fn recipe(&self, root: &Path) -> Result<Recipe> {
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
#[path = "oci_tests.rs"]
mod tests;
