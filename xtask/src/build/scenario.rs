//! The scenarios that `--scenario` names: what a binary is built for, and what is baked into it.
//!
//! The table is [`TABLE`]; users add their own in a `brisk.toml` in the working directory or, where
//! that has none, in the workspace. Baked arguments are tried when the binary is built, by itself
//! (`build::baked`):
//!
//! ```toml
//! [scenario.api]
//! about = "our API's sandbox"
//! features = ["pmem", "hugepages", "console"]
//! # Baked into the binary, so that ./brisk alone boots it. A flag given to ./brisk replaces the baked
//! # one, --disk and --pmem come behind those, --no-baked drops all.
//! args = ["--kernel", "/srv/vmlinux", "--pmem", "file=/srv/api.raw", "--cmdline", "root=/dev/pmem0"]
//!
//! # With `image` it is for `cargo xtask bundle`, and `args` are the workload's.
//! [scenario.web]
//! image = "oci:./layout:latest"   # or tar:FILE, rootfs:DIR, image:FILE
//! kernel = "micro"                # or guest, or a vmlinux
//! memory = "128M"
//! env = ["PORT=80"]
//! command = ["/usr/bin/web"]      # instead of the image's
//! args = ["--verbose"]            # where none are given
//! writable = "tmpfs"              # or no, or disk:FILE, an ext4 in which what is written stays
//! ```

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::paths;

/// What a binary is built for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Its purpose in a sentence.
    pub about: String,
    /// The features of package brisk.
    pub features: Vec<String>,
    /// Arguments that are baked into the binary.
    pub args: Vec<String>,
    /// The line of each, and the file.
    pub lines: Vec<usize>,
    /// Where the user wrote it.
    pub file: Option<PathBuf>,
    /// An example command. What it boots is in `crate::build::matrix`.
    pub example: String,
    /// What a bundle of it runs.
    pub workload: Option<Workload>,
}

/// The keys of a scenario of which `cargo xtask bundle` makes one executable.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Workload {
    /// `oci:LAYOUT:TAG`, `tar:FILE`, `rootfs:DIR` or `image:FILE`.
    #[serde(default)]
    pub image: Option<String>,
    /// `micro`, `guest`, or a vmlinux.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The guest's memory, `128M`.
    #[serde(default)]
    pub memory: Option<String>,
    /// `NAME=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Instead of the image's.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Where none are given.
    #[serde(default, skip)]
    pub args: Option<Vec<String>>,
    /// `tmpfs`, `no` or `disk:FILE`.
    #[serde(default)]
    pub writable: Option<String>,
    /// More features of brisk.
    #[serde(default, skip)]
    pub features: Vec<String>,
}

impl Workload {
    /// The file in which what is written stays.
    pub fn disk(&self) -> Option<&str> {
        self.writable.as_ref()?.strip_prefix("disk:")
    }
}

/// Checks what can be checked without the image.
///
/// # Errors
/// The key that is wrong.
pub fn check(workload: &Workload) -> Result<()> {
    if let Some(text) = &workload.writable
        && !["tmpfs", "no"].contains(&text.as_str())
        && workload.disk().is_none_or(str::is_empty)
    {
        bail!("writable {text}: give tmpfs, no, or disk:FILE, where FILE has an ext4 in it");
    }
    if let Some(text) = &workload.memory {
        let number = text.trim_end_matches(['K', 'M', 'G', 'T']);
        let good = text.len() - number.len() <= 1 && number.parse::<u64>().is_ok();
        if !good {
            bail!("memory {text}: give a number of bytes with K, M or G behind it");
        }
    }
    if let Some(pair) =
        workload.env.iter().find(|pair| !pair.contains('=') || pair.starts_with('='))
    {
        bail!("env {pair}: give NAME=VALUE");
    }
    Ok(())
}

/// A row of the table.
struct Row {
    name: &'static str,
    about: &'static str,
    features: &'static str,
    example: &'static str,
}

