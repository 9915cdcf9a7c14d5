//! `cargo xtask dist`: one archive with every scenario's binary, and what must go with it.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::build::scenario;
use crate::build::{self, Libc, Order, features};
use crate::ui::Step;
use crate::{cache, paths};

pub mod licences;

/// Make a tar archive with every scenario's binaries, manifests, checksums, licences and help.
#[derive(FromArgs)]
#[argh(subcommand, name = "dist")]
pub struct Args {
    /// the archive (default target/brisk-VERSION-x86_64.tar.gz)
    #[argh(option)]
    out: Option<PathBuf>,
}

/// Runs the task.
///
/// # Errors
/// A binary does not build, or a dependency has no licence's text.
pub fn run(args: &Args) -> Result<ExitCode> {
    let (known, target_dir) = (features::of_brisk()?, paths::target()?);
    let name = format!("brisk-{}-x86_64", known.version);
    let out = match &args.out {
        Some(path) => std::path::absolute(path)?,
        None => target_dir.join(format!("{name}.tar.gz")),
    };
    let dir = tempfile::tempdir()?;
    let root = dir.path().join(&name);
    let scenarios = scenario::table();
    let mut step = Step::counted("building every scenario", 2 * scenarios.len() as u64);
    for wanted in &scenarios {
        for libc in [Libc::Dynamic, Libc::Musl] {
            let source = paths::workspace();
            let target = build::TARGET;
            let order = Order { source, target_dir: &target_dir, scenario: wanted, libc, target };
            let product = build::make(&order).with_context(|| wanted.name.clone())?;
            let place = root.join(libc.place()).join(&wanted.name);
            build::write(&place, &product, &build::manifest(&order, &product, &known)?)?;
            step.tick();
        }
    }
    step.done();
    let full = root.join("static/full/brisk");
    let help = cmd!(&full, "--help").read().context("brisk --help")?;
    fs::write(root.join("HELP.txt"), help + "\n")?;
    for file in ["README.md", "features.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(paths::workspace().join(file), root.join(file)).context(file)?;
    }
    fs::write(root.join("LICENCES.txt"), licences::of_all(build::TARGET)?)?;
    fs::write(root.join("SHA256SUMS"), sums(&root)?)?;
    archive(dir.path(), &name, &out)?;
    println!("{}: {} bytes", out.display(), fs::metadata(&out)?.len());
    Ok(ExitCode::SUCCESS)
}

/// What `sha256sum -c` reads.
fn sums(root: &Path) -> Result<String> {
    let mut sums = BTreeMap::new();
    for (name, path) in cache::files(root)? {
        sums.insert(name, cache::sum(&fs::read(path)?));
    }
    Ok(sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect())
}

/// The same files give the same archive.
fn archive(dir: &Path, name: &str, out: &Path) -> Result<()> {
    let seconds = cmd!("git", "log", "-1", "--format=%ct").dir(paths::workspace()).stderr_null();
    let seconds = seconds.read().unwrap_or_else(|_| "0".to_owned());
    let words = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+w,go-w"];
    let mtime = format!("--mtime=@{}", seconds.trim());
    let mut all: Vec<&str> = words.to_vec();
    let archive = out.to_string_lossy();
    all.extend([mtime.as_str(), "--use-compress-program=gzip -n", "-C"]);
    let dir = dir.to_string_lossy();
    all.extend([&*dir, "-cf", &*archive, name]);
    let output = cmd("tar", all).unchecked().run().context("cannot run tar")?;
    ensure!(output.status.success(), "tar failed");
    Ok(())
}
