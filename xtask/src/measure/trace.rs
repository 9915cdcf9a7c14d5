//! `cargo xtask trace`: draws what `brisk --trace` wrote, threads as lanes.

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cache::Cache;
use crate::guest::kernel;
use crate::lab::boot;
use crate::{build, debian, lab};

mod kinds;
mod svg;

/// Draw where the time of a boot went as an SVG.
#[derive(FromArgs)]
#[argh(subcommand, name = "trace")]
pub struct Args {
    /// what brisk --trace wrote; by default a guest is booted in the lab
    #[argh(option, long = "in")]
    input: Option<PathBuf>,
    /// the picture (default trace.svg)
    #[argh(option, default = "PathBuf::from(\"trace.svg\")")]
    out: PathBuf,
    /// boot on the lab's stopwatch: one CPU, and 1 ns an instruction
    #[argh(switch)]
    stopwatch: bool,
    /// arguments for brisk, after --
    #[argh(positional, greedy)]
    extra: Vec<String>,
}

/// An event of the Chrome trace-event format, of the kinds that brisk writes.
#[derive(Deserialize)]
struct Event {
    name: String,
    /// `X` a span, `i` an instant, `M` metadata.
    ph: String,
    /// Microseconds.
    #[serde(default)]
    ts: f64,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    tid: u64,
    #[serde(default)]
    args: serde_json::Value,
}

/// A whole file: the array, or an object with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Array(Vec<Event>),
    Object {
        #[serde(rename = "traceEvents")]
        events: Vec<Event>,
    },
}

/// A thread.
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Lane {
    /// The thread's name.
    pub name: String,
    /// In the order of their starts; where one is within another, that comes first.
    pub spans: Vec<Span>,
    /// Names and times of what took no time, in order.
    pub instants: Vec<(String, f64)>,
}

/// Something that took time. Microseconds since the first event.
#[derive(Debug, PartialEq, Clone)]
pub struct Span {
    /// What.
    pub name: String,
    /// When it began.
    pub start: f64,
    /// When it ended.
    pub end: f64,
    /// How many others it is within.
    pub depth: usize,
}

