//! Reads the text of Linux' `/sys/kernel/tracing/trace`: where a VM's time went until its userspace
//! ran, as the host's kernel saw it. No VMM is trusted to time itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// I/O port of the boot timer.
const PORT: u64 = 0x80;
/// What the guest's kernel writes to it in its first C code.
const KERNEL: u64 = 0x40;
/// What the guest's init writes to it as its first act.
const USERSPACE: u64 = 0x60;

/// Where a boot ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// The guest writes this to the boot timer.
    Code(u64),
    /// Who started the VMM has its exit status, which is 0, and writes so into the trace (`ended 0`).
    Status,
}

/// One boot. Times are in microseconds of the trace's clock, the resolution that the text has.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Boot {
    /// From the VMM's exec to the first entry into the guest.
    pub setup: u64,
    /// In the guest, all vCPUs together.
    pub guest: u64,
    /// From exits of the guest to the next entry, all vCPUs together. With one vCPU, setup, guest
    /// and host make up the total but for the way of the last exit.
    pub host: u64,
    /// From the VMM's exec to the guest's userspace, or what else is asked for.
    pub total: u64,
    /// From the VMM's exec to the guest kernel's first C code, where the kernel says so.
    pub kernel: Option<u64>,
    /// Exits from the guest by the CPU's reason, until userspace.
    pub exits: BTreeMap<String, Exits>,
    /// Exits to the VMM, until userspace, by kind and port or 4 KiB page of addresses, such as
    /// `io 0x3f8` and `mmio 0xfec00000`. Empty unless the trace has `kvm_userspace_exit`.
    pub to_vmm: BTreeMap<String, u64>,
    /// Those of them that are accesses, one by one.
    pub accesses: BTreeMap<Access, u64>,
}

/// An access of the guest's that the VMM gets.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub struct Access {
    /// To a port, not to memory.
    pub port: bool,
    /// Not a read.
    pub write: bool,
    /// The port or guest-physical address.
    pub address: u64,
}

/// The exits of one reason.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Exits {
    /// How many.
    pub count: u64,
    /// Until the guest ran again, in microseconds.
    pub host: u64,
}

impl Boot {
    fn count(&mut self, access: Access) {
        let address = access.address;
        let place = match access.port {
            true => format!("io {address:#x}"),
            false => format!("mmio {:#x}", address & !0xfff),
        };
        *self.to_vmm.entry(place).or_default() += 1;
        *self.accesses.entry(access).or_default() += 1;
    }
}

/// What a trace lacks.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// The trace's buffer was too small by so many events.
    Lost(u64),
    /// The program was never executed.
    NoExec,
    /// The guest was never entered.
    NoEntry,
    /// The guest was entered, but its userspace was not reached after so many exits.
    NoUserspace(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(count) => write!(f, "the trace lost {count} events"),
            Self::NoExec => write!(f, "the program did not start"),
            Self::NoEntry => write!(f, "the guest was never entered"),
            Self::NoUserspace(exits) => {
                write!(f, "the guest's userspace was not reached ({exits} exits)")
            }
        }
    }
}

impl std::error::Error for Error {}

/// One line of a trace.
struct Event<'a> {
    thread: u32,
    /// Microseconds.
    time: u64,
    name: &'a str,
    rest: &'a str,
}

/// A vCPU's thread.
#[derive(Default)]
struct Vcpu<'a> {
    /// Time of the last entry, while the guest runs.
    inside: Option<u64>,
    /// Time and reason of the last exit, while it does not.
    outside: Option<(u64, &'a str)>,
    /// Port of a write since the last exit.
    port: Option<u64>,
    /// It is the VMM's to read a port; which, the kernel reports when it has.
    reads: bool,
    /// Address of the last access that the kernel reported, and whether it was a write.
    address: u64,
    wrote: bool,
}

/// Takes the boot of `program` (its path, as given to exec) from a trace with the events
/// `sched_process_exec`, `kvm_entry`, `kvm_exit`, `kvm_pio` and optionally `kvm_mmio` and
/// `kvm_userspace_exit`. What comes after the guest's userspace is not looked at.
///
/// # Errors
/// The trace is not whole or the boot was not.
pub fn parse(trace: &str, program: &str) -> Result<Boot, Error> {
    parse_until(trace, program, Until::Code(USERSPACE))
}

