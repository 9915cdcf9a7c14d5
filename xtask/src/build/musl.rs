//! musl as the C library of objects that are made for glibc's target, whose standard library every
//! toolchain has.
//!
//! What both libraries are handed must look the same to both: `layout.c` prints it, and a difference
//! ends the build. What only glibc has is in `shim.c`.

use anyhow::{Context, Result, bail};
use duct::cmd;
use std::fs;
use std::path::Path;

use crate::debian;

/// gcc with musl's headers, start-up code and library, of the package musl-tools.
pub const COMPILER: &str = "musl-gcc";

/// The linker's arguments. `dir` is for what is compiled here.
///
/// # Errors
/// There is no musl, or it differs from glibc where it may not.
pub fn link_args(source: &Path, dir: &Path) -> Result<Vec<String>> {
    const HINT: &str = "--static links musl; --static=glibc does without";
    debian::ensure(&["musl-tools", "gcc"]).context(HINT)?;
    fs::create_dir_all(dir)?;
    let sources = source.join("xtask/src/build/musl");
    // Another xtask may be here at the same time: it runs no program that this one writes, and links no
    // object that is half there.
    let work = tempfile::tempdir_in(dir)?;
    let [glibc, musl] =
        [("gcc", "layout-glibc"), (COMPILER, "layout-musl")].map(|(compiler, name)| {
            let program = work.path().join(name);
            cmd!(compiler, "-static", "-o", &program, sources.join("layout.c")).run()?;
            cmd!(program).read()
        });
    compare(&glibc.context("glibc's layout")?, &musl.context("musl's layout")?)?;
    let (made, shim) = (work.path().join("shim.o"), dir.join("shim.o"));
    cmd!(COMPILER, "-Os", "-ffunction-sections", "-c", "-o", &made, sources.join("shim.c"))
        .run()
        .context("shim.c")?;
    fs::rename(&made, &shim).context("shim.o")?;
    let read = |program: &str, words: &[&str]| cmd(program, words).dir(source).read();
    let libgcc = read("gcc", &["-print-libgcc-file-name"]).context("gcc")?;
    let libgcc = Path::new(&libgcc).parent().context("libgcc.a")?;
    // The linker that the compiler brings, which it takes by itself where the compiler is cc.
    let sysroot = read("rustc", &["--print", "sysroot"]).context("rustc")?;
    let linker = format!("{sysroot}/lib/rustlib/{}/bin/gcc-ld", super::TARGET);
    Ok(vec![
        shim.display().to_string(),
        "-fuse-ld=lld".to_owned(),
        format!("-B{linker}"),
        format!("-L{}", libgcc.display()),
        // By `shim.c`, which comes too late to be there before the library's.
        "-Wl,--wrap=open,--wrap=open64".to_owned(),
        // musl-gcc names one for static programs too.
        "-Wl,--no-dynamic-linker".to_owned(),
        // Each segment is a mapping more at the start, and pages that are looked up or copied for its ends. musl
        // makes nothing read-only in a static program once that is relocated, which this one is from the start; and
        // constants lie with the code, where they are as little writable.
        "-Wl,-z,norelro".to_owned(),
        "-Wl,--no-rosegment".to_owned(),
    ])
}

/// # Errors
/// A line differs.
fn compare(glibc: &str, musl: &str) -> Result<()> {
    if glibc.is_empty() || glibc.lines().count() != musl.lines().count() {
        bail!("layout.c prints something else with musl than with glibc");
    }
    for (theirs, ours) in glibc.lines().zip(musl.lines()) {
        if theirs != ours {
            bail!("not the same in glibc and musl: {theirs}, {ours}; use --static=glibc");
        }
    }
    Ok(())
}

/// musl's notice, with the names of its authors.
///
/// # Errors
/// It is not Debian's.
pub fn copyright() -> Result<String> {
    debian::ensure(&["musl-tools"])?;
    let path = "/usr/share/doc/musl-dev/copyright";
    fs::read_to_string(path).with_context(|| format!("{path}: of package musl-dev"))
}

/// Which musl.
///
/// # Errors
/// It is not Debian's.
pub fn version() -> Result<String> {
    let version = cmd!("dpkg-query", "-W", "-f", "${Version}", "musl-dev").read();
    Ok(format!("musl {}", version.context("package musl-dev")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named() {
        compare("sizeof(a) 8\nB 1", "sizeof(a) 8\nB 1").unwrap();
        let error = compare("sizeof(a) 8\nB 1", "sizeof(a) 8\nB 2").unwrap_err().to_string();
        assert!(error.contains("B 1, B 2"), "{error}");
        assert!(compare("", "").is_err());
        assert!(compare("A 1\nB 1", "A 1").is_err());
    }

    #[test]
    fn several_at_once_are_not_in_each_others_way() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let one = || link_args(crate::paths::workspace(), dir.path());
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            for args in all {
                args.join().unwrap().unwrap();
            }
        });
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
