//! brisk's own handlers in place of the standard library's, which would bring what a backtrace needs.
//!
//! The compiler calls both by names that have its own hash in them. They are taken from the standard
//! library that is linked, and given to the linker as other names for brisk's. That needs the standard
//! library as it comes, apart from what the linker optimises as a whole: so link-time optimisation is
//! the linker's work and not the compiler's.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};
use std::fs;
use std::path::{Path, PathBuf};

/// What the compiler's name ends with, and brisk's (`src/last_words.rs`).
const HANDLERS: [(&str, &str); 2] =
    [("rust_begin_unwind", "brisk_panicked"), ("rust_alloc_error_handler", "brisk_has_no_memory")];

/// What the parts of the standard library that come compiled call to unwind, and what an unwinder calls back. A
/// panic ends the process, so nothing ever calls them; yet for their sake libgcc's unwinder was linked, which is
/// 19 KB, or loaded with each start. Any address does.
const NEVER: [&str; 2] = ["_Unwind_Resume", "rust_eh_personality"];

/// The linker's arguments.
///
/// # Errors
/// There is no standard library for `target`, or it has no such handlers.
pub fn link_args(source: &Path, target: &str) -> Result<Vec<String>> {
    let library = library(source, target)?;
    let names = defined(&fs::read(&library)?).with_context(|| library.display().to_string())?;
    let arg = |(theirs, ours): (&str, &str)| {
        let mut found = names.iter().filter(|name| name.ends_with(theirs));
        let name = found.next().with_context(|| format!("std has no {theirs} any more"))?;
        ensure!(found.next().is_none(), "std has more than one {theirs}");
        Ok(format!("-Wl,--defsym={name}={ours}"))
    };
    let never = NEVER.map(|name| Ok(format!("-Wl,--defsym={name}={}", HANDLERS[0].1)));
    HANDLERS.into_iter().map(arg).chain(never).collect()
}

/// `libstd-HASH.rlib`.
fn library(source: &Path, target: &str) -> Result<PathBuf> {
    let words = ["--print", "target-libdir", "--target", target];
    let dir = cmd("rustc", words).dir(source).read().context("rustc does not run")?;
    let missing = || format!("no standard library for {target}: rustup target add {target}");
    for entry in fs::read_dir(dir.trim()).with_context(missing)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("libstd-") && name.ends_with(".rlib") {
            return Ok(path);
        }
    }
    anyhow::bail!(missing())
}

/// Names of the symbols that a library's objects define for others.
fn defined(library: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for member in ArchiveFile::parse(library)?.members() {
        let member = member?;
        if !member.name().ends_with(b".o") {
            continue;
        }
        let object = object::File::parse(member.data(library)?)?;
        let theirs = object.symbols().filter(|symbol| symbol.is_global() && symbol.is_definition());
        names.extend(theirs.filter_map(|symbol| symbol.name().ok().map(str::to_owned)));
    }
    Ok(names)
}
