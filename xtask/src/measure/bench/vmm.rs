//! The VMMs under test: their command lines, and the files that they need.

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;
use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::script::DISK;
use super::workload::{Disk, Root, Step, Workload};
use crate::guest::{Console, Kernel};
use crate::lab::quote;

/// A VMM to compare with, from `--peer`.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Peer {
    /// QEMU's microvm machine, Debian's package.
    Qemu,
    /// QEMU's machine that is like a PC with PCI Express.
    QemuQ35,
    /// Any other: its name and command.
    Command(String, String),
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "qemu" => Ok(Self::Qemu),
            None if text == "qemu-q35" => Ok(Self::QemuQ35),
            Some((name, command)) if !name.is_empty() && !command.trim().is_empty() => {
                Ok(Self::Command(name.to_owned(), command.trim().to_owned()))
            }
            _ => Err(format!("{text}: neither qemu, qemu-q35 nor NAME='COMMAND'")),
        }
    }
}

impl Peer {
    /// Name of the peer's rows.
    pub fn name(&self) -> &str {
        match self {
            Self::Qemu => "QEMU microvm",
            Self::QemuQ35 => "QEMU q35",
            Self::Command(name, _) => name,
        }
    }

    /// The peer's command for a step, not filled in; `None` where it cannot do what the step needs.
    pub fn command(&self, scenario: &Workload, step: &Step) -> Option<String> {
        match self {
            Self::Qemu => qemu(scenario, step),
            Self::QemuQ35 => q35(scenario, step),
            Self::Command(_, command) => Some(command.clone()),
        }
    }
}

/// Where the scenario has an initramfs.
fn initrd(scenario: &Workload, step: &Step) -> &'static str {
    let has = step.root == Root::Initramfs || matches!(scenario.kernel, Kernel::Stock(_));
    if has { " -initrd {initramfs}" } else { "" }
}

/// What all of QEMU's machines are told.
const QEMU: &str = "-accel kvm -cpu host -m {memory}M -nodefaults -no-user-config -display none \
                    -no-reboot -kernel {kernel} -append '{cmdline}'";

/// QEMU's microvm with as little as it can be told to have: no PIT, PIC nor RTC, as its manual
/// advises for fast boots. Our own kernel needs neither ACPI nor the option ROM that loads a
/// bzImage: the devices are announced on the command line. Its virtio-pmem needs PCI, and that ACPI.
/// Huge pages are in no step that it can do.
fn qemu(scenario: &Workload, step: &Step) -> Option<String> {
    if step.hugepages {
        return None;
    }
    let disk = match step.disk {
        Disk::None => "",
        Disk::Block => {
            " -drive id=disk,file={disk},format=raw,if=none -device virtio-blk-device,drive=disk"
        }
        Disk::Pmem => return None,
    };
    let (serial, console) = match step.console {
        Console::Serial => ("on -serial file:{serial}", ""),
        Console::Virtio => (
            "off",
            " -device virtio-serial-device -chardev file,id=hvc,path={serial} \
             -device virtconsole,chardev=hvc",
        ),
    };
    let lean = match scenario.kernel {
        Kernel::Own(_) | Kernel::File(_) => "acpi=off,x-option-roms=off,",
        Kernel::Stock(_) => "",
    };
    let initrd = initrd(scenario, step);
    Some(format!(
        "qemu-system-x86_64 -M microvm,{lean}pit=off,pic=off,rtc=off,isa-serial={serial} \
         {QEMU}{initrd}{disk}{console}"
    ))
}

/// QEMU's q35 with nothing but what the step needs. Its VAPIC makes it write the guest's task register
/// back, with the type "busy", as it was read; the lab's CPU, QEMU's own, then refuses the guest's
/// userspace the boot timer's port.
fn q35(scenario: &Workload, step: &Step) -> Option<String> {
    if step.hugepages || step.console != Console::Serial {
        return None;
    }
    let disk = match step.disk {
        Disk::None => "",
        Disk::Block => {
            " -drive id=disk,file={disk},format=raw,if=none -device virtio-blk-pci,drive=disk"
        }
        Disk::Pmem => return None,
    };
    let initrd = initrd(scenario, step);
    Some(format!(
        "qemu-system-x86_64 -M q35 -global kvm-apic.vapic=off -serial file:{{serial}} \
         {QEMU}{initrd}{disk}"
    ))
}