/// The same to another end.
///
/// # Errors
/// As [`parse`].
pub fn parse_until(trace: &str, program: &str, until: Until) -> Result<Boot, Error> {
    let mut boot = Boot::default();
    let mut vcpus: HashMap<u32, Vcpu> = HashMap::new();
    let (mut start, mut first): (Option<u64>, Option<u64>) = (None, None);
    for line in trace.lines() {
        if let Some(lost) = lost(line) {
            return Err(Error::Lost(lost));
        }
        let Some(event) = event(line) else { continue };
        if event.name == "sched_process_exec" {
            if start.is_none() && field(event.rest, "filename=") == Some(program) {
                start = Some(event.time);
            }
            continue;
        }
        let Some(start) = start else { continue };
        let end = |mut boot: Boot| {
            boot.setup = first.ok_or(Error::NoEntry)?.saturating_sub(start);
            boot.total = event.time.saturating_sub(start);
            Ok(boot)
        };
        if event.name == "tracing_mark_write" && until == Until::Status && event.rest == "ended 0" {
            return end(boot);
        }
        let vcpu = vcpus.entry(event.thread).or_default();
        match event.name {
            "kvm_entry" => {
                first.get_or_insert(event.time);
                if let Some((since, reason)) = vcpu.outside.take() {
                    let took = event.time.saturating_sub(since);
                    let exits = boot.exits.entry(reason.to_owned()).or_default();
                    exits.count += 1;
                    exits.host += took;
                    boot.host += took;
                }
                vcpu.inside = Some(event.time);
            }
            "kvm_exit" => {
                let since = vcpu.inside.take().unwrap_or(event.time);
                boot.guest += event.time.saturating_sub(since);
                vcpu.port = None;
                vcpu.outside = Some((event.time, word_after(event.rest, "reason").unwrap_or("?")));
            }
            "kvm_pio" => {
                let port = number_after(event.rest, "at").unwrap_or(u64::MAX);
                if !event.rest.starts_with("pio_write") {
                    if std::mem::take(&mut vcpu.reads) {
                        boot.count(Access { port: true, write: false, address: port });
                    }
                    continue;
                }
                vcpu.port = Some(port);
                if port == PORT {
                    match number_after(event.rest, "val") {
                        Some(KERNEL) => {
                            boot.kernel.get_or_insert(event.time.saturating_sub(start));
                        }
                        Some(code) if until == Until::Code(code) => return end(boot),
                        _ => {}
                    }
                }
            }
            "kvm_mmio" => {
                vcpu.address = number_after(event.rest, "gpa").unwrap_or(u64::MAX);
                vcpu.wrote = event.rest.starts_with("mmio write");
            }
            "kvm_userspace_exit" => {
                let (write, address) = (vcpu.wrote, vcpu.address);
                match (word_after(event.rest, "reason").unwrap_or("?"), vcpu.port) {
                    ("KVM_EXIT_IO", Some(address)) => {
                        boot.count(Access { port: true, write: true, address });
                    }
                    ("KVM_EXIT_IO", None) => vcpu.reads = true,
                    ("KVM_EXIT_MMIO", _) => boot.count(Access { port: false, write, address }),
                    (other, _) => {
                        let other = other.trim_start_matches("KVM_EXIT_").to_lowercase();
                        *boot.to_vmm.entry(other).or_default() += 1;
                    }
                }
            }
            _ => {}
        }
    }
    match (start, first) {
        (None, _) => Err(Error::NoExec),
        (_, None) => Err(Error::NoEntry),
        _ => Err(Error::NoUserspace(boot.exits.values().map(|e| e.count).sum())),
    }
}

/// Events that the trace's buffer had no room for, from its head
/// (`# entries-in-buffer/entries-written: 2988/2988   #P:1`).
pub(super) fn lost(line: &str) -> Option<u64> {
    let (kept, written) =
        line.strip_prefix("# entries-in-buffer/entries-written: ")?.split_once('/')?;
    let written: u64 = written.split_whitespace().next()?.parse().ok()?;
    let kept: u64 = kept.parse().ok()?;
    (written > kept).then_some(written - kept)
}

/// Takes a line apart: ` COMMAND-THREAD [CPU] FLAGS SECONDS: NAME: REST`.
fn event(line: &str) -> Option<Event<'_>> {
    let (thread, time, text) = stamped(line)?;
    let (name, rest) = text.split_once(": ")?;
    Some(Event { thread, time, name, rest })
}

