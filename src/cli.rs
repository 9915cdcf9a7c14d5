//! The command line, in the shape of Cloud Hypervisor's.

mod baked;
mod features;
mod hints;
pub mod words;

use std::ffi::OsString;

use argh::FromArgs;

use crate::bundle::{self, Bundled};
use crate::config::{self, Config, MemoryConfig, Output, Seccomp, Transport, need};
use crate::error::{Error, Result};
use crate::measure::log;
use crate::snapshot::arguments;
use crate::{api, exit_status, virtio, workload};
use words::Read;

#[derive(FromArgs)]
/// Boots a Linux VM to userspace.
///
/// Exit status: 0 the guest powered off or rebooted, 1 the host or brisk failed, 2 bad usage,
/// 3 the guest crashed. Ctrl-A x quits a tty console, Ctrl-A Ctrl-A sends one. -V, --features: the
/// version, and what this binary has.
pub(crate) struct Args {
    /// the kernel: a vmlinux, or a bzImage (feature bzimage)
    #[argh(option)]
    kernel: String,
    /// an initramfs
    #[argh(option)]
    initramfs: Option<String>,
    /// the kernel's command line; parameters that shorten the boot are added to it
    #[argh(option, default = "String::new()")]
    cmdline: String,
    /// add nothing to the command line
    #[argh(switch)]
    cmdline_exact: bool,
    /// pvh|linux64 (default: linux64 for Linux, pvh for another kernel with its note)
    #[argh(option)]
    boot_protocol: Option<String>,
    /// boot=N,nested=on|off (default boot=1,nested=off): vCPUs (feature smp for more than one), and
    /// whether the guest may run guests
    #[argh(option)]
    cpus: Option<String>,
    /// size=,hugepages=on|off,hugepage_size=2M|1G,thp=on|off,prefault=on|off,shared=on|off (default
    /// size=512M,hugepages=off,prefault=off,shared=off)
    #[argh(option)]
    memory: Option<String>,
    /// path=FILE,readonly=on|off,direct=on|off,engine=sync|io_uring (default
    /// readonly=off,direct=off,engine=sync); may be repeated (feature block)
    #[argh(option)]
    pub(crate) disk: Vec<String>,
    /// file=FILE,discard_writes=on|off (default discard_writes=off); may be repeated (feature pmem)
    #[argh(option)]
    pub(crate) pmem: Vec<String>,
    /// src=/dev/urandom: the guest's hwrng (feature rng)
    #[argh(option)]
    pub(crate) rng: Option<String>,
    /// mmio|pci|pci-ports (default mmio): how the guest reaches its virtio devices; pci-ports is for a
    /// kernel without ECAM (feature pci)
    #[argh(option)]
    transport: Option<String>,
    /// off|null|tty|file=PATH (default off; tty in a build without console): ttyS0 (feature serial)
    #[argh(option)]
    serial: Option<String>,
    /// off|null|tty|file=PATH|streams (default tty; off where --serial is given): hvc0 (feature
    /// console), or a workload's standard streams (feature streams)
    #[argh(option)]
    console: Option<String>,
    /// write the boot timer's points to this file as JSON lines (feature boot-timer)
    #[argh(option)]
    boot_log: Option<String>,
    /// print the boot timer's points to standard error at exit (feature boot-timer)
    #[argh(switch)]
    timeline: bool,
    /// write the counts of exits to this file as JSON (feature exit-stats)
    #[argh(option)]
    stats: Option<String>,
    /// write what each thread did, and when, to this file, for Perfetto (feature trace)
    #[argh(option)]
    trace: Option<String>,
    /// true|false|log (default true): end the VM at a system call that it does not need while the guest
    /// runs (feature seccomp)
    #[argh(option)]
    seccomp: Option<String>,
    /// path=DIR,at=CODE,then=exit|go-on (default then=exit): save the VM when the guest writes CODE to
    /// port 0x80, or, without at, when a client of --api-socket asks for it (feature snapshot)
    #[argh(option)]
    snapshot: Option<String>,
    /// DIR or source_url=file://DIR,images=same|any,record=CODE (default images=same): go on from there;
    /// record: note for later clones which pages are touched until the guest writes CODE to port 0x80
    /// (feature snapshot)
    #[argh(option)]
    restore: Option<String>,
    /// CODE (default 0x60): tell the service manager at $NOTIFY_SOCKET when the guest writes CODE to port
    /// 0x80 (feature notify)
    #[argh(option)]
    notify: Option<String>,
    /// PATH, path=PATH or fd=N: take commands on this Unix socket, as Cloud Hypervisor's API has them
    /// (feature api)
    #[argh(option)]
    api_socket: Option<String>,
    /// off|error|warn|info|debug|trace (default warn); -v, -vv, -vvv: from info on (feature logging)
    #[argh(option)]
    log_level: Option<String>,
    /// exit with the byte that the guest wrote to port 0x84, or 125 if the VM fails (feature
    /// exit-status)
    #[argh(switch)]
    exit_status: bool,
}

