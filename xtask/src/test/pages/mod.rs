//! The commands on the pages that a newcomer reads, run as they are written there.
//!
//! [`COMMANDS`] has each of them, where it is run and what it then shows, or why it is not run. A command that is
//! on a page and not in the table, or the other way round, fails a unit test.

use anyhow::{Result, ensure};

mod place;

/// Where a command is run, and what it comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// On this machine, in the order of the table: status, and what it says.
    Host(i32, &'static str),
    /// In L1, all in one, before those that are [`How::After`].
    Lab(i32, &'static str),
    /// On this machine, with what those in L1 left.
    After(i32, &'static str),
    /// Nowhere: why.
    Not(&'static str),
}

const TYPED: &str =
    "is typed into: tests/linux/run.rs and terminals.rs do, with the command line it makes";
const API: &str =
    "one VM that lives through several commands: the tests of the API have each request";
const HOURS: &str =
    "minutes to hours of the stopwatch, which `cargo xtask test --full` has its share of";

/// All commands, in the pages' order, but that the root comes first, which the others are about.
const COMMANDS: &[(&str, How)] = &[
    ("mmdebstrap --variant=minbase --include=python3-minimal bookworm root", How::Host(0, "")),
    ("cargo xtask boot", How::Host(0, "userspace")),
    ("cargo xtask test", How::Not("runs this")),
    ("cargo xtask run --root root -- /bin/sh -c 'uname -r; exit 7'", How::Host(7, "6.")),
    (
        "cargo xtask bundle --rootfs root --command /usr/bin/python3 --out python",
        How::Host(0, "python: "),
    ),
    ("echo 'print(6 * 7)' | ./python -", How::Lab(0, "42\n")),
    ("./python -c 'raise SystemExit(7)'; echo $?", How::Lab(0, "7\n")),
    (
        "brisk --kernel vmlinux --pmem file=jammy.raw --cmdline \"root=/dev/pmem0p1 console=hvc0 quiet\" \
         --serial null --console tty --memory size=512M,hugepages=on",
        How::Lab(0, ""),
    ),
    (
        "brisk --kernel vmlinux --pmem file=app.erofs,discard_writes=on --cmdline \"…\" \
         --snapshot path=ready,at=0xa0",
        How::Lab(0, ""),
    ),
    ("brisk --restore source_url=file://ready,record=0xa1", How::Lab(0, "brisk-init: restored")),
    ("brisk --restore ready --console file=clone.1", How::Lab(0, "")),
    (
        "brisk --kernel vmlinux --initramfs initramfs.cpio --api-socket /run/vm.sock &",
        How::Not(API),
    ),
    ("curl --unix-socket /run/vm.sock http://localhost/api/v1/vm.info", How::Not(API)),
    ("curl --unix-socket /run/vm.sock -X PUT http://localhost/api/v1/vm.pause", How::Not(API)),
    (
        "curl --unix-socket /run/vm.sock -X PUT http://localhost/api/v1/vm.power-button",
        How::Not(API),
    ),
    ("cargo xtask build --features pmem,hugepages", How::Host(0, "target/brisk/dynamic")),
    ("cargo xtask build --scenario pmem-hugepages --static", How::Host(0, "target/brisk/static")),
    ("cargo install --locked --path . --profile size", How::Host(0, "bin/brisk")),
    ("brisk --features", How::Host(0, "pmem")),
    ("cargo xtask metrics run --quick", How::Not(HOURS)),
    ("cargo xtask metrics record", How::Not("appends to the project's own history")),
    ("cargo xtask metrics check", How::Not(HOURS)),
    (
        "cargo xtask metrics blame boot_time_pmem_ms --good v1 --bad HEAD",
        How::Not("hours; `metrics prove brisk` of the full suite has a commit found"),
    ),
    ("cargo xtask metrics page", How::Host(0, "index.html")),
    ("for i in 1 2 3 4 5; do brisk --kernel … --boot-log boot.$i; done", How::Lab(0, "")),
    (
        "cargo xtask metrics import api boot.* --version 2026-11-25 --about 'kernel 6.12.117'",
        How::After(0, "api_userspace_ms"),
    ),
    (
        "cargo xtask metrics check --line last --history brisk-metrics.jsonl",
        // There is nothing yet that it could be worse than.
        How::After(2, ""),
    ),
    (
        "cargo xtask metrics page --history brisk-metrics.jsonl --out trends",
        How::After(0, "trends"),
    ),
    (
        "mmdebstrap --variant=minbase bookworm root",
        How::Not("the README's, which has one more package, is run"),
    ),
    ("cargo xtask run --root root -- cat /etc/os-release", How::Host(0, "bookworm")),
    ("cargo xtask run --root root --shell", How::Not(TYPED)),
    ("cargo xtask run --root root --writable --shell", How::Not(TYPED)),
    ("cargo xtask run --root target/run/root.ext4 --writable --shell", How::Not(TYPED)),
    (
        "skopeo copy docker://docker.io/library/alpine:3 oci:alpine:latest",
        How::Not("wants a registry; umoci makes a layout of that name"),
    ),
    (
        "cargo xtask run --root alpine:latest -- /bin/sh -c 'cat /etc/alpine-release'",
        How::Host(0, "3.0-of-the-test"),
    ),
    ("cargo xtask run --root root --print -- cat /etc/os-release", How::Host(0, "--kernel")),
    ("cargo xtask trace --initcalls", How::Host(0, "the slowest:")),
];

/// Runs what is to be run; how many that were.
///
/// # Errors
/// One does not do what is in the table, or something that it needs cannot be had.
pub fn check() -> Result<u32> {
    let place = place::Place::make()?;
    let mut count = 0;
    let on_host = |when: fn(How) -> Option<(i32, &'static str)>, count: &mut u32| -> Result<()> {
        for (command, how) in COMMANDS {
            if let Some((status, says)) = when(*how) {
                println!("$ {command}");
                done(command, place.run(command)?, (status, says))?;
                *count += 1;
            }
        }
        Ok(())
    };
    on_host(|how| if let How::Host(a, b) = how { Some((a, b)) } else { None }, &mut count)?;
    let in_lab: Vec<&str> = COMMANDS
        .iter()
        .filter(|(_, how)| matches!(how, How::Lab(..)))
        .map(|(command, _)| *command)
        .collect();
    for (command, ended) in in_lab.iter().zip(place.run_in_lab(&in_lab)?) {
        let how = COMMANDS.iter().find(|(known, _)| known == command).map(|(_, how)| *how);
        let Some(How::Lab(status, says)) = how else { continue };
        println!("$ {command}    # in the lab");
        done(command, ended, (status, says))?;
        count += 1;
    }
    on_host(|how| if let How::After(a, b) = how { Some((a, b)) } else { None }, &mut count)?;
    Ok(count)
}

/// A command's status and what it said on either output.
type Ended = (i32, String);

fn done(command: &str, (status, text): Ended, wanted: (i32, &str)) -> Result<()> {
    let good = status == wanted.0 && text.contains(wanted.1);
    ensure!(
        good,
        "{command}\nended with {status}, wanted {} and {:?}; it said:\n{text}",
        wanted.0,
        wanted.1
    );
    Ok(())
}

/// The pages whose commands are tried.
#[cfg(test)]
pub const PAGES: [&str; 6] = [
    "README.md",
    "docs/getting-started.md",
    "docs/running.md",
    "docs/bundles.md",
    "docs/measuring.md",
    "docs/tuning.md",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;
    use std::fs;

    /// The commands of a page: the lines of its blocks that have no language and are not generated, without
    /// comments, each once.
    fn commands(page: &str) -> Vec<String> {
        let (mut inside, mut is_shell, mut generated) = (false, false, false);
        let mut found: Vec<String> = Vec::new();
        let mut begun = String::new();
        for line in page.lines() {
            if let Some(name) = line.strip_prefix("<!-- ") {
                generated = !name.starts_with('/');
            } else if let Some(language) = line.strip_prefix("```") {
                inside = !inside;
                is_shell = inside && language.is_empty() && !generated;
            } else if is_shell {
                let line = line.split(" #").next().unwrap_or(line).trim();
                if let Some(more) = line.strip_suffix(" \\") {
                    begun += more;
                    begun.push(' ');
                    continue;
                }
                let line = std::mem::take(&mut begun) + line;
                if !line.is_empty() && !found.contains(&line) {
                    found.push(line);
                }
            }
        }
        found
    }

    /// All commands of all pages, each once.
    fn of_all_pages() -> Vec<String> {
        let mut all = Vec::new();
        for page in PAGES {
            let text = fs::read_to_string(paths::workspace().join(page)).unwrap();
            for command in commands(&text) {
                if !all.contains(&command) {
                    all.push(command);
                }
            }
        }
        all
    }

    #[test]
    fn every_command_is_run_or_has_a_reason() {
        let written = of_all_pages();
        for command in &written {
            let known = COMMANDS.iter().filter(|(known, _)| known == command).count();
            assert_eq!(known, 1, "in the table of xtask/src/test/pages/mod.rs: {command}");
        }
        for (command, how) in COMMANDS {
            assert!(written.iter().any(|other| other == command), "on no page: {command}");
            assert!(!matches!(how, How::Not("")), "{command}: without a reason");
        }
    }

    #[test]
    fn what_a_command_is() {
        let page = "```\na b   # c\nd \\\n   e\n\n```\n```toml\nx = 1\n```\n<!-- t -->\n```\n1.0\n```\n\
                    <!-- /t -->\n```\na b\nf\n```\n";
        assert_eq!(commands(page), ["a b", "d e", "f"]);
    }

    #[test]
    fn what_is_not_as_in_the_table_is_said() {
        assert!(done("c", (0, "text".into()), (0, "ex")).is_ok());
        for (ended, wanted) in [((1, "text"), (0, "ex")), ((0, "text"), (0, "other"))] {
            let error = done("c", (ended.0, ended.1.into()), wanted).unwrap_err().to_string();
            assert!(error.contains("c\nended with") && error.contains("text"), "{error}");
        }
    }
}
