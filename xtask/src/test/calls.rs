//! `cargo xtask calls`: what system calls each scenario's program can make once its guest runs, tried
//! from inside, and the table of them in `SECURITY.md`.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::count::Count;
use super::program_of_tests;
use crate::build::{self, Libc, Order, scenario};
use crate::lab::{self, Job, quote};
use crate::paths;
use crate::ui::Step;

/// Try each system call in every scenario's program, and compare with SECURITY.md.
#[derive(FromArgs)]
#[argh(subcommand, name = "calls")]
pub struct Args {
    /// write the table into SECURITY.md instead
    #[argh(switch)]
    save: bool,
}

/// The tests that are run with each program: the last by what its tests' names begin with, the guests
/// that want to break out.
const TESTS: [&str; 3] =
    ["seccomp::each_system_call", "seccomp::a_forbidden_call_ends_the_vm", "hostile::"];
/// The one that has the list.
const LISTS: &str = TESTS[0];

/// Runs the task.
///
/// # Errors
/// A program does not build, or lets through what SECURITY.md does not say.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.save {
        let (lists, _) = each(true)?;
        let path = paths::workspace().join("SECURITY.md");
        let text = fs::read_to_string(&path)?;
        let (before, rest) = text.split_once(OPEN).context("SECURITY.md: no table of calls")?;
        let (_, after) = rest.split_once(CLOSE).context("SECURITY.md: no end of the table")?;
        fs::write(&path, format!("{before}{OPEN}{}{CLOSE}{after}", table(&lists)))?;
    } else {
        println!("{} tests passed", check()?);
    }
    Ok(ExitCode::SUCCESS)
}

const OPEN: &str = "<!-- calls -->\n";
const CLOSE: &str = "<!-- /calls -->";

/// Compares all with SECURITY.md. Returns how many tests that were.
///
/// # Errors
/// As [`run`].
pub fn check() -> Result<u32> {
    let (_, count) = each(false)?;
    Ok(u32::try_from(count.passed)?)
}

/// Runs the tests with each scenario's program, on this machine's KVM or in the lab; where `save`, with
/// what each allows.
fn each(save: bool) -> Result<(Vec<(String, String)>, Count)> {
    let dir = tempfile::tempdir()?;
    let tests = program_of_tests("exits")?;
    let subjects = scenario::table();
    let mut script = "status=0\n".to_owned();
    let mut files = Vec::new();
    let mut step = Step::counted("building every scenario", subjects.len() as u64);
    for (index, subject) in subjects.iter().enumerate() {
        let (source, target_dir) = (paths::workspace(), &paths::target()?);
        // Both ways of linking, in turn, as they are booted.
        let libc = Libc::shipped(index % 2 == 1);
        let order = Order { source, target_dir, scenario: subject, libc, target: build::TARGET };
        let product = build::make(&order).with_context(|| format!("scenario {}", subject.name))?;
        let path = dir.path().join(format!("brisk-{}", subject.name));
        fs::write(&path, product.program)?;
        files.push((path, format!("brisk-{}", subject.name)));
        let name = &subject.name;
        let (calls, tests_of_it) = match save {
            true => (format!("BRISK_CALLS=\"$PWD/{name}.calls\" "), LISTS.to_owned()),
            false => (String::new(), TESTS.join(" ")),
        };
        // Whoever has no clients has no hostile ones.
        let has_api = subject.features.iter().any(|feature| ["api", "full"].contains(&&**feature));
        let skip = if has_api { "" } else { " --skip api::" };
        let _ = writeln!(
            script,
            "chmod +x brisk-{name}\n\
             BRISK_BIN=\"$PWD/brisk-{name}\" BRISK_SCENARIO={name} BRISK_FEATURES={} {calls}{} \
             {tests_of_it}{skip} --test-threads=1 > said 2>&1 || {{ echo {name}:; cat said; status=1; }}\n\
             grep '^test result: ' said; grep -q '^test {LISTS} ... ok' said || status=1",
            subject.features.join(","),
            quote(&tests.to_string_lossy()),
        );
        step.tick();
    }
    step.done();
    script += "exit $status\n";
    let step = Step::start("trying each system call in every scenario");
    let (output, text);
    let results: PathBuf = if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
        let command = duct::cmd!("sh", "-c", &script).dir(dir.path()).stdin_null();
        let done = command.stderr_to_stdout().stdout_capture().unchecked().run()?;
        text = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(done.status.success(), "{text}");
        dir.path().to_path_buf()
    } else {
        let timeout = Duration::from_secs(900);
        output = lab::run(&Job { script, files, timeout, ..Job::default() })?;
        ensure!(output.status == 0, "{}", output.console);
        text = output.console.clone();
        output.dir.clone()
    };
    step.done();
    let list = |name: &String| match save {
        true => fs::read_to_string(results.join(format!("{name}.calls"))).context(name.clone()),
        false => Ok(String::new()),
    };
    let lists: Result<Vec<_>> =
        subjects.iter().map(|subject| Ok((subject.name.clone(), list(&subject.name)?))).collect();
    Ok((lists?, Count::of(&text)))
}

/// A row for each thing that some scenario allows, a column a scenario.
fn table(lists: &[(String, String)]) -> String {
    let mut rows: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
    for (at, (_, list)) in lists.iter().enumerate() {
        for line in list.lines() {
            rows.entry(line).or_insert_with(|| vec![false; lists.len()])[at] = true;
        }
    }
    let mut text = "| system call |".to_owned();
    lists.iter().for_each(|(name, _)| text += &format!(" {name} |"));
    text += "\n|---|";
    lists.iter().for_each(|_| text += ":-:|");
    text += "\n";
    for (call, there) in rows {
        let _ = write!(text, "| `{call}` |");
        there.iter().for_each(|there| text += if *there { " x |" } else { "  |" });
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_a_call_and_one_column_a_scenario() {
        let lists = [("a", "ioctl KVM_RUN\nwrite\n"), ("b", "read\nioctl KVM_RUN\n")];
        let lists = lists.map(|(name, list)| (name.to_owned(), list.to_owned()));
        let wanted = "| system call | a | b |\n|---|:-:|:-:|\n| `ioctl KVM_RUN` | x | x |\n\
                      | `read` |  | x |\n| `write` | x |  |\n";
        assert_eq!(table(&lists), wanted);
    }
}
