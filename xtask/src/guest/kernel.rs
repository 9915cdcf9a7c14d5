//! `cargo xtask kernel`: guest kernels from Debian's kernel source and our config fragments.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use duct::{Expression, cmd};
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use crate::cache::{Cache, Inputs};
use crate::debian;
use crate::ui::Step;

/// The package with the kernel's source, and the name that it gives its archive.
const SOURCE: &str = "linux-source-6.12";

/// Makes the kernel's first C code write to the boot timer.
const BOOT_TIMER: &str = include_str!("../../kernel/boot-timer.patch");

/// Lets a kernel without PCI load ACPI's tables.
const ACPI: &str = include_str!("../../kernel/acpi-without-pci.patch");

/// What the tuned kernels are patched with: each says why and what it gains.
const TUNING: &[&str] = &[
    BOOT_TIMER,
    ACPI,
    include_str!("../../kernel/cpuid-once.patch"),
    include_str!("../../kernel/linker-padding.patch"),
    include_str!("../../kernel/empty-entries.patch"),
    include_str!("../../kernel/alternatives-decoded.patch"),
    include_str!("../../kernel/uevents-to-nobody.patch"),
    include_str!("../../kernel/parameters-once.patch"),
    include_str!("../../kernel/free-at-boot.patch"),
    include_str!("../../kernel/image-memory.patch"),
    include_str!("../../kernel/interrupts-at-boot.patch"),
    include_str!("../../kernel/struct-pages.patch"),
    include_str!("../../kernel/pages-together.patch"),
    include_str!("../../kernel/dax-waiters.patch"),
    include_str!("../../kernel/clones-at-once.patch"),
];

const MICRO: &str = include_str!("../../kernel/micro.config");

/// Build a guest kernel (about 6 minutes on 2 cores; cached).
#[derive(FromArgs)]
#[argh(subcommand, name = "kernel")]
pub struct Args {
    /// guest (all that the tests use; default), micro (as little as boots) or micro-smp (the same for
    /// more than one CPU)
    #[argh(option, default = "Config::Guest")]
    config: Config,
}

/// Which config fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Config {
    /// All that the tests and peers use.
    Guest,
    /// As little as boots.
    Micro,
    /// The same for more than one CPU.
    MicroSmp,
}

/// A built kernel.
pub struct Built {
    /// ELF, without symbols and debug information, with a PVH note.
    pub vmlinux: PathBuf,
    /// bzImage.
    pub bzimage: PathBuf,
    /// Where the symbols are, as `nm` writes it.
    pub map: PathBuf,
}

/// How a config is built.
struct Recipe {
    /// Name of the artifact.
    name: &'static str,
    /// What is merged over tinyconfig, in this order.
    fragments: &'static [&'static str],
    /// For `patch -p1`, in this order.
    patches: &'static [&'static str],
    /// About how many files are compiled, for the progress.
    files: u64,
}

impl Config {
    /// All, by the names that `--config` takes.
    pub const ALL: [(&'static str, Self); 3] =
        [("guest", Self::Guest), ("micro", Self::Micro), ("micro-smp", Self::MicroSmp)];

    /// Its name in [`Self::ALL`].
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, config)| *config == self).map_or("", |(name, _)| name)
    }

    fn recipe(self) -> Recipe {
        match self {
            Self::Guest => Recipe {
                name: "kernel-guest",
                fragments: &[include_str!("../../kernel/guest.config")],
                patches: &[BOOT_TIMER],
                files: 1190,
            },
            Self::Micro => {
                Recipe { name: "kernel-micro", fragments: &[MICRO], patches: TUNING, files: 880 }
            }
            Self::MicroSmp => Recipe {
                name: "kernel-micro-smp",
                fragments: &[MICRO, include_str!("../../kernel/micro-smp.config")],
                patches: TUNING,
                files: 910,
            },
        }
    }
}

impl FromStr for Config {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == s);
        found.map(|(_, config)| *config).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name);
            format!("{s}: no such config; there are {}", names.join(", "))
        })
    }
}

