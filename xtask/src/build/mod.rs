//! `cargo xtask build`: the smallest binary for a workload, and a manifest that says what it is.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use duct::cmd;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use self::scenario::Scenario;
use crate::ui::Step;
use crate::{cache, paths};
use flags::Variation;
use parts::Parts;

mod baked;
pub mod bundle;
pub mod dist;
pub mod docs;
pub mod features;
pub mod flags;
mod guards;
mod handlers;
pub mod matrix;
mod musl;
mod parts;
pub mod scenario;
pub mod size;
pub mod source;
mod target;
pub mod twice;

/// Build the smallest brisk for a workload.
#[derive(FromArgs)]
#[argh(subcommand, name = "build")]
pub struct Args {
    /// features with commas between, and nothing else
    #[argh(option)]
    features: Option<String>,
    /// a scenario of the table (see features.md) or of your brisk.toml
    #[argh(option)]
    scenario: Option<String>,
    /// link a C library into it: runs on any Linux, and starts sooner. It is musl's; `--static=glibc`
    /// takes glibc's
    #[argh(switch, long = "static")]
    musl: bool,
    /// the same as `--static=glibc`
    #[argh(switch, long = "static-glibc")]
    glibc: bool,
    /// target triple (default x86_64-unknown-linux-gnu)
    #[argh(option, default = "TARGET.to_owned()")]
    target: String,
    /// build again from a copy of the source elsewhere, and fail if the bytes differ
    #[argh(switch)]
    twice: bool,
    /// directory for brisk and manifest.json (default target/brisk/dynamic/NAME or .../static/NAME)
    #[argh(option)]
    out: Option<PathBuf>,
    /// print what its bytes are for: sections, crates, functions
    #[argh(switch)]
    explain: bool,
}

/// What is built where nothing else is asked for.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The profile in Cargo.toml that binaries are shipped with.
pub const PROFILE: &str = "size";

/// Where brisk's C library is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Libc {
    /// In a shared object of the system's: glibc.
    Dynamic,
    /// In the binary: musl's.
    Musl,
    /// In the binary: glibc's.
    Glibc,
}

impl Libc {
    /// As it is shipped, in the binary or not.
    pub fn shipped(fixed: bool) -> Libc {
        if fixed { Libc::Musl } else { Libc::Dynamic }
    }

    /// Where cargo builds it, and where it goes in `dist`.
    pub fn place(self) -> &'static str {
        match self {
            Libc::Dynamic => "dynamic",
            Libc::Musl => "static",
            Libc::Glibc => "static-glibc",
        }
    }
}

/// What is to be built.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// The checkout: the workspace.
    pub source: &'a Path,
    /// cargo's target directory.
    pub target_dir: &'a Path,
    /// Features of package brisk, and arguments that are baked in.
    pub scenario: &'a Scenario,
    /// Its C library.
    pub libc: Libc,
    /// The target triple.
    pub target: &'a str,
}

/// What was built.
pub struct Product {
    /// The program, stripped.
    pub program: Vec<u8>,
    /// What is in it.
    pub parts: Parts,
}

/// Runs the task.
///
/// # Errors
/// Unknown features or scenario; cargo failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let known = features::of_brisk()?;
    let wanted = match (&args.scenario, &args.features) {
        (Some(name), None) => scenario::find(name, &known.names())?,
        (None, Some(list)) => adhoc(list, &known.names())?,
        _ => bail!("give one of --features A,B and --scenario NAME"),
    };
    known.check(&wanted.features)?;
    target::check(&args.target)?;
    let target_dir = paths::target()?;
    let libc = match (args.musl, args.glibc) {
        (false, false) => Libc::Dynamic,
        (true, false) => Libc::Musl,
        (_, true) => Libc::Glibc,
    };
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => target_dir.join("brisk").join(libc.place()).join(&wanted.name),
    };
    let order = Order {
        source: paths::workspace(),
        target_dir: &target_dir,
        scenario: &wanted,
        libc,
        target: &args.target,
    };
    let step = Step::start(&format!("building brisk for {}", wanted.name));
    let product = make(&order)?;
    step.done();
    baked::check(&wanted, &product)?;
    if args.twice {
        let step = Step::start("building it again elsewhere");
        twice::check(&order, &product)?;
        step.done();
    }
    let manifest = manifest(&order, &product, &known)?;
    write(&out, &product, &manifest)?;
    if args.explain {
        println!("{}", product.parts.table());
    }
    let program = out.join("brisk");
    println!("{}: {} bytes", program.display(), product.program.len());
    let rest = wanted.example.trim_start_matches("brisk");
    println!("run: {}{rest}", program.display());
    Ok(ExitCode::SUCCESS)
}

