//! `cargo xtask image`: a container's image as one EROFS file that a VM can run from. The same input gives
//! the same bytes.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use duct::cmd;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cache::{self, Cache, Inputs};
use crate::debian;
use crate::guest::images::{self, quiet};
use crate::ui::Step;
use layout::Layout;

mod layout;

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

#[cfg(test)]
mod tests;
