//! The usage tests with every scenario's program, as it is shipped: what nothing of the user's is harmed by
//! holds in each build. The tests take what a program has from `BRISK_FEATURES`.

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::time::Duration;

use super::boot;
use crate::build::{features, scenario};
use crate::lab::{self, Job, quote};
use crate::test::{count::Count, program_of_tests};
use crate::ui::Step;

/// What one program is enough for: it is the host that is tested there.
const SKIPPED: &[&str] = &["devices::"];

/// Builds all and runs the tests, on this machine's KVM or in the lab. Returns how many passed.
///
/// # Errors
/// A program does not build, or a test failed.
pub fn all() -> Result<u32> {
    let dir = tempfile::tempdir()?;
    let tests = program_of_tests("usage")?;
    let known = features::of_brisk()?;
    let subjects = scenario::table();
    let mut script = "status=0\n".to_owned();
    let mut files = Vec::new();
    let mut step = Step::counted("building every scenario", subjects.len() as u64);
    for (index, subject) in subjects.iter().enumerate() {
        let name = &subject.name;
        let file = format!("brisk-{name}");
        let path = dir.path().join(&file);
        // Linked as it is booted.
        fs::write(&path, boot::program(subject, index % 2 == 1)?)?;
        files.push((path, file.clone()));
        let closure = known.closure(&subject.features);
        let list = closure.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let _ = writeln!(
            script,
            "chmod +x {file}\n\
             echo {name}:; BRISK_BIN=\"$PWD/{file}\" BRISK_FEATURES={list} {} --test-threads=1{} || status=1",
            quote(&tests.to_string_lossy()),
            SKIPPED.iter().map(|name| format!(" --skip {name}")).collect::<String>(),
        );
        step.tick();
    }
    step.done();
    script += "exit $status\n";
    let step = Step::start("trying how every scenario is used");
    let (status, text) = if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
        let command = duct::cmd!("sh", "-c", &script).dir(dir.path()).stdin_null();
        let done = command.stderr_to_stdout().stdout_capture().unchecked().run();
        let done = done.context("cannot run sh")?;
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        let timeout = Duration::from_secs(1200);
        let output = lab::run(&Job { script, files, timeout, ..Job::default() })?;
        (output.status == 0, output.console)
    };
    step.done();
    let passed = Count::of(&text).passed;
    ensure!(status && passed > 0, "{text}");
    Ok(passed as u32)
}
