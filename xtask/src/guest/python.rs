//! A Debian's Python that waits to answer, as an image.

use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::images;
use crate::cache::{Cache, Inputs};
use crate::debian;

/// What the image has as `/sbin/init`.
const INIT: &str = include_str!("../../guest/answer.py");
/// What it has besides minbase.
const PACKAGE: &str = "python3";
/// The ends of files are in blocks of their own, without which the guest maps no file from the image but
/// reads it into its page cache.
const MAPPED: &str = "-Enoinline_data";

/// The image, made when it is not in the cache: EROFS without partitions.
///
/// # Errors
/// A package cannot be downloaded, or the image cannot be built.
pub fn ensure(cache: &Cache) -> Result<PathBuf> {
    let suite = images::codename()?;
    let version = debian::candidate(PACKAGE)?.context("apt knows no package python3")?;
    let inputs = Inputs::new()
        .with("init", INIT)
        .with("suite", &suite)
        .with("version", version)
        .with("options", format!("{MAPPED} {}", images::UUID));
    let dir = cache.artifact("images-python", &inputs, |work, out| {
        let root = work.join("root");
        images::minbase(&suite, PACKAGE, work, &root)?;
        let init = root.join("usr/sbin/init");
        fs::write(&init, INIT)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        images::erofs(&root, &out.join("erofs.raw"), 0, &[MAPPED])
    })?;
    Ok(dir.join("erofs.raw"))
}
