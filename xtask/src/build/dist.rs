//! `cargo xtask dist`: one archive with every scenario's binary, and what must go with it.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::cmd;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::build::features::{self, Features};
use crate::build::scenario::{self, Scenario};
use crate::build::{self, Libc, Order, bundle};
use crate::cache::Cache;
use crate::ui::Step;
use crate::{cache, paths};

pub mod licences;
mod man;
mod package;

/// Make a tar archive with every scenario's binaries, manifests, checksums, licences, help, manual page
/// and a bundle as an example; beside it a Debian package of the full binary, and the SHA-256 of both.
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
            check(&place.join("brisk"), &known, wanted)?;
            step.tick();
        }
    }
    step.done();
    let full = root.join("static/full/brisk");
    let texts = Texts::of(&full, &known.version)?;
    fs::write(root.join("HELP.txt"), &texts.help)?;
    fs::write(root.join("brisk.1"), &texts.page)?;
    fs::write(root.join("brisk.bash"), &texts.completion)?;
    let example = root.join("example");
    fs::create_dir(&example)?;
    bundle::examples::hello(&Cache::open()?, &example.join("hello"))?;
    for file in ["features.md", "SECURITY.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(paths::workspace().join(file), root.join(file)).context(file)?;
    }
    fs::copy(paths::workspace().join("README.md"), root.join("PROJECT.md")).context("README.md")?;
    // Which it links to.
    fs::create_dir(root.join("docs"))?;
    for page in fs::read_dir(paths::workspace().join("docs")).context("docs")? {
        let page = page?;
        fs::copy(page.path(), root.join("docs").join(page.file_name()))?;
    }
    fs::write(root.join("README.md"), readme(&known.version, &scenarios))?;
    let licences = licences::of_all(build::TARGET)?;
    fs::write(root.join("LICENCES.txt"), &licences)?;
    fs::write(root.join("SHA256SUMS"), sums(&root)?)?;
    let seconds = seconds();
    archive(dir.path(), &name, &out, &seconds)?;
    let beside = out.parent().unwrap_or(&target_dir);
    let deb = texts.package(&full, &known.version, beside)?;
    for file in [&out, &deb] {
        let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let sum = format!("{}  {name}\n", cache::file_sum(file)?);
        fs::write(beside.join(format!("{name}.sha256")), &sum)?;
        println!("{}: {} bytes, sha256 {sum}", file.display(), fs::metadata(file)?.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// A binary runs, and has the scenario's features and no others.
fn check(program: &Path, known: &Features, scenario: &Scenario) -> Result<()> {
    let text = cmd!(program, "--features").read().context("brisk --features")?;
    let has: BTreeSet<&str> = text.trim().split(',').collect();
    let wanted = known.closure(&scenario.features);
    let wanted: BTreeSet<&str> =
        wanted.iter().map(String::as_str).filter(|f| *f != "full").collect();
    ensure!(has == wanted, "{}: has {has:?}, not {wanted:?}", program.display());
    Ok(())
}

/// What goes with a binary of all features.
struct Texts {
    help: String,
    page: String,
    completion: String,
}

impl Texts {
    fn of(program: &Path, version: &str) -> Result<Self> {
        let help = cmd!(program, "--help").read().context("brisk --help")?;
        let (page, completion) = (man::page(&help, version), man::completion(&help));
        Ok(Self { help: help + "\n", page, completion })
    }

    /// The Debian package of `program`, in the directory `out`.
    fn package(&self, program: &Path, version: &str, out: &Path) -> Result<PathBuf> {
        let contents = package::Contents {
            program: &fs::read(program)?,
            man: &self.page,
            completion: &self.completion,
            licences: &licences::of_all(build::TARGET)?,
        };
        package::make(out, version, &seconds(), &contents)
    }
}

/// The Debian package of `program`, a static brisk of all features, for the tests that boot it.
///
/// # Errors
/// It does not run, or dpkg-deb failed.
pub fn package_for_tests(program: &Path) -> Result<PathBuf> {
    let version = features::of_brisk()?.version;
    Texts::of(program, &version)?.package(program, &version, &paths::target()?.join("bundles"))
}

/// What the archive says of itself.
fn readme(version: &str, scenarios: &[Scenario]) -> String {
    let mut text = format!(
        "# brisk {version}, x86_64 Linux\n\n\
         Each directory has one binary, `brisk`, and a manifest of what it is.\n\n\
         - `static/NAME/brisk` has its C library (musl) in it, runs on any Linux and starts sooner: take \
         this one. `dynamic/NAME/brisk` needs glibc 2.36 or later.\n\
         - NAME is what it is for; `full` has everything:\n\n"
    );
    for scenario in scenarios {
        text += &format!("  - `{}`: {}\n", scenario.name, scenario.about);
    }
    text + "\nTo run one:\n\n    static/full/brisk --kernel vmlinux --disk path=root.raw --cmdline \
            'root=/dev/vda console=hvc0' --console tty\n\n\
            A kernel and an image are yours to bring; PROJECT.md, which is the project's README, says how to \
            make both. `brisk.1` is the manual page, `brisk.bash` completes flags in bash, HELP.txt is \
            `brisk --help` of `full`, `sha256sum -c SHA256SUMS` checks all files.\n\n\
            `example/hello` is a VM in one file, as `cargo xtask bundle` makes them of a container's image: it \
            needs /dev/kvm and greets (`example/hello --help`).\n\n\
            ## Licences\n\n\
            brisk is under Apache-2.0 or MIT, at your option; LICENCES.txt has those of the crates in it. A \
            static binary has parts of musl in it, which is under MIT and asks for its notice. One that is built \
            with `--static=glibc` has parts of the GNU C library, which is under the LGPL 2.1: whoever passes \
            that on has to let its receivers link it anew with another glibc, for which brisk's source and \
            that command are enough. The dynamic ones have no part of a C library. In \
            `example/hello` is a Linux kernel, under the GPL 2: whoever passes it on has to offer its source \
            too, which is Debian's package of that version (`example/hello --brisk-manifest` has the kernel's \
            SHA-256) with the patches and the configuration in brisk's own source, `xtask/kernel`, by which \
            `cargo xtask kernel micro` makes it.\n"
}

/// The time of the last commit, which is that of all files.
fn seconds() -> String {
    let git = cmd!("git", "log", "-1", "--format=%ct").dir(paths::workspace()).stderr_null();
    git.read().map_or_else(|_| "0".to_owned(), |text| text.trim().to_owned())
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
fn archive(dir: &Path, name: &str, out: &Path, seconds: &str) -> Result<()> {
    let words = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+w,go-w"];
    let mtime = format!("--mtime=@{seconds}");
    let mut all: Vec<&str> = words.to_vec();
    let archive = out.to_string_lossy();
    all.extend([mtime.as_str(), "--use-compress-program=gzip -n", "-C"]);
    let dir = dir.to_string_lossy();
    all.extend([&*dir, "-cf", &*archive, name]);
    let output = cmd("tar", all).unchecked().run().context("cannot run tar")?;
    ensure!(output.status.success(), "tar failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_binary_of_another_scenario_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("brisk");
        fs::write(&program, "#!/bin/sh\necho pmem,mmio,seccomp\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let known = features::of_brisk().unwrap();
        let find = |name| scenario::find(name, &known.names()).unwrap();
        check(&program, &known, &find("function")).unwrap();
        for other in ["pmem", "full"] {
            let error = check(&program, &known, &find(other)).unwrap_err().to_string();
            assert!(error.contains("has {\"mmio\""), "{error}");
        }
    }
}
