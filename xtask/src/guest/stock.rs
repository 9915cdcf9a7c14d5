//! Debian's own kernels, as they are in their packages, each with an initramfs that loads the
//! modules for brisk's devices and goes on to the root file system of the command line.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Inputs};
use crate::debian;
use crate::guest::cpio::Archive;

/// A kernel of Debian's.
pub struct Stock {
    /// The name that `cargo xtask boot --kernel` takes.
    pub name: &'static str,
    /// What the package's name starts with, followed by the rest of the version.
    prefix: &'static str,
    /// What the package's name ends with.
    suffix: &'static str,
}

/// Debian's 6.12 for clouds.
pub const CLOUD: Stock =
    Stock { name: "debian-cloud", prefix: "linux-image-6.12.", suffix: "-cloud-amd64-unsigned" };

/// The kernels that are tested. The packages whose names end in `-unsigned` have the same builds
/// without the signature for Secure Boot.
pub const ALL: &[Stock] = &[
    CLOUD,
    Stock { name: "debian-6.1-cloud", prefix: "linux-image-6.1.", suffix: "-cloud-amd64-unsigned" },
    Stock { name: "debian-generic", prefix: "linux-image-6.12.", suffix: "-amd64-unsigned" },
];

/// Other flavours whose names end like the generic one's.
const FLAVOURS: &[&str] = &["-cloud-amd64", "-rt-amd64"];

/// What a stock kernel boots with.
pub struct Files {
    /// The bzImage.
    pub vmlinuz: PathBuf,
    /// Initial RAM file system, newc cpio, not compressed.
    pub initramfs: PathBuf,
    /// The same with XFS, of which the others have no use: nearly as large as all that is in there.
    pub xfs_initramfs: PathBuf,
}

/// The modules that the root file system may need, by what it is on: each costs the guest some
/// 80 million instructions. Those that they depend on come along; what is built in needs none.
const MODULES: &[(&str, &[&str])] = &[
    ("pci", &["virtio_pci"]),
    ("mmio", &["virtio_mmio"]),
    ("block", &["virtio_blk"]),
    ("pmem", &["nd_pmem", "virtio_pmem"]),
    ("console", &["virtio_console"]),
    ("rng", &["virtio_rng"]),
    ("button", &["button", "evdev"]),
    ("ext4", &["ext4"]),
    ("erofs", &["erofs"]),
];
const XFS: &[(&str, &[&str])] = &[("xfs", &["xfs"])];

/// PID 1 of the initramfs. What a module complains of is shown only when the root file system does
/// not turn up: one for a crypto instruction that the CPU lacks fails, and that is fine.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
complaints=
load() {
  while read -r module; do
    complaint=$($b insmod "/modules/$module" 2>&1) || complaints="$complaints
$module: $complaint"
  done < "/needs/$1"
}
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
line=" $($b cat /proc/cmdline) "
root=
options=
access=ro
for word in $line; do
  case $word in
    root=*) root=${word#root=} ;;
    rw) access=rw ;;
    rootflags=*) options=,${word#rootflags=} ;;
  esac
done
if [ -e /sys/bus/acpi/devices/LNRO0005:00 ]; then load mmio; else load pci; fi
case $line in *" console=hvc"*) load console ;; esac
case $line in
  *" brisk_hwrng=1"*)
    load rng
    echo "hwrng: $($b cat /sys/class/misc/hw_random/rng_current)"
    for try in 1 2; do echo "hwrng: $($b dd if=/dev/hwrng bs=16 count=1 2> /dev/null | $b hexdump -v -e '1/1 "%02x"')"; done
    ;;
esac
case $line in
  *" brisk_button="*)
    load button
    case $line in *" brisk_button=here"*)
      echo "initramfs: waits for its button"
      $b dd if=/dev/input/event0 of=/dev/null bs=24 count=1 2> /dev/null && echo "initramfs: pressed"
      $b poweroff -f
      ;;
    esac
    ;;
esac
case $root in /dev/pmem*) load pmem ;; *) load block ;; esac
tries=0
until [ -b "$root" ]; do
  tries=$((tries + 1))
  if [ $tries -gt 500 ]; then
    echo "initramfs: root=$root is no block device after 5 s; modules:$complaints"
    exit 1
  fi
  $b sleep 0.01
done
for kind in erofs ext4 xfs; do
  [ -e /needs/$kind ] || continue
  $b grep -q "[[:space:]]$kind$" /proc/filesystems || load $kind
  $b mount -t $kind -o $access$options "$root" /root 2> /dev/null && break
