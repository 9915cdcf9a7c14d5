//! What the command line asks for, typed and checked as far as it can be without the host.

use brisk_boot::Protocol;

use crate::bundle;
use crate::error::{Error, Result};

/// All of it. What a feature that is left out would need is as if no flag of its were given.
#[derive(Debug)]
pub struct Config {
    /// `--kernel`
    pub kernel: String,
    /// `--initramfs`
    pub initramfs: Option<String>,
    /// `--cmdline`
    pub cmdline: String,
    /// `--cmdline-exact`: append nothing to it.
    pub cmdline_exact: bool,
    /// `--boot-protocol`; none lets the kernel's PVH note decide.
    pub protocol: Option<Protocol>,
    /// `--cpus boot=`
    pub cpus: u8,
    /// `--cpus nested=`: the guest may run guests of its own.
    pub nested: bool,
    /// `--memory`
    pub memory: MemoryConfig,
    /// virtio devices
    pub devices: crate::virtio::Configs,
    /// `--transport`
    pub transport: Transport,
    /// `--serial`
    pub serial: Output,
    /// brisk's own file, where that has the kernel, the initramfs and the image.
    pub bundle: bundle::Bundled,
    /// `--boot-log`
    pub boot_log: Option<String>,
    /// `--timeline`
    pub timeline: bool,
    /// `--stats`
    pub stats: Option<String>,
    /// `--seccomp`
    pub seccomp: Seccomp,
    /// `--trace`
    pub trace: Option<String>,
    /// `--api-socket`
    pub api: Option<crate::api::Socket>,
    /// `--notify`: the code, where it is not the usual one.
    pub notify: Option<u8>,
    /// `--snapshot`
    pub snapshot: Option<crate::snapshot::SnapshotConfig>,
    /// `--restore`
    pub restore: Option<crate::snapshot::Restored>,
}

#[cfg(test)]
impl Default for Config {
    fn default() -> Self {
        Config {
            kernel: String::new(),
            initramfs: None,
            cmdline: String::new(),
            cmdline_exact: false,
            protocol: None,
            cpus: 1,
            nested: false,
            memory: MemoryConfig::default(),
            devices: Default::default(),
            transport: Transport::Mmio,
            serial: Output::Off,
            bundle: None,
            boot_log: None,
            timeline: false,
            stats: None,
            seccomp: Seccomp::default(),
            trace: None,
            api: None,
            notify: None,
            snapshot: None,
            restore: None,
        }
    }
}

/// How the guest reaches its virtio devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Windows of registers that ACPI announces.
    Mmio,
    /// PCI functions, configured by the enhanced configuration space (ECAM).
    Pci,
    /// PCI functions, configured by ports 0xcf8 and 0xcfc too.
    PciPorts,
}

impl Transport {
    /// Parses `mmio|pci|pci-ports`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Transport> {
        match text {
            "mmio" => Ok(Transport::Mmio),
            "pci" => Ok(Transport::Pci),
            "pci-ports" => Ok(Transport::PciPorts),
            _ => usage(format!("--transport {text}: give mmio, pci or pci-ports")),
        }
    }
}

/// What becomes of system calls that brisk does not need while the guest runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// They end the VM.
    #[default]
    On,
    /// The kernel's log has them.
    Log,
    /// They are made.
    Off,
}

impl Seccomp {
    /// Parses `true|false|log`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Seccomp> {
        match text {
            "true" => Ok(Seccomp::On),
            "log" => Ok(Seccomp::Log),
            "false" => Ok(Seccomp::Off),
            _ => usage(format!("--seccomp {text}: give true, false or log")),
        }
    }
}

/// Where a character device's output goes and its input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The guest has no such device.
    Off,
    /// The device is there, and nobody listens.
    Null,
    /// This process's own terminal, or whatever its standard input and output are.
    Tty,
    /// Output to a file, made new; no input.
    File(String),
}