/// Runs the task.
///
/// # Errors
/// The file is no trace, the boot failed, or the picture cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let (text, about) = match &args.input {
        Some(path) => {
            ensure!(args.extra.is_empty() && !args.stopwatch, "--in: nothing is booted with it");
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            (text, path.display().to_string())
        }
        None => boot(args)?,
    };
    let lanes = lanes(&text).context("what brisk --trace wrote")?;
    let picture = svg::draw(&lanes, &format!("brisk: {about}"));
    fs::write(&args.out, picture).with_context(|| args.out.display().to_string())?;
    println!("{}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// Boots in the lab. Returns the trace, and what it is of.
fn boot(args: &Args) -> Result<(String, String)> {
    debian::ensure(debian::ALL)?;
    let cache = Cache::open()?;
    let kernel = kernel::ensure(&cache, kernel::Config::Guest)?;
    let files = boot::Files::ours(&cache, kernel.vmlinux)?;
    let mut extra = args.extra.clone();
    if !extra.iter().any(|word| word == "--cmdline") {
        extra.extend(["--cmdline", "quiet console=ttyS0"].map(str::to_owned));
    }
    extra.extend(["--trace".to_owned(), format!("{}/out/trace.json", boot::IN_L1)]);
    let brisk = build::program(None)?;
    let mut job = boot::job(&brisk, &files, &extra);
    let clock = if args.stopwatch {
        job.mode = lab::Mode::Stopwatch;
        "the lab's stopwatch, 1 ns an instruction"
    } else {
        "the lab's fast mode, some 50 times slower than a real machine"
    };
    let output = lab::run(&job)?;
    ensure!(output.status == 0, "brisk ended with {}", output.status);
    let text = fs::read_to_string(output.dir.join("trace.json")).context("brisk wrote no trace")?;
    Ok((text, format!("to userspace and out, in {clock}")))
}

/// The lanes of a trace, in the order in which they begin, but vCPUs last.
///
/// # Errors
/// It is no trace, or has no events.
fn lanes(text: &str) -> Result<Vec<Lane>> {
    let events = match serde_json::from_str(text)? {
        File::Array(events) | File::Object { events } => events,
    };
    let timed = || events.iter().filter(|event| event.ph != "M");
    ensure!(timed().next().is_some(), "there are no events");
    let zero = timed().map(|event| event.ts).fold(f64::INFINITY, f64::min);
    let mut lanes: BTreeMap<u64, Lane> = BTreeMap::new();
    for event in timed() {
        let lane = lanes
            .entry(event.tid)
            .or_insert_with(|| Lane { name: format!("thread {}", event.tid), ..Lane::default() });
        let start = event.ts - zero;
        match event.ph.as_str() {
            "X" => {
                let (name, end) = (event.name.clone(), start + event.dur.max(0.0));
                lane.spans.push(Span { name, start, end, depth: 0 });
            }
            "i" | "I" => lane.instants.push((event.name.clone(), start)),
            _ => {}
        }
    }
    for event in events.iter().filter(|event| event.ph == "M" && event.name == "thread_name") {
        if let (Some(lane), Some(name)) = (lanes.get_mut(&event.tid), event.args["name"].as_str()) {
            name.clone_into(&mut lane.name);
        }
    }
    let mut lanes: Vec<Lane> = lanes.into_values().collect();
    for lane in &mut lanes {
        lane.instants.sort_by(|a, b| a.1.total_cmp(&b.1));
        lane.spans.sort_by(|a, b| a.start.total_cmp(&b.start).then(b.end.total_cmp(&a.end)));
        let mut around: Vec<f64> = Vec::new();
        for span in &mut lane.spans {
            around.retain(|end| *end > span.start);
            span.depth = around.len();
            around.push(span.end);
        }
    }
    let begins = |lane: &Lane| {
        let first = lane.spans.first().map_or(f64::INFINITY, |span| span.start);
        lane.instants.first().map_or(first, |(_, at)| at.min(first))
    };
    lanes.sort_by(|a, b| {
        let vcpu = |lane: &Lane| lane.name.starts_with("vcpu");
        vcpu(a).cmp(&vcpu(b)).then(begins(a).total_cmp(&begins(b)))
    });
    Ok(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form that brisk writes.
    pub const TRACE: &str = r#"[
        {"name":"thread_name","ph":"M","pid":1,"tid":1,"args":{"name":"vmm"}},
        {"name":"thread_name","ph":"M","pid":1,"tid":3,"args":{"name":"vcpu0"}},
        {"name":"thread_name","ph":"M","pid":1,"tid":2,"args":{"name":"loader"}},
        {"name":"set-up","ph":"X","ts":100.0,"dur":900.5,"pid":1,"tid":1},
        {"name":"VM","ph":"X","ts":100.0,"dur":300,"pid":1,"tid":1},
        {"name":"memory","ph":"X","ts":400.0,"dur":200,"pid":1,"tid":1},
        {"name":"kernel <load>","ph":"X","ts":300.0,"dur":500,"pid":1,"tid":2},
        {"name":"run","ph":"X","ts":1001.0,"dur":60000,"pid":1,"tid":3},
        {"name":"userspace","ph":"i","ts":50000.0,"pid":1,"tid":3,"s":"t"},
        {"name":"first-entry","ph":"i","ts":1001.0,"pid":1,"tid":3,"s":"t"}
    ]"#;

    #[test]
    fn threads_are_lanes() {
        let lanes = lanes(TRACE).unwrap();
        let names: Vec<_> = lanes.iter().map(|lane| lane.name.as_str()).collect();
        assert_eq!(names, ["vmm", "loader", "vcpu0"]);
        let spans: Vec<_> =
            lanes[0].spans.iter().map(|s| (s.name.as_str(), s.start, s.end, s.depth)).collect();
        let wanted =
            [("set-up", 0.0, 900.5, 0), ("VM", 0.0, 300.0, 1), ("memory", 300.0, 500.0, 1)];
        assert_eq!(spans, wanted);
        let instants = [("first-entry".to_owned(), 901.0), ("userspace".to_owned(), 49_900.0)];
        assert_eq!(lanes[2].instants, instants);
        let object = format!("{{\"traceEvents\":{TRACE}}}");
        assert_eq!(super::lanes(&object).unwrap(), lanes);
    }

    #[test]
    fn what_is_no_trace() {
        for text in ["", "{}", "[]", "[{\"name\":\"x\",\"ph\":\"M\"}]", "[{\"ph\":\"X\"}]"] {
            assert!(lanes(text).is_err(), "{text}");
        }
    }
}