/// What the command line says of virtio devices, of which each kind takes its own.
#[allow(dead_code, reason = "a build may have no device that asks")]
pub struct Flags<'a> {
    /// All flags, as they were given.
    pub(crate) args: &'a Args,
    /// `--console`, unless it is a workload's streams.
    pub(crate) console: Option<Output>,
    /// `--console streams`
    pub(crate) streams: bool,
    /// brisk's own file, where that has an image.
    pub(crate) bundle: Bundled,
}

/// `--log-level` by default.
const LOG_LEVEL: &str = "warn";

/// What the command line came to.
pub enum Command {
    /// Run a VM.
    Run(Box<Config>),
    /// Print this and end with status 0.
    Print(String),
}

/// Reads the process's arguments and starts the log.
///
/// # Errors
/// Bad usage.
pub fn parse(arguments: Vec<OsString>) -> Result<Command> {
    let (bundle, flags) = match bundle::find(&arguments)? {
        None => (None, String::new()),
        Some(bundle::Asked::Print(text)) => return Ok(Command::Print(text)),
        Some(bundle::Asked::Run(bundle, flags)) => (Some(bundle), flags),
    };
    let mut words = match words::read(&mut workload::own(arguments).into_iter())? {
        Read::Words(words) => words,
        Read::Version => {
            let version = concat!("brisk ", env!("CARGO_PKG_VERSION"), "\n");
            return Ok(Command::Print(baked::told(version.into())));
        }
        Read::Features => return Ok(Command::Print(features::list())),
    };
    baked::add(&flags, &mut words)?;
    baked::add_own(&mut words)?;
    let restored = arguments::open(&words)?;
    arguments::add_saved(restored.as_ref(), &mut words)?;
    let all: Vec<&str> = words.iter().map(String::as_str).collect();
    if words::flags(&words).any(|(flag, _)| flag == "--exit-status") {
        exit_status::expect();
    }
    let args = match Args::from_args(&["brisk"], &all) {
        Ok(args) => args,
        Err(exit) if exit.status.is_ok() => return Ok(Command::Print(baked::told(exit.output))),
        Err(exit) => {
            let line = exit.output.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut unknown = all.iter().filter(|word| line.ends_with(**word));
            return Err(Error::usage(match unknown.find_map(|word| hints::find(word)) {
                Some(hint) => format!("{line}: {hint}"),
                None => format!("{line} (see brisk --help)"),
            }));
        }
    };
    need(!args.exit_status || cfg!(feature = "exit-status"), "--exit-status", "exit-status")?;
    need(args.log_level.is_none() || cfg!(feature = "logging"), "--log-level", "logging")?;
    log::start(args.log_level.as_deref().unwrap_or(LOG_LEVEL))?;
    let mut config = config(args, bundle)?;
    arguments::set(&mut config, restored, &words);
    Ok(Command::Run(Box::new(config)))
}

fn config(mut args: Args, bundle: Bundled) -> Result<Config> {
    let streams = args.console.take_if(|text| text == "streams").is_some();
    without_streams(streams, args.serial.as_deref())?;
    if streams {
        args.console = Some("off".into());
    }
    let without = |given: bool, there: bool, flag: &str, feature: &str| {
        if given { need(there, flag, feature) } else { Ok(()) }
    };
    without(!args.disk.is_empty(), cfg!(feature = "block"), "--disk", "block")?;
    without(!args.pmem.is_empty(), cfg!(feature = "pmem"), "--pmem", "pmem")?;
    without(args.rng.is_some(), cfg!(feature = "rng"), "--rng", "rng")?;
    let pci = args.transport.take_if(|text| text != "mmio");
    without(pci.is_some(), cfg!(feature = "pci"), "--transport", "pci")?;
    // A device that nobody listens to may as well not be there.
    let wants = |text: &Option<String>| !matches!(text.as_deref(), None | Some("off" | "null"));
    without(wants(&args.serial), cfg!(feature = "serial"), "--serial", "serial")?;
    let console = wants(&args.console);
    without(console, cfg!(feature = "console"), "--console", "console")?;
    let timed = args.boot_log.is_some() || args.timeline;
    without(timed, cfg!(feature = "boot-timer"), "--boot-log, --timeline", "boot-timer")?;
    without(args.stats.is_some(), cfg!(feature = "exit-stats"), "--stats", "exit-stats")?;
    let snapshot = args.snapshot.is_some() || args.restore.is_some();
    without(snapshot, cfg!(feature = "snapshot"), "--snapshot, --restore", "snapshot")?;
    without(args.notify.is_some(), cfg!(feature = "notify"), "--notify", "notify")?;
    without(args.api_socket.is_some(), cfg!(feature = "api"), "--api-socket", "api")?;
    without(args.trace.is_some(), cfg!(feature = "trace"), "--trace", "trace")?;
    let filtered = !matches!(args.seccomp.as_deref(), None | Some("false"));
    without(filtered, cfg!(feature = "seccomp"), "--seccomp", "seccomp")?;
    let (serial, console) = outputs(args.serial.as_deref(), args.console.as_deref())?;
    let mut flags = Flags { args: &args, console: Some(console), streams, bundle };
    let devices = virtio::Configs::parse(&mut flags)?;
    let (cpus, nested) = args.cpus.as_deref().map_or(Ok((1, false)), config::parse_cpus)?;
    Ok(Config {
        kernel: args.kernel,
        initramfs: args.initramfs,
        cmdline: args.cmdline,
        cmdline_exact: args.cmdline_exact,
        protocol: args.boot_protocol.as_deref().map(config::parse_protocol).transpose()?,
        cpus,
        nested,
        memory: args.memory.as_deref().map_or(Ok(MemoryConfig::default()), MemoryConfig::parse)?,
        devices,
        transport: match pci {
            Some(text) if cfg!(feature = "pci") => Transport::parse(&text)?,
            _ => Transport::Mmio,
        },
        serial,
        bundle,
        boot_log: args.boot_log,
        timeline: args.timeline,
        stats: args.stats,
        seccomp: match &args.seccomp {
            Some(text) if cfg!(feature = "seccomp") => Seccomp::parse(text)?,
            _ => Seccomp::default(),
        },
        trace: args.trace,
        api: args.api_socket.as_deref().map(api::Socket::parse).transpose()?,
        notify: args.notify.map(|code| config::parse_code("--notify", &code)).transpose()?,
        snapshot: arguments::parse(args.snapshot.as_deref(), args.api_socket.is_some())?,
        restore: None,
    })
}

