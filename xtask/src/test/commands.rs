//! The commands in the README and on the pages that it links to: each is one that `cargo xtask` understands.
#![cfg(test)]

use argh::FromArgs;
use duct::cmd;
use std::fs;

use crate::{Xtask, paths};

/// What stands in blocks of commands on a page, without comments.
fn commands(text: &str) -> Vec<String> {
    let (mut inside, mut is_shell) = (false, false);
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside;
            is_shell = inside && language.is_empty();
        }
        let indented = line.strip_prefix("    ").filter(|_| !inside);
        let line = indented.unwrap_or(if is_shell { line } else { "" });
        if line.starts_with("cargo xtask ") {
            found.push(line.split(" #").next().unwrap_or(line).trim().to_owned());
        }
    }
    found
}

/// The words that a shell makes of a line.
fn words(line: &str) -> Vec<String> {
    let script = format!("for word in {line}; do printf '%s\\0' \"$word\"; done");
    let text = cmd!("sh", "-c", script).read().unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn each_command_is_understood() {
    let mut count = 0;
    for page in super::pages::PAGES.into_iter().chain(["CONTRIBUTING.md"]) {
        let text = fs::read_to_string(paths::workspace().join(page)).unwrap();
        for line in commands(&text) {
            let words = words(line.trim_start_matches("cargo "));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            count += 1;
            match Xtask::from_args(&["xtask"], &words[1..]) {
                Ok(_) => {}
                // A kernel of the reader's own is not here.
                Err(exit) if exit.output.contains("neither micro") => {}
                Err(exit) => panic!("{page}: {line}: {}", exit.output),
            }
        }
    }
    assert!(count > 10, "only {count} commands were found");
}