/// What stands for the words in braces: `{kernel}` (ELF), `{bzimage}`, `{initramfs}`, `{disk}`,
/// `{serial}` (a file for the console's output), `{memory}` (MiB), `{cmdline}`, and `{args}`, all of
/// the step's arguments as brisk gets them.
pub struct Filler<'a> {
    /// Directory of the files that all VMMs share.
    pub files: &'a str,
    /// The scenario.
    pub scenario: &'a Workload,
    /// The step.
    pub step: &'a Step,
    /// More parameters for the kernel's command line.
    pub append: &'a str,
    /// The shared names of the kernel and the initramfs.
    pub names: [&'a str; 2],
}

/// What the kernel and the initramfs are called among the shared files where there is one of each.
pub const NAMES: [&str; 2] = ["vmlinux", "initramfs"];

impl Filler<'_> {
    /// `template` with all words in braces filled in.
    ///
    /// # Errors
    /// A word that is not one of them.
    pub fn fill(&self, template: &str) -> Result<String> {
        let mut text = String::new();
        let mut rest = template;
        while let Some((before, tail)) = rest.split_once('{') {
            let Some((word, after)) = tail.split_once('}') else { break };
            text.push_str(before);
            text.push_str(&self.word(word)?);
            rest = after;
        }
        text.push_str(rest);
        Ok(text)
    }

    fn word(&self, word: &str) -> Result<String> {
        Ok(match word {
            "kernel" => format!("{}/{}", self.files, self.names[0]),
            "hugetlbfs" | "huge-tmpfs" => format!("{}/{word}/vmlinux", self.files),
            "bzimage" => format!("{}/bzImage", self.files),
            "initramfs" => format!("{}/{}", self.files, self.names[1]),
            "disk" => format!("{}/{DISK}", self.files),
            "serial" => format!("{}/serial", self.files),
            "memory" => self.scenario.memory_mib.to_string(),
            "cmdline" if self.append.is_empty() => self.step.cmdline.to_owned(),
            "cmdline" => format!("{} {}", self.step.cmdline, self.append),
            "args" => self.fill(self.step.args)?,
            _ => bail!(
                "--peer: {{{word}}} is unknown; there are {{kernel}} {{bzimage}} {{initramfs}} \
                 {{disk}} {{serial}} {{memory}} {{cmdline}} {{args}}"
            ),
        })
    }
}

/// Splits a command into its program, as an absolute path, and the rest.
///
/// # Errors
/// The program is not there.
pub fn program(command: &str) -> Result<(PathBuf, &str)> {
    let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    if word.contains('/') {
        let path = std::path::absolute(word)?;
        ensure!(path.is_file(), "--peer: {word} is not there");
        return Ok((path, rest));
    }
    let path = env::var_os("PATH").context("PATH is not set")?;
    let found = env::split_paths(&path).map(|dir| dir.join(word)).find(|file| file.is_file());
    Ok((found.with_context(|| format!("--peer: {word} is not there; PATH has none"))?, rest))
}

/// All files of this machine that `command` needs to run: the program, the libraries that it is
/// linked with, its data as far as known here, and each file that the command names by its absolute
/// path.
///
/// # Errors
/// A library is missing.
pub fn files(program: &Path, rest: &str) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::from([program.to_path_buf()]);
    // Static programs make ldd fail, which is fine.
    let text = cmd!("ldd", program)
        .stderr_null()
        .stdout_capture()
        .unchecked()
        .run()
        .context("cannot run ldd")?
        .stdout;
    for line in String::from_utf8_lossy(&text).lines() {
        ensure!(!line.ends_with("not found"), "{}: {}", program.display(), line.trim());
        files.extend(line.split_whitespace().find(|w| w.starts_with('/')).map(PathBuf::from));
    }
    let named = rest.split(|c: char| c.is_whitespace() || "=,'\"".contains(c));
    let named = named.filter(|w| w.starts_with('/')).map(PathBuf::from);
    files.extend(named.filter(|path| path.is_file()));
    if program.file_name().is_some_and(|n| n.to_string_lossy().starts_with("qemu-system-")) {
        // Firmware of microvm, and what a missing module or ROM would be looked for in.
        for dir in ["/usr/share/qemu", "/usr/share/seabios"] {
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            let small = entries.flatten().map(|e| e.path()).filter(|path| {
                path.extension().is_some_and(|e| e == "bin" || e == "rom")
                    && path.metadata().is_ok_and(|m| m.len() <= 1 << 20)
            });
            files.extend(small);
        }
    }
    Ok(files)
}

