//! `cargo xtask boot`: boots Linux to userspace, on this machine's KVM where that can, else in the
//! lab.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use duct::cmd;
use serde::Deserialize;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::cache::Cache;
use crate::guest::stock::Stock;
use crate::guest::{Console, Kernel, images, init, kernel};
use crate::lab::{self, OUT, On, command};
use crate::{build, debian};

/// Boot Linux to userspace and show where the time went. In the lab, Ctrl-] ends L1.
#[derive(FromArgs)]
#[argh(subcommand, name = "boot")]
pub struct Args {
    /// host: this machine's KVM; lab: L1's; by default the host's if it can run a Linux
    #[argh(option)]
    on: Option<On>,
    /// in the lab with the clock that counts instructions
    #[argh(switch)]
    stopwatch: bool,
    /// micro (our own, as little as boots; default), micro-smp, guest (our own, all that the tests
    /// use), a stock kernel of Debian's to a Debian's userspace (debian-cloud, debian-6.1-cloud,
    /// debian-generic), or a file
    #[argh(option, default = "Kernel::Own(kernel::Config::Micro)")]
    kernel: Kernel,
    /// boot to a shell of busybox's that one can type into; Ctrl-D or `exit` powers off
    #[argh(switch)]
    shell: bool,
    /// a directory in which what brisk writes stays, in the lab; may be repeated
    #[argh(option)]
    keep: Vec<PathBuf>,
    /// arguments for brisk, after --
    #[argh(positional, greedy)]
    extra: Vec<String>,
}

/// What is booted.
pub struct Files {
    /// The kernel: vmlinux or bzImage.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initramfs: PathBuf,
    /// The disk that the initramfs goes on to, where it does. Another initramfs is what the kernel
    /// ends at, and in the way of a `root=`.
    pub image: Option<PathBuf>,
    /// What the kernel can print on.
    pub console: Console,
    /// CPUs that it can use.
    pub cpus: u8,
    /// Words for the kernel's command line besides.
    pub words: String,
}

/// A line of brisk's `--boot-log`.
#[derive(Deserialize)]
struct Point {
    name: String,
    #[serde(default)]
    process_us: f64,
}

/// Where in L1 a boot's files are; those that brisk writes in `out` below it. On L1's own tmpfs, for
/// this machine's files take long there.
pub const IN_L1: &str = "/run/boot";
/// 2 MiB pages that L1 reserves when brisk is told to use them: 1 GiB.
const LAB_HUGEPAGES: u32 = 512;

/// Runs the task: success is a guest that reached its userspace and powered off.
///
/// # Errors
/// Something could not be built, or the lab failed.
pub fn run(args: &Args) -> Result<ExitCode> {
    command::check_inputs(&args.extra)?;
    ensure!(!args.stopwatch || args.on != Some(On::Host), "--stopwatch: only the lab has one");
    let on = if args.stopwatch { On::Lab } else { place(args.on)? };
    debian::ensure(debian::BOOT)?;
    let cache = Cache::open()?;
    let brisk = build::program(None)?;
    if let Kernel::Own(config) = args.kernel
        && args.extra.is_empty()
        && !args.shell
        && !kernel::is_built(&cache, config)?
    {
        println!(
            "{} is not built yet, which takes some minutes: Debian's own kernel first, as it is in \
             its package",
            config.name()
        );
        boot(args, on, &brisk, &Files::ours(&cache, lab::kernel(&cache)?)?)?;
        println!("now {}, of which much that takes time is left out", config.name());
    }
    let mut files = match &args.kernel {
        Kernel::Own(config) => Files::own(&cache, *config),
        Kernel::Stock(stock) => Files::stock(&cache, stock),
        Kernel::File(path) => Files::ours(&cache, path.canonicalize()?),
    }?;
    if args.shell {
        files.with_shell(&cache)?;
    }
    boot(args, on, &brisk, &files)
}

