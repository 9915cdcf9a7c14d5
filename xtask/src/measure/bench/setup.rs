//! `cargo xtask bench --setup`: what brisk does from its exec to the first instruction of the guest,
//! step by step: instructions, system calls, page faults.
//!
//! The times are of boots in which nothing but the steps' ends is traced; the counts are of a boot
//! of their own. The ends of the steps are where `--boot-log` says, put on the trace's clock by the
//! guest kernel's write of 0x40 to port 0x80, which both have: to within a few microseconds. (At its
//! 0x60 the script comes in between to end brisk.)

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use tabled::builder::Builder;

use super::trace::{field, lost, number_after, stamped};
use super::{script, table};
use crate::lab::On;

/// The steps: name, and the point of brisk's boot log that it ends with, if one of them does.
const STEPS: [(&str, Option<&str>); 5] = [
    ("process started", None),
    ("VM created", Some("vm-created")),
    ("memory ready", Some("memory-ready")),
    ("kernel loaded", Some("kernel-loaded")),
    ("first entry", None),
];

/// What is added to brisk's command: its log among what the script keeps (L1 has no /dev/stderr).
pub const ARGUMENTS: &str = " --boot-log /proc/self/fd/2";

/// A system call, as the table names it, and how often it was made in each step.
type Calls = BTreeMap<String, [u64; STEPS.len()]>;

/// One boot's steps: when each ended, in microseconds from exec.
#[derive(Debug, PartialEq, Eq)]
struct Ends([u64; STEPS.len()]);

/// What a traced boot did in each step.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    calls: Calls,
    /// Page faults of brisk's own code, and of the kernel on brisk's memory.
    faults: [[u64; 2]; STEPS.len()],
}

/// The tables of one slot, from the results in `dir`.
///
/// # Errors
/// A boot failed or its trace is not whole.
pub fn report(dir: &Path, slot: usize, boots: u32, program: &str, on: On) -> Result<String> {
    let read = |kind, boot| {
        let bytes = fs::read(dir.join(script::result(kind, slot, boot)));
        bytes
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .context("no trace was taken")
    };
    let both = |boot| -> Result<(String, Ends)> {
        let (trace, log) = (read("trace", boot)?, read("log", boot)?);
        let ends = ends(&trace, &log, program).with_context(|| format!("brisk said:\n{log}"))?;
        Ok((trace, ends))
    };
    let (trace, ends) = both(0)?;
    let counts = counts(&trace, program, &ends);
    let timed = (1..boots).map(|boot| Ok(both(boot)?.1)).collect::<Result<Vec<_>>>()?;
    Ok(render(&timed, &counts, on))
}

/// What a boot did until the guest's first instruction.
#[derive(Debug, PartialEq, Eq)]
pub struct Sums {
    /// System calls.
    pub calls: u64,
    /// Page faults of brisk's own code.
    pub user_faults: u64,
    /// Of the kernel on brisk's memory.
    pub kernel_faults: u64,
}

/// The sums of the first boot's counts.
///
/// # Errors
/// The boot failed or its trace is not whole.
pub fn sums(dir: &Path, slot: usize, program: &str) -> Result<Sums> {
    let read = |kind| {
        let bytes = fs::read(dir.join(script::result(kind, slot, 0)));
        bytes
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .context("no trace was taken")
    };
    let (trace, log) = (read("trace")?, read("log")?);
    let ends = ends(&trace, &log, program).with_context(|| format!("brisk said:\n{log}"))?;
    let counts = counts(&trace, program, &ends);
    Ok(Sums {
        calls: counts.calls.values().flatten().sum(),
        user_faults: counts.faults.iter().map(|[user, _]| user).sum(),
        kernel_faults: counts.faults.iter().map(|[_, kernel]| kernel).sum(),
    })
}

