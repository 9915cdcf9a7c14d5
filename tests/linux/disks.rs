//! Images as disks and as persistent memory.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::common::{Running, Scratch, key, wait_for};
use super::{Guest, artifact};

/// A device: flag, path key, what makes it not write, name in the guest.
pub(super) struct Kind {
    pub flag: &'static str,
    pub file: &'static str,
    pub readonly: &'static str,
    pub device: &'static str,
}

const BLOCK: Kind =
    Kind { flag: "--disk", file: "path", readonly: "readonly=on", device: "/dev/vda" };
const PMEM: Kind =
    Kind { flag: "--pmem", file: "file", readonly: "discard_writes=on", device: "/dev/pmem0" };

/// The devices of this build.
pub(super) const KINDS: &[Kind] = &[
    #[cfg(feature = "block")]
    BLOCK,
    #[cfg(feature = "pmem")]
    PMEM,
];

impl Kind {
    pub fn flags(&self, image: &Path) -> [String; 2] {
        [self.flag.into(), key(self.file, image)]
    }

    pub fn flags_readonly(&self, image: &Path) -> [String; 2] {
        [self.flag.into(), format!("{},{}", key(self.file, image), self.readonly)]
    }

    /// The first partition.
    pub fn partition(&self) -> String {
        let p = if self.device.ends_with(|c: char| c.is_ascii_digit()) { "p1" } else { "1" };
        format!("{}{p}", self.device)
    }
}

pub(super) fn words(flags: &[String; 2]) -> [&str; 2] {
    flags.each_ref().map(String::as_str)
}

/// A copy that a guest may write to.
pub(super) fn copy(scratch: &Scratch, name: &str) -> PathBuf {
    let to = scratch.path("image");
    let mut from = File::open(artifact(name)).expect("the image");
    let file = File::create(&to).expect("a copy");
    file.set_len(from.metadata().expect("the image").len()).expect("a copy");
    // Holes stay holes: the lab has little memory.
    let (mut chunk, mut at) = (vec![0; 1 << 16], 0);
    loop {
        let count = from.read(&mut chunk).expect("the image");
        if count == 0 {
            return to;
        }
        if chunk[..count].iter().any(|byte| *byte != 0) {
            file.write_all_at(&chunk[..count], at).expect("a copy");
        }
        at += count as u64;
    }
}

fn empty(scratch: &Scratch, mib: u64) -> PathBuf {
    let path = scratch.file("image", "");
    File::options().write(true).open(&path).and_then(|f| f.set_len(mib << 20)).expect("an image");
    path
}

#[test]
fn root_on_ext4() {
    for kind in KINDS {
        let scratch = Scratch::new();
        let image = copy(&scratch, "BRISK_DISK_EXT4");
        let mut guest = Guest::from_root(kind.device, &words(&kind.flags(&image)));
        guest.cmdline += " rw brisk.do=cat=/proc/mounts";
        guest.reaches_userspace();
        let text = guest.output();
        let root = text.lines().find(|line| line.contains(" / ext4 ")).unwrap_or_default();
        assert!(root.contains(" rw"), "{text}");
    }
}

#[test]
fn root_on_a_partition() {
    for kind in KINDS {
        let scratch = Scratch::new();
        let image = copy(&scratch, "BRISK_DISK_EXT4_PARTITION");
        Guest::from_root(&kind.partition(), &words(&kind.flags(&image))).reaches_userspace();
        for name in ["BRISK_DISK_EXT4_PARTITION", "BRISK_DISK_EROFS_PARTITION"] {
            // Straight from the cache, where nothing may be written.
            let flags = kind.flags_readonly(&artifact(name));
            Guest::from_root(&kind.partition(), &words(&flags)).reaches_userspace();
        }
    }
}

/// A kernel that has no ACPI finds its devices by the command line and its interrupts by the
/// MultiProcessor tables.
#[test]
fn without_acpi() {
    for kind in KINDS {
        let flags = kind.flags_readonly(&artifact("BRISK_DISK_EXT4_PARTITION"));
        let mut guest = Guest::from_root(&kind.partition(), &words(&flags));
        guest.cmdline += " acpi=off brisk.do=cat=/proc/cmdline,reboot";
        guest.reaches_userspace();
        let text = guest.output();
        assert!(text.contains("virtio_mmio.device="), "{text}");
    }
}

#[cfg(feature = "pci")]
#[test]
fn by_pci() {
    for kind in KINDS {
        let flags = kind.flags_readonly(&artifact("BRISK_DISK_EXT4_PARTITION"));
        let guest = Guest::from_root(&kind.partition(), &words(&flags));
        guest.with(&["--transport", "pci"]).reaches_userspace();
    }
}