/// Runs the task.
pub fn run(args: &Args) -> Result<ExitCode> {
    debian::ensure(debian::BOOT)?;
    let kernel = ensure(&Cache::open()?, args.config)?;
    println!("{}\n{}", kernel.vmlinux.display(), kernel.bzimage.display());
    Ok(ExitCode::SUCCESS)
}

/// The kernel of this config, built when it is not in the cache. A build that was interrupted goes
/// on where it was.
///
/// # Errors
/// The source cannot be fetched or the build failed.
pub fn ensure(cache: &Cache, config: Config) -> Result<Built> {
    let recipe = config.recipe();
    let (version, inputs) = match recipe.source()? {
        Some((version, inputs)) if cache.has(recipe.name, &inputs) => (version, inputs),
        // Not built yet: better from today's lists, as older packages vanish from the mirrors.
        _ => {
            debian::update();
            recipe.source()?.with_context(|| format!("apt knows no package {SOURCE}"))?
        }
    };
    let Recipe { name, fragments, patches, files } = recipe;
    let fragment = &*fragments.concat();
    let dir = cache.artifact(name, &inputs, |work, out| {
        locked(work, "true", &[]).run().context("cannot run flock")?;
        unpack(&version, patches, work)?;
        let tree = work.join("tree");
        configure(&tree, fragment)?;
        compile(work, name, files)?;
        cmd!("strip", "-s", "-o", out.join("vmlinux"), tree.join("vmlinux"))
            .run()
            .context("cannot run strip")?;
        fs::copy(tree.join("arch/x86/boot/bzImage"), out.join("bzImage"))?;
        fs::copy(tree.join(".config"), out.join("config"))?;
        fs::copy(tree.join("System.map"), out.join("System.map"))?;
        Ok(())
    })?;
    Ok(Built {
        vmlinux: dir.join("vmlinux"),
        bzimage: dir.join("bzImage"),
        map: dir.join("System.map"),
    })
}

/// Unpacks a config's patched source into a directory that is there.
///
/// # Errors
/// It cannot be had.
pub fn source(into: &Path, config: Config) -> Result<()> {
    let version = debian::candidate(SOURCE)?;
    let version = version.with_context(|| format!("apt knows no package {SOURCE}"))?;
    let work = tempfile::tempdir_in(into.parent().unwrap_or(into))?;
    unpack(&version, config.recipe().patches, work.path())?;
    fs::remove_dir(into)?;
    fs::rename(work.path().join("tree"), into).context("the kernel's source")
}

/// Whether the kernel of this config is in the cache.
///
/// # Errors
/// There is no gcc.
pub fn is_built(cache: &Cache, config: Config) -> Result<bool> {
    let recipe = config.recipe();
    Ok(recipe.source()?.is_some_and(|(_, inputs)| cache.has(recipe.name, &inputs)))
}

impl Recipe {
    /// The version of the source that apt would fetch, and all that the kernel is made of.
    fn source(&self) -> Result<Option<(String, Inputs)>> {
        let compiler = cmd!("gcc", "-dumpfullversion").read().context("cannot run gcc")?;
        Ok(debian::candidate(SOURCE)?.map(|version| {
            let inputs = Inputs::new()
                .with("source", &version)
                .with("fragment", self.fragments.concat())
                .with("patch", self.patches.concat())
                .with("compiler", compiler);
            (version, inputs)
        }))
    }
}

/// Makes `work/tree`, the patched source.
fn unpack(version: &str, patches: &[&str], work: &Path) -> Result<()> {
    let (tree, deb, whole) = (work.join("tree"), work.join("deb"), work.join("unpacked"));
    if whole.exists() {
        return Ok(());
    }
    for dir in [&tree, &deb] {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
    }
    debian::unpack(SOURCE, version, &deb)?;
    let step = Step::start("unpacking the kernel's source");
    let archive = deb.join(format!("usr/src/{SOURCE}.tar.xz"));
    let (archive, into) = (archive.to_string_lossy(), tree.to_string_lossy());
    locked(work, "tar", &["-xf", &archive, "-C", &into, "--strip-components=1"])
        .run()
        .context("cannot unpack the kernel's source")?;
    fs::remove_dir_all(&deb)?;
    for patch in patches {
        let run = cmd!("patch", "-p1", "--batch").dir(&tree).stdin_bytes(*patch);
        quiet(&run, "cannot patch the kernel; do xtask/kernel/*.patch fit its version?")?;
    }
    fs::write(whole, version)?;
    step.done();
    Ok(())
}