/// When the steps ended.
fn ends(trace: &str, log: &str, program: &str) -> Result<Ends> {
    let (mut exec, mut create, mut entry, mut mark, mut back) = (None, None, None, None, None);
    for line in trace.lines() {
        if let Some(count) = lost(line) {
            anyhow::bail!("the trace lost {count} events");
        }
        let Some((thread, time, text)) = stamped(line) else { continue };
        if text.starts_with("sched_process_exec: ") && field(text, "filename=") == Some(program) {
            exec.get_or_insert(time);
        } else if ioctl(text) == Some(KVM_CREATE_VM) {
            create.get_or_insert(time);
        } else if text.starts_with("kvm_entry: ") && entry.is_none() {
            entry = Some(time);
        } else if text.starts_with("kvm_pio: pio_write")
            && number_after(text, "at") == Some(0x80)
            && number_after(text, "val") == Some(0x40)
        {
            mark.get_or_insert((thread, time));
        } else if (text.starts_with("sys_ioctl(") || text.starts_with("kvm_entry: "))
            && mark.is_some_and(|(vcpu, _)| vcpu == thread)
        {
            // On the way back into the guest, which is short: on the way to the log brisk's code may
            // have to be paged in.
            back.get_or_insert(time);
        }
    }
    let exec = exec.context("the program did not start")?;
    let create = create.context("no VM was created")?;
    let entry = entry.context("the guest was never entered")?;
    mark.context("the guest's kernel did not write 0x40 to port 0x80")?;
    let points = points(log);
    let logged = |name| points.get(name).copied().with_context(|| format!("no {name} in the log"));
    // The log counts from when the process was made, which is before its exec.
    let zero =
        back.context("the guest's kernel did not go on after 0x40")? as f64 - logged("kernel")?;
    let mut ends = [0; STEPS.len()];
    let mut before = create;
    for (end, (_, point)) in ends.iter_mut().zip(STEPS) {
        if let Some(point) = point {
            // Times of an uptime, so the sum is neither negative nor too large.
            before = ((zero + logged(point)?).round() as u64).clamp(before, entry);
        }
        *end = before - exec;
    }
    ends[STEPS.len() - 1] = entry - exec;
    Ok(Ends(ends))
}

/// The points of a boot log among other lines: microseconds by name, of each the first.
fn points(log: &str) -> HashMap<String, f64> {
    #[derive(Deserialize)]
    struct Point {
        name: String,
        process_us: f64,
    }
    let mut found = HashMap::new();
    for point in log.lines().filter_map(|line| serde_json::from_str::<Point>(line).ok()) {
        found.entry(point.name).or_insert(point.process_us);
    }
    found
}

/// What the program and its threads did until the first entry.
fn counts(trace: &str, program: &str, ends: &Ends) -> Counts {
    let mut counts = Counts::default();
    let (mut exec, mut threads) = (None, HashSet::new());
    for (thread, time, text) in trace.lines().filter_map(stamped) {
        if text.starts_with("sched_process_exec: ") && field(text, "filename=") == Some(program) {
            exec.get_or_insert(time);
            threads.insert(thread);
        }
        let Some(exec) = exec else { continue };
        if !threads.contains(&thread) {
            continue;
        }
        let Some(step) = ends.0.iter().position(|end| time - exec < *end) else { break };
        if text.starts_with("sched_process_fork: ") {
            threads.extend(field(text, "child_pid=").and_then(|pid| pid.parse::<u32>().ok()));
        } else if text.starts_with("page_fault_user: ") {
            counts.faults[step][0] += 1;
        } else if text.starts_with("page_fault_kernel: ") {
            counts.faults[step][1] += 1;
        } else if let Some(name) = call(text) {
            counts.calls.entry(name).or_default()[step] += 1;
        }
    }
    counts
}

/// The name of the system call that an event is the start of, of an ioctl with its request.
fn call(text: &str) -> Option<String> {
    let (name, _) = text.strip_prefix("sys_")?.split_once('(')?;
    Some(match ioctl(text) {
        Some(request) => match KVM.iter().find(|(number, _)| *number == request & 0xffff) {
            Some((_, request)) => format!("ioctl {request}"),
            None => format!("ioctl {request:#x}"),
        },
        None => name.to_owned(),
    })
}

/// The request of an ioctl: `sys_ioctl(fd: 3, cmd: ae01, arg: 0)`.
fn ioctl(text: &str) -> Option<u64> {
    let (_, rest) = text.strip_prefix("sys_ioctl(")?.split_once("cmd: ")?;
    u64::from_str_radix(rest.split(',').next()?.trim_start_matches("0x"), 16).ok()
}