impl Output {
    /// Parses `off|null|tty|file=PATH`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(flag: &str, text: &str) -> Result<Output> {
        match text {
            "off" => Ok(Output::Off),
            "null" => Ok(Output::Null),
            "tty" => Ok(Output::Tty),
            _ => match text.strip_prefix("file=") {
                Some(path) if !path.is_empty() => Ok(Output::File(path.into())),
                _ => usage(format!("{flag} {text}: give off, null, tty or file=PATH")),
            },
        }
    }
}

/// The size of an explicit huge page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageSize {
    /// 2 MiB
    Size2M,
    /// 1 GiB
    Size1G,
}

impl PageSize {
    /// Bytes.
    pub fn bytes(self) -> u64 {
        match self {
            PageSize::Size2M => 2 << 20,
            PageSize::Size1G => 1 << 30,
        }
    }
}

/// `--memory size=,hugepages=on|off,hugepage_size=2M|1G,thp=on|off,prefault=on|off,shared=on|off`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes.
    pub size: u64,
    /// Back the guest with these pages of the hugetlb pool.
    pub hugepages: Option<PageSize>,
    /// Ask for, or forbid, transparent huge pages; none leaves it to the host's default.
    pub thp: Option<bool>,
    /// Touch all pages before the guest runs.
    pub prefault: bool,
    /// Memory that another process could map.
    pub shared: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig { size: 512 << 20, hugepages: None, thp: None, prefault: false, shared: false }
    }
}

impl MemoryConfig {
    /// The pages of the hugetlb pool that back the guest, as far as this build knows any.
    #[inline(always)]
    pub fn pool(&self) -> Option<PageSize> {
        if cfg!(feature = "hugepages") { self.hugepages } else { None }
    }

    /// Parses the flag's value.
    ///
    /// # Errors
    /// An unknown key, a malformed value, or a key whose feature is not compiled in.
    pub fn parse(text: &str) -> Result<MemoryConfig> {
        let mut config = MemoryConfig::default();
        let mut hugepages = false;
        let mut page_size = None;
        for (key, value) in pairs(text) {
            match key {
                "size" => config.size = parse_size("--memory size", value)?,
                "hugepages" => hugepages = on_off("--memory hugepages", value)?,
                "hugepage_size" => {
                    page_size = Some(match value {
                        "2M" => PageSize::Size2M,
                        "1G" => PageSize::Size1G,
                        _ => {
                            return usage(format!("--memory hugepage_size={value}: give 2M or 1G"));
                        }
                    });
                }
                "thp" => config.thp = Some(on_off("--memory thp", value)?),
                "prefault" => config.prefault = on_off("--memory prefault", value)?,
                "shared" => config.shared = on_off("--memory shared", value)?,
                _ => {
                    return unknown(
                        "--memory",
                        key,
                        "size, hugepages, hugepage_size, thp, prefault, shared",
                    );
                }
            }
        }
        if hugepages {
            need(cfg!(feature = "hugepages"), "--memory hugepages=on", "hugepages")?;
            config.hugepages = Some(page_size.unwrap_or(PageSize::Size2M));
        } else if page_size.is_some() {
            return usage("--memory hugepage_size: only together with hugepages=on".into());
        }
        if config.thp == Some(true) {
            need(cfg!(feature = "thp"), "--memory thp=on", "thp")?;
            if hugepages {
                return usage("--memory: give hugepages=on or thp=on, not both".into());
            }
        }
        Ok(config)
    }
}

/// Parses `boot=N,nested=on|off`: how many, and whether they may run guests of their own.
///
/// # Errors
/// Anything else, 0, or more than one CPU in a build without `smp`.
pub fn parse_cpus(text: &str) -> Result<(u8, bool)> {
    let (mut count, mut nested) = (1, false);
    for (key, value) in pairs(text) {
        match key {
            "boot" => {
                count = match value.parse() {
                    Ok(count @ 1..=254) => count,
                    _ => return usage(format!("--cpus boot={value}: give 1 to 254")),
                };
            }
            "nested" => nested = on_off("--cpus nested", value)?,
            _ => return unknown("--cpus", key, "boot, nested"),
        }
    }
    need(count == 1 || cfg!(feature = "smp"), "--cpus boot>1", "smp")?;
    Ok((count, nested))
}

