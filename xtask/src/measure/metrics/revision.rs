//! brisk and kernels as they were at a commit: a checkout of their own, builds that are kept, and
//! failures to build that are kept too.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::build::{self, Libc, Order, features};
use crate::cache::{self, Cache, Inputs};
use crate::ui::Step;

/// A clone of somebody's repository, whose working tree is ours.
pub struct Checkout {
    repository: PathBuf,
    dir: PathBuf,
}

/// What became of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Built {
    /// The program or kernel.
    File(PathBuf),
    /// It does not build, for this reason.
    Fails(String),
}

/// What brisk is built from, in a checkout.
const SOURCES: [&str; 5] = ["src", "devices", "boot", "Cargo.toml", "Cargo.lock"];

/// Runs git in a directory and returns what it says.
///
/// # Errors
/// git fails; the error has what it said.
pub fn git(dir: &Path, words: &[&str]) -> Result<String> {
    let output = cmd("git", words)
        .dir(dir)
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()
        .context("cannot run git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {}: {}", words.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Checkout {
    /// The clone of this repository, which is made if it is not there. It shares the objects.
    ///
    /// # Errors
    /// It is no git repository, or the cache cannot be written.
    pub fn open(cache: &Cache, repository: &Path) -> Result<Self> {
        let repository =
            repository.canonicalize().with_context(|| repository.display().to_string())?;
        let key = Inputs::new().with("repository", repository.to_string_lossy().as_bytes()).key();
        let dir = cache.root().join("metrics").join(format!("checkout-{key}"));
        if !dir.join(".git").is_dir() {
            fs::create_dir_all(dir.parent().unwrap_or(&dir))?;
            let (from, to) = (repository.to_string_lossy(), dir.to_string_lossy());
            git(Path::new("/"), &["clone", "--quiet", "--shared", "--no-checkout", &from, &to])?;
        }
        Ok(Self { repository, dir })
    }

    /// The commit that a name of the repository stands for.
    ///
    /// # Errors
    /// There is none.
    pub fn commit(&self, revision: &str) -> Result<String> {
        git(
            &self.repository,
            &["rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")],
        )
        .with_context(|| format!("{revision}: no commit of {}", self.repository.display()))
    }

    /// The repository itself.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// The working tree.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts a commit into the working tree. Files that did not change keep their times, so that what
    /// is built from them need not be built again.
    fn take(&self, commit: &str) -> Result<()> {
        git(&self.dir, &["checkout", "--quiet", "--force", "--detach", commit]).map(drop)
    }

    /// brisk of a commit, as shipped and static, with those of `features` that it had.
    ///
    /// # Errors
    /// git fails or the cache cannot be written. That it does not build is no error.
    pub fn brisk(&self, cache: &Cache, commit: &str, wanted: &[&str]) -> Result<Built> {
        let mut tree = vec!["ls-tree", commit, "--"];
        tree.extend(SOURCES);
        let tree = git(&self.repository, &tree)?;
        let rustc =
            cmd!("rustc", "-V").dir(crate::paths::workspace()).read().context("rustc -V")?;
        let inputs = Inputs::new()
            .with("tree", tree)
            .with("features", wanted.join(","))
            .with("rustc", rustc);
        let target = cache.root().join("metrics/target");
        let dir = cache.artifact("metrics-brisk", &inputs, |_, out| {
            self.take(commit)?;
            let step = Step::start(&format!("building brisk of {}", short(commit)));
            let built = build_brisk(&self.dir, &target, wanted);
            step.done();
            match built {
                Ok(program) => {
                    fs::write(out.join("brisk"), program)?;
                    fs::set_permissions(out.join("brisk"), fs::Permissions::from_mode(0o755))?;
                }
                Err(e) => fs::write(out.join("fails"), format!("{e:#}"))?,
            }
            Ok(())
        })?;
        outcome(&dir, "brisk")
    }

    /// A kernel of a commit with a config: `vmlinux` without symbols. The tree stays, so that the next
    /// commit's is built from what changed.
    ///
    /// # Errors
    /// git fails or the cache cannot be written. That it does not build is no error.
    pub fn kernel(&self, cache: &Cache, commit: &str, config: &str) -> Result<Built> {
        let tree = git(&self.repository, &["rev-parse", &format!("{commit}^{{tree}}")])?;
        let gcc = cmd!("gcc", "-dumpfullversion").read().context("cannot run gcc")?;
        let inputs = Inputs::new().with("tree", tree).with("config", config).with("gcc", gcc);
        let dir = cache.artifact("metrics-kernel", &inputs, |_, out| {
            self.take(commit)?;
            let step = Step::start(&format!("building the kernel of {}", short(commit)));
            let built = build_kernel(&self.dir, config, &out.join("vmlinux"));
            step.done();
            if let Err(e) = built {
                let _ = fs::remove_file(out.join("vmlinux"));
                fs::write(out.join("fails"), format!("{e:#}"))?;
            }
            Ok(())
        })?;
        outcome(&dir, "vmlinux")
    }
}

/// A commit's first digits.
pub fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

fn outcome(dir: &Path, name: &str) -> Result<Built> {
    match fs::read_to_string(dir.join("fails")) {
        Ok(why) => Ok(Built::Fails(why)),
        Err(_) => Ok(Built::File(dir.join(name))),
    }
}

fn build_brisk(source: &Path, target_dir: &Path, wanted: &[&str]) -> Result<Vec<u8>> {
    let known = features::of_workspace(source, "brisk")?;
    let names = known.names();
    let list: Vec<&str> =
        wanted.iter().copied().filter(|feature| names.iter().any(|name| name == feature)).collect();
    let scenario = build::adhoc(&list.join(","), &names)?;
    // Older ones take their arguments from glibc, and have std's handlers.
    let libc = if build::has_handlers(source) { Libc::Musl } else { Libc::Glibc };
    let order = Order { source, target_dir, scenario: &scenario, libc, target: build::TARGET };
    Ok(build::make(&order)?.program)
}

fn build_kernel(tree: &Path, config: &str, out: &Path) -> Result<()> {
    let run = |words: &[&str]| -> Result<()> {
        let output = cmd("make", words)
            .dir(tree)
            .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
            .env("KBUILD_BUILD_USER", "brisk")
            .env("KBUILD_BUILD_HOST", "brisk")
            .env("KBUILD_BUILD_VERSION", "1")
            .stdin_null()
            .stderr_to_stdout()
            .stdout_capture()
            .unchecked()
            .run()
            .context("cannot run make")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n");
        ensure!(output.status.success(), "make {}:\n{end}", words.join(" "));
        Ok(())
    };
    let old = fs::read_to_string(tree.join("brisk.config")).unwrap_or_default();
    if old != config || !tree.join(".config").is_file() {
        fs::write(tree.join("brisk.config"), config)?;
        fs::write(tree.join(".config"), config)?;
    }
    run(&["-s", "olddefconfig"])?;
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    // The commit's hash is not to be in it: equal code gives equal bytes.
    run(&["-s", &format!("-j{jobs}"), "LOCALVERSION=", "vmlinux"])?;
    cmd!("strip", "-s", "-o", out, tree.join("vmlinux")).run().context("cannot run strip")?;
    Ok(())
}

/// What tells two files apart.
///
/// # Errors
/// The file cannot be read.
pub fn sum(path: &Path) -> Result<String> {
    Ok(cache::sum(&fs::read(path).with_context(|| path.display().to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let run = |words: &[&str]| {
            let user = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
            git(dir.path(), &[&user, words].concat()).unwrap()
        };
        run(&["init", "--quiet"]);
        run(&["commit", "--quiet", "--allow-empty", "-m", "first"]);
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        let checkout = Checkout::open(&cache, dir.path()).unwrap();
        let commit = checkout.commit("HEAD").unwrap();
        assert_eq!(commit.len(), 40);
        checkout.take(&commit).unwrap();
        let error = checkout.commit("nowhere").unwrap_err().to_string();
        assert!(error.starts_with("nowhere: no commit of "), "{error}");
        assert!(Checkout::open(&cache, &dir.path().join("cache")).is_err());
    }
}