const KVM_CREATE_VM: u64 = 0xae01;

/// KVM's requests by type and number (linux/kvm.h), those that a VMM makes before it runs a guest.
const KVM: &[(u64, &str)] = &[
    (0xae00, "KVM_GET_API_VERSION"),
    (KVM_CREATE_VM, "KVM_CREATE_VM"),
    (0xae02, "KVM_GET_MSR_INDEX_LIST"),
    (0xae03, "KVM_CHECK_EXTENSION"),
    (0xae04, "KVM_GET_VCPU_MMAP_SIZE"),
    (0xae05, "KVM_GET_SUPPORTED_CPUID"),
    (0xae41, "KVM_CREATE_VCPU"),
    (0xae46, "KVM_SET_USER_MEMORY_REGION"),
    (0xae47, "KVM_SET_TSS_ADDR"),
    (0xae48, "KVM_SET_IDENTITY_MAP_ADDR"),
    (0xae49, "KVM_SET_USER_MEMORY_REGION2"),
    (0xae60, "KVM_CREATE_IRQCHIP"),
    (0xae67, "KVM_REGISTER_COALESCED_MMIO"),
    (0xae6a, "KVM_SET_GSI_ROUTING"),
    (0xae76, "KVM_IRQFD"),
    (0xae77, "KVM_CREATE_PIT2"),
    (0xae79, "KVM_IOEVENTFD"),
    (0xae80, "KVM_RUN"),
    (0xae81, "KVM_GET_REGS"),
    (0xae82, "KVM_SET_REGS"),
    (0xae83, "KVM_GET_SREGS"),
    (0xae84, "KVM_SET_SREGS"),
    (0xae89, "KVM_SET_MSRS"),
    (0xae8b, "KVM_SET_SIGNAL_MASK"),
    (0xae8d, "KVM_SET_FPU"),
    (0xae8e, "KVM_GET_LAPIC"),
    (0xae8f, "KVM_SET_LAPIC"),
    (0xae90, "KVM_SET_CPUID2"),
    (0xae99, "KVM_SET_MP_STATE"),
    (0xaea3, "KVM_ENABLE_CAP"),
    (0xaecc, "KVM_GET_SREGS2"),
    (0xaecd, "KVM_SET_SREGS2"),
    (0xaece, "KVM_GET_STATS_FD"),
    (0xaed5, "KVM_PRE_FAULT_MEMORY"),
];

