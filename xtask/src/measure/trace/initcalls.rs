//! The guest kernel's initcalls out of its log, which a boot with `initcall_debug` prints when all is over.

use anyhow::{Result, ensure};
use std::collections::HashMap;

use super::{Lane, Span};

/// What is added to the kernel's command line. `quiet` keeps the messages off the console until the guest's
/// init prints the log: to print one costs more than most initcalls.
pub const CMDLINE: &str = "quiet console=hvc0 initcall_debug log_buf_len=1M brisk.do=cat=/dev/kmsg";
/// The kernel's last word before the guest's userspace.
const LAST: &str = "Run /init as init process";
/// How many of the slowest are listed.
const LISTED: usize = 10;

/// All that the log has, in the order of their ends. Microseconds of the kernel's clock.
pub struct Initcalls {
    calls: Vec<Span>,
    /// How many did not end.
    open: usize,
    /// When the kernel was about to start init.
    last: f64,
}

impl Initcalls {
    /// With names out of `symbols`, a kernel's `System.map`, where its log has addresses
    /// (no CONFIG_KALLSYMS). Out of records of `/dev/kmsg`:
    /// `7,122,4478,-;calling  NAME+0x0/0x10 @ 1` and `7,123,4567,-;initcall NAME+0x0/0x10 returned 0 after 89 usecs`
    /// (Documentation/ABI/testing/dev-kmsg).
    ///
    /// # Errors
    /// There are none.
    pub fn parse(log: &str, symbols: &str) -> Result<Initcalls> {
        let names: HashMap<&str, &str> = symbols.lines().filter_map(symbol).collect();
        let mut found = Initcalls { calls: Vec::new(), open: 0, last: 0.0 };
        let mut open: HashMap<&str, f64> = HashMap::new();
        for line in log.lines() {
            let Some((head, message)) = line.split_once(';') else { continue };
            let time = head.split(',').nth(2).and_then(|time| time.parse::<f64>().ok());
            let Some(time) = time else { continue };
            // Without its place in the function, which is the first.
            let name_after =
                |verb| message.strip_prefix(verb)?.trim_start().split([' ', '+']).next();
            if message.trim_end() == LAST {
                found.last = time;
            } else if let Some(name) = name_after("calling ") {
                open.insert(name, time);
            } else if let Some(name) = name_after("initcall ")
                && let Some(start) = open.remove(name)
            {
                let known = name.strip_prefix("0x").and_then(|address| names.get(address));
                let name = known.copied().unwrap_or(name).to_owned();
                found.calls.push(Span { name, start, end: time, depth: 0 });
            }
        }
        found.open = open.len();
        ensure!(
            !found.calls.is_empty() && found.last > 0.0,
            "the kernel's log has no initcalls; it needs CONFIG_PRINTK, CONFIG_VIRTIO_CONSOLE (hvc0) and \
             an initramfs"
        );
        Ok(found)
    }

    /// The slowest ones as people read them.
    pub fn slowest(&self) -> String {
        let mut calls: Vec<(&str, f64)> =
            self.calls.iter().map(|call| (call.name.as_str(), call.end - call.start)).collect();
        calls.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = calls.iter().map(|call| call.1).sum();
        let head =
            format!("{} initcalls, {:.2} ms in all; the slowest:\n", calls.len(), total / 1e3);
        let row = |(name, took): &(&str, f64)| format!("{:8.3} ms  {name}\n", took / 1e3);
        calls.iter().take(LISTED).map(row).fold(head, |text, row| text + &row)
    }

    /// Adds them to the picture, which ends with the guest's userspace: what is behind it is the log's. The
    /// kernel's last message is put to where userspace begins, so they are as much too late as init's exec
    /// took.
    ///
    /// # Errors
    /// The guest's userspace is not in it.
    pub fn add_to(&self, lanes: &mut Vec<Lane>) -> Result<()> {
        let mut instants = lanes.iter().flat_map(|lane| &lane.instants);
        let userspace = instants.find(|(name, _)| name == "userspace").map(|(_, at)| *at);
        ensure!(userspace.is_some(), "the guest's userspace is not in the trace");
        let userspace = userspace.unwrap_or_default();
        for lane in lanes.iter_mut() {
            lane.spans.retain(|span| span.start < userspace);
            lane.spans.iter_mut().for_each(|span| span.end = span.end.min(userspace));
            lane.instants.retain(|(_, at)| *at <= userspace);
        }
        let shift = userspace - self.last;
        let shifted =
            |call: &Span| Span { start: call.start + shift, end: call.end + shift, ..call.clone() };
        let spans = self.calls.iter().map(shifted).collect();
        lanes.push(Lane { name: "initcalls".to_owned(), spans, instants: Vec::new() });
        Ok(())
    }
}

