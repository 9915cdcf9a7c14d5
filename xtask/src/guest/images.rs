//! `cargo xtask images`: raw disk images for guests, made without mounting anything.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use duct::{Expression, cmd};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cache::{Cache, Inputs};
use crate::debian;
use crate::guest::init;
use crate::ui::Step;

/// Build the guests' disk images (cached).
#[derive(FromArgs)]
#[argh(subcommand, name = "images")]
pub struct Args {}

/// Images with our own init as `/sbin/init`. All are multiples of 2 MiB long, so that a virtio-pmem
/// device of them needs no padding.
pub struct Small {
    /// ext4 in the first partition of an MBR.
    pub ext4_partition: PathBuf,
    /// EROFS, not compressed, in the first partition of an MBR.
    pub erofs_partition: PathBuf,
    /// ext4 without partitions.
    pub ext4: PathBuf,
    /// EROFS without partitions.
    pub erofs: PathBuf,
    /// XFS without partitions, with a file `/data` that can be written to.
    pub xfs: PathBuf,
}

/// Images of a Debian, with [`PID1`] as `/sbin/init` or with systemd.
pub struct Debian {
    /// ext4 in the first partition of an MBR.
    pub ext4_partition: PathBuf,
    /// EROFS, not compressed, in the first partition of an MBR.
    pub erofs_partition: PathBuf,
    /// ext4 in the first partition of an MBR; `/sbin/init` is systemd, which starts [`UNIT_TEST`].
    pub systemd: PathBuf,
}

/// Where the partition starts: a multiple of 2 MiB, so that a file system on a virtio-pmem device
/// can be mapped (DAX) in pages of that size.
const START: u64 = 2 << 20;
/// Images are multiples of this long.
const UNIT: u64 = 2 << 20;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// The file systems' UUID and hash seed: the same in every build.
pub const UUID: &str = "62726973-6b00-4000-8000-000000000001";
/// Size of the small ext4 file system in MiB: as little as has room for a journal of the usual size.
const SMALL_MIB: u64 = 62;
/// Size of the XFS in MiB: the least that mkfs.xfs makes.
const XFS_MIB: u64 = 300;
/// Size of Debian's ext4 file system in MiB.
const DEBIAN_MIB: u64 = 446;

/// PID 1 of the Debian image: a shell script, as a real system's first process may be. Its first act
/// is the boot timer's code for userspace, by our own init, as kernels for clouds have no /dev/port.
/// minbase has no `poweroff`, but perl, whose syscall(169, ...) is reboot(2) with
/// LINUX_REBOOT_CMD_POWER_OFF. Parameters on the kernel's command line that it does not know and that have
/// no dot are in the environment.
const PID1: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/sbin/boot-timer
cat /etc/os-release
echo "brisk-debian: userspace"
if [ "$brisk_lspci" ]; then
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  lspci -vvv
  lspci -t
fi
sync
exec perl -e 'syscall(169, 0xfee1dead, 0x28121969, 0x4321fedc, 0)'
"#;

/// What systemd starts of ours in Debian's image, as the unit `brisk-test`: waits until all has been
/// started, says what became of it, and powers off. Of type simple, so that it is no part of what it
/// waits for.
const UNIT_TEST: &str = r#"[Service]
Type=simple
StandardOutput=tty
ExecStart=/bin/sh -c '/usr/sbin/boot-timer; \
    echo "brisk-debian: $(systemctl is-system-running --wait)"; \
    echo "brisk-debian: $(systemctl list-units --failed --no-legend | wc -l) failed units"; \
    systemctl list-units --failed --no-legend --plain; \
    echo "brisk-debian: $(nproc) CPUs"; \
    systemctl poweroff'
"#;

/// What Debian's images have besides minbase.
const INCLUDED: &str = "pciutils,systemd-sysv,udev,dbus";

/// What Debian's image leaves out.
const EXCLUDED: &[&str] = &["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"];