/// brisk's command for a step, not filled in.
pub fn brisk(program: &str, step: &Step) -> String {
    format!("{} {}", quote(program), step.args)
}

#[cfg(test)]
mod tests {
    use super::super::scenario;
    use super::*;

    #[test]
    fn peers_from_the_command_line() {
        assert_eq!("qemu".parse(), Ok(Peer::Qemu));
        assert_eq!(
            "a=b --c={kernel}".parse(),
            Ok(Peer::Command("a".to_owned(), "b --c={kernel}".to_owned()))
        );
        for wrong in ["", "x", "=b", "a=", "a= "] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_are_filled_in() {
        let scenario = scenario::find("talk").unwrap();
        let step = &scenario.steps[4];
        let filler = Filler { files: "/d", scenario, step, append: "", names: NAMES };
        assert_eq!(filler.fill("{disk} {memory}-{x").unwrap(), "/d/disk.raw 512-{x");
        assert_eq!(
            filler.fill(&brisk("/b c", step)).unwrap(),
            "'/b c' --kernel /d/vmlinux --pmem file=/d/disk.raw \
             --cmdline 'root=/dev/pmem0p1 console=hvc0 quiet' --serial null --console tty \
             --memory size=512M,hugepages=on"
        );
        assert_eq!(
            filler.fill("cloud-hypervisor {args}").unwrap(),
            filler.fill(&brisk("cloud-hypervisor", step)).unwrap()
        );
        let filler = Filler { append: "a=b", ..filler };
        assert_eq!(filler.fill("{cmdline}").unwrap(), "root=/dev/pmem0p1 console=hvc0 quiet a=b");
        assert!(filler.fill("{krenel}").unwrap_err().to_string().contains("{krenel} is unknown"));
    }

    #[test]
    fn qemus_machines_do_what_they_can() {
        let can = |peer: &Peer| -> Vec<bool> {
            let talk = scenario::find("talk").unwrap();
            talk.steps.iter().map(|step| peer.command(talk, step).is_some()).collect()
        };
        assert_eq!(can(&Peer::Qemu), [true, true, true, false, false]);
        assert_eq!(can(&Peer::QemuQ35), [true, false, false, false, false]);
        for scenario in scenario::ALL {
            for (step, peer) in
                scenario.steps.iter().flat_map(|s| [(s, Peer::Qemu), (s, Peer::QemuQ35)])
            {
                let Some(command) = peer.command(scenario, step) else { continue };
                let command = Filler { files: "/d", scenario, step, append: "", names: NAMES }
                    .fill(&command)
                    .unwrap();
                assert!(!command.contains(['{', '}']), "{command}");
                assert_eq!(command.contains("-initrd"), step.args.contains("--initramfs"));
            }
        }
    }

    #[test]
    fn files_of_a_program() {
        let (sh, rest) = program("sh -c /etc/passwd,x='/etc/hosts' /nowhere").unwrap();
        assert!(sh.is_absolute() && sh.ends_with("sh"));
        let files = files(&sh, rest).unwrap();
        for wanted in [&sh, Path::new("/etc/passwd"), Path::new("/etc/hosts")] {
            assert!(files.contains(wanted), "{files:?}");
        }
        assert!(files.iter().any(|f| f.to_string_lossy().contains("libc.so")), "{files:?}");
        assert!(!files.contains(Path::new("/nowhere")));
        assert!(program("no-such-program-anywhere x").is_err());
        assert!(program("/nowhere x").is_err());
    }
}