/// The scenarios that come with brisk.
const TABLE: &[Row] = &[
    Row {
        name: "serial",
        about: "A kernel and an initramfs with a serial console: the plainest machine.",
        features: "serial,boot-timer,seccomp",
        example: "brisk --kernel vmlinux --initramfs initramfs.cpio --cmdline console=ttyS0 \
                  --serial tty",
    },
    Row {
        name: "console-block",
        about: "A disk image that can be written to, and virtio-console.",
        features: "console,block,seccomp",
        example: "brisk --kernel vmlinux --disk path=ext4.raw \
                  --cmdline \"root=/dev/vda console=hvc0 quiet\" --console tty",
    },
    Row {
        name: "pmem",
        about: "An image mapped into the guest's memory, so that the guest needs no cache of it.",
        features: "console,pmem,seccomp",
        example: "brisk --kernel vmlinux --pmem file=ext4.raw \
                  --cmdline \"root=/dev/pmem0 console=hvc0 quiet\" --console tty",
    },
    Row {
        name: "pmem-hugepages",
        about: "The talk's last and fastest command: pmem, and guest memory in 2 MiB pages.",
        features: "console,pmem,hugepages,seccomp",
        example: "brisk --kernel vmlinux --pmem file=ext4-partition.raw \
                  --cmdline \"root=/dev/pmem0p1 console=hvc0 quiet\" --serial null --console tty \
                  --memory size=512M,hugepages=on",
    },
    Row {
        name: "pci-distro",
        about: "A distribution's own kernel as it is packed, with its devices on a PCI bus.",
        features: "serial,block,pci,bzimage,seccomp",
        example: "brisk --kernel vmlinuz --initramfs initramfs.cpio --disk path=ext4.raw \
                  --transport pci --cmdline console=ttyS0 --serial tty",
    },
    Row {
        name: "function",
        about: "The smallest that can run one program from an EROFS image and return: no console; 0 for \
                a power-off, 3 for a crash. A status of its own takes the feature `exit-status`.",
        features: "pmem,seccomp",
        example: "brisk --kernel vmlinux --pmem file=erofs.raw,discard_writes=on \
                  --cmdline \"root=/dev/pmem0 rootfstype=erofs quiet\" --memory size=128M",
    },
    Row {
        name: "full",
        about: "Every feature, for a machine where size does not matter.",
        features: "full",
        example: "brisk --kernel vmlinux --disk path=ext4.raw \
                  --cmdline \"root=/dev/vda console=hvc0\" --console tty --timeline",
    },
];

/// The text of a `brisk.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    scenario: BTreeMap<toml::Spanned<String>, Own>,
}

/// A user's scenario.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    #[serde(default)]
    about: String,
    features: Option<Vec<toml::Spanned<String>>>,
    #[serde(default)]
    args: Vec<toml::Spanned<String>>,
    image: Option<toml::Spanned<String>>,
    kernel: Option<String>,
    memory: Option<String>,
    #[serde(default)]
    env: Vec<String>,
    command: Option<Vec<String>>,
    writable: Option<String>,
}

/// The scenarios that come with brisk.
pub fn table() -> Vec<Scenario> {
    let row = |row: &Row| Scenario {
        name: row.name.to_owned(),
        about: row.about.to_owned(),
        features: row.features.split(',').map(str::to_owned).collect(),
        example: row.example.to_owned(),
        ..Scenario::default()
    };
    TABLE.iter().map(row).collect()
}

/// The scenario called `name`, of the table or of the user's `brisk.toml`.
///
/// # Errors
/// There is none (the error lists those there are), or the file is wrong.
pub fn find(name: &str, known: &[String]) -> Result<Scenario> {
    let mut all = table();
    if let Some(path) = file() {
        let text = fs::read_to_string(&path)?;
        let own = parse(&text, known).with_context(|| path.display().to_string())?;
        all.extend(own.into_iter().map(|own| Scenario { file: Some(path.clone()), ..own }));
    }
    if let Some(found) = all.iter().find(|scenario| scenario.name == name) {
        return Ok(found.clone());
    }
    let list: String = all.iter().map(|s| format!("\n  {:15} {}", s.name, s.about)).collect();
    bail!("--scenario {name}: there is no such scenario; there are:{list}")
}

/// The user's file, if there is one.
fn file() -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    let places = here.iter().map(PathBuf::as_path).chain([paths::workspace()]);
    places.map(|dir: &Path| dir.join("brisk.toml")).find(|path| path.is_file())
}

