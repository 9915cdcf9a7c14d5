//! Where the time went, thread by thread (feature `trace`): the VMM's steps, the loader's, each
//! vCPU's exits and what the guest writes to port 0x80, in Chrome's trace-event format, which
//! <https://ui.perfetto.dev> and `cargo xtask trace` draw.

use std::fmt::Write as _;

use crate::config::Config;
use crate::measure::boot_timer::Point;
use crate::measure::clock::{self, Micros};
use crate::measure::exit_kind::ExitKind;
use crate::output::Output;

/// A guest that leaves without end costs no memory, and no room in the file, beyond this many events.
const MAX_EVENTS: usize = 16 << 10;
/// The first vCPU's thread is the VMM's; each has its lane, since one does when the other does not.
const VMM: u16 = 1;
const LOADER: u16 = 2;
const VCPU0: u16 = 3;

#[derive(Debug, Clone, Copy)]
enum Name {
    Step(&'static str),
    Exit(ExitKind, u64),
    Code(u8),
}

#[derive(Debug, Clone, Copy)]
struct Event {
    name: Name,
    lane: u16,
    start: u64,
    /// Where it took time.
    end: Option<u64>,
}

/// What was recorded so far. It records nothing where nobody asked for a file.
pub struct Trace {
    output: Option<Output>,
    zero: u64,
    events: Vec<Event>,
    dropped: u64,
    /// When the last step of the VMM ended.
    step: u64,
    /// The vCPU whose exit is being served, and since when.
    exit: (u16, u64),
    /// The vCPUs that run, and since when.
    entered: Vec<(u16, u64)>,
}

/// What has begun.
pub struct Stamp((u16, u64));

impl Trace {
    /// Starts the recording; [`crate::output::open`] makes the file.
    pub fn start(config: &'static Config) -> Trace {
        let mut trace = Trace {
            output: None,
            zero: 0,
            events: Vec::new(),
            dropped: 0,
            step: 0,
            exit: (VCPU0, 0),
            entered: Vec::new(),
        };
        if let Some(path) = &config.trace {
            trace.zero = clock::process_start();
            trace.step = trace.zero;
            trace.output = Some(Output::to("--trace", path));
            trace.events.reserve(MAX_EVENTS); // address space: pages come as they are written
            trace.step("start");
        }
        trace
    }

    /// A step of the VMM's set-up ended, which began where the one before ended.
    pub fn step(&mut self, name: &'static str) {
        if self.output.is_some() {
            let end = clock::now();
            self.push(Event {
                name: Name::Step(name),
                lane: VMM,
                start: self.step,
                end: Some(end),
            });
            self.step = end;
        }
    }

    /// The laps of the loader: on a lane of its own where it had a thread of its own.
    pub fn loaded(&mut self, laps: Laps, own_thread: bool) {
        let lane = if own_thread { LOADER } else { VMM };
        let mut start = laps.start;
        for (name, end) in laps.laps {
            if self.output.is_some() {
                self.push(Event { name: Name::Step(name), lane, start, end: Some(end) });
            }
            start = end;
        }
    }

    /// vCPU `id` is about to enter the guest for the first time.
    pub fn enter(&mut self, id: u8) {
        if self.output.is_some() {
            let (lane, now) = (VCPU0 + u16::from(id), clock::now());
            self.entered.push((lane, now));
            self.push(Event { name: Name::Step("first-entry"), lane, start: now, end: None });
        }
    }

    /// vCPU `id` left the guest, and what it wants is looked at.
    pub fn begin(&mut self, id: u8) {
        if self.output.is_some() {
            self.exit = (VCPU0 + u16::from(id), clock::now());
        }
    }

    /// What began last, for whoever lets others begin something before it is done.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.exit)
    }

    /// As if nothing had begun since.
    pub fn resume(&mut self, stamp: Stamp) {
        self.exit = stamp.0;
    }

    /// What began last was this, and is done.
    pub fn exit(&mut self, kind: ExitKind, address: u64) {
        if self.output.is_some() {
            let (lane, start) = self.exit;
            let name = Name::Exit(kind, address);
            self.push(Event { name, lane, start, end: Some(clock::now()) });
        }
    }

    /// The guest wrote `code` to port 0x80.
    pub fn mark(&mut self, code: u8) {
        if self.output.is_some() {
            let (lane, start) = self.exit;
            self.push(Event { name: Name::Code(code), lane, start, end: None });
        }
    }

    fn push(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }

    /// Writes the file.
    pub fn finish(&mut self) {
        let Some(output) = self.output.take() else { return };
        if let Err(error) = output.write_all(self.json(clock::now()).as_bytes()) {
            log::error!("--trace: {error}");
        }
    }