/// Parses `pvh|linux64`.
///
/// # Errors
/// Anything else.
pub fn parse_protocol(text: &str) -> Result<Protocol> {
    match text {
        "pvh" => Ok(Protocol::Pvh),
        "linux64" => Ok(Protocol::Linux64),
        _ => usage(format!("--boot-protocol {text}: give pvh or linux64")),
    }
}

/// For a flag or value that this build was made without.
///
/// # Errors
/// Names the feature where `there` is false.
pub fn need(there: bool, flag: &str, feature: &str) -> Result<()> {
    if there {
        return Ok(());
    }
    Err(missing(flag, feature))
}

// Once for all flags.
#[cold]
#[inline(never)]
fn missing(flag: &str, feature: &str) -> Error {
    Error::usage(format!(
        "{flag}: this brisk was built without the feature `{feature}`; build one with it"
    ))
}

/// The keys and values of a flag's value.
pub(crate) fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').map(pair)
}

// Once for all flags.
#[inline(never)]
fn pair(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// A byte that the guest writes to port 0x80, in decimal or, after 0x, in hexadecimal.
#[allow(dead_code, reason = "a build may have nothing that a code is for")]
pub(crate) fn parse_code(what: &str, value: &str) -> Result<u8> {
    let code = match value.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => value.parse(),
    };
    code.or_else(|_| usage(format!("{what}={value}: give a byte, as 0x80")))
}

/// For a key that the flag has not.
pub(crate) fn unknown<T>(flag: &str, key: &str, known: &str) -> Result<T> {
    Err(unknown_key(flag, key, known))
}

// Once for all flags.
#[cold]
#[inline(never)]
fn unknown_key(flag: &str, key: &str, known: &str) -> Error {
    Error::usage(format!("{flag}: unknown key `{key}`; known are {known}"))
}

/// For what makes no sense.
pub(crate) fn usage<T>(text: String) -> Result<T> {
    Err(Error::usage(text))
}

/// A switch.
pub(crate) fn on_off(what: &str, value: &str) -> Result<bool> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => usage(format!("{what}={value}: give on or off")),
    }
}

/// Parses bytes with an optional binary suffix K, M, G or T.
fn parse_size(what: &str, value: &str) -> Result<u64> {
    let (digits, shift) = match value.char_indices().last() {
        Some((at, 'K' | 'k')) => (&value[..at], 10),
        Some((at, 'M' | 'm')) => (&value[..at], 20),
        Some((at, 'G' | 'g')) => (&value[..at], 30),
        Some((at, 'T' | 't')) => (&value[..at], 40),
        _ => (value, 0),
    };
    match digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)) {
        Some(size) => Ok(size),
        None => usage(format!("{what}={value}: give bytes, or a number with K, M, G or T")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_takes_every_key() {
        let config = MemoryConfig::parse("size=1G,prefault=on,shared=on,thp=off").unwrap();
        let want = MemoryConfig {
            size: 1 << 30,
            hugepages: None,
            thp: Some(false),
            prefault: true,
            shared: true,
        };
        assert_eq!(config, want);
        assert_eq!(MemoryConfig::parse("size=4096").unwrap().size, 4096);
        assert_eq!(MemoryConfig::parse("size=16K").unwrap().size, 16384);
    }

    #[test]
    fn wrong_values_name_the_flag_and_the_mend() {
        let text = |result: Result<MemoryConfig>| result.unwrap_err().to_string();
        assert!(text(MemoryConfig::parse("size=12X")).contains("--memory size=12X"));
        assert!(text(MemoryConfig::parse("size=99999999999T")).contains("K, M, G or T"));
        assert!(text(MemoryConfig::parse("sise=1G")).contains("unknown key `sise`"));
        assert!(text(MemoryConfig::parse("thp=yes")).contains("on or off"));
        assert!(text(MemoryConfig::parse("hugepage_size=2M")).contains("hugepages=on"));
        assert!(parse_cpus("boot=0").unwrap_err().to_string().contains("1 to 254"));
        assert!(parse_cpus("boot=255").unwrap_err().to_string().contains("1 to 254"));
        assert!(Output::parse("--serial", "file=").is_err());
    }
}
