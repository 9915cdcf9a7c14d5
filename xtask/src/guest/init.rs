//! The guests' userspace: our init (`xtask/guest/init.rs`) and the initramfs around it.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use std::env;
use std::fs;
use std::path::PathBuf;

use crate::cache::{Cache, Inputs};
use crate::guest::cpio::Archive;

/// Init's source.
const INIT: &str = include_str!("../../guest/init.rs");

/// How init is compiled: small, freestanding, static. `-z noseparate-code` keeps it in as few pages
/// as it has bytes for.
const FLAGS: &[&str] = &[
    "--edition=2024",
    "--crate-name=init",
    "--target=x86_64-unknown-linux-gnu",
    "-Copt-level=s",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    "-Cstrip=symbols",
    "-Clink-args=-nostdlib -nostartfiles -static -no-pie -Wl,--build-id=none -Wl,-z,noseparate-code",
];

/// Initial RAM file systems, newc cpio, not compressed.
pub struct Guest {
    /// Only our init and `/dev/console`: what boots are measured with.
    pub initramfs: PathBuf,
    /// The same with busybox, for `brisk.do=shell`.
    pub shell_initramfs: PathBuf,
    /// Our init alone, a static ELF program, for disk images.
    pub init: PathBuf,
}

/// The guests' userspace, built when it is not in the cache.
///
/// # Errors
/// The compiler failed or the cache cannot be written.
pub fn ensure(cache: &Cache) -> Result<Guest> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = cmd!(&rustc, "-vV").read().context("cannot run rustc")?;
    let busybox = fs::read("/bin/busybox").context("/bin/busybox of package busybox-static")?;
    let inputs = Inputs::new()
        .with("init", INIT)
        .with("flags", FLAGS.join(" "))
        .with("compiler", version)
        .with("busybox", &busybox)
        .with("archive", archive(b"", None));
    let dir = cache.artifact("guest", &inputs, |work, out| {
        let source = work.join("init.rs");
        fs::write(&source, INIT)?;
        let mut args: Vec<_> = FLAGS.iter().map(Into::into).collect();
        args.extend([source.into_os_string(), "-o".into(), out.join("init").into_os_string()]);
        let compiled = cmd(&rustc, args)
            .stderr_to_stdout()
            .stdout_capture()
            .unchecked()
            .run()
            .context("cannot run rustc")?;
        let text = String::from_utf8_lossy(&compiled.stdout);
        ensure!(compiled.status.success(), "xtask/guest/init.rs: {text}");
        let init = fs::read(out.join("init"))?;
        fs::write(out.join("initramfs"), archive(&init, None))?;
        fs::write(out.join("initramfs-shell"), archive(&init, Some(&busybox)))?;
        Ok(())
    })?;
    Ok(Guest {
        initramfs: dir.join("initramfs"),
        shell_initramfs: dir.join("initramfs-shell"),
        init: dir.join("init"),
    })
}

/// An initramfs of init, the places that it mounts to, and busybox.
fn archive(init: &[u8], busybox: Option<&[u8]>) -> Vec<u8> {
    let archive = Archive::new()
        .directory("dev")
        .character_device("dev/console", 5, 1)
        .directory("proc")
        .directory("sys")
        .file("init", 0o755, init);
    match busybox {
        Some(busybox) => archive.directory("bin").file("bin/busybox", 0o755, busybox),
        None => archive,
    }
    .finish()
}