/// Boots `files` and says how it went.
fn boot(args: &Args, on: On, brisk: &Path, files: &Files) -> Result<ExitCode> {
    let (status, log) = match on {
        On::Host => {
            let dir = tempfile::tempdir()?;
            let log = dir.path().join("boot.jsonl");
            let args = arguments(files, &log, &args.extra);
            let output = cmd(brisk, args).unchecked().run().context("cannot run brisk")?;
            (output.status.code().unwrap_or(1), fs::read_to_string(&log).unwrap_or_default())
        }
        On::Lab => {
            let mut job = lab::Job { relay: false, ..job(brisk, files, &args.extra) };
            job.kept = args.keep.iter().map(|dir| command::keep(dir)).collect::<Result<_>>()?;
            lab::Job { io: job.io, timeout: job.timeout, .. } = command::own();
            if args.stopwatch {
                job.mode = lab::Mode::Stopwatch;
            }
            let output = lab::run(&job)?;
            (output.status, fs::read_to_string(output.dir.join("boot.jsonl")).unwrap_or_default())
        }
    };
    let clock = match (on, args.stopwatch) {
        (On::Host, _) => "",
        (On::Lab, false) => " of the lab's fast mode, which says nothing about a real machine",
        (On::Lab, true) => " of the lab's stopwatch, 1 ns an instruction",
    };
    Ok(verdict(status, &log, clock))
}

/// A boot in the lab, with these arguments besides. The boot log is `boot.jsonl` in its output, where
/// all files end up that brisk writes to [`IN_L1`].
pub fn job(brisk: &Path, files: &Files, extra: &[String]) -> lab::Job {
    let mut script = format!("mkdir -p {IN_L1}/out\n");
    let from = [brisk, &files.kernel, &files.initramfs];
    let names = ["brisk", "kernel", "initramfs"];
    let [brisk, kernel, initramfs] = names.map(|name| Path::new(IN_L1).join(name));
    for (from, to) in from.iter().zip([&brisk, &kernel, &initramfs]) {
        let from = lab::path_in_l1(from).to_string_lossy().into_owned();
        script += &format!("cp {} {}\n", lab::quote(&from), to.display());
    }
    // Too large for L1's memory. At /run/host whatever else L1 sees.
    let image = files.image.as_deref().map(lab::path_in_l1);
    let files = Files { kernel, initramfs, image, words: files.words.clone(), ..*files };
    let mut words = vec![brisk.to_string_lossy().into_owned()];
    words.extend(arguments(&files, &Path::new(IN_L1).join("out/boot.jsonl"), extra));
    script += &words.iter().map(|word| lab::quote(word)).collect::<Vec<_>>().join(" ");
    let _ = write!(script, "\nstatus=$?; cp {IN_L1}/out/* {OUT}; exit $status\n");
    let huge = extra.iter().any(|word| word.contains("hugepages=on"));
    lab::Job {
        script,
        hugepages: if huge { LAB_HUGEPAGES } else { 0 },
        timeout: Duration::from_secs(180),
        relay: true,
        ..lab::Job::default()
    }
}

/// Where to boot, saying which and why.
///
/// # Errors
/// The host was wished for, and cannot.
pub fn place(wish: Option<On>) -> Result<On> {
    let (on, why) = match (wish, host_kvm()) {
        (Some(On::Host), Err(why)) => bail!("--on host: {why}"),
        (Some(on), _) => (on, "as --on says".to_owned()),
        (None, Ok(())) => (On::Host, "it can run an unmodified Linux".to_owned()),
        (None, Err(why)) => (On::Lab, why),
    };
    match on {
        On::Host => eprintln!("booting on this machine's KVM: {why}"),
        On::Lab => eprintln!("booting in the lab, a KVM in software: {why}"),
    }
    Ok(on)
}

/// Whether this machine's KVM can run an unmodified Linux; the error says why it cannot.
///
/// # Errors
/// It cannot.
pub fn host_kvm() -> Result<(), String> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    judge(kvm, &cpuinfo, Path::new("/sys/module/kvm_pvm").exists())
}