fn render(timed: &[Ends], counts: &Counts, on: On) -> String {
    let middle = |step: usize| {
        let took = |ends: &Ends| ends.0[step] - step.checked_sub(1).map_or(0, |i| ends.0[i]);
        let mut all: Vec<u64> = timed.iter().map(took).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let unit = match on {
        On::Lab => "1,000 instructions",
        On::Host => "microseconds",
    };
    let mut steps = Builder::default();
    steps.push_record(["step", unit, "system calls", "page faults", "in the kernel"]);
    let mut sums = [0; 4];
    for (step, (name, _)) in STEPS.iter().enumerate() {
        let calls = counts.calls.values().map(|calls| calls[step]).sum::<u64>();
        let [user, kernel] = counts.faults[step];
        let row = [middle(step), calls, user, kernel];
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        steps.push_record([(*name).to_owned()].into_iter().chain(row.map(|v| v.to_string())));
    }
    steps.push_record(["all".to_owned()].into_iter().chain(sums.map(|v| v.to_string())));
    let mut calls = Builder::default();
    calls
        .push_record(["system call"].into_iter().chain(STEPS.map(|(name, _)| name)).chain(["all"]));
    let mut list: Vec<_> = counts.calls.iter().collect();
    list.sort_by_key(|(_, each)| std::cmp::Reverse(each.iter().sum::<u64>()));
    for (name, each) in list {
        let all = each.iter().sum::<u64>();
        let cells = each.iter().chain([&all]).map(|&count| match count {
            0 => String::new(),
            count => count.to_string(),
        });
        calls.push_record([name.clone()].into_iter().chain(cells));
    }
    let mut text = table::finish(steps);
    let _ = write!(text, "\n\n{}\n", table::finish(calls));
    text
}

/// Says what [`report`]'s tables are.
///
/// # Errors
/// Fewer than two boots.
pub fn head(name: &str, about: &str, boots: u32, on: On) -> Result<String> {
    ensure!(boots >= 2, "--runs {boots}: the first gives the counts, the others the times");
    let clock = match on {
        On::Lab => "virtual time, 1 ns an instruction",
        On::Host => "real time",
    };
    Ok(format!(
        "{name}: {about}\nfrom exec to the guest's first instruction; {clock}, median of {}; counts \
         of one boot\n",
        boots - 1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
 sh-9   [000] .....     1.000000: sys_exit(error_code: 0)
 brisk-7   [000] .....     1.000100: sched_process_exec: filename=/b/brisk pid=7 old_pid=7
 brisk-7   [000] .....     1.000110: page_fault_user: address=0x1 ip=0x2 error_code=0x4
 brisk-7   [000] .....     1.000120: sys_ioctl(fd: 3, cmd: ae03, arg: 9)
 brisk-7   [000] .....     1.000121: sys_ioctl -> 0x1
 sh-9   [000] .....     1.000122: sys_getpid()
 brisk-7   [000] .....     1.000200: sys_ioctl(fd: 3, cmd: ae01, arg: 0)
 brisk-7   [000] .....     1.000290: sched_process_fork: comm=brisk pid=7 child_comm=brisk child_pid=8
 loader-8   [000] .....     1.000310: page_fault_kernel: address=0x1 ip=0x2 error_code=0x6
 loader-8   [000] .....     1.000320: sys_getpid()
 brisk-7   [000] .....     1.000500: sys_ioctl(fd: 5, cmd: ae80, arg: 0)
 brisk-7   [000] d..1.     1.000600: kvm_entry: vcpu 0, rip 0x1
 brisk-7   [000] .....     1.001000: kvm_pio: pio_write at 0x80 size 1 count 1 val 0x40 
 brisk-7   [000] .....     1.001004: sys_ioctl -> 0x0
 brisk-7   [000] .....     1.001010: sys_ioctl(fd: 5, cmd: ae80, arg: 0)
";
    const LOG: &str = "some words\n\
        {\"name\":\"vm-created\",\"process_us\":1290.0}\n\
        {\"name\":\"memory-ready\",\"process_us\":1350.4}\n\
        {\"name\":\"kernel-loaded\",\"process_us\":1400.0}\n\
        {\"name\":\"kernel\",\"code\":64,\"process_us\":2010.0,\"vm_us\":2.0}\n";

    #[test]
    fn steps_on_the_traces_clock() {
        let found = ends(TRACE, LOG, "/b/brisk").unwrap();
        assert_eq!(found, Ends([100, 190, 250, 300, 500]));
        let counts = counts(TRACE, "/b/brisk", &found);
        assert_eq!(counts.faults, [[1, 0], [0, 0], [0, 1], [0, 0], [0, 0]]);
        let calls: Vec<_> = counts.calls.iter().map(|(n, c)| (n.as_str(), *c)).collect();
        assert_eq!(
            calls,
            [
                ("getpid", [0, 0, 1, 0, 0]),
                ("ioctl KVM_CHECK_EXTENSION", [1, 0, 0, 0, 0]),
                ("ioctl KVM_CREATE_VM", [0, 1, 0, 0, 0]),
                ("ioctl KVM_RUN", [0, 0, 0, 0, 1]),
            ]
        );
        let text = render(&[found], &counts, On::Lab);
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains("| memory ready | 60 | 1 | 0 | 1 |"), "{text}");
        assert!(squeezed.contains("| all | 500 | 4 | 1 | 1 |"), "{text}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let without = |word: &str| {
            let keep = |text: &str| {
                text.lines().filter(|l| !l.contains(word)).collect::<Vec<_>>().join("\n")
            };
            ends(&keep(TRACE), &keep(LOG), "/b/brisk").unwrap_err().to_string()
        };
        assert!(without("exec").contains("did not start"));
        assert!(without("ae01").contains("no VM"));
        assert!(without("kvm_entry").contains("never entered"));
        assert!(without("val 0x40").contains("0x40"));
        assert!(without("memory-ready").contains("no memory-ready"));
    }
}