/// Runs the task.
///
/// # Errors
/// An image cannot be built.
pub fn run(_args: &Args) -> Result<ExitCode> {
    debian::ensure(&debian::ALL)?;
    for (name, path) in ensure(&Cache::open()?)? {
        println!("{name}={}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds what is missing of the guests' disk images. Returns the environment that
/// `tests/linux.rs` gets: names `BRISK_DISK_*` and the images' paths in the cache.
///
/// # Errors
/// An image cannot be built.
pub fn ensure(cache: &Cache) -> Result<Vec<(String, PathBuf)>> {
    let (small, debian) = (small(cache)?, debian(cache)?);
    Ok([
        ("EXT4", small.ext4),
        ("EXT4_PARTITION", small.ext4_partition),
        ("EROFS", small.erofs),
        ("XFS", small.xfs),
        ("EROFS_PARTITION", small.erofs_partition),
        ("DEBIAN_EXT4_PARTITION", debian.ext4_partition),
        ("DEBIAN_EROFS_PARTITION", debian.erofs_partition),
        ("DEBIAN_SYSTEMD", debian.systemd),
    ]
    .map(|(name, path)| (format!("BRISK_DISK_{name}"), path))
    .into())
}

/// The images with our init, made when they are not in the cache.
///
/// # Errors
/// An image cannot be built.
pub fn small(cache: &Cache) -> Result<Small> {
    let init = init::ensure(cache)?.init;
    let inputs = recipe(SMALL_MIB)
        .with("xfs", format!("{XFS_MIB} {}", prototype(Path::new(""), Path::new(""))))
        .with_file(&init)?;
    let dir = cache.artifact("images", &inputs, |work, out| {
        let root = work.join("root");
        for dir in ["dev", "proc", "sbin", "sys", "tmp"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::copy(&init, root.join("sbin/init"))?;
        for start in [0, START] {
            ext4(&root, &out.join(name("ext4", start)), start, SMALL_MIB)?;
            erofs(&root, &out.join(name("erofs", start)), start, &[])?;
        }
        let (list, data) = (work.join("prototype"), work.join("data"));
        fs::write(&data, format!("{:4096}\n", "nothing was written here"))?;
        fs::write(&list, prototype(&init, &data))?;
        xfs(&list, &out.join(name("xfs", 0)))
    })?;
    let image = |kind, start| dir.join(name(kind, start));
    Ok(Small {
        ext4_partition: image("ext4", START),
        erofs_partition: image("erofs", START),
        ext4: image("ext4", 0),
        erofs: image("erofs", 0),
        xfs: image("xfs", 0),
    })
}

/// The images of a Debian of this machine's release, made when they are not in the cache.
///
/// # Errors
/// A package cannot be downloaded, or an image cannot be built.
pub fn debian(cache: &Cache) -> Result<Debian> {
    let codename = codename()?;
    // The release's own version stands for those of its packages.
    let version = debian::candidate("base-files")?.context("apt knows no package base-files")?;
    let timer = init::ensure(cache)?.init;
    let inputs = recipe(DEBIAN_MIB)
        .with("init", PID1)
        .with("unit", UNIT_TEST)
        .with_file(&timer)?
        .with("included", INCLUDED)
        .with("excluded", EXCLUDED.join(" "))
        .with("suite", &codename)
        .with("version", version);
    let dir = cache.artifact("images-debian", &inputs, |work, out| {
        let root = work.join("root");
        minbase(&codename, INCLUDED, work, &root)?;
        fs::copy(&timer, root.join("usr/sbin/boot-timer"))?;
        let units = root.join("etc/systemd/system");
        fs::write(units.join("brisk-test.service"), UNIT_TEST)?;
        let wanted = units.join("multi-user.target.wants");
        fs::create_dir_all(&wanted)?;
        symlink("../brisk-test.service", wanted.join("brisk-test.service"))?;
        ext4(&root, &out.join("systemd.raw"), START, DEBIAN_MIB)?;
        let init = root.join("usr/sbin/init");
        fs::remove_file(&init).context("systemd-sysv has no /usr/sbin/init")?;
        fs::write(&init, PID1)?;
        cmd!("chmod", "755", &init).run().context("cannot run chmod")?;
        ext4(&root, &out.join(name("ext4", START)), START, DEBIAN_MIB)?;
        erofs(&root, &out.join(name("erofs", START)), START, &[])?;
        Ok(())
    })?;
    let image = |kind| dir.join(name(kind, START));
    Ok(Debian {
        ext4_partition: image("ext4"),
        erofs_partition: image("erofs"),
        systemd: dir.join("systemd.raw"),
    })
}

/// Inputs that all images have.
fn recipe(mib: u64) -> Inputs {
    let numbers = format!("{START} {UNIT} {mib} {UUID}");
    Inputs::new().with("numbers", numbers).with("version", "1")
}

fn name(kind: &str, start: u64) -> String {
    if start == 0 { format!("{kind}.raw") } else { format!("{kind}-partition.raw") }
}

/// Unpacks Debian's minbase variant of `suite` with the packages `included` to `root`, from the sources
/// that apt has here and with apt's settings for downloads.
///
/// # Errors
/// mmdebstrap failed.
pub fn minbase(suite: &str, included: &str, work: &Path, root: &Path) -> Result<()> {
    let step = Step::start(&format!("making a Debian {suite}"));
    let settings = cmd!("apt-config", "dump").read().context("cannot run apt-config")?;
    let settings: Vec<&str> = settings.lines().filter(|l| l.starts_with("Acquire::")).collect();
    let config = work.join("apt.conf");
    fs::write(&config, settings.join("\n"))?;
    let mut args = vec!["--variant=minbase".to_owned(), "--quiet".to_owned()];
    args.push(format!("--include={included}"));
    args.push(format!("--aptopt={}", config.display()));
    args.extend(EXCLUDED.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    args.extend([suite.to_owned(), root.display().to_string()]);
    args.extend(sources(suite).iter().map(|path| path.display().to_string()));
    quiet(&cmd("mmdebstrap", args), "mmdebstrap")?;
    step.done();
    Ok(())
}

/// This machine's release.
///
/// # Errors
/// It is no Debian.
pub fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// apt's files that have a source of `suite` itself.
fn sources(suite: &str) -> Vec<PathBuf> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let files = parts.map(|e| e.path()).chain([PathBuf::from("/etc/apt/sources.list")]);
    let wanted = |path: &PathBuf| {
        let kind = path.extension().and_then(|e| e.to_str());
        let text = fs::read_to_string(path).unwrap_or_default();
        kind.is_some_and(|e| e == "list" || e == "sources")
            && text.lines().any(|l| l.starts_with("deb") || l.starts_with("Suites:"))
            && text.split_whitespace().any(|word| word == suite)
    };
    files.filter(wanted).collect()
}

/// Writes `tree` as an ext4 file system of `mib` MiB at `start` of a new image.
///
/// # Errors
/// mkfs.ext4 failed, or the image cannot be written.
pub fn ext4(tree: &Path, image: &Path, start: u64, mib: u64) -> Result<()> {
    create(image, start, mib << 20)?;
    // Pages of 4 KiB are what DAX takes. Nothing is left for the guest to initialize.
    let options = format!(
        "offset={start},root_owner=0:0,hash_seed={UUID},lazy_itable_init=0,lazy_journal_init=0"
    );
    let size = format!("{mib}M");
    let mkfs = cmd!(
        "mkfs.ext4",
        "-q",
        "-F",
        "-b",
        "4096",
        "-U",
        UUID,
        "-E",
        options,
        "-d",
        tree,
        image,
        size
    );
    quiet(&mkfs, "mkfs.ext4")
}

/// Writes `tree` as an EROFS file system at `start` of a new image, not compressed, as DAX wants, with
/// `more` options.
///
/// # Errors
/// mkfs.erofs failed, or the image cannot be written.
pub fn erofs(tree: &Path, image: &Path, start: u64, more: &[&str]) -> Result<()> {
    let alone = image.with_extension("tmp");
    let mut words: Vec<&OsStr> =
        ["--quiet", "-T0", "--all-root", "-U", UUID].map(OsStr::new).into();
    words.extend(more.iter().map(OsStr::new));
    words.extend([alone.as_os_str(), tree.as_os_str()]);
    let mkfs = cmd("mkfs.erofs", words);
    quiet(&mkfs, "mkfs.erofs")?;
    let mut from = File::open(&alone)?;
    let mut to = create(image, start, from.metadata()?.len().next_multiple_of(UNIT))?;
    to.seek(SeekFrom::Start(start))?;
    std::io::copy(&mut from, &mut to)?;
    fs::remove_file(&alone)?;
    Ok(())
}

/// What mkfs.xfs makes a tree of (mkfs.xfs(8), `-p`): our init, places to mount to, and `/data`.
fn prototype(init: &Path, data: &Path) -> String {
    let (init, data) = (init.display(), data.display());
    format!(
        "/dev/null\n0 0\nd--755 0 0\ndev d--755 0 0\n$\nproc d--755 0 0\n$\nsys d--755 0 0\n$\n\
         sbin d--755 0 0\ninit ---755 0 0 {init}\n$\ndata ---644 0 0 {data}\n$\n"
    )
}

/// Writes the tree that `prototype` describes as an XFS file system on a new image.
fn xfs(prototype: &Path, image: &Path) -> Result<()> {
    create(image, 0, XFS_MIB << 20)?;
    let uuid = format!("uuid={UUID}");
    quiet(&cmd!("mkfs.xfs", "-q", "-f", "-m", uuid, "-p", prototype, image), "mkfs.xfs")
}

/// Makes an image, all holes but for the partition table, with `size` bytes from `start` on.
fn create(image: &Path, start: u64, size: u64) -> Result<File> {
    let mut file = File::create(image).with_context(|| format!("{}", image.display()))?;
    file.set_len(start + size)?;
    if start > 0 {
        file.write_all(&partition_table(start, size)?)?;
    }
    Ok(file)
}

/// A master boot record (UEFI specification 2.10, section 5.2.1) with one Linux partition.
fn partition_table(start: u64, size: u64) -> Result<[u8; 512]> {
    let whole = start.is_multiple_of(SECTOR) && size.is_multiple_of(SECTOR);
    ensure!(whole, "a partition is whole sectors");
    let mut table = [0; 512];
    let (first, count) = (u32::try_from(start / SECTOR)?, u32::try_from(size / SECTOR)?);
    table[440..444].copy_from_slice(b"brsk"); // unique disk signature
    // No boot indicator; the addresses as cylinder, head and sector are out of range; type 0x83.
    table[446..454].copy_from_slice(&[0, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    table[454..458].copy_from_slice(&first.to_le_bytes());
    table[458..462].copy_from_slice(&count.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(table)
}

/// Runs a command, whose output matters only when it fails.
pub fn quiet(command: &Expression, what: &str) -> Result<()> {
    let run = command.stdin_null().stderr_to_stdout().stdout_capture().unchecked().run();
    let output = run.with_context(|| format!("cannot run {what}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{what}:\n{}", text.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sfdisk, from util-linux, reads the table as meant.
    #[test]
    fn sfdisk_reads_the_partition_table() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        create(&image, START, 6 << 20).unwrap();
        assert_eq!(fs::metadata(&image).unwrap().len(), 8 << 20);
        let sfdisk = cmd!("sfdisk", "-d", &image).stderr_null().read();
        let text = sfdisk.expect("package fdisk, of `cargo xtask setup`");
        assert!(text.contains("start=        4096, size=       12288, type=83"), "{text}");
    }

    #[test]
    fn partitions_are_whole_sectors() {
        assert!(partition_table(START, 513).is_err());
        assert!(partition_table(100, 512).is_err());
        assert!(partition_table(START, 512 << 32).is_err());
        assert_eq!(
            partition_table(START, SECTOR).unwrap()[446..],
            [
                &[0, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 0, 0x10, 0, 0, 1, 0, 0, 0][..],
                &[0; 48],
                &[0x55, 0xaa],
            ]
            .concat()
        );
    }

    #[test]
    fn the_debian_init_is_a_shell_script() {
        let check = cmd!("sh", "-n").stdin_bytes(PID1).unchecked().run().unwrap();
        assert!(check.status.success());
    }
}
