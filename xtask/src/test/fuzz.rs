//! `cargo xtask fuzz`: runs each fuzz target of `tests/fuzz` for a while.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use duct::{Expression, cmd};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use tabled::builder::Builder;
use tabled::settings::{Alignment, Style, object::Columns};

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
    /// minutes for each target instead
    #[argh(option)]
    minutes: Option<u32>,
    /// go on after a target that failed
    #[argh(switch)]
    all: bool,
    /// build the targets, do not run them
    #[argh(switch)]
    build: bool,
    /// instead of fuzzing, make what was found until now as little as has the same coverage, and put the
    /// smallest of it into the repository, from where each run begins
    #[argh(switch)]
    minimise: bool,
}

/// The most bytes of inputs that the repository has for a target.
const KEPT: usize = 4096;

/// Runs the task: fails with the first input that makes a target fail.
///
/// # Errors
/// The nightly compiler or cargo-fuzz is missing, a target does not build, or one failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let seconds = args.minutes.map_or(args.seconds, |minutes| minutes.saturating_mul(60));
    ensure!(seconds > 0, "--seconds 0: 0 means without end; give a number from 1 up");
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
    if args.minimise {
        return chosen.into_iter().try_for_each(|name| minimise(name)).map(|()| ExitCode::SUCCESS);
    }
    let mut table = Builder::from_iter([HEAD]);
    let mut failures = Vec::new();
    for target in chosen {
        let step = Step::start(&format!("fuzz {target}, {seconds} s"));
        let (text, failed) = fuzz(target, seconds)?;
        step.done();
        if failed {
            failures.push(format!("{text}\nfuzz target {target} failed"));
            if !args.all {
                break;
            }
        }
        table.push_record(row(target, &text, failed));
    }
    let mut table = table.build();
    table.with(Style::markdown()).modify(Columns::new(1..), Alignment::right());
    println!("{table}");
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(ExitCode::SUCCESS)
}

const HEAD: [&str; 7] = ["target", "runs", "a second", "edges", "features", "corpus", "findings"];

/// What libFuzzer says at the end, in the columns of [`HEAD`].
fn row(target: &str, text: &str, failed: bool) -> [String; 7] {
    let stat = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("-", str::trim).to_owned()
    };
    // "#4096\tpulse  cov: 12 ft: 34 corp: 5/67b lim: 4 exec/s: 2048 rss: 99Mb"
    let last = text.lines().rfind(|line| line.contains(" cov: ")).unwrap_or_default();
    let seen = |name: &str| {
        let mut words = last.split_whitespace().skip_while(|word| *word != name).skip(1);
        words.next().map_or("-", |word| word.split('/').next().unwrap_or(word)).to_owned()
    };
    [
        target.to_owned(),
        stat("stat::number_of_executed_units:"),
        stat("stat::average_exec_per_sec:"),
        seen("cov:"),
        seen("ft:"),
        seen("corp:"),
        u8::from(failed).to_string(),
    ]
}

/// Runs one target; what libFuzzer said, and whether an input made it fail.
fn fuzz(target: &str, seconds: u32) -> Result<(String, bool)> {
    let dir = dir();
    unpack(target)?;
    let seconds = format!("-max_total_time={seconds}");
    let corpus = format!("corpus/{target}");
    let seeds = format!("seeds/{target}");
    let mut words = vec!["run", "--fuzz-dir", ".", target, &corpus];
    if dir.join(&seeds).is_dir() {
        words.push(&seeds);
    }
    // An input that takes 10 s is a loop without end.
    words.extend(["--", &seconds, "-timeout=10", "-print_final_stats=1"]);
    let output = cargo_fuzz(&words).stderr_to_stdout().stdout_capture().unchecked().run()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = text.contains("stat::number_of_executed_units:");
    ensure!(
        told || !output.status.success(),
        "fuzz target {target} does not say what it did:\n{text}"
    );
    Ok((text, !output.status.success()))
}