/// A KVM of the PVM kind runs the guest's kernel in the CPU's user mode and emulates what differs
/// there: small guests run, Linux fails at the first instruction that it does not emulate. It needs
/// no CPU with virtualization, so the lack of that shows it, and its module's name does.
fn judge(kvm: io::Result<()>, cpuinfo: &str, pvm: bool) -> Result<(), String> {
    if let Err(e) = kvm {
        return Err(match e.kind() {
            io::ErrorKind::NotFound => "this machine has no /dev/kvm".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "no permission on /dev/kvm (try: sudo usermod -aG kvm $USER)".to_owned()
            }
            _ => format!("/dev/kvm does not open: {e}"),
        });
    }
    if pvm {
        return Err(
            "this machine's KVM is kvm_pvm, which cannot run an unmodified Linux".to_owned()
        );
    }
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    if !flags.split_whitespace().any(|flag| flag == "svm" || flag == "vmx") {
        return Err("this machine's CPU shows neither svm nor vmx, so its KVM cannot run an \
                    unmodified Linux"
            .to_owned());
    }
    Ok(())
}

impl Files {
    /// A kernel with our own init, which powers off at once.
    ///
    /// # Errors
    /// The init cannot be built.
    pub fn ours(cache: &Cache, kernel: PathBuf) -> Result<Self> {
        let initramfs = init::ensure(cache)?.initramfs;
        Ok(Self {
            kernel,
            initramfs,
            image: None,
            console: Console::Serial,
            cpus: 1,
            words: String::new(),
        })
    }

    /// A kernel of our own and init.
    ///
    /// # Errors
    /// One of them cannot be built.
    pub fn own(cache: &Cache, config: kernel::Config) -> Result<Self> {
        let files = Self::ours(cache, kernel::ensure(cache, config)?.vmlinux)?;
        Ok(match config {
            kernel::Config::Guest => files,
            kernel::Config::Micro => Self { console: Console::Virtio, ..files },
            kernel::Config::MicroSmp => Self { console: Console::Virtio, cpus: 2, ..files },
        })
    }

    /// A kernel of Debian's, which goes on to the userspace of a Debian.
    fn stock(cache: &Cache, stock: &Stock) -> Result<Self> {
        debian::ensure(&debian::ALL)?;
        let files = stock.ensure(cache)?;
        let image = images::debian(cache)?.ext4_partition;
        Ok(Self {
            kernel: files.vmlinuz,
            initramfs: files.initramfs,
            image: Some(image),
            console: Console::Serial,
            cpus: 1,
            words: String::new(),
        })
    }

    /// The same with a shell, where init is ours.
    fn with_shell(&mut self, cache: &Cache) -> Result<()> {
        ensure!(
            self.image.is_none(),
            "--shell: a stock kernel goes on to a Debian's own init; give micro, micro-smp, guest or \
             a file, or see: cargo xtask run --help"
        );
        self.initramfs = init::ensure(cache)?.shell_initramfs;
        self.words = " quiet brisk.do=shell".to_owned();
        Ok(())
    }
}

/// brisk's arguments: what the user gave, and the rest so that it boots.
fn arguments(files: &Files, log: &Path, extra: &[String]) -> Vec<String> {
    let given = |flag: &str| extra.iter().any(|word| word == flag);
    let own_root = extra.iter().any(|word| word.contains("root="));
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut words = Vec::new();
    let mut default = |flag: &str, value: String| {
        if !given(flag) {
            words.extend([flag.to_owned(), value]);
        }
    };
    default("--kernel", path(&files.kernel));
    if files.image.is_some() || !own_root {
        default("--initramfs", path(&files.initramfs));
    }
    let (name, console) = match files.console {
        Console::Serial => ("console=ttyS0", "--serial"),
        Console::Virtio => ("console=hvc0", "--console"),
    };
    let mut cmdline = name.to_owned();
    if let Some(image) = files.image.as_ref().filter(|_| !own_root) {
        default("--transport", "pci".to_owned());
        default("--pmem", format!("file={},discard_writes=on", path(image)));
        cmdline += " root=/dev/pmem0p1";
    }
    cmdline += &files.words;
    default("--cmdline", cmdline);
    if !given("--console") {
        default(console, "tty".to_owned());
    }
    if files.cpus > 1 {
        default("--cpus", format!("boot={}", files.cpus));
    }
    default("--memory", "size=512M".to_owned());
    words.extend(["--boot-log".to_owned(), path(log)]);
    if !given("--timeline") {
        words.push("--timeline".to_owned());
    }
    words.extend_from_slice(extra);
    words
}