/// Writes the tree's `.config`: the fragment over tinyconfig.
fn configure(tree: &Path, fragment: &str) -> Result<()> {
    let make = |target: &str| cmd!("make", "-s", target).dir(tree);
    quiet(&make("tinyconfig"), "make tinyconfig")?;
    fs::write(tree.join("brisk.config"), fragment)?;
    let merge = cmd!(tree.join("scripts/kconfig/merge_config.sh"), "-m", ".config", "brisk.config")
        .dir(tree);
    quiet(&merge, "merge_config.sh")?;
    quiet(&make("olddefconfig"), "make olddefconfig")?;
    let lost = lost(fragment, &fs::read_to_string(tree.join(".config"))?);
    ensure!(
        lost.is_empty(),
        "the kernel's configuration does not take these lines (what do they depend on?): {}",
        lost.join(", ")
    );
    Ok(())
}

/// The settings of `fragment` that `config` does not have.
fn lost<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let has = |line: &str| config.lines().any(|l| l == line);
    fragment
        .lines()
        .filter(|line| match line.strip_prefix("# ").and_then(|l| l.strip_suffix(" is not set")) {
            // A symbol whose dependencies are off is not in the file at all: off, too.
            Some(symbol) => config.lines().any(|l| l.starts_with(&format!("{symbol}="))),
            None => line.starts_with("CONFIG_") && !has(line),
        })
        .collect()
}

/// Builds vmlinux and bzImage, showing how many of about `files` are compiled.
fn compile(work: &Path, name: &str, files: u64) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    let make = locked(work, "make", &[&format!("-j{jobs}"), "vmlinux", "bzImage"])
        .dir(work.join("tree"))
        // The same inputs give the same kernel, whoever builds it and when.
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .env("KBUILD_BUILD_USER", "brisk")
        .env("KBUILD_BUILD_HOST", "brisk")
        .stdin_null()
        .stderr_to_stdout();
    let mut step = Step::counted(&format!("building {name}"), files);
    let mut last = VecDeque::new();
    let reader = make.reader().context("cannot run make")?;
    for line in BufReader::new(&reader).lines() {
        match line {
            Ok(line) => {
                if line.starts_with("  CC ") {
                    step.tick();
                }
                last.push_back(line);
                if last.len() > 20 {
                    last.pop_front();
                }
            }
            // That is how duct tells that make failed.
            Err(_) => bail!("make failed:\n{}", Vec::from(last).join("\n")),
        }
    }
    step.done();
    Ok(())
}

/// A long command with the lock of `work`, which its children hold too: where xtask alone is
/// killed, the next xtask waits for what still runs in `work`.
fn locked(work: &Path, program: &str, words: &[&str]) -> Expression {
    let mut args = vec![work.join("lock").into_os_string(), program.into()];
    args.extend(words.iter().map(Into::into));
    cmd("flock", args)
}

/// Runs a command, whose output matters only when it fails.
fn quiet(command: &Expression, what: &str) -> Result<()> {
    let run = command.stderr_to_stdout().stdout_capture().unchecked().run();
    let output = run.with_context(|| what.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{what}:\n{}", text.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_lost_settings() {
        let fragment = "# comment\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n\
            # CONFIG_D is not set\n# CONFIG_E is not set\nCONFIG_F=8\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_C is not set\nCONFIG_E=y\n\
            CONFIG_F=16\nCONFIG_DD=y\n";
        assert_eq!(lost(fragment, config), ["CONFIG_B=y", "# CONFIG_E is not set", "CONFIG_F=8"]);
        assert!(lost("CONFIG_A=y", config).is_empty());
    }

    #[test]
    fn configs_by_name() {
        assert_eq!("micro".parse(), Ok(Config::Micro));
        assert!("big".parse::<Config>().unwrap_err().ends_with("guest, micro, micro-smp"));
    }
}
