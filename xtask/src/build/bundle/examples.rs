//! The bundle that comes with brisk, and those that the tests run.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

use super::{Origin, Sizes, deploy, layout, make, make_from};
use crate::build::scenario::Workload;
use crate::build::source;
use crate::cache::{self, Cache};
use crate::guest::init;
use crate::guest::oci::{self, Source};
use crate::paths;

/// Makes the example, which greets.
///
/// # Errors
/// Something does not build.
pub fn hello(cache: &Cache, out: &Path) -> Result<Sizes> {
    make(cache, "hello", &Workload::default(), hello_image(cache)?, out)
}

/// Makes the example twice, the second time with brisk's source copied elsewhere and nothing of our init or
/// the image out of the cache.
///
/// # Errors
/// Bytes differ.
pub fn check_twice() -> Result<u32> {
    let cache = Cache::open()?;
    let dir = tempfile::Builder::new().prefix("bundle-").tempdir()?;
    let [first, again] = ["first", "again"].map(|name| dir.path().join(name));
    hello(&cache, &first)?;
    let other = Cache::at(&dir.path().join("cache"))?;
    let (source, target_dir) = (&dir.path().join("a/copy"), &dir.path().join("target"));
    source::copy(paths::workspace(), source)?;
    let origin = Origin { cache: &other, kernels: &cache, source, target_dir };
    make_from(&origin, "hello", &Workload::default(), hello_image(&other)?, &again)?;
    let sums = [cache::file_sum(&first)?, cache::file_sum(&again)?];
    ensure!(sums[0] == sums[1], "the same bundle twice: {} and {}", sums[0], sums[1]);
    Ok(1)
}

/// What the Linux tests get: names of variables, and bundles in the cache's or cargo's directory: the
/// example, the same where nothing can be written, a root with busybox alone, and that with a disk; the
/// example as an image's layout, and the directory of the files that engines want.
///
/// # Errors
/// Something does not build.
pub fn for_tests(cache: &Cache) -> Result<Vec<(&'static str, PathBuf)>> {
    let dir = paths::target()?.join("bundles");
    fs::create_dir_all(&dir)?;
    let usual = Workload::default();
    let fixed = Workload { writable: Some("no".to_owned()), ..usual.clone() };
    let shell = Workload {
        command: Some(vec!["/bin/busybox".to_owned()]),
        env: vec!["GREETING=hello there".to_owned()],
        ..usual.clone()
    };
    let root = tempfile::tempdir()?;
    world_readable(root.path())?;
    fs::create_dir(root.path().join("bin"))?;
    fs::copy("/bin/busybox", root.path().join("bin/busybox")).context("busybox-static")?;
    std::os::unix::fs::symlink("busybox", root.path().join("bin/sh"))?;
    fs::write(root.path().join("file"), "old\n")?;
    let busybox = oci::ensure(cache, &Source::Rootfs(root.path().to_owned()), false)?;
    let stays = Workload { writable: Some("disk:state.raw".to_owned()), ..shell.clone() };
    let mut made = Vec::new();
    for (variable, name, workload, image) in [
        ("BRISK_BUNDLE", "hello", &usual, hello_image(cache)?),
        ("BRISK_BUNDLE_FIXED", "fixed", &fixed, hello_image(cache)?),
        ("BRISK_BUNDLE_DISK", "stays", &stays, busybox.clone()),
        ("BRISK_BUNDLE_SHELL", "shell", &shell, busybox),
    ] {
        let path = dir.join(name);
        make(cache, name, workload, image, &path)?;
        made.push((variable, path));
    }
    let (hello, out) = (dir.join("hello"), dir.join("layout"));
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    layout::write(&out.to_string_lossy(), &hello, "hello")?;
    made.push(("BRISK_BUNDLE_LAYOUT", out));
    let out = dir.join("deploy");
    deploy::write(&out, &hello, "hello")?;
    made.push(("BRISK_BUNDLE_DEPLOY", out));
    Ok(made)
}

/// The image of the example.
pub(super) fn hello_image(cache: &Cache) -> Result<oci::Image> {
    let guest = init::ensure(cache)?;
    let root = tempfile::tempdir()?;
    world_readable(root.path())?;
    for name in ["dev", "proc", "sys"] {
        fs::create_dir(root.path().join(name))?;
    }
    fs::copy(&guest.hello, root.path().join("hello"))?;
    world_readable(&root.path().join("hello"))?;
    let mut image = oci::ensure(cache, &Source::Rootfs(root.path().to_owned()), false)?;
    image.recipe.entrypoint = vec!["/hello".to_owned()];
    Ok(image)
}

fn world_readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
