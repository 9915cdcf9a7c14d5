//! A Debian package of the full binary.

use anyhow::{Context, Result};
use duct::cmd;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::guest::images::quiet;

/// What goes into it: where to, what, and the mode.
pub struct Contents<'a> {
    /// The program, linked statically, so that it depends on nothing.
    pub program: &'a [u8],
    /// The manual page.
    pub man: &'a str,
    /// Completion for bash.
    pub completion: &'a str,
    /// The licences' texts.
    pub licences: &'a str,
}

/// Makes `out/brisk_VERSION_amd64.deb`. The same contents give the same bytes.
///
/// # Errors
/// dpkg-deb failed, or the directory cannot be made.
pub fn make(out: &Path, version: &str, seconds: &str, contents: &Contents<'_>) -> Result<PathBuf> {
    let work = tempfile::tempdir()?;
    let root = work.path().join("root");
    let control = format!(
        "Package: brisk\nVersion: {version}\nArchitecture: amd64\nMaintainer: The brisk authors\n\
         Section: admin\nPriority: optional\nDescription: boots a Linux VM to userspace\n A VMM for \
         Linux/KVM made for the time from its start to the guest's userspace.\n"
    );
    for (name, bytes, mode) in [
        ("DEBIAN/control", control.as_bytes(), 0o644),
        ("usr/bin/brisk", contents.program, 0o755),
        ("usr/share/man/man1/brisk.1", contents.man.as_bytes(), 0o644),
        ("usr/share/bash-completion/completions/brisk", contents.completion.as_bytes(), 0o644),
        ("usr/share/doc/brisk/copyright", contents.licences.as_bytes(), 0o644),
    ] {
        let path = root.join(name);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for dir in [root.clone(), root.join("DEBIAN"), root.join("usr")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let deb = out.join(format!("brisk_{version}_amd64.deb"));
    let words = ["--build", "--root-owner-group"].map(Into::into).into_iter();
    let all = words.chain([root.clone().into_os_string(), deb.clone().into_os_string()]);
    quiet(&cmd("dpkg-deb", all).env("SOURCE_DATE_EPOCH", seconds), "dpkg-deb")?;
    Ok(deb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_dpkg_reads() {
        let dir = tempfile::tempdir().unwrap();
        let contents =
            Contents { program: b"#!/bin/sh\n", man: ".TH", completion: "c", licences: "l" };
        let make = |name: &str| {
            let out = dir.path().join(name);
            fs::create_dir(&out).unwrap();
            fs::read(make(&out, "1.2.3", "1000000000", &contents).unwrap()).unwrap()
        };
        assert!(make("a") == make("b"), "the same contents give the same bytes");
        let deb = dir.path().join("a/brisk_1.2.3_amd64.deb");
        let list = cmd!("dpkg-deb", "--contents", &deb).read().unwrap();
        assert!(
            list.contains("-rwxr-xr-x root/root") && list.contains("./usr/bin/brisk"),
            "{list}"
        );
        assert_eq!(cmd!("dpkg-deb", "-f", &deb, "Version").read().unwrap(), "1.2.3");
    }
}