done
# An absolute link, as Debian's to systemd, is one from the new root.
init=/sbin/init
for link in 1 2 3 4 5 6 7 8; do
  [ -L "/root$init" ] || break
  link=$($b readlink "/root$init")
  case $link in
    /*) init=$link ;;
    *) init=${init%/*}/$link ;;
  esac
done
if [ ! -x "/root$init" ]; then
  echo "initramfs: root=$root is no file system known here, with /sbin/init; modules:$complaints"
  exit 1
fi
$b umount /proc /sys
$b mount --move /dev /root/dev
exec $b switch_root /root /sbin/init
"#;

/// The kernel called `name`, `None` if there is none.
pub fn find(name: &str) -> Option<&'static Stock> {
    ALL.iter().find(|stock| stock.name == name)
}

impl Stock {
    /// The newest kernel of this kind, from its package, and its initramfs.
    ///
    /// # Errors
    /// There is no such package, it cannot be downloaded, or a module is missing in it.
    pub fn ensure(&self, cache: &Cache) -> Result<Files> {
        let newest = || debian::newest(self.prefix, |name| self.takes(name));
        let name = format!("kernel-{}", self.name);
        let busybox = fs::read("/bin/busybox").context("/bin/busybox of package busybox-static")?;
        let inputs = |(package, version): &(String, String)| {
            Inputs::new()
                .with("package", package)
                .with("version", version)
                .with("modules", format!("{MODULES:?}{XFS:?}"))
                .with("init", INIT)
                .with("busybox", &busybox)
        };
        let source = match newest()? {
            Some(source) if cache.has(&name, &inputs(&source)) => source,
            _ => {
                debian::update();
                let (prefix, suffix) = (self.prefix, self.suffix);
                newest()?.with_context(|| format!("apt knows no package {prefix}*{suffix}"))?
            }
        };
        let dir = cache.artifact(&name, &inputs(&source), |work, out| {
            debian::unpack(&source.0, &source.1, work)?;
            let (vmlinuz, version) = kernel(work).with_context(|| source.0.clone())?;
            fs::copy(vmlinuz, out.join("vmlinuz"))?;
            let mut needed = modules(work, &version, MODULES)?;
            fs::write(out.join("initramfs"), archive(&busybox, &needed)?)?;
            needed.extend(modules(work, &version, XFS)?);
            fs::write(out.join("initramfs-xfs"), archive(&busybox, &needed)?)?;
            Ok(())
        })?;
        Ok(Files {
            vmlinuz: dir.join("vmlinuz"),
            initramfs: dir.join("initramfs"),
            xfs_initramfs: dir.join("initramfs-xfs"),
        })
    }

    fn takes(&self, package: &str) -> bool {
        let others = FLAVOURS.iter().filter(|flavour| !self.suffix.contains(*flavour));
        package.ends_with(self.suffix) && !others.into_iter().any(|other| package.contains(other))
    }
}

/// The kernel of an unpacked package, and its version as `uname -r` gives it.
fn kernel(root: &Path) -> Result<(PathBuf, String)> {
    for entry in fs::read_dir(root.join("boot"))?.flatten() {
        if let Some(version) = entry.file_name().to_string_lossy().strip_prefix("vmlinuz-") {
            return Ok((entry.path(), version.to_owned()));
        }
    }
    anyhow::bail!("has no boot/vmlinuz-*")
}

/// The modules below `root/lib/modules/version` that each of `modules` needs, in an order in which
/// they can be loaded.
///
/// # Errors
/// One is not there.
pub fn modules(
    root: &Path,
    version: &str,
    modules: &[(&'static str, &[&str])],
) -> Result<Vec<(&'static str, Vec<PathBuf>)>> {
    // Packages leave this to the installation.
    cmd!("depmod", "-b", root, version).run().context("cannot run depmod")?;
    let mut needs = Vec::new();
    for (what, names) in modules {
        let mut paths: Vec<PathBuf> = Vec::new();
        for name in *names {
            let text = cmd!("modprobe", "-d", root, "-S", version, "--show-depends", name)
                .read()
                .with_context(|| format!("the kernel has no module {name}"))?;
            let files = text.lines().filter_map(|line| line.strip_prefix("insmod "));
            for path in files.map(|path| PathBuf::from(path.trim())) {
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        needs.push((*what, paths));
    }
    Ok(needs)
}

/// Name and content of a module, unpacked: insmod takes it as it is.
///
/// # Errors
/// It cannot be read.
pub fn module(path: &Path) -> Result<(String, Vec<u8>)> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (name, content) = match file.strip_suffix(".xz") {
        Some(name) => {
            let output = cmd!("xz", "-dc", path).stdout_capture().run().context("xz")?;
            (name.to_owned(), output.stdout)
        }
        None => (file, fs::read(path)?),
    };
    ensure!(content.starts_with(b"\x7fELF"), "{}: not a module", path.display());
    Ok((name, content))
}

/// The initramfs: busybox, [`INIT`], the modules, and for each of `needs` a list of their names.
fn archive(busybox: &[u8], needs: &[(&str, Vec<PathBuf>)]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in ["dev", "proc", "sys", "root", "bin", "modules", "needs"] {
        archive = archive.directory(directory);
    }
    archive = archive
        .character_device("dev/console", 5, 1)
        .file("bin/busybox", 0o755, busybox)
        .file("init", 0o755, INIT.as_bytes());
    let mut there = Vec::new();
    for (what, paths) in needs {
        let mut list = String::new();
        for path in paths {
            let (name, content) = module(path)?;
            list += &format!("{name}\n");
            if !there.contains(path) {
                archive = archive.file(&format!("modules/{name}"), 0o644, &content);
                there.push(path.clone());
            }
        }
        archive = archive.file(&format!("needs/{what}"), 0o644, list.as_bytes());
    }
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flavour_takes_its_own_packages() {
        for (package, name) in [
            ("linux-image-6.12.117+deb12-cloud-amd64-unsigned", "debian-cloud"),
            ("linux-image-6.12.117+deb12-amd64-unsigned", "debian-generic"),
        ] {
            let matches =
                |stock: &&Stock| package.starts_with(stock.prefix) && stock.takes(package);
            let takers: Vec<_> = ALL.iter().filter(matches).map(|stock| stock.name).collect();
            assert_eq!(takers, [name]);
        }
        let takes = |package: &str| ALL.iter().any(|stock| stock.takes(package));
        assert!(!takes("linux-image-6.12.117+deb12-rt-amd64-unsigned"));
        assert!(!takes("linux-image-6.12.117+deb12-cloud-amd64-dbg"));
    }

    #[test]
    fn the_init_is_a_shell_script() {
        let check = cmd!("sh", "-n").stdin_bytes(INIT).unchecked().run().unwrap();
        assert!(check.status.success());
    }
}
