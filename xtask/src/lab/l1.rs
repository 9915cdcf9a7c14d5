//! L1's kernel and initrd, from Debian's newest 6.12 kernel package and busybox.

use anyhow::{Context, Result, bail};
use duct::cmd;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Inputs};
use crate::debian;
use crate::guest::cpio::Archive;
use crate::guest::stock;
use crate::lab::vmrun;

/// L1's init.
const INIT: &str = include_str!("../../lab/init.sh");

/// Modules that the init loads, in this order: 9p for the root, KVM, and block devices for tests.
const MODULES: &[&str] = &[
    "fs/netfs/netfs",
    "net/9p/9pnet",
    "net/9p/9pnet_virtio",
    "fs/9p/9p",
    "virt/lib/irqbypass",
    "drivers/crypto/ccp/ccp",
    "arch/x86/kvm/kvm",
    "arch/x86/kvm/kvm-amd",
    "drivers/block/loop",
];

/// What tests load besides: block devices that are files, and a file system to put on them.
const FOR_TESTS: &[(&str, &[&str])] = &[("tests", &["loop", "ext4"])];

/// For a job with the caller's streams and files.
const OWN_MODULES: &[&str] = &["fs/overlayfs/overlay", "drivers/char/virtio_console"];

/// Where busybox-static has its program.
const BUSYBOX: &str = "/bin/busybox";

/// What QEMU gets.
pub struct L1 {
    /// ELF kernel, or the package's own bzImage where that is packed in an unknown way.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: PathBuf,
    /// A directory of modules that are loaded by nobody, in the order of their names.
    pub modules: PathBuf,
    /// What QEMU is started with.
    pub vmrun: PathBuf,
}

/// L1's files, made when they are not in the cache.
///
/// # Errors
/// No package to be had, or the cache cannot be written.
pub fn ensure(cache: &Cache) -> Result<L1> {
    let (package, version, inputs) = match source()? {
        Some(source) if cache.has("lab", &source.2) => source,
        // Not built yet: better from today's lists, as older packages vanish from the mirrors.
        _ => {
            debian::update();
            source()?.context("apt knows no package linux-image-6.12*-amd64-unsigned")?
        }
    };
    let dir = cache.artifact("lab", &inputs, |work, out| {
        if work.exists() {
            fs::remove_dir_all(work)?; // a half unpacked package is of no use
        }
        fs::create_dir_all(work)?;
        debian::unpack(&package, &version, work)?;
        let kernel = only(&work.join("boot"), "vmlinuz-")?;
        let unpacked = unpack(&fs::read(&kernel)?)?;
        fs::write(out.join("vmlinux"), unpacked.map_or_else(|| fs::read(&kernel), Ok)?)?;
        let tree = only(&work.join("lib/modules"), "")?;
        fs::write(out.join("initrd"), initrd(&tree)?)?;
        let version = tree.file_name().unwrap_or_default().to_string_lossy();
        for_tests(work, &version, &out.join("modules"))
    })?;
    let [kernel, initrd, modules] = ["vmlinux", "initrd", "modules"].map(|name| dir.join(name));
    Ok(L1 { kernel, initrd, modules, vmrun: vmrun::ensure(cache)? })
}

/// Puts the modules of [`FOR_TESTS`], and what they need, into the new directory `to`.
fn for_tests(root: &Path, version: &str, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for (_, paths) in stock::modules(root, version, FOR_TESTS)? {
        for (at, path) in paths.iter().enumerate() {
            let (name, content) = stock::module(path)?;
            fs::write(to.join(format!("{at:02}-{name}")), content)?;
        }
    }
    Ok(())
}

/// The kernel package, its version, and the inputs of the artifact.
fn source() -> Result<Option<(String, String, Inputs)>> {
    // Neither -cloud- (has no 9p) nor -rt-.
    let plain = |name: &str| {
        name.strip_suffix("-amd64-unsigned").is_some_and(|n| n.matches('-').count() == 2)
    };
    let Some((package, version)) = debian::newest("linux-image-6.12.", plain)? else {
        return Ok(None);
    };
    let busybox = fs::read(BUSYBOX).context("/bin/busybox of package busybox-static")?;
    let inputs = Inputs::new()
        .with("package", &package)
        .with("version", &version)
        .with("init", INIT)
        .with("modules", format!("{MODULES:?}{OWN_MODULES:?}{FOR_TESTS:?}"))
        .with("busybox", busybox);
    Ok(Some((package, version, inputs)))
}

