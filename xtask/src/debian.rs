//! Debian's packages: installs what is missing, unpacks kernels without installing them.

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use std::cmp::Ordering;
use std::fs;
use std::path::Path;
use std::sync::{LazyLock, Once};

use crate::cache::Cache;
use crate::debian::sources::{Format, backports};
use crate::ui::Step;

mod sources;

/// QEMU, from which version on it runs a Linux guest on its emulated SVM: 7.2 hangs when the guest
/// enters long mode.
const QEMU: (&str, u32) = ("qemu-system-x86", 10);

/// What a first boot needs, in the lab or not: L1, and what brisk and a guest's kernel are built with. [`ALL`]
/// is some 110 MB more, podman and what it wants above all, for which nobody is to wait who wants to see it
/// boot.
pub const BOOT: &[&str] = &[
    // the lab
    QEMU.0,
    "busybox-static",
    "xz-utils",
    "zstd",
    // guest kernels
    "bc",
    "bison",
    "build-essential",
    "flex",
    "kmod",
    "libelf-dev",
    "libssl-dev",
    "musl-tools",
    "lz4",
    "patch",
    // README's second command makes a root with it
    "mmdebstrap",
];

/// What images are made with.
pub const IMAGES: &[&str] = &["e2fsprogs", "erofs-utils", "umoci"];

/// All packages that some task needs.
pub static ALL: LazyLock<Vec<&str>> = LazyLock::new(|| [BOOT, IMAGES, REST].concat());

/// What tests and other images need.
const REST: &[&str] = &[
    // disk images
    "fdisk",
    "xfsprogs",
    // tests: ACPI's compiler, and the initramfs' reader
    "acpica-tools",
    "cpio",
    // tests: what brisk is shut in
    "bubblewrap",
    "crun",
    "dbus",
    "podman",
    "systemd",
];

/// Engines that bundles are run under by tests: 32 MB, of which nobody else needs anything.
pub const ENGINES: &[&str] = &["containerd", "slurm-client", "slurmctld", "slurmd"];

/// Installs those of `packages` that are missing, and says so in one line. `qemu-system-x86` comes
/// from the backports suite where the release's own is too old.
///
/// # Errors
/// Not Debian, not root, or apt failed.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let by_hand = || format!("install by hand, QEMU at least version {}: {list}", QEMU.1);
    ensure!(Path::new("/usr/bin/apt-get").exists(), "this is not Debian; {}", by_hand());
    ensure!(is_root(), "not root, so cannot install packages; {}", by_hand());
    let _lock = Cache::open()?.lock("apt")?;
    eprintln!("xtask: installing Debian packages: {list}");
    update();
    let (qemu, others): (Vec<_>, Vec<_>) = missing.iter().partition(|name| **name == QEMU.0);
    let mut options: Vec<String> = Vec::new();
    if !qemu.is_empty() && candidate(QEMU.0)?.is_none_or(|v| upstream_major(&v) < QEMU.1) {
        options.extend(["-t".to_owned(), add_backports()?]);
    }
    for (names, options) in [(others, Vec::new()), (qemu, options)] {
        if !names.is_empty() {
            install(&names, &options).with_context(by_hand)?;
        }
    }
    Ok(())
}

fn install(names: &[&str], options: &[String]) -> Result<()> {
    let mut args: Vec<&str> =
        "install --yes --quiet --no-install-recommends -o DPkg::Lock::Timeout=600"
            .split(' ')
            .collect();
    args.extend(options.iter().map(String::as_str));
    args.extend(names);
    apt_get(args)
}

/// Runs apt-get quietly; its last lines are in the error.
fn apt_get(args: Vec<&str>) -> Result<()> {
    let step = Step::start(&format!("apt-get {}", args.first().unwrap_or(&"")));
    let output = cmd("apt-get", args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin_null()
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .context("cannot run apt-get")?;
    step.done();
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    bail!("apt-get failed:\n{}", lines[lines.len().saturating_sub(8)..].join("\n"))
}

/// Fetches the lists of packages, once in this process. That fails where one of several sources
/// does not answer, which may not matter: who needs a package then finds it missing.
pub fn update() {
    static DONE: Once = Once::new();
    DONE.call_once(again);
}

fn again() {
    if let Err(e) = apt_get(vec!["update", "--quiet"]) {
        eprintln!("xtask: going on with the lists of packages as they are: {e:#}");
    }
}

/// Those of `packages` that are not installed, or too old.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut missing = Vec::new();
    for name in packages {
        let output = cmd!("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", name)
            .stderr_null()
            .stdout_capture()
            .unchecked()
            .run()
            .context("cannot run dpkg-query: this is not Debian")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.strip_prefix("installed ");
        if version.is_none_or(|v| *name == QEMU.0 && upstream_major(v) < QEMU.1) {
            missing.push(*name);
        }
    }
    Ok(missing)
}

