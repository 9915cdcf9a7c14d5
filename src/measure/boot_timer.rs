//! The boot timer: what the guest writes to port 0x80, and what the VMM passes on its way there,
//! each with its time (feature `boot-timer`).

use std::fmt::Write as _;

use crate::config::Config;
use crate::descriptors;
use crate::measure::clock::{self, Micros};
use crate::output::Output;

/// A guest that writes to port 0x80 without end costs no memory beyond this many points.
const MAX_POINTS: usize = 4096;

/// A point on the way to userspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The process started.
    ProcessStart,
    /// KVM made the VM.
    VmCreated,
    /// Guest memory is mapped.
    MemoryReady,
    /// Kernel, initramfs and boot tables are in it.
    KernelLoaded,
    /// The first vCPU is about to run.
    FirstEntry,
    /// The guest wrote this to port 0x80.
    Code(u8),
    /// The VM ended.
    Exit,
}

impl Point {
    /// Adds its name to `text`.
    pub fn name(self, text: &mut String) {
        text.push_str(match self {
            Point::ProcessStart => "process-start",
            Point::VmCreated => "vm-created",
            Point::MemoryReady => "memory-ready",
            Point::KernelLoaded => "kernel-loaded",
            Point::FirstEntry => "first-entry",
            Point::Code(0x40) => "kernel",
            Point::Code(0x60) => "userspace",
            Point::Code(code) => {
                let _ = write!(text, "code-{code:#04x}");
                return;
            }
            Point::Exit => "exit",
        });
    }
}

/// The log of points.
pub struct BootTimer {
    /// Nanoseconds of CLOCK_MONOTONIC at which the process started.
    start: u64,
    points: Vec<(Point, u64)>,
    dropped: u64,
    log: Option<Output>,
    timeline: bool,
}

impl BootTimer {
    /// Port 0x80 is somebody's.
    pub const LISTENS: bool = true;

    /// Starts the log, which [`crate::output::open`] makes.
    pub fn start(config: &'static Config) -> BootTimer {
        let log = config.boot_log.as_deref().map(|path| Output::to("--boot-log", path));
        let timeline = config.timeline;
        let mut timer = BootTimer { start: 0, points: Vec::new(), dropped: 0, log, timeline };
        if timer.is_asked_for() {
            timer.start = clock::process_start();
            timer.points.reserve(32);
            timer.points.push((Point::ProcessStart, timer.start));
        }
        timer
    }

    /// Whether anybody will see it. Where nobody does, no clock is read either, which takes two pages and,
    /// with some clocks, calls.
    fn is_asked_for(&self) -> bool {
        self.log.is_some() || self.timeline
    }

    /// Notes that `point` is passed now.
    pub fn mark(&mut self, point: Point) {
        if !self.is_asked_for() {
            return;
        }
        if self.points.len() < MAX_POINTS || point == Point::Exit {
            self.points.push((point, clock::now()));
        } else {
            self.dropped += 1;
        }
    }

    /// Writes the log, and the timeline to standard error.
    pub fn finish(&mut self) {
        self.mark(Point::Exit);
        if let Some(log) = self.log {
            let text = json_lines(&self.points, self.start, self.dropped);
            if let Err(error) = log.write_all(text.as_bytes()) {
                log::error!("--boot-log: {error}");
            }
        }
        if self.timeline {
            descriptors::say(&timeline(&self.points, self.start));
        }
    }
}

/// One JSON object a line: `name`, `code` for what the guest wrote, `process_us` since the process
/// started, `vm_us` since the VM was created (absent before).
fn json_lines(points: &[(Point, u64)], start: u64, dropped: u64) -> String {
    let vm = points.iter().find(|(point, _)| *point == Point::VmCreated).map(|&(_, time)| time);
    let mut text = String::new();
    for &(point, time) in points {
        text.push_str("{\"name\":\"");
        point.name(&mut text);
        text.push('"');
        if let Point::Code(code) = point {
            let _ = write!(text, ",\"code\":{code}");
        }
        let _ = write!(text, ",\"process_us\":{}", Micros(time.saturating_sub(start)));
        if let Some(since) = vm.and_then(|vm| time.checked_sub(vm)) {
            let _ = write!(text, ",\"vm_us\":{}", Micros(since));
        }
        text.push_str("}\n");
    }
    if dropped > 0 {
        let _ = writeln!(text, "{{\"name\":\"dropped\",\"count\":{dropped}}}");
    }
    text
}

/// A line a point: time since the process started, time since the point before.
fn timeline(points: &[(Point, u64)], start: u64) -> String {
    let mut text = String::from("      since start         step  point\n");
    let mut before = start;
    for &(point, time) in points {
        let _ = write!(
            text,
            "{:>14} us {:>9} us  ",
            Micros(time.saturating_sub(start)).to_string(),
            Micros(time.saturating_sub(before)).to_string()
        );
        point.name(&mut text);
        text.push('\n');
        before = time;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTS: [(Point, u64); 4] = [
        (Point::ProcessStart, 1_000),
        (Point::VmCreated, 501_000),
        (Point::Code(0x60), 2_501_500),
        (Point::Code(0x81), 2_501_501),
    ];

    #[test]
    fn json_has_both_times() {
        let text = json_lines(&POINTS, 1_000, 0);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], r#"{"name":"process-start","process_us":0.000}"#);
        assert_eq!(
            lines[2],
            r#"{"name":"userspace","code":96,"process_us":2500.500,"vm_us":2000.500}"#
        );
        assert!(lines[3].contains(r#""name":"code-0x81","code":129"#));
    }

    #[test]
    fn a_guest_cannot_fill_memory() {
        let config = Config { timeline: true, ..Config::default() };
        let mut timer = BootTimer::start(Box::leak(Box::new(config)));
        for _ in 0..2 * MAX_POINTS {
            timer.mark(Point::Code(1));
        }
        timer.mark(Point::Exit);
        assert_eq!(timer.points.len(), MAX_POINTS + 1);
        assert_eq!(timer.dropped as usize, MAX_POINTS + 1);
    }
}