/// The scenario that `--features` stands for.
///
/// # Errors
/// There is no such feature.
pub fn adhoc(list: &str, known: &[String]) -> Result<Scenario> {
    let features: BTreeSet<&str> = list.split([',', ' ']).filter(|f| !f.is_empty()).collect();
    for feature in &features {
        let all = known.join(", ");
        ensure!(
            known.iter().any(|k| k == feature),
            "--features: there is no feature `{feature}`; there are {all}"
        );
    }
    let features: Vec<String> = features.into_iter().map(str::to_owned).collect();
    let name = if features.is_empty() { "none".to_owned() } else { features.join("+") };
    Ok(Scenario { name, features, example: "brisk".to_owned(), ..Scenario::default() })
}

/// Builds brisk as `cargo xtask build --static` ships it, with these features or, when `None`, all.
/// Returns the program's path.
///
/// Static, since the time from exec on counts, and the dynamic linker's work is a good part of it.
///
/// # Errors
/// There is no such feature, or cargo failed.
pub fn program(features: Option<&[&str]>) -> Result<PathBuf> {
    let list = features.map_or_else(|| "full".to_owned(), |list| list.join(","));
    program_of(paths::workspace(), &paths::target()?, &list, "")
}

/// As [`program`], from another source: a copy of this one, patched.
///
/// # Errors
/// As [`program`].
pub fn program_of(source: &Path, target_dir: &Path, features: &str, name: &str) -> Result<PathBuf> {
    let known = features::of_brisk()?;
    let mut scenario = adhoc(features, &known.names())?;
    scenario.name += name;
    let order = Order { source, target_dir, scenario: &scenario, libc: Libc::Musl, target: TARGET };
    let step = Step::start("building brisk");
    let product = make(&order)?;
    step.done();
    let out = target_dir.join("brisk").join("static").join(&scenario.name);
    write(&out, &product, &manifest(&order, &product, &known)?)?;
    Ok(out.join("brisk"))
}

/// Builds a binary. The same source gives the same bytes, wherever it and the target directory are.
///
/// # Errors
/// cargo or strip failed.
pub fn make(order: &Order<'_>) -> Result<Product> {
    make_varied(order, &Variation::NONE)
}

/// Builds a binary in another way than it is shipped.
///
/// # Errors
/// cargo or strip failed.
pub fn make_varied(order: &Order<'_>, variation: &Variation) -> Result<Product> {
    // cargo builds all again when the compiler's flags change, unless each has a place of its own.
    let target_dir = &order.target_dir.join(order.libc.place());
    let flags = flags::rustflags(&Order { target_dir, ..*order }, variation)?;
    // With symbols, for the table; they are taken out below.
    let strip = format!("profile.{PROFILE}.strip=false");
    let mut words = vec!["build", "--quiet", "--locked", "--package=brisk", "--bin=brisk"];
    let features = flags::cargo_features(&order.scenario.features);
    words.extend(["--profile", PROFILE, "--config", &strip, "--target", order.target]);
    words.extend(["--no-default-features", "--features", &features]);
    let lto = format!("profile.{PROFILE}.lto=false");
    if !variation.handlers_of_std && has_handlers(order.source) {
        words.extend(["--config", &lto]); // the linker's work, see `handlers`
    }
    words.extend(variation.config.iter().flat_map(|config| ["--config", *config]));
    // cargo puts every brisk in one place: until it is read nobody else is to build one.
    fs::create_dir_all(target_dir)?;
    let lock = fs::File::create(target_dir.join("brisk.lock"))?;
    lock.lock().context("brisk.lock")?;
    cmd(env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), words)
        .dir(order.source)
        .env("CARGO_TARGET_DIR", target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("BRISK_DEFAULT_ARGS", scenario::baked(&order.scenario.args))
        .stdout_to_stderr()
        .run()
        .context("brisk does not build")?;
    let whole = target_dir.join(order.target).join(PROFILE).join("brisk");
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("brisk");
    cmd!("strip", "--strip-all", "--remove-section=.comment", "-o", &program, &whole)
        .run()
        .context("strip of package binutils")?;
    let program = fs::read(&program)?;
    let parts = Parts::of(&fs::read(&whole)?, &program).context("the built program")?;
    Ok(Product { program, parts })
}