/// Adds the backports suite beside the source that the release itself comes from, unless apt knows
/// it. Returns the suite's name.
fn add_backports() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no VERSION_CODENAME")?
        .trim_matches('"');
    let suite = format!("{codename}-backports");
    let known = cmd!("apt-cache", "policy").read().context("cannot run apt-cache")?;
    if known.contains(&format!("n={suite},")) {
        return Ok(suite);
    }
    let directory = Path::new("/etc/apt/sources.list.d");
    let mut files = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
    files.extend(fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()));
    for file in files {
        let (format, extension) = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => (Format::Deb822, "sources"),
            Some("list") => (Format::OneLine, "list"),
            _ => continue,
        };
        let Ok(text) = fs::read_to_string(&file) else { continue };
        if let Some(source) = backports(&text, format, codename) {
            let path = directory.join(format!("brisk-backports.{extension}"));
            fs::write(&path, source).with_context(|| format!("{}", path.display()))?;
            eprintln!("xtask: added the suite {suite} in {}", path.display());
            again();
            return Ok(suite);
        }
    }
    bail!("no apt source of the suite {codename} to derive {suite} from")
}

/// The version that apt would take of `package`, `None` when it knows no such package.
///
/// # Errors
/// `apt-cache` cannot be run.
pub fn candidate(package: &str) -> Result<Option<String>> {
    let text = cmd!("apt-cache", "policy", package)
        .env("LC_ALL", "C")
        .read()
        .context("cannot run apt-cache")?;
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|v| *v != "(none)").map(str::to_owned))
}

/// The package with the highest version among those whose names start with `prefix` and that `take`
/// accepts, and that version.
///
/// # Errors
/// `apt-cache` cannot be run.
pub fn newest(prefix: &str, take: impl Fn(&str) -> bool) -> Result<Option<(String, String)>> {
    let names = cmd!("apt-cache", "pkgnames", prefix).read().context("cannot run apt-cache")?;
    let mut best: Option<(String, String)> = None;
    for name in names.lines().filter(|name| take(name)) {
        let Some(version) = candidate(name)? else { continue };
        if best.as_ref().is_none_or(|(_, b)| compare(&version, b) == Ordering::Greater) {
            best = Some((name.to_owned(), version));
        }
    }
    Ok(best)
}

/// Orders versions as dpkg does.
fn compare(a: &str, b: &str) -> Ordering {
    let holds = |relation: &str| {
        let run = cmd!("dpkg", "--compare-versions", a, relation, b).unchecked().run();
        run.is_ok_and(|output| output.status.success())
    };
    match (holds("gt"), holds("lt")) {
        (true, _) => Ordering::Greater,
        (_, true) => Ordering::Less,
        _ => Ordering::Equal,
    }
}

/// Downloads `package` in the given version and unpacks it below `into`, which must exist. Nothing
/// is installed; apt checks the package's signature.
///
/// # Errors
/// The download or the unpacking failed.
pub fn unpack(package: &str, version: &str, into: &Path) -> Result<()> {
    let step = Step::start(&format!("downloading {package} {version}"));
    let dir = tempfile::tempdir_in(into)?;
    let user = if is_root() { "APT::Sandbox::User=root" } else { "APT::Sandbox::User=" };
    let output = cmd!("apt-get", "download", "-qq", "-o", user, format!("{package}={version}"))
        .dir(dir.path())
        .stdin_null()
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .context("cannot run apt-get")?;
    ensure!(
        output.status.success(),
        "cannot download {package} {version}: {}",
        String::from_utf8_lossy(&output.stdout).trim()
    );
    for entry in fs::read_dir(dir.path())? {
        cmd!("dpkg", "-x", entry?.path(), into).run().context("cannot run dpkg")?;
    }
    step.done();
    Ok(())
}

/// Major number of the upstream part of a Debian version; 0 when there is none.
fn upstream_major(version: &str) -> u32 {
    let upstream = version.split_once(':').map_or(version, |(_epoch, rest)| rest);
    let digits = upstream.split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

/// Whether this process may install packages.
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|text| text.lines().any(|line| line.starts_with("Uid:\t0\t0\t")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_of_versions() {
        assert_eq!(upstream_major("1:10.0.2+ds-2+deb13u1~bpo12+1"), 10);
        assert_eq!(upstream_major("1:7.2+dfsg-7+deb12u18+b3"), 7);
        assert_eq!(upstream_major("6.12.117-1~deb12u1"), 6);
        assert_eq!(upstream_major("x"), 0);
    }
}