/// Where a target's inputs are that the repository has: one a line, in hexadecimal, as thousands of files of
/// a few bytes are hard to look after.
fn kept(target: &str) -> PathBuf {
    dir().join("corpora").join(target)
}

/// Puts the inputs that the repository has among those that were found here.
fn unpack(target: &str) -> Result<()> {
    let corpus = dir().join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let Ok(text) = fs::read_to_string(kept(target)) else { return Ok(()) };
    for (number, line) in text.lines().enumerate() {
        let bytes = parse(line).with_context(|| format!("{}: {line}", kept(target).display()))?;
        fs::write(corpus.join(format!("kept-{number}")), bytes)?;
    }
    Ok(())
}

fn parse(line: &str) -> Option<Vec<u8>> {
    let pairs = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs
        .map(|pair| {
            u8::from_str_radix(pair.filter(|pair| pair.len() == 2 && !pair.starts_with('+'))?, 16)
                .ok()
        })
        .collect()
}

/// Makes the corpus of `target` small, and the repository's of the smallest of what is left.
fn minimise(target: &str) -> Result<()> {
    unpack(target)?;
    let corpus = format!("corpus/{target}");
    output("cargo fuzz cmin", &cargo_fuzz(&["cmin", "--fuzz-dir", ".", target, &corpus]))?;
    let mut inputs = Vec::new();
    for entry in fs::read_dir(dir().join(corpus))? {
        inputs.push(fs::read(entry?.path())?);
    }
    let (all, mut left) = (inputs.len(), KEPT);
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.retain(|input| match left.checked_sub(input.len()) {
        Some(less) => {
            left = less;
            true
        }
        None => false,
    });
    let hex = |input: &Vec<u8>| input.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text: String = inputs.iter().map(|input| hex(input) + "\n").collect();
    fs::create_dir_all(dir().join("corpora"))?;
    fs::write(kept(target), text)?;
    println!("{target}: {} of {all} inputs, {} bytes", inputs.len(), KEPT - left);
    Ok(())
}

/// What a command says, on both streams; if it fails, that is the error.
fn output(what: &str, command: &Expression) -> Result<String> {
    let output = command.stderr_to_stdout().stdout_capture().unchecked().run()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}\n{what} failed");
    Ok(text)
}

/// `cargo +nightly fuzz`, in the directory of the targets. That is not cargo's own toolchain, which
/// the environment of an xtask names. What brisk keeps to the end of the process is no leak.
fn cargo_fuzz(words: &[&str]) -> Expression {
    let words = ["run", "nightly", "cargo", "fuzz"].iter().chain(words);
    let command = cmd("rustup", words).dir(dir()).env("ASAN_OPTIONS", "detect_leaks=0");
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN")
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
    fn a_row_has_what_libfuzzer_says() {
        let text = "#8\tINITED cov: 1 ft: 2 corp: 3/4b exec/s: 0\n\
                    #9\tDONE   cov: 12 ft: 34 corp: 5/67b lim: 4 exec/s: 2048 rss: 99Mb\n\
                    stat::number_of_executed_units: 2361011\n\
                    stat::average_exec_per_sec:     1180505\n";
        assert_eq!(row("elf", text, false), ["elf", "2361011", "1180505", "12", "34", "5", "0"]);
        assert_eq!(row("elf", "crash", true), ["elf", "-", "-", "-", "-", "-", "1"]);
    }

    #[test]
    fn the_inputs_of_the_repository_are_some() {
        assert_eq!(parse("00ff7e"), Some(vec![0, 255, 126]));
        assert_eq!(parse(""), Some(vec![]));
        assert!(["0", "0g", "+1", "000"].into_iter().all(|line| parse(line).is_none()));
        for target in targets().unwrap() {
            let text = fs::read_to_string(kept(&target)).unwrap();
            let len: usize = text.lines().map(|line| parse(line).unwrap().len()).sum();
            assert!((1..=KEPT).contains(&len), "{target}: {len} bytes");
        }
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
