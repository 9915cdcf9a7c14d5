//! Whether the compiler can build for a target, said before it is called.

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use std::path::Path;

/// # Errors
/// There is no such target, brisk is not for it, or its standard library is not installed.
pub fn check(target: &str) -> Result<()> {
    let list = cmd!("rustc", "--print", "target-list").read().context("rustc")?;
    let root = cmd!("rustc", "--print", "sysroot").read().context("rustc")?;
    judge(target, &list, &|target| {
        Path::new(&root).join("lib/rustlib").join(target).join("lib").is_dir()
    })
}

fn judge(target: &str, list: &str, is_installed: &dyn Fn(&str) -> bool) -> Result<()> {
    if !list.lines().any(|line| line == target) {
        let ours: Vec<&str> = list.lines().filter(|line| is_ours(line)).collect();
        bail!(
            "--target {target}: the compiler knows none of this name; brisk is for {}",
            ours.join(", ")
        );
    }
    ensure!(is_ours(target), "--target {target}: brisk is for x86_64 Linux");
    ensure!(
        is_installed(target),
        "--target {target}: is not installed; try: rustup target add {target}"
    );
    Ok(())
}

fn is_ours(target: &str) -> bool {
    ["x86_64-unknown-linux-gnu", "x86_64-unknown-linux-musl"].contains(&target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_in_one_line_with_its_mend() {
        let list = "aarch64-apple-darwin\nx86_64-unknown-linux-gnu\nx86_64-unknown-linux-musl";
        let says = |target: &str| {
            judge(target, list, &|target| target.ends_with("gnu")).map_err(|e| e.to_string())
        };
        assert_eq!(says("x86_64-unknown-linux-gnu"), Ok(()));
        let wrong = |target: &str| says(target).unwrap_err();
        assert!(
            wrong("x86_64-linux")
                .ends_with("for x86_64-unknown-linux-gnu, x86_64-unknown-linux-musl")
        );
        assert!(wrong("aarch64-apple-darwin").ends_with("brisk is for x86_64 Linux"));
        let missing = "try: rustup target add x86_64-unknown-linux-musl";
        assert!(wrong("x86_64-unknown-linux-musl").ends_with(missing));
    }

    #[test]
    fn what_brisk_is_built_for_is_there() {
        check(crate::build::TARGET).unwrap();
    }
}