/// Checks that `--console streams` can be had, and that nobody else uses the standard streams.
fn without_streams(streams: bool, serial: Option<&str>) -> Result<()> {
    need(!streams || cfg!(feature = "streams"), "--console streams", "streams")?;
    if streams && serial == Some("tty") {
        return Err(Error::usage(
            "--serial tty --console streams: both are this process's standard streams; make the \
             serial port off, null or file=PATH"
                .into(),
        ));
    }
    Ok(())
}

/// The serial port's and the console's ends. Where only one is named the other is off; where none
/// is, the better one that is compiled in gets the terminal.
fn outputs(serial: Option<&str>, console: Option<&str>) -> Result<(Output, Output)> {
    if !cfg!(any(feature = "serial", feature = "console")) {
        return Ok((Output::Off, Output::Off));
    }
    let default = |other: Option<&str>, there: bool| {
        if other.is_none() && there { Output::Tty } else { Output::Off }
    };
    let only_serial = cfg!(not(feature = "console"));
    let serial_end = match serial {
        Some(text) => Output::parse("--serial", text)?,
        None => default(console, only_serial),
    };
    let console_end = match console {
        Some(text) => Output::parse("--console", text)?,
        None => default(serial, cfg!(feature = "console")),
    };
    if serial_end == Output::Tty && console_end == Output::Tty {
        return Err(Error::usage(
            "--serial tty --console tty: there is one terminal; make one of them off, null or \
             file=PATH"
                .into(),
        ));
    }
    Ok((serial_end, console_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `--help` says of a flag's default.
    fn default_of(flag: &str) -> String {
        let Ok(Command::Print(help)) = parse(vec!["--help".into()]) else { panic!("no help") };
        let text = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let (_, text) = text.split_once(&format!(" {flag} ")).expect("the flag");
        let (_, text) = text.split_once("(default ").expect("its default");
        text.split_once(')').expect("its end").0.to_owned()
    }

    #[test]
    fn the_help_tells_the_defaults_that_the_code_has() {
        let memory = MemoryConfig::parse(&default_of("--memory")).unwrap();
        assert_eq!(memory, MemoryConfig::default());
        assert_eq!(config::parse_cpus(&default_of("--cpus")).unwrap(), (1, false));
        assert_eq!(Seccomp::parse(&default_of("--seccomp")).unwrap(), Seccomp::default());
        assert_eq!(Transport::parse(&default_of("--transport")).unwrap(), Transport::Mmio);
        assert_eq!(default_of("--log-level"), LOG_LEVEL);
    }

    #[cfg(all(feature = "block", feature = "pmem"))]
    #[test]
    fn the_help_tells_the_defaults_of_images() {
        use crate::virtio::{block::DiskConfig, pmem::PmemConfig};
        let with = |key: &str, flag: &str| format!("{key},{}", default_of(flag));
        let disk = |text: &str| format!("{:?}", DiskConfig::parse(text).unwrap());
        assert_eq!(disk(&with("path=a", "--disk")), disk("path=a"));
        let pmem = |text: &str| format!("{:?}", PmemConfig::parse(text).unwrap());
        assert_eq!(pmem(&with("file=a", "--pmem")), pmem("file=a"));
    }

    #[cfg(all(feature = "serial", feature = "console"))]
    #[test]
    fn one_terminal_for_one_device() {
        assert_eq!(outputs(None, None).unwrap(), (Output::Off, Output::Tty));
        assert_eq!(outputs(Some("tty"), None).unwrap(), (Output::Tty, Output::Off));
        assert_eq!(outputs(Some("null"), Some("tty")).unwrap(), (Output::Null, Output::Tty));
        let error = outputs(Some("tty"), Some("tty")).unwrap_err();
        assert_eq!(error.status(), 2);
        assert!(error.to_string().contains("one terminal"));
    }
}
