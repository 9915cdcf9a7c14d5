//! A directory with what the pages' commands name, where they are run.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Ended;
use crate::cache::{Cache, Inputs};
use crate::guest::kernel::{self, Config};
use crate::guest::{images, init};
use crate::lab::{self, quote};
use crate::{build, debian, paths};

/// The command that makes the root is run once, as it is written: its result is kept.
const ROOT: &str = "mmdebstrap ";
/// What the pages leave to the reader, `…`, by a part of the command.
const REST: [(&str, &str); 2] = [
    (
        "--snapshot",
        "root=/dev/pmem0 rootfstype=erofs rootflags=dax console=hvc0 quiet \
         brisk.do=out=80:a0,say=restored,out=80:a1,poweroff",
    ),
    ("--boot-log", "vmlinux --initramfs initramfs --cmdline 'console=hvc0 quiet' --console null"),
];

/// The directory, and what commands find.
pub struct Place {
    dir: PathBuf,
    path: String,
    cache: Cache,
}

impl Place {
    /// Makes it anew.
    ///
    /// # Errors
    /// Something cannot be made.
    pub fn make() -> Result<Self> {
        debian::ensure(&debian::ALL)?;
        let cache = Cache::open()?;
        let dir = paths::target()?.join("pages");
        if dir.exists() {
            fs::remove_dir_all(&dir).context("what is left of the last time")?;
        }
        let bin = dir.join("bin");
        fs::create_dir_all(&bin)?;
        symlink(build::program(None)?, bin.join("brisk"))?;
        // cargo in the workspace, but its `xtask`, which is this program, in the directory.
        let xtask = env::current_exe().context("this program's path")?;
        let text = format!(
            "#!/bin/sh\n[ \"$1\" != xtask ] || {{ shift; exec {} \"$@\"; }}\n\
             cd {} && PATH=${{PATH#*:}} CARGO_INSTALL_ROOT={} exec cargo \"$@\"\n",
            quote(&xtask.to_string_lossy()),
            quote(&paths::workspace().to_string_lossy()),
            quote(&dir.join("install").to_string_lossy())
        );
        fs::write(bin.join("cargo"), text)?;
        fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755))?;
        let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap_or_default());
        let place = Self { dir, path, cache };
        place.layout()?;
        Ok(place)
    }

    /// A layout for the image that the page has from a registry.
    fn layout(&self) -> Result<()> {
        let script = "set -e
            umoci init --layout alpine
            umoci new --image alpine:latest
            umoci unpack --image alpine:latest unpacked
            mkdir unpacked/rootfs/bin unpacked/rootfs/etc
            cp /bin/busybox unpacked/rootfs/bin/
            ln -s busybox unpacked/rootfs/bin/sh
            ln -s busybox unpacked/rootfs/bin/cat
            echo 3.0-of-the-test > unpacked/rootfs/etc/alpine-release
            umoci repack --image alpine:latest unpacked";
        let (status, text) = self.shell(script)?;
        ensure!(status == 0, "umoci: {text}");
        Ok(())
    }

    /// Runs a command on this machine.
    ///
    /// # Errors
    /// There is no shell.
    pub fn run(&self, command: &str) -> Result<Ended> {
        if command.starts_with(ROOT) {
            return self.root(command);
        }
        self.shell(command)
    }

    fn shell(&self, script: &str) -> Result<Ended> {
        let output = cmd!("sh", "-c", script).dir(&self.dir).env("PATH", &self.path).stdin_null();
        let output = output.stderr_to_stdout().stdout_capture().unchecked().run()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.code().unwrap_or(-1), text))
    }

    /// What `command` makes as `root`, out of the cache.
    fn root(&self, command: &str) -> Result<Ended> {
        let inputs = Inputs::new().with("command", command);
        let kept = self.cache.artifact("pages-root", &inputs, |work, out| {
            let made = cmd!("sh", "-c", command).dir(work).stdin_null().stdout_null();
            made.run().with_context(|| command.to_owned())?;
            let archive = out.join("root.tar");
            cmd!("tar", "-C", work, "--xattrs", "-cf", archive, "root").run().context("tar")?;
            Ok(())
        })?;
        self.shell(&format!("tar -xf {}", quote(&kept.join("root.tar").to_string_lossy())))
    }

    /// Runs commands in one L1, one after the other, in a directory with what they name; what they write
    /// there comes back into this one.
    ///
    /// # Errors
    /// The lab failed.
    pub fn run_in_lab(&self, commands: &[&str]) -> Result<Vec<Ended>> {
        let kernel = kernel::ensure(&self.cache, Config::Guest)?.vmlinux;
        let small = images::small(&self.cache)?;
        let initramfs = init::ensure(&self.cache)?.initramfs;
        let mut script = "mkdir /tmp/pages; cd /tmp/pages\nset -u\n".to_owned();
        let bin = self.dir.join("bin");
        let _ = writeln!(script, "PATH={}:$PATH", quote(&lab_path(&bin)));
        for (from, to) in [
            (kernel.as_path(), "vmlinux"),
            (&small.ext4_partition, "jammy.raw"),
            (&small.erofs, "app.erofs"),
            (&initramfs, "initramfs"),
            (&self.dir.join("python"), "python"),
        ] {
            let _ = writeln!(script, "cp -L {} {to}", quote(&lab_path(from)));
        }
        for (index, command) in commands.iter().enumerate() {
            let mut command = (*command).to_owned();
            for (part, rest) in REST {
                if command.contains(part) {
                    command = command.replace('…', rest);
                }
            }
            let _ = writeln!(
                script,
                "sh -c {} > /tmp/out/said.{index} 2>&1 < /dev/null; echo $? > /tmp/out/status.{index}",
                quote(&command)
            );
        }
        script += "cp boot.* clone.* /tmp/out/\n";
        let output = lab::run(&lab::Job {
            script,
            memory_mib: 6144,
            hugepages: 300,
            timeout: Duration::from_secs(600),
            ..lab::Job::default()
        })?;
        ensure!(output.status == 0, "the lab's script failed:\n{}", output.console);
        let read = |name: String| {
            let bytes = fs::read(output.dir.join(&name)).with_context(|| name.clone())?;
            Ok::<_, anyhow::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        for entry in fs::read_dir(&output.dir)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("boot.") || name.starts_with("clone.") {
                fs::copy(entry.path(), self.dir.join(name))?;
            }
        }
        let ended = |index| {
            let status = read(format!("status.{index}"))?.trim().parse()?;
            Ok((status, read(format!("said.{index}"))?))
        };
        (0..commands.len()).map(ended).collect()
    }
}

fn lab_path(path: &Path) -> String {
    lab::path_in_l1(path).to_string_lossy().into_owned()
}
