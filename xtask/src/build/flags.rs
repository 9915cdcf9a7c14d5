//! How cargo, the compiler and the linker are called, and the other ways that were open.

use anyhow::{Context, Result};
use std::env;
use std::path::{Path, PathBuf};

use super::{Libc, Order, TARGET, handlers, has_handlers, musl};

/// How the linker is called; features.md says what each gains. Paths are from the workspace, where
/// cargo runs the compiler.
/// - Functions with the same code become one.
/// - No unwind tables: a panic aborts.
/// - Relocations in DT_RELR's short form (glibc 2.36 and later, musl 1.2.4).
/// - No build id: nothing reads it.
const LINK: &[&str] = &[
    "-Wl,--icf=all",
    "-Wl,--no-eh-frame-hdr",
    "-Wl,-T,xtask/src/build/no-unwind.ld",
    "-Wl,-z,pack-relative-relocs",
    "-Wl,--build-id=none",
];

/// Another way to build than the shipped one, to see what a choice gains.
pub struct Variation {
    /// What is different.
    pub what: &'static str,
    /// For cargo's `--config`.
    pub(super) config: &'static [&'static str],
    /// Of [`LINK`], what is left out.
    without: &'static [&'static str],
    /// With the standard library's own handlers, and optimised together with it by the compiler.
    pub(super) handlers_of_std: bool,
}

impl Variation {
    /// Nothing is.
    pub(super) const NONE: Variation =
        Variation { what: "", config: &[], without: &[], handlers_of_std: false };
}

/// The choices that were open.
pub const VARIATIONS: &[Variation] = &[
    Variation { what: "opt-level 3", config: &["profile.size.opt-level=3"], ..Variation::NONE },
    Variation { what: "opt-level z", config: &["profile.size.opt-level='z'"], ..Variation::NONE },
    Variation {
        what: "16 codegen units",
        config: &["profile.size.codegen-units=16"],
        ..Variation::NONE
    },
    Variation { what: "std's own handlers", handlers_of_std: true, ..Variation::NONE },
    Variation {
        what: "equal functions kept apart",
        without: &["-Wl,--icf=all"],
        ..Variation::NONE
    },
    Variation {
        what: "unwind tables kept",
        without: &["-Wl,--no-eh-frame-hdr", "-Wl,-T,xtask/src/build/no-unwind.ld"],
        ..Variation::NONE
    },
    Variation {
        what: "relocations in the long form",
        without: &["-Wl,-z,pack-relative-relocs"],
        ..Variation::NONE
    },
];

/// Features for cargo: without `logging` no crate below brisk keeps its log messages either.
pub(super) fn cargo_features(features: &[String]) -> String {
    let mut list = features.to_vec();
    if !features.iter().any(|f| f == "logging" || f == "full" || f == "default") {
        list.push("log/max_level_off".to_owned());
    }
    list.join(",")
}

/// The compiler's flags. They name no directory that ends up in the binary.
pub(super) fn rustflags(order: &Order<'_>, variation: &Variation) -> Result<Vec<String>> {
    let home = match env::var_os("CARGO_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![
        remap(&home.join("registry/src"), "crates"),
        remap(&home, "cargo"),
        remap(order.target_dir, "target"),
        remap(order.source, "brisk"),
    ];
    let kept = LINK.iter().filter(|arg| !variation.without.contains(arg));
    let mut link: Vec<String> = kept.map(|arg| (*arg).to_owned()).collect();
    if !variation.handlers_of_std && has_handlers(order.source) {
        flags.push("-Clinker-plugin-lto".to_owned());
        link.extend(handlers::link_args(order.source, order.target)?);
    }
    if order.libc != Libc::Dynamic {
        // Not position-independent: no relocation at start, and shorter code.
        flags.extend(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"].map(Into::into));
    }
    if order.libc == Libc::Musl && order.target == TARGET {
        flags.push(format!("-Clinker={}", musl::COMPILER));
        link.extend(musl::link_args(order.source, order.target_dir)?);
    }
    flags.extend(link.iter().map(|arg| format!("-Clink-arg={arg}")));
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_logging_no_crate_logs() {
        assert_eq!(cargo_features(&["pmem".to_owned()]), "pmem,log/max_level_off");
        assert_eq!(cargo_features(&["full".to_owned()]), "full");
        assert_eq!(cargo_features(&["a".to_owned(), "logging".to_owned()]), "a,logging");
    }
}