/// Says how it went.
fn verdict(status: i32, log: &str, clock: &str) -> ExitCode {
    let points = log.lines().filter_map(|line| serde_json::from_str::<Point>(line).ok());
    let userspace = points.into_iter().find(|point| point.name == "userspace");
    match (&userspace, status) {
        (Some(point), 0) => {
            println!("userspace after {:.1} ms{clock}; powered off", point.process_us / 1000.0);
            return ExitCode::SUCCESS;
        }
        (Some(_), _) => eprintln!("xtask: boot: userspace reached, but brisk ended with {status}"),
        (None, _) => eprintln!("xtask: boot: userspace not reached, brisk ended with {status}"),
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvms_that_can_and_that_cannot() {
        let amd = "processor : 0\nflags\t\t: fpu svm sse\n";
        assert_eq!(judge(Ok(()), amd, false), Ok(()));
        assert_eq!(judge(Ok(()), "flags : vmx", false), Ok(()));
        assert!(judge(Ok(()), amd, true).unwrap_err().contains("kvm_pvm"));
        for cpuinfo in ["flags : fpu svme vmx_x", "", "bugs : svm"] {
            assert!(judge(Ok(()), cpuinfo, false).unwrap_err().contains("neither svm nor vmx"));
        }
        let fails = |kind: io::ErrorKind| judge(Err(kind.into()), amd, false).unwrap_err();
        assert!(fails(io::ErrorKind::NotFound).contains("no /dev/kvm"));
        assert!(fails(io::ErrorKind::PermissionDenied).contains("usermod"));
    }

    #[test]
    fn the_users_arguments_win() {
        let files = |image| Files {
            kernel: "/k".into(),
            initramfs: "/i".into(),
            image,
            console: Console::Serial,
            cpus: 1,
            words: String::new(),
        };
        let arguments_of = |image: Option<PathBuf>, extra: &[&str]| {
            let extra: Vec<String> = extra.iter().map(|&w| w.to_owned()).collect();
            let files = files(image);
            arguments(&files, Path::new("/l"), &extra).join(" ")
        };
        let with = |extra: &[&str]| arguments_of(None, extra);
        assert_eq!(
            with(&[]),
            "--kernel /k --initramfs /i --cmdline console=ttyS0 --serial tty --memory size=512M \
             --boot-log /l --timeline"
        );
        assert_eq!(
            with(&["--disk", "path=/d", "--cmdline", "root=/dev/vda", "--console", "tty"]),
            "--kernel /k --memory size=512M --boot-log /l --timeline --disk path=/d \
             --cmdline root=/dev/vda --console tty"
        );
        let micro = Files { console: Console::Virtio, cpus: 2, ..files(None) };
        assert_eq!(
            arguments(&micro, Path::new("/l"), &[]).join(" "),
            "--kernel /k --initramfs /i --cmdline console=hvc0 --console tty --cpus boot=2 \
             --memory size=512M --boot-log /l --timeline"
        );
        assert_eq!(
            arguments_of(Some("/d".into()), &[]),
            "--kernel /k --initramfs /i --transport pci --pmem file=/d,discard_writes=on \
             --cmdline console=ttyS0 root=/dev/pmem0p1 --serial tty --memory size=512M \
             --boot-log /l --timeline"
        );
        assert_eq!(
            arguments_of(Some("/d".into()), &["--disk", "path=/e", "--cmdline", "root=/dev/vda"]),
            "--kernel /k --initramfs /i --serial tty --memory size=512M --boot-log /l --timeline \
             --disk path=/e --cmdline root=/dev/vda"
        );
    }

    #[test]
    fn success_is_userspace_and_status_0() {
        let log = "{\"name\":\"first-entry\",\"process_us\":1.5}\n\
                   {\"name\":\"userspace\",\"code\":96,\"process_us\":2.5,\"vm_us\":1.0}\n";
        let code = |status, log| format!("{:?}", verdict(status, log, ""));
        let (good, bad) = (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(code(0, log), good);
        assert_eq!(code(3, log), bad);
        assert_eq!(code(0, "{\"name\":\"kernel\"}"), bad);
    }
}
