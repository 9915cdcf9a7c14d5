//! A binary with baked arguments, as `cargo xtask build --scenario` makes one.

use std::path::Path;
use std::process::Command;

use super::common::run;
use super::place::{FAILED, USAGE};

const BAKED: &str = "--kernel\t/nowhere/kernel\n--memory\tsize=16M\n--cmdline\ta  b";

/// Builds it. In a folder of its own: cargo builds all again where the arguments are others.
fn build() -> Command {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("baked");
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--package=brisk", "--no-default-features"])
        .args(["--features=serial", "--target-dir"])
        .arg(&target)
        .env("BRISK_DEFAULT_ARGS", BAKED)
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Command::new(target.join("debug/brisk"))
}

#[test]
fn what_is_baked_is_told_replaced_and_dropped() {
    let program = build();
    let brisk = |words: &[&str]| {
        let mut command = Command::new(program.get_program());
        command.args(words);
        run(&mut command)
    };
    for words in [["--help"], ["--version"], ["-h"], ["-V"]] {
        let ended = brisk(&words).silent().with_status(0);
        let told = "--kernel /nowhere/kernel\n  --memory size=16M\n  --cmdline a  b\n";
        assert!(ended.stdout.contains(told) && ended.stdout.contains("--no-baked"), "{ended:#?}");
    }
    assert_eq!(brisk(&["--features"]).silent().with_status(0).stdout, "serial\n");
    let says = |words: &[&str], status: i32, text: &str| {
        let ended = brisk(words).with_status(status);
        assert!(ended.stderr.contains(text), "{words:?}: {ended:#?}");
    };
    says(&[], FAILED, "--kernel /nowhere/kernel: No such file");
    says(&["--kernel=/nowhere/other"], FAILED, "--kernel /nowhere/other: No such file");
    says(&["--memory", "size=1X"], USAGE, "--memory size=1X");
    says(&["--no-baked"], USAGE, "--kernel");
    // A value that looks like it is none.
    says(&["--cmdline", "--no-baked"], FAILED, "--kernel /nowhere/kernel: No such file");
    says(&["--no-baked", "--kernel", "/nowhere/x"], FAILED, "--kernel /nowhere/x: No such file");
}