/// The only entry of `dir` whose name starts with `prefix`.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("{}", dir.display()))?;
    let paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
        .map(|e| e.path())
        .collect();
    match <[PathBuf; 1]>::try_from(paths) {
        Ok([path]) => Ok(path),
        Err(paths) => bail!("{}: {} files {prefix}*, 1 wanted", dir.display(), paths.len()),
    }
}

/// The initrd with the modules below `tree`.
fn initrd(tree: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in ["bin", "dev", "modules", "proc", "root", "run", "sys"] {
        archive = archive.directory(directory);
    }
    archive = archive
        .character_device("dev/console", 5, 1)
        .file("bin/busybox", 0o755, &fs::read(BUSYBOX)?)
        .file("init", 0o755, INIT.as_bytes());
    let built_in = fs::read_to_string(tree.join("modules.builtin")).unwrap_or_default();
    for (list, modules) in [("order", MODULES), ("order-own", OWN_MODULES)] {
        let mut order = String::new();
        for module in modules {
            if built_in.lines().any(|line| line == format!("kernel/{module}.ko")) {
                continue;
            }
            let name = format!("{}.ko", module.rsplit('/').next().unwrap_or(module));
            archive = archive.file(&format!("modules/{name}"), 0o644, &content(tree, module)?);
            order += &format!("{name}\n");
        }
        archive = archive.file(&format!("modules/{list}"), 0o644, order.as_bytes());
    }
    Ok(archive.finish())
}

/// A module, unpacked.
fn content(tree: &Path, module: &str) -> Result<Vec<u8>> {
    let packed = tree.join(format!("kernel/{module}.ko.xz"));
    if packed.exists() {
        let xz = cmd!("xz", "-dc", &packed).stdout_capture().run().context("cannot run xz")?;
        return Ok(xz.stdout);
    }
    let plain = tree.join(format!("kernel/{module}.ko"));
    fs::read(&plain).with_context(|| format!("{}", plain.display()))
}

/// Unpacks the ELF kernel of a bzImage, so that QEMU enters it by PVH and no emulated time goes
/// into unpacking. `None` where it is packed with something else than zstd or xz.
fn unpack(image: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(payload) = payload(image) else { return Ok(None) };
    let tool = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => cmd!("zstd", "-dc"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => cmd!("xz", "-dc"),
        _ => return Ok(None),
    };
    let elf = tool.stdin_bytes(payload).stdout_capture().run().context("cannot unpack vmlinuz")?;
    Ok(elf.stdout.starts_with(b"\x7fELF").then_some(elf.stdout))
}

/// The packed kernel in a bzImage. Linux' `Documentation/arch/x86/boot.rst`, protocol 2.08:
/// `setup_sects` at 0x1f1, `payload_offset` (from the protected-mode code) at 0x248,
/// `payload_length` at 0x24c; its last four bytes are the unpacked length.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4,
        n => usize::from(n),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let end = start.checked_add(word(0x24c)?)?.checked_sub(4)?;
    image.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_payload() {
        let mut image = vec![0; 2048];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 8;
        image[0x24c] = 7;
        image[1032..1035].copy_from_slice(b"abc");
        assert_eq!(payload(&image), Some(&b"abc"[..]));
        image[0x24f] = 0xff;
        assert_eq!(payload(&image), None, "length outside the file");
        image[0x202] = 0;
        assert_eq!(payload(&image), None, "no setup header");
        assert_eq!(payload(&[]), None);
    }

    #[test]
    fn an_unknown_packer_is_no_error() {
        let mut image = vec![0; 2048];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x1f1] = 1;
        image[0x24c] = 100;
        assert!(unpack(&image).unwrap().is_none());
    }
}