/// Reads a `brisk.toml`. `known` are the features that there are.
///
/// # Errors
/// It is wrong; the error names the line.
fn parse(text: &str, known: &[String]) -> Result<Vec<Scenario>> {
    let line = |span: Range<usize>| text[..span.start].matches('\n').count() + 1;
    let file: File = toml::from_str(text).map_err(|e| match e.span() {
        Some(span) => anyhow::anyhow!("line {}: {}", line(span), e.message()),
        None => anyhow::anyhow!("{}", e.message()),
    })?;
    let mut scenarios = Vec::new();
    for (name, own) in file.scenario {
        let at = line(name.span());
        ensure!(
            is_plain(name.get_ref()),
            "line {at}: scenario {:?}: a name is letters, digits, `-`, `_` and `.`, and starts with one of \
             the first two",
            name.get_ref()
        );
        if TABLE.iter().any(|row| row.name == name.get_ref()) {
            bail!("line {at}: {} is a scenario of brisk's own; take another name", name.get_ref());
        }
        if own.features.is_none() && own.image.is_none() {
            bail!("line {at}: missing field `features` (or `image`, for a bundle)");
        }
        for feature in own.features.iter().flatten() {
            if !known.contains(feature.get_ref()) {
                let (at, list) = (line(feature.span()), known.join(", "));
                bail!("line {at}: there is no feature `{}`; there are {list}", feature.get_ref());
            }
        }
        // Of a bundle they are the workload's.
        if let Some(first) = own.args.first()
            && own.image.is_none()
            && !first.get_ref().starts_with("--")
        {
            bail!("line {}: args start with a flag, as in [\"--kernel\", …]", line(first.span()));
        }
        if let Some(arg) = own.args.iter().find(|arg| arg.get_ref().contains(['\n', '\t'])) {
            bail!("line {}: an argument has a line break or a tab in it", line(arg.span()));
        }
        let plain = |words: Vec<toml::Spanned<String>>| {
            words.into_iter().map(toml::Spanned::into_inner).collect::<Vec<_>>()
        };
        let features = plain(own.features.unwrap_or_default());
        let lines = own.args.iter().map(|arg| line(arg.span())).collect();
        let args = plain(own.args);
        let workload = own.image.as_ref().map(|image| Workload {
            image: Some(image.get_ref().clone()),
            kernel: own.kernel.clone(),
            memory: own.memory.clone(),
            env: own.env.clone(),
            command: own.command.clone(),
            args: (!args.is_empty()).then(|| args.clone()),
            writable: own.writable.clone(),
            features: features.clone(),
        });
        if let (Some(workload), Some(image)) = (&workload, &own.image) {
            let at = line(image.span());
            check(workload).with_context(|| format!("line {at}: [scenario.{}]", name.get_ref()))?;
            crate::guest::oci::parse(image.get_ref()).with_context(|| format!("line {at}"))?;
        } else if own.kernel.is_some() || own.memory.is_some() || own.command.is_some() {
            bail!("line {at}: `kernel`, `memory` and `command` are for a bundle, with `image`");
        }
        scenarios.push(Scenario {
            name: name.into_inner(),
            about: own.about,
            features,
            args: if workload.is_some() { Vec::new() } else { args },
            lines,
            example: "brisk".to_owned(),
            workload,
            ..Scenario::default()
        });
    }
    Ok(scenarios)
}

/// Whether a scenario's name can be one of a directory, and nothing else.
fn is_plain(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.chars().all(word) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Arguments as `src/cli/baked.rs` gets them when it is compiled: a flag a line, its values after tabs.
pub fn baked(args: &[String]) -> String {
    let mut text = String::new();
    for (index, arg) in args.iter().enumerate() {
        if index > 0 {
            text.push(if arg.starts_with("--") { '\n' } else { '\t' });
        }
        text.push_str(arg);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<String> {
        ["pmem", "serial"].map(str::to_owned).into()
    }

    fn error(text: &str) -> String {
        format!("{:#}", parse(text, &known()).unwrap_err())
    }

    #[test]
    fn a_users_scenario() {
        let text = "[scenario.api]\nabout = \"x\"\nfeatures = [\"pmem\"]\n\
                    args = [\"--kernel\", \"/k\", \"--timeline\", \"--cmdline\", \"a b\"]\n";
        let found = parse(text, &known()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), &found[0].features[..]), ("api", &["pmem".into()][..]));
        assert_eq!(baked(&found[0].args), "--kernel\t/k\n--timeline\n--cmdline\ta b");
    }

    #[test]
    fn errors_name_the_line() {
        let wrong = error("[scenario.api]\nfeatures = [\n  \"serial\",\n  \"pnem\",\n]\n");
        assert_eq!(wrong, "line 4: there is no feature `pnem`; there are pmem, serial");
        let wrong = error("\n[scenario.api]\nfeatuers = []\n");
        assert!(wrong.starts_with("line 3: unknown field `featuers`"), "{wrong}");
        assert!(error("[scenario.api]\nfeatures = \"pmem\"\n").starts_with("line 2: "));
        assert!(error("# x\n[scenario.api]\nabout = \"\"\n").contains("missing field `features`"));
        assert!(error("[scenario.full]\nfeatures = []\n").starts_with("line 1: full is"));
        assert!(error("[scenario.a]\nfeatures = []\nargs = [\"x\"]\n").starts_with("line 3: args"));
        assert!(
            error("[scenario.a]\nfeatures = []\nargs = [\"--a\", \"b\\n\"]").contains("line 3")
        );
        assert!(error("[scenario\n").starts_with("line 1: "));
        for name in ["../../x", "a/b", "", ".x", "-x", "a b"] {
            let wrong = error(&format!("\n[scenario.\"{name}\"]\nfeatures = []\n"));
            assert!(
                wrong.starts_with(&format!("line 2: scenario \"{name}\": a name is")),
                "{wrong}"
            );
        }
    }

    #[test]
    fn unknown_scenarios_are_answered_with_the_table() {
        let error = find("pmen", &known()).unwrap_err().to_string();
        assert!(error.contains("\n  pmem            An image mapped"), "{error}");
        assert_eq!(find("full", &known()).unwrap().features, ["full"]);
    }
}
