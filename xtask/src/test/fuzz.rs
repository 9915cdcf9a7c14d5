//! `cargo xtask fuzz`: runs each fuzz target of `tests/fuzz` for a while.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use duct::{Expression, cmd};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::paths;
use crate::ui::Step;

/// Fuzz the devices, virtio's host side and the kernel readers.
#[derive(FromArgs)]
#[argh(subcommand, name = "fuzz")]
pub struct Args {
    /// only this target (default: each)
    #[argh(positional)]
    target: Option<String>,
    /// seconds for each target (default 30)
    #[argh(option, default = "30")]
    seconds: u32,
    /// build the targets, do not run them
    #[argh(switch)]
    build: bool,
}

/// Runs the task: fails with the first input that makes a target fail.
///
/// # Errors
/// The nightly compiler or cargo-fuzz is missing, a target does not build, or one failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.seconds > 0, "--seconds 0: 0 means without end; give a number from 1 up");
    let present = cargo_fuzz(&["--version"]).stdout_null().stderr_null().unchecked().run();
    if !present.is_ok_and(|output| output.status.success()) {
        bail!(
            "cargo-fuzz or the nightly compiler is missing; try: rustup toolchain install nightly \
             && cargo install cargo-fuzz --locked"
        );
    }
    let all = targets()?;
    let chosen: Vec<&String> = match &args.target {
        Some(name) => all.iter().filter(|target| *target == name).collect(),
        None => all.iter().collect(),
    };
    ensure!(
        !chosen.is_empty(),
        "no such target: {}; there are {}",
        args.target.as_deref().unwrap_or_default(),
        all.join(", ")
    );
    let step = Step::start("build the fuzz targets");
    output("cargo fuzz build", &cargo_fuzz(&["build", "--fuzz-dir", "."]))?;
    step.done();
    if args.build {
        return Ok(ExitCode::SUCCESS);
    }
    for target in chosen {
        let step = Step::start(&format!("fuzz {target}, {} s", args.seconds));
        let runs = fuzz(target, args.seconds)?;
        step.done();
        println!("{target}: {runs} runs, none failed");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs one target; how many inputs it was given.
fn fuzz(target: &str, seconds: u32) -> Result<u64> {
    let dir = dir();
    let corpus = dir.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let seconds = format!("-max_total_time={seconds}");
    let corpus = format!("corpus/{target}");
    let seeds = format!("seeds/{target}");
    let mut words = vec!["run", "--fuzz-dir", ".", target, &corpus];
    if dir.join(&seeds).is_dir() {
        words.push(&seeds);
    }
    // An input that takes 10 s is a loop without end.
    words.extend(["--", &seconds, "-timeout=10", "-print_final_stats=1"]);
    let text = output(&format!("fuzz target {target}"), &cargo_fuzz(&words))?;
    runs(&text).with_context(|| format!("fuzz target {target} does not say what it did:\n{text}"))
}

/// The number of runs in libFuzzer's closing statistics.
fn runs(text: &str) -> Option<u64> {
    let line =
        text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

/// What a command says, on both streams; if it fails, that is the error.
fn output(what: &str, command: &Expression) -> Result<String> {
    let output = command.stderr_to_stdout().stdout_capture().unchecked().run()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}\n{what} failed");
    Ok(text)
}

/// `cargo +nightly fuzz`, in the directory of the targets. That is not cargo's own toolchain, which
/// the environment of an xtask names.
fn cargo_fuzz(words: &[&str]) -> Expression {
    let words = ["run", "nightly", "cargo", "fuzz"].iter().chain(words);
    cmd("rustup", words).dir(dir()).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN")
}

/// The names of the targets.
fn targets() -> Result<Vec<String>> {
    let dir = dir().join("targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn dir() -> PathBuf {
    paths::workspace().join("tests/fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_number_of_runs() {
        let text = "#9\tDONE\nstat::number_of_executed_units: 2361011\nstat::average_exec: 1\n";
        assert_eq!(runs(text), Some(2_361_011));
        assert_eq!(runs("#9 DONE"), None);
    }

    /// A target that cargo-fuzz does not know would never run.
    #[test]
    fn every_target_is_in_the_manifest() {
        let manifest = fs::read_to_string(dir().join("Cargo.toml")).unwrap();
        let names = targets().unwrap();
        assert!(!names.is_empty());
        for name in &names {
            assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\n")), "{name}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), names.len());
    }
}
