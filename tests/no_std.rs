//! brisk-boot and brisk-devices work where there is no std, no alloc and no libc, and nothing that a
//! guest does to a device can panic: both shown by programs in `tests/freestanding` that would not
//! link otherwise.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CRATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/freestanding");
/// Nothing but the program: no startup files, no libc, no dynamic loader.
const LINK: &str = "link-args=-nostartfiles -nostdlib -static -no-pie";

/// Builds one of the programs, as cargo would for a user of the packages: what `cargo test` was told
/// of flags does not count.
fn build(name: &str) -> (Output, PathBuf) {
    // A folder for each, as cargo lets one process at a time into one.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = Command::new(env!("CARGO"))
        .current_dir(CRATE)
        .args(["rustc", "--release", "--quiet", "--bin", name, "--target-dir"])
        .arg(&target)
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .args(["--", "-C", "relocation-model=static", "-C", LINK])
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo can be run");
    (output, target.join("x86_64-unknown-linux-gnu/release").join(name))
}

fn build_ok(name: &str) -> PathBuf {
    let (output, program) = build(name);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

fn tool(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("{program} of package binutils: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn both_packages_link_and_run_without_std_alloc_and_libc() {
    let program = build_ok("links");
    let symbols = tool("nm", &["--demangle"], &program);
    assert!(symbols.contains(" T _start"), "{symbols}");
    assert!(symbols.contains("brisk_boot::"), "nothing of brisk-boot is in it: {symbols}");
    for foreign in ["std::", "alloc::", "__rust_alloc", "__rdl_", "__libc", " U "] {
        let found: Vec<&str> = symbols.lines().filter(|line| line.contains(foreign)).collect();
        assert!(found.is_empty(), "{foreign}: {found:#?}");
    }
    let headers = tool("objdump", &["-p"], &program);
    for dynamic in ["INTERP", "NEEDED", "DYNAMIC"] {
        assert!(!headers.contains(dynamic), "{dynamic}: {headers}");
    }
    let status = Command::new(&program).status().expect("it can be run");
    assert!(status.success(), "{status}: 1 to 5 is the check that failed, 100 a panic");
}

#[test]
fn the_example_works() {
    let status = Command::new(build_ok("example")).status().expect("it can be run");
    assert!(status.success(), "{status}");
}

#[test]
fn nothing_that_a_guest_does_to_a_device_can_panic() {
    let status = Command::new(build_ok("no_panic")).status().expect("it can be run");
    assert!(status.success(), "{status}");
}

#[test]
fn all_features_of_brisk_devices_are_in_it() {
    let features = |text: &str| -> Vec<String> {
        let (_, rest) = text.split_once("[features]\n").expect("features");
        let (part, _) = rest.split_once("\n[").expect("an end");
        let names = part.lines().filter_map(|line| line.split_once(" = ["));
        let mut names: Vec<String> =
            names.map(|(name, _)| name.to_owned()).filter(|name| name != "default").collect();
        names.sort();
        names
    };
    let read = |path: &str| std::fs::read_to_string(path).expect(path);
    let devices = read(concat!(env!("CARGO_MANIFEST_DIR"), "/devices/Cargo.toml"));
    let boot = read(concat!(env!("CARGO_MANIFEST_DIR"), "/boot/Cargo.toml"));
    assert!(!boot.contains("[features]"), "brisk-boot has features now: name them too");
    let ours = read(&format!("{CRATE}/Cargo.toml"));
    let (_, list) = ours.split_once("devices\", features = [").expect("the list");
    let (list, _) = list.split_once(']').expect("its end");
    let named: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(named, features(&devices));
}