/// The same for lines of any event: thread, microseconds and text. The command may have spaces in
/// it, the flags may be absent.
pub(super) fn stamped(line: &str) -> Option<(u32, u64, &str)> {
    let (head, tail) = line.split_once(" [")?;
    let thread = head.trim_end().rsplit('-').next()?.parse().ok()?;
    let (_cpu, tail) = tail.split_once(']')?;
    let (flags, text) = tail.trim_start().split_once(": ")?;
    Some((thread, microseconds(flags.rsplit(' ').next()?)?, text))
}

/// `63.048237` in microseconds.
fn microseconds(seconds: &str) -> Option<u64> {
    let (whole, fraction) = seconds.split_once('.')?;
    if fraction.len() != 6 {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction.parse().ok()?)
}

/// The value of `key=value` among words.
pub(super) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_whitespace().find_map(|word| word.strip_prefix(key))
}

/// The word after the word `key`.
fn word_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == key)?;
    words.next()
}

/// The hexadecimal number (`0x80`) after the word `key`.
pub(super) fn number_after(text: &str, key: &str) -> Option<u64> {
    u64::from_str_radix(word_after(text, key)?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded in the lab (QEMU microvm), shortened to a few events of each kind.
    const RECORDED: &str = include_str!("trace.txt");
    const QEMU: &str = "/bin/qemu-system-x86_64";

    #[test]
    fn a_recorded_boot() {
        let boot = parse(RECORDED, QEMU).unwrap();
        assert_eq!((boot.setup, boot.guest, boot.host), (505_251, 3_327, 86_600));
        assert_eq!((boot.kernel, boot.total), (Some(508_442), 595_179));
        let exits: Vec<_> = boot.exits.iter().map(|(r, e)| (r.as_str(), e.count, e.host)).collect();
        let quick = [("cpuid", 1, 3), ("cr0_sel_write", 1, 5)];
        let rest = [("interrupt", 1, 7_858), ("io", 1, 7), ("msr", 1, 3), ("npf", 3, 78_724)];
        assert_eq!(exits, [&quick[..], &rest].concat());
        let to_vmm: Vec<_> = boot.to_vmm.iter().map(|(p, n)| (p.as_str(), *n)).collect();
        assert_eq!(to_vmm, [("io 0x80", 1), ("mmio 0xfec00000", 2), ("restart", 1)]);
        let accesses: Vec<_> = boot.accesses.iter().map(|(a, n)| (a.port, a.write, *n)).collect();
        assert_eq!(accesses, [(false, false, 1), (false, true, 1), (true, true, 1)]);
    }

    #[test]
    fn what_a_trace_lacks() {
        let without = |what: &str| {
            RECORDED.lines().filter(|l| !l.contains(what)).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(parse(RECORDED, "/bin/other"), Err(Error::NoExec));
        assert_eq!(parse("", QEMU), Err(Error::NoExec));
        assert_eq!(parse(&without("kvm_entry"), QEMU), Err(Error::NoEntry));
        assert_eq!(parse(&without("val 0x60"), QEMU), Err(Error::NoUserspace(8)));
        let full = "# entries-in-buffer/entries-written: 806005/5657703   #P:1\n";
        assert_eq!(parse(full, QEMU), Err(Error::Lost(4_851_698)));
    }

    #[test]
    fn other_ends() {
        let ended = |status| {
            let mark = format!("sh-9 [000] ..... 999.000000: tracing_mark_write: ended {status}\n");
            parse_until(&format!("{RECORDED}\n{mark}"), QEMU, Until::Status)
        };
        let userspace = parse(RECORDED, QEMU).unwrap();
        let boot = ended(0).unwrap();
        assert!(boot.total > userspace.total && boot.setup == userspace.setup);
        assert_eq!(ended(3), Err(Error::NoUserspace(8)));
        let other = RECORDED.replace("val 0x60", "val 0x61");
        assert_eq!(parse_until(&other, QEMU, Until::Code(0x61)), Ok(userspace));
        assert_eq!(parse_until(RECORDED, QEMU, Until::Code(0x61)), Err(Error::NoUserspace(8)));
    }

    #[test]
    fn lines_of_any_shape() {
        let e =
            event("     CPU 0/KVM-12    [003]     1.000002: kvm_entry: vcpu 0, rip 0x1").unwrap();
        assert_eq!(
            (e.thread, e.time, e.name, e.rest),
            (12, 1_000_002, "kvm_entry", "vcpu 0, rip 0x1")
        );
        for line in ["", "#", "x", " a-1 [0] 1.0: x: y", " a-1 [0]", "a [0] d 1.000000: x: y"] {
            assert!(event(line).is_none(), "{line}");
        }
    }
}