    /// The file's text; vCPUs stop at `end`.
    fn json(&self, end: u64) -> String {
        let mut text = format!(
            "{{\"displayTimeUnit\":\"ms\",\"otherData\":{{\"dropped\":{}}},\"traceEvents\":[\n\
             {{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{{\"name\":\"brisk\"}}}}",
            self.dropped
        );
        let mut lanes: Vec<u16> = self.events.iter().map(|event| event.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        for lane in lanes {
            let _ = write!(
                text,
                ",\n{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":{lane},\"args\":\
                 {{\"name\":\""
            );
            let _ = match lane {
                VMM => write!(text, "vmm"),
                LOADER => write!(text, "loader"),
                vcpu => write!(text, "vcpu{}", vcpu - VCPU0),
            };
            text.push_str("\"}}");
        }
        let runs = self.entered.iter().map(|&(lane, start)| Event {
            name: Name::Step("run"),
            lane,
            start,
            end: Some(end),
        });
        for event in runs.chain(self.events.iter().copied()) {
            event.json(self.zero, &mut text);
        }
        text.push_str("\n]}\n");
        text
    }
}

impl Event {
    fn json(&self, zero: u64, text: &mut String) {
        text.push_str(",\n{\"name\":\"");
        match self.name {
            Name::Step(name) => text.push_str(name),
            Name::Code(code) => Point::Code(code).name(text),
            Name::Exit(kind @ ExitKind::Interrupted, _) => {
                text.push_str(kind.name());
            }
            Name::Exit(kind, address) => {
                let _ = write!(text, "{} {address:#x}", kind.name());
            }
        }
        let at = Micros(self.start.saturating_sub(zero));
        let _ = write!(text, "\",\"pid\":1,\"tid\":{},\"ts\":{at},", self.lane);
        let _ = match self.end {
            Some(end) => {
                let took = Micros(end.saturating_sub(self.start));
                write!(text, "\"ph\":\"X\",\"dur\":{took}}}")
            }
            None => write!(text, "\"ph\":\"i\",\"s\":\"t\"}}"),
        };
    }
}

/// What a thread that has no [`Trace`] did, one thing after the other.
pub struct Laps {
    start: u64,
    laps: Vec<(&'static str, u64)>,
}

impl Laps {
    /// The first one begins now.
    pub fn start() -> Laps {
        Laps { start: clock::now(), laps: Vec::new() }
    }

    /// One is done and the next begins.
    pub fn lap(&mut self, name: &'static str) {
        self.laps.push((name, clock::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        Trace {
            output: Some(Output::to("--trace", "/dev/null")),
            zero: 1_000,
            events: Vec::new(),
            dropped: 0,
            step: 1_000,
            exit: (VCPU0, 0),
            entered: Vec::new(),
        }
    }

    #[test]
    fn threads_have_names_and_events_their_times() {
        let mut trace = trace();
        trace.push(Event { name: Name::Step("VM"), lane: VMM, start: 1_000, end: Some(3_500) });
        trace.loaded(Laps { start: 2_000, laps: vec![("kernel", 4_001)] }, true);
        trace.entered.push((VCPU0 + 1, 5_000));
        trace.exit = (VCPU0 + 1, 6_000);
        trace.mark(0x60);
        trace.events.push(Event {
            name: Name::Exit(ExitKind::PioOut, 0x80),
            lane: VCPU0 + 1,
            start: 6_000,
            end: Some(7_000),
        });
        let text = trace.json(9_000);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let find = |name: &str| events.iter().find(|event| event["name"] == name).unwrap();
        let names: Vec<_> = events
            .iter()
            .filter(|event| event["name"] == "thread_name")
            .map(|event| (event["tid"].as_u64().unwrap(), event["args"]["name"].as_str().unwrap()))
            .collect();
        assert_eq!(names, [(1, "vmm"), (2, "loader"), (4, "vcpu1")]);
        let vm = find("VM");
        assert_eq!(
            (&vm["ph"], vm["ts"].as_f64(), vm["dur"].as_f64()),
            (&"X".into(), Some(0.0), Some(2.5))
        );
        assert_eq!(find("kernel")["dur"].as_f64(), Some(2.001));
        assert_eq!((&find("run")["tid"], find("run")["dur"].as_f64()), (&4.into(), Some(4.0)));
        assert_eq!((&find("userspace")["ph"], &find("userspace")["tid"]), (&"i".into(), &4.into()));
        assert_eq!(find("pio_out 0x80")["dur"].as_f64(), Some(1.0));
    }

    #[test]
    fn a_guest_cannot_fill_memory_or_the_file() {
        let mut trace = trace();
        for port in 0..2 * MAX_EVENTS as u64 {
            trace.exit(ExitKind::PioOut, port);
        }
        assert_eq!(trace.events.len(), MAX_EVENTS);
        let text = trace.json(clock::now());
        assert!(text.contains(&format!("\"dropped\":{MAX_EVENTS}")));
        assert!(text.len() < 4 << 20, "{} bytes", text.len());
    }
}