/// Whether a source has handlers of its own: a commit of long ago has not.
pub fn has_handlers(source: &Path) -> bool {
    source.join("src/last_words.rs").exists()
}

/// Whether a line of `git status --porcelain` is about the source: a user's own `brisk.toml` is not.
fn is_change(line: &str) -> bool {
    let path = line.strip_prefix("?? ").map(Path::new);
    path.is_none_or(|path| path.file_name().is_none_or(|name| name != "brisk.toml"))
}

/// What the binary is, for people and machines that get it without this checkout.
///
/// # Errors
/// cargo metadata failed.
pub fn manifest(
    order: &Order<'_>,
    product: &Product,
    known: &features::Features,
) -> Result<serde_json::Value> {
    let git = |words: &[&str]| {
        let command = cmd("git", words).dir(order.source).stderr_null();
        command.read().ok().map(|text| text.trim().to_owned())
    };
    // Without git (a source archive) there is no revision.
    let changed = git(&["status", "--porcelain"]).is_some_and(|text| text.lines().any(is_change));
    let revision = git(&["rev-parse", "HEAD"]).map(|rev| rev + if changed { "+" } else { "" });
    let rustc = cmd!("rustc", "-V").dir(order.source).read().unwrap_or_default();
    Ok(json!({
        "name": order.scenario.name,
        "about": order.scenario.about,
        "version": known.version,
        "revision": revision,
        "compiler": rustc,
        "features": known.closure(&order.scenario.features),
        "target": order.target,
        "static": order.libc != Libc::Dynamic,
        "libc": match order.libc {
            _ if order.target.ends_with("musl") => "musl".to_owned(),
            Libc::Musl => musl::version()?,
            Libc::Dynamic | Libc::Glibc => "glibc".to_owned(),
        },
        "profile": PROFILE,
        "baked_arguments": order.scenario.args,
        "command": order.scenario.example,
        "size": product.program.len(),
        "sections": product.parts.sections(),
        "sha256": cache::sum(&product.program),
    }))
}

/// Writes `brisk` and `manifest.json` into a directory.
///
/// # Errors
/// It cannot be written.
pub fn write(out: &Path, product: &Product, manifest: &serde_json::Value) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let cannot = || format!("{}: cannot write", out.display());
    fs::create_dir_all(out).with_context(cannot)?;
    let program = out.join("brisk");
    // A running program cannot be written to, but replaced.
    let _ = fs::remove_file(&program);
    fs::write(&program, &product.program).with_context(cannot)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).with_context(cannot)?;
    let text = serde_json::to_string_pretty(manifest)? + "\n";
    fs::write(out.join("manifest.json"), text).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_a_set_and_are_checked() {
        let known = ["pmem", "hugepages"].map(str::to_owned);
        assert_eq!(adhoc("pmem,hugepages,pmem", &known).unwrap().name, "hugepages+pmem");
        assert_eq!(adhoc("", &known).unwrap().name, "none");
        let error = adhoc("pmem,hugepage", &known).unwrap_err().to_string();
        assert!(error.contains("`hugepage`; there are pmem, hugepages"), "{error}");
    }

    #[test]
    fn a_users_scenarios_are_no_change_of_the_source() {
        assert!(!is_change("?? brisk.toml") && !is_change("?? dir/brisk.toml"));
        assert!(is_change(" M brisk.toml") && is_change("?? src/new.rs") && is_change("?? dir/"));
    }
}
