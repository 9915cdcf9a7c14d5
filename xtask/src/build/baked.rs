//! Baked arguments are tried by the binary that has them, when it is built: what would be bad usage at
//! each start is an error of the build, with the line of the file.

use anyhow::{Context, Result, bail};
use duct::cmd;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Product;
use super::scenario::Scenario;

/// brisk's status for bad usage.
const USAGE: i32 = 2;
/// What a VM is started from, and what is not there: brisk ends when it has understood all, before it does
/// anything.
const START: [&str; 2] = ["--kernel", "--restore"];
const NOTHING: &str = "/dev/null/nothing";

/// Tries `scenario`'s arguments with its program.
///
/// # Errors
/// brisk does not take them.
pub fn check(scenario: &Scenario, product: &Product) -> Result<()> {
    if scenario.args.is_empty() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("brisk");
    fs::write(&program, &product.program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    try_with(&program, scenario)
}

fn try_with(program: &Path, scenario: &Scenario) -> Result<()> {
    let file = scenario.file.as_deref().map_or("brisk.toml".into(), Path::to_string_lossy);
    let wrong = |at: usize, what: &str| {
        let line = scenario.lines.get(at).copied().unwrap_or(0);
        bail!("{file}: line {line}: [scenario.{}]: {what}", scenario.name)
    };
    for flag in flags(&scenario.args) {
        let words = scenario.args.get(flag.clone()).unwrap_or_default();
        if let Some(what) = refused(program, words)? {
            return wrong(flag.start, &what);
        }
    }
    // What each is right by itself may be wrong together.
    match refused(program, &scenario.args)? {
        Some(what) => wrong(0, &what),
        None => Ok(()),
    }
}

/// Where each flag with its values is.
fn flags(args: &[String]) -> Vec<Range<usize>> {
    let starts =
        (0..args.len()).filter(|at| args.get(*at).is_some_and(|arg| arg.starts_with("--")));
    let starts: Vec<usize> = starts.collect();
    let ends = starts.iter().skip(1).copied().chain([args.len()]);
    starts.iter().zip(ends).map(|(start, end)| *start..end).collect()
}

/// What brisk says of arguments that it does not understand.
fn refused(program: &Path, args: &[String]) -> Result<Option<String>> {
    let mut words = vec!["--no-baked".to_owned()];
    let mut starts = false;
    for (at, word) in args.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| args.get(at)).map_or("", String::as_str);
        let flag = word.split('=').next().unwrap_or(word);
        starts |= START.contains(&flag);
        words.push(match (START.contains(&before), START.contains(&flag)) {
            (true, _) => NOTHING.to_owned(),
            (_, true) if flag.len() < word.len() => format!("{flag}={NOTHING}"),
            _ => word.clone(),
        });
    }
    if !starts {
        words.extend(["--kernel", NOTHING].map(str::to_owned));
    }
    let run = cmd(program, words).unchecked().stdin_null().stdout_null().stderr_capture().run();
    let output = run.context("the built brisk does not run here")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim().trim_start_matches("brisk: ").to_owned();
    // There is no such program yet.
    let text = text.replace("(see brisk --help)", "(docs/running.md has them all)");
    Ok((output.status.code() == Some(USAGE)).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn each_flag_with_its_values() {
        let args = words("--kernel /k --timeline --disk path=a path=b");
        assert_eq!(flags(&args), [0..2, 2..3, 3..6]);
        assert_eq!(flags(&[]), []);
    }

    /// By a brisk of a few lines of shell, which understands two flags.
    #[test]
    fn the_line_of_what_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("brisk");
        let script = "#!/bin/sh\n[ \"$1\" = --no-baked ] || exit 9\nshift\n\
                      for word; do case $word in --kernel|--kernel=/dev/null/*|--a|/dev/null/*) ;; \
                      *) echo \"brisk: $word: unknown\" >&2; exit 2;; esac; done; exit 1\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let scenario = |args: &str| Scenario {
            name: "api".into(),
            args: words(args),
            lines: vec![3, 3, 4, 5],
            file: Some("/w/brisk.toml".into()),
            ..Scenario::default()
        };
        for fine in ["--kernel /k --a", "--kernel=/k --a", "--a"] {
            try_with(&program, &scenario(fine)).unwrap();
        }
        let error = try_with(&program, &scenario("--kernel /k --a --b")).unwrap_err().to_string();
        assert_eq!(error, "/w/brisk.toml: line 5: [scenario.api]: --b: unknown");
    }
}