#[cfg(feature = "io-uring")]
#[test]
fn by_io_uring() {
    let scratch = Scratch::new();
    let image = copy(&scratch, "BRISK_DISK_EXT4_PARTITION");
    let disk = format!("{},engine=io_uring", key("path", &image));
    let mut guest = Guest::from_root("/dev/vda1", &["--disk", &disk]);
    guest.cmdline += " rw brisk.do=write=/dev/vda:ring";
    guest.reaches_userspace();
    assert!(guest.output().contains("brisk-init: written"), "{}", guest.output());
    assert!(fs::read(&image).expect("the image").starts_with(b"ring"));
}

/// A file that the guest has mapped from a pmem is itself the buffer of a write to a disk.
#[cfg(all(feature = "block", feature = "pmem"))]
#[test]
fn a_buffer_in_a_pmem() {
    let image = artifact("BRISK_DISK_EXT4_PARTITION");
    for engine in ["sync", "io_uring"] {
        let scratch = Scratch::new();
        let to = scratch.file("disk", vec![0; 1 << 20]);
        let disk = format!("path={},engine={engine}", to.display());
        let pmem = format!("file={},discard_writes=on", image.display());
        let mut guest = Guest::from_root("/dev/pmem0p1", &["--disk", &disk, "--pmem", &pmem]);
        guest.cmdline += " rootflags=dax rootfstype=ext4 brisk.do=direct=/sbin/init:/dev/vda";
        guest.reaches_userspace();
        let text = guest.output();
        assert!(text.contains("brisk-init: written directly"), "{engine}: {text}");
        let written = std::fs::read(to).expect("the disk");
        assert!(written.starts_with(b"\x7fELF") && written[4096..].iter().all(|byte| *byte == 0));
    }
}

#[cfg(feature = "pmem")]
#[test]
fn dax() {
    for (name, fs) in
        [("BRISK_DISK_EXT4_PARTITION", "ext4"), ("BRISK_DISK_EROFS_PARTITION", "erofs")]
    {
        let flags = PMEM.flags_readonly(&artifact(name));
        let mut guest = Guest::from_root("/dev/pmem0p1", &words(&flags));
        guest.cmdline += &format!(" rootflags=dax rootfstype={fs} brisk.do=cat=/proc/mounts");
        guest.reaches_userspace();
        let text = guest.output();
        let root = text.lines().find(|line| line.contains(" / ")).unwrap_or_default();
        assert!(root.contains(fs) && root.contains("dax"), "{root}\n{text}");
    }
}

#[test]
fn debian_from_a_shell_script() {
    for kind in KINDS {
        for name in ["BRISK_DISK_DEBIAN_EXT4_PARTITION", "BRISK_DISK_DEBIAN_EROFS_PARTITION"] {
            let flags = kind.flags_readonly(&artifact(name));
            let mut guest = Guest::from_root(&kind.partition(), &words(&flags));
            guest.memory = "size=256M";
            let ended = guest.run();
            let text = guest.output();
            assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{text}");
            assert!(text.contains("ID=debian"), "{text}");
            assert!(text.contains("brisk-debian: userspace"), "{text}");
            assert_eq!(guest.codes(), [0x40, 0x60]);
        }
    }
}

#[test]
fn readonly_is_readonly() {
    for kind in KINDS {
        let scratch = Scratch::new();
        let image = empty(&scratch, 4);
        let doing = format!("write={}:hello", kind.device);
        let guest = Guest::doing(&doing).with(&words(&kind.flags_readonly(&image)));
        guest.reaches_userspace();
        // A disk refuses; pmem's writes go to memory of its own.
        let refused = guest.output().contains("brisk-init: write failed");
        assert_eq!(refused, kind.flag == "--disk", "{}", guest.output());
        assert!(fs::read(&image).expect("the image").iter().all(|byte| *byte == 0));
    }
}

#[cfg(all(feature = "block", feature = "pmem"))]
#[test]
fn several_images_of_odd_sizes() {
    let scratch = Scratch::new();
    let image = |name: &str, size: u64| {
        let path = scratch.file(name, "");
        File::options().write(true).open(&path).and_then(|f| f.set_len(size)).expect("an image");
        path
    };
    let disks = [image("a", 512), image("b", 3 << 20), image("c", 5120)];
    let pmems = [image("d", (2 << 20) + 512), image("e", 4 << 20)];
    let mut doing: Vec<String> =
        ["vda", "vdb", "vdc", "pmem0", "pmem1"].map(|d| format!("cat=/sys/block/{d}/size")).into();
    doing.push("write=/dev/pmem1:second".into());
    let mut guest = Guest::doing(&doing.join(","));
    for disk in &disks {
        guest = guest.with(&words(&BLOCK.flags(disk)));
    }
    // One that is written has whole 2 MiB.
    for flags in [PMEM.flags_readonly(&pmems[0]), PMEM.flags(&pmems[1])] {
        guest = guest.with(&words(&flags));
    }
    guest.reaches_userspace();
    let text = guest.output();
    let sizes: Vec<&str> = text.lines().filter(|line| line.parse::<u64>().is_ok()).collect();
    // pmem is padded to 2 MiB; the file is not.
    assert_eq!(sizes, ["1", "6144", "10", "8192", "8192"], "{text}");
    assert!(fs::read(&pmems[1]).expect("the image").starts_with(b"second"));
    assert_eq!(fs::metadata(&pmems[0]).expect("the image").len(), (2 << 20) + 512);
}

