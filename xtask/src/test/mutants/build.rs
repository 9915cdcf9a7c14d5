//! The copy of the source with all mutants in it.

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::switch::{self, Mutant};
use crate::paths;
use crate::ui::Step;

/// What the switches ask: `BRISK_MUTANT` names the mutant that is on; in the file that `BRISK_MUTANT_MAP` names
/// the byte of each that is asked for becomes 1. The file is mapped, since a sandbox may come later.
const RUNTIME: &str = r#"
use std::{env, fs::OpenOptions, ptr, sync::OnceLock};
struct State { on: u32, map: usize }
static STATE: OnceLock<State> = OnceLock::new();
fn state() -> State {
    let on = env::var("BRISK_MUTANT").ok().and_then(|it| it.parse().ok()).unwrap_or(0);
    let map = env::var_os("BRISK_MUTANT_MAP").and_then(|path| {
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        Some(Box::leak(Box::new(unsafe { memmap2::MmapMut::map_mut(&file) }.ok()?)).as_mut_ptr() as usize)
    });
    State { on, map: map.unwrap_or(0) }
}
pub fn on(number: u32) -> bool {
    let state = STATE.get_or_init(state);
    if state.map != 0 {
        unsafe { ptr::write_volatile((state.map + number as usize) as *mut u8, 1) };
    }
    state.on == number
}
"#;

/// Where the mutants are tested.
pub struct Copy {
    pub dir: PathBuf,
    /// Of the tests: program and the directory that it runs in.
    pub tests: Vec<(PathBuf, PathBuf)>,
    /// The numbers of the mutants that are in the build: places in the list, from 1.
    pub built: HashSet<u32>,
}

/// What is built and run: devices and boot by their own tests, all of them by those of `src` and of guests.
const PACKAGES: [&str; 11] = [
    "--package=brisk-devices",
    "--package=brisk-boot",
    "--package=brisk",
    "--features=brisk-devices/snapshot",
    "--lib",
    "--test=virtio",
    "--test=exits",
    "--test=usage",
    "--message-format=json",
    "--offline",
    "--quiet",
];

/// Copies the source, puts the mutants in, and builds the tests; those that do not compile are left out.
///
/// # Errors
/// The disk, or what does not build has no mutant in it.
pub fn switched(mutants: &[Mutant]) -> Result<Copy> {
    let target = paths::target()?.join("mutants");
    let dir = target.join("source");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let step = Step::start("all mutants in one build");
    let files = cmd!("git", "ls-files").dir(paths::workspace()).read()?;
    for file in files.lines() {
        let (from, to) = (paths::workspace().join(file), dir.join(file));
        fs::create_dir_all(to.parent().context("a file has a directory")?)?;
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
    }
    add_runtime(&dir)?;
    let mut by_file: BTreeMap<&str, Vec<(u32, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in (1..).zip(mutants) {
        by_file.entry(&mutant.file).or_default().push((number, mutant));
    }
    let sources: BTreeMap<&str, String> = by_file
        .keys()
        .map(|file| Ok((*file, fs::read_to_string(dir.join(file))?)))
        .collect::<Result<_>>()?;
    let mut dropped = HashSet::new();
    loop {
        let mut built = HashSet::new();
        for (file, mutants) in &by_file {
            let those: Vec<_> =
                mutants.iter().filter(|it| !dropped.contains(&it.0)).copied().collect();
            let text =
                switch::switched(&sources[file], &those).with_context(|| file.to_string())?;
            built.extend(switch::numbers(&text));
            fs::write(dir.join(file), text)?;
        }
        let before = dropped.len();
        let tests = build(&dir, &target.join("build"), &mut dropped)?;
        if dropped.len() == before {
            step.done();
            return Ok(Copy { dir, tests, built });
        }
        eprintln!("  without {} that do not compile ...", dropped.len());
    }
}

/// The crate of the switches, for each crate that has some, and asked before the sandbox closes.
fn add_runtime(dir: &Path) -> Result<()> {
    let runtime = dir.join("mutant-switch");
    fs::create_dir_all(runtime.join("src"))?;
    fs::write(runtime.join("src/lib.rs"), RUNTIME)?;
    let manifest = "[package]\nname = \"mutant-switch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
                    [dependencies]\nmemmap2 = \"0.9\"\n";
    fs::write(runtime.join("Cargo.toml"), manifest)?;
    for manifest in ["Cargo.toml", "devices/Cargo.toml", "boot/Cargo.toml"] {
        let path = dir.join(manifest);
        let text = fs::read_to_string(&path)?;
        let dependency = format!("[dependencies]\nmutant-switch = {{ path = {runtime:?} }}\n");
        let with = text.replacen("[dependencies]\n", &dependency, 1);
        ensure!(with != text, "{manifest} has no dependencies");
        fs::write(&path, with)?;
    }
    let main = dir.join("src/main.rs");
    let text = fs::read_to_string(&main)?;
    let with = text.replacen("brisk::main(", "mutant_switch::on(0);\n    brisk::main(", 1);
    ensure!(with != text, "src/main.rs calls brisk::main no more");
    Ok(fs::write(main, with)?)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    profile: Option<Profile>,
    message: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    rendered: Option<String>,
    spans: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    file_name: PathBuf,
    byte_start: usize,
    byte_end: usize,
    is_primary: bool,
}

/// Builds the tests; the mutants that the compiler complains of are added to `dropped`.
fn build(dir: &Path, target: &Path, dropped: &mut HashSet<u32>) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut words = vec!["test", "--no-run"];
    words.extend(PACKAGES);
    let output = cmd("cargo", words)
        .dir(dir)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        // What a mutant leaves unused is not its fault.
        .env("RUSTFLAGS", "--cap-lints=allow")
        .stdout_capture()
        .stderr_null()
        .unchecked()
        .run()?;
    let (mut tests, mut complaint) = (Vec::new(), None);
    let before = dropped.len();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Message>(line) else { continue };
        if let (Some(program), Some(manifest), true) = (
            message.executable,
            message.manifest_path,
            message.profile.is_some_and(|profile| profile.test),
        ) {
            tests.push((program, manifest.parent().unwrap_or(dir).to_owned()));
        }
        let Some(error) = message.message.filter(|it| it.level == "error") else { continue };
        if message.reason == "compiler-message" && !blame(dir, &error, dropped)? {
            complaint =
                complaint.or(error.rendered).filter(|it| !it.starts_with("error: aborting"));
        }
    }
    if !output.status.success() && dropped.len() == before {
        bail!("the mutants' build failed: {}", complaint.unwrap_or_default());
    }
    Ok(tests)
}

/// Finds the mutant of an error, if it has one.
fn blame(dir: &Path, error: &Diagnostic, dropped: &mut HashSet<u32>) -> Result<bool> {
    let mut found = false;
    for span in &error.spans {
        let Ok(text) = fs::read_to_string(dir.join(&span.file_name)) else { continue };
        if let Some(number) = switch::around(&text, span.byte_start) {
            dropped.insert(number);
            found = true;
        } else if span.is_primary {
            let arms = switch::arms_behind(&text, span.byte_end);
            found |= !arms.is_empty();
            dropped.extend(arms);
        }
    }
    Ok(found)
}
