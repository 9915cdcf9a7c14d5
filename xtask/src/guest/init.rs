//! The guests' userspace: our init (`xtask/guest/init.rs`) and the initramfs around it.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use std::env;
use std::fs;
use std::path::PathBuf;

use crate::cache::{Cache, Inputs};
use crate::guest::cpio::Archive;

/// The programs' sources, by the names that they have for the compiler. The format of the streams' frames
/// is brisk's own file.
const SOURCES: &[(&str, &str)] = &[
    ("hello.rs", include_str!("../../guest/hello.rs")),
    ("init.rs", include_str!("../../guest/init.rs")),
    ("load.rs", include_str!("../../guest/load.rs")),
    ("root.rs", include_str!("../../guest/root.rs")),
    ("streams.rs", include_str!("../../guest/streams.rs")),
    ("sys.rs", include_str!("../../guest/sys.rs")),
    ("terminal.rs", include_str!("../../guest/terminal.rs")),
    ("verbs.rs", include_str!("../../guest/verbs.rs")),
    ("wire.rs", include_str!("../../../devices/src/streams/wire.rs")),
    ("workload.rs", include_str!("../../guest/workload.rs")),
];

/// What is compiled of them.
const PROGRAMS: &[&str] = &["init", "hello"];

/// How init is compiled: small, freestanding, static. `-z noseparate-code` keeps it in as few pages
/// as it has bytes for.
const FLAGS: &[&str] = &[
    "--edition=2024",
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
    /// The smallest workload, a static ELF program.
    pub hello: PathBuf,
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
        .with("sources", SOURCES.iter().map(|(_, text)| *text).collect::<String>())
        .with("flags", FLAGS.join(" "))
        .with("compiler", version)
        .with("paths", "names alone")
        .with("busybox", &busybox)
        .with("archive", archive(b"", None));
    let dir = cache.artifact("guest", &inputs, |work, out| {
        for (name, text) in SOURCES {
            fs::write(work.join(name), text)?;
        }
        for name in PROGRAMS {
            let mut args: Vec<_> = FLAGS.iter().map(Into::into).collect();
            args.push(format!("--crate-name={name}").into());
            // By names alone: paths of this machine would be in the program.
            let source = format!("{name}.rs");
            args.extend([source.into(), "-o".into(), out.join(name).into_os_string()]);
            let compiled = cmd(&rustc, args)
                .dir(work)
                .stderr_to_stdout()
                .stdout_capture()
                .unchecked()
                .run()
                .context("cannot run rustc")?;
            let text = String::from_utf8_lossy(&compiled.stdout);
            ensure!(compiled.status.success(), "xtask/guest/{name}.rs: {text}");
        }
        let init = fs::read(out.join("init"))?;
        fs::write(out.join("initramfs"), archive(&init, None))?;
        fs::write(out.join("initramfs-shell"), archive(&init, Some(&busybox)))?;
        Ok(())
    })?;
    Ok(Guest {
        initramfs: dir.join("initramfs"),
        shell_initramfs: dir.join("initramfs-shell"),
        init: dir.join("init"),
        hello: dir.join("hello"),
    })
}

/// The initramfs of a workload, which `config` describes (see `xtask/guest/workload.rs`).
///
/// # Errors
/// Init cannot be read.
pub fn workload(guest: &Guest, config: &[u8]) -> Result<Vec<u8>> {
    let init = fs::read(&guest.init)?;
    Ok(Archive::new()
        .directory("dev")
        .character_device("dev/console", 5, 1)
        .directory("proc")
        .directory("sys")
        .file("init", 0o755, &init)
        .file("config", 0o644, config)
        .finish())
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