#[cfg(feature = "block")]
#[test]
fn past_the_page_cache() {
    let scratch = Scratch::new();
    let image = copy(&scratch, "BRISK_DISK_EXT4_PARTITION");
    let disk = format!("{},direct=on", key("path", &image));
    let mut guest = Guest::from_root("/dev/vda1", &["--disk", &disk]);
    guest.cmdline += " rw brisk.do=write=/dev/vda:direct";
    guest.reaches_userspace();
    assert!(guest.output().contains("brisk-init: written"), "{}", guest.output());
    assert!(fs::read(&image).expect("the image").starts_with(b"direct"));
}

/// A guest with a shell on the serial port.
pub(super) struct Shell {
    running: Running,
    asked: u32,
}

impl Shell {
    pub fn start(more: &[&str]) -> Shell {
        let mut guest = Guest::doing("shell").with(more);
        guest.initramfs = Some(artifact("BRISK_SHELL_INITRAMFS"));
        guest.serial = "tty".into();
        let mut running = Running::start(guest.command().stdin(Stdio::piped()));
        running.wait_for_output("# ");
        Shell { running, asked: 0 }
    }

    /// Runs a command; its exit status.
    #[track_caller]
    pub fn status(&mut self, command: &str) -> u8 {
        self.asked += 1;
        let asked = self.asked;
        let line = format!("{command}; echo \"ended {asked}\" with $?.\n");
        let stdin = self.running.child().stdin.as_mut().expect("piped");
        stdin.write_all(line.as_bytes()).expect("brisk reads its input");
        let mark = format!("\nended {asked} with ");
        self.running.wait_for_output(&mark);
        wait_for("the status", || {
            self.running.stdout().split_once(&mark).is_some_and(|(_, rest)| rest.contains('.'))
        });
        let text = self.running.stdout();
        let (_, rest) = text.split_once(&mark).expect("the mark");
        rest.split('.').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    #[track_caller]
    pub fn end(mut self) -> super::Ended {
        let stdin = self.running.child().stdin.as_mut().expect("piped");
        stdin.write_all(b"exit\n").expect("brisk reads its input");
        self.running.end().with_status(0)
    }
}

#[cfg(feature = "block")]
#[test]
fn a_disk_that_shrinks_gives_errors() {
    let scratch = Scratch::new();
    let image = empty(&scratch, 8);
    let mut shell = Shell::start(&words(&BLOCK.flags(&image)));
    let read = "dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=1024";
    assert_eq!(shell.status(read), 0);
    File::options().write(true).open(&image).and_then(|f| f.set_len(1 << 20)).expect("truncate");
    assert_ne!(shell.status("dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=1500"), 0);
    // What is still there can still be read.
    assert_eq!(shell.status("dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=100"), 0);
    shell.end();
}

#[cfg(feature = "block")]
#[test]
fn a_full_host_disk_gives_errors() {
    let scratch = Scratch::new();
    let dir = scratch.path("small");
    fs::create_dir(&dir).expect("a directory");
    let path = std::ffi::CString::new(dir.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: constant strings, and a path that ends with NUL.
    let mounted = unsafe {
        let tmpfs = c"tmpfs".as_ptr();
        libc::mount(tmpfs, path.as_ptr(), tmpfs, 0, c"size=1m".as_ptr().cast())
    };
    assert_eq!(mounted, 0, "mount needs root, as in the lab");
    let image = dir.join("image");
    File::create(&image).and_then(|f| f.set_len(8 << 20)).expect("an image");
    let mut shell = Shell::start(&words(&BLOCK.flags(&image)));
    let write = "dd if=/dev/zero of=/dev/vda bs=65536 conv=fsync count=";
    assert_eq!(shell.status(&format!("{write}4")), 0);
    assert_ne!(shell.status(&format!("{write}100")), 0);
    assert_eq!(shell.status(&format!("{write}4")), 0, "what has a place can still be written");
    shell.end();
    // SAFETY: a path that ends with NUL.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}

#[cfg(feature = "pmem")]
#[test]
fn a_pmem_that_shrinks_ends_neither_guest_nor_brisk() {
    let scratch = Scratch::new();
    let image = empty(&scratch, 8);
    let mut shell = Shell::start(&words(&PMEM.flags(&image)));
    let write = "dd if=/dev/zero of=/dev/pmem0 bs=4096 count=1 conv=fsync seek=";
    assert_eq!(shell.status(&format!("{write}100")), 0);
    File::options().write(true).open(&image).and_then(|f| f.set_len(1 << 20)).expect("truncate");
    // Written to what is gone: a lie is told to nobody.
    assert_ne!(shell.status(&format!("{write}1500")), 0);
    let ended = shell.end();
    assert!(ended.stderr.contains("the image shrank"), "{ended:?}");
}