/// Address and name in a line of `System.map`.
fn symbol(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.nth(1)?))
}

/// Boots in the lab, and looks whether they are all there with their names. Returns how many tests that
/// were.
///
/// # Errors
/// They are not.
pub fn check() -> Result<u32> {
    let args = super::Args {
        input: None,
        out: tempfile::NamedTempFile::new()?.path().to_owned(),
        stopwatch: false,
        initcalls: true,
        kernel: None,
        extra: Vec::new(),
    };
    let (_, lanes, found) = super::boot(&args)?;
    let found = found.ok_or_else(|| anyhow::anyhow!("no initcalls"))?;
    print!("{}", found.slowest());
    let (ended, open) = (found.calls.len(), found.open);
    ensure!(open == 0 && ended >= 200, "{ended} initcalls, and {open} without an end");
    let nameless = found.calls.iter().filter(|call| call.name.starts_with("0x")).count();
    ensure!(nameless == 0, "{nameless} initcalls have no name");
    for name in ["virtio_pmem_driver_init", "param_sysfs_builtin_init", "deferred_probe_initcall"] {
        ensure!(found.calls.iter().any(|call| call.name == name), "{name} is missing");
    }
    let entered =
        lanes.iter().flat_map(|lane| &lane.instants).find(|(name, _)| name == "first-entry");
    let entered = entered.map_or(f64::INFINITY, |(_, at)| *at);
    let lane = lanes.iter().find(|lane| lane.name == "initcalls");
    let first = lane.and_then(|lane| lane.spans.first()).map_or(0.0, |span| span.start);
    ensure!(first > entered, "the first initcall at {first} us, before the guest at {entered}");
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::super::{lanes, tests::TRACE};
    use super::*;

    /// The kernel's own microseconds are of a clock that ticks, before it has a better one.
    const LOG: &str = "7,1,1100,-;calling  a_init+0x0/0x20 @ 1\r\n\
        7,2,1500,-;initcall a_init+0x0/0x20 returned 0 after 0 usecs\r\n\
        6,3,1600,-;Something; else\r\n SUBSYSTEM=x\r\n\
        7,4,2000,-;calling  b_init+0x0/0x20 @ 1\r\n\
        7,5,9000,-;initcall b_init+0x0/0x20 returned -19 after 4000 usecs\r\n\
        7,6,9000,-;calling  0xffffffff81000000 @ 1\r\n\
        7,7,9001,-;initcall 0xffffffff81000000 returned 0 after 0 usecs\r\n\
        7,8,9100,-;calling  c_init+0x0/0x20 @ 1\r\n\
        6,9,10000,-;Run /init as init process\r\n";

    #[test]
    fn the_log_is_read_and_the_slowest_named() {
        let symbols = "ffffffff80ffffff T before\nffffffff81000000 t d_init\n";
        let found = Initcalls::parse(LOG, symbols).unwrap();
        assert_eq!(found.open, 1);
        let text = found.slowest();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "3 initcalls, 7.40 ms in all; the slowest:");
        assert_eq!(lines[1], "   7.000 ms  b_init");
        assert_eq!(lines[3], "   0.001 ms  d_init");
        for log in ["", "6,6,10000,-;Run /init as init process\n", "console: nothing\n"] {
            assert!(Initcalls::parse(log, "").is_err(), "{log}");
        }
    }

    #[test]
    fn they_end_where_userspace_begins() {
        let mut lanes = lanes(TRACE).unwrap();
        Initcalls::parse(LOG, "").unwrap().add_to(&mut lanes).unwrap();
        let [vcpu, calls] = &lanes[lanes.len() - 2..] else { panic!("two at least") };
        // Userspace is at 49,900 in that trace, and the run goes on.
        assert_eq!((vcpu.spans[0].end, &*calls.name), (49_900.0, "initcalls"));
        assert_eq!((calls.spans[1].start, calls.spans[1].end), (41_900.0, 48_900.0));
    }
}
