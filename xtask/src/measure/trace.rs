//! `cargo xtask trace`: draws what `brisk --trace` wrote, threads as lanes.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cache::Cache;
use crate::guest::{Kernel, kernel};
use crate::lab::boot;
use crate::{build, debian, lab};
use initcalls::Initcalls;

pub mod initcalls;
mod kinds;
mod svg;

/// Draw where the time of a boot went as an SVG, and list the guest kernel's slowest initcalls.
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
    /// on the stopwatch, with the guest kernel's initcalls in the picture, and the slowest listed
    #[argh(switch)]
    initcalls: bool,
    /// guest (what the tests and peers boot; default), micro (what `boot` and `run` boot), micro-smp, or a
    /// file
    #[argh(option)]
    kernel: Option<Kernel>,
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
    let (about, lanes, initcalls) = match &args.input {
        Some(path) => {
            let booted = !args.extra.is_empty() || args.stopwatch || args.initcalls;
            ensure!(!booted && args.kernel.is_none(), "--in: nothing is booted with it");
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            (path.display().to_string(), lanes(&text).context(WRITTEN)?, None)
        }
        None => boot(args)?,
    };
    if let Some(initcalls) = initcalls {
        let kernel = match &args.kernel {
            None => kernel::Config::Guest.name().to_owned(),
            Some(Kernel::Own(config)) => config.name().to_owned(),
            Some(Kernel::Stock(stock)) => stock.name.to_owned(),
            Some(Kernel::File(path)) => path.display().to_string(),
        };
        print!("kernel {kernel}: {}", initcalls.slowest());
    }
    let picture = svg::draw(&lanes, &format!("brisk: {about}"));
    fs::write(&args.out, picture).with_context(|| args.out.display().to_string())?;
    println!("picture: {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// Boots in the lab. Returns what the trace is of, the trace, and the initcalls where they were asked for.
fn boot(args: &Args) -> Result<(String, Vec<Lane>, Option<Initcalls>)> {
    debian::ensure(debian::BOOT)?;
    let cache = Cache::open()?;
    let mut files = match &args.kernel {
        None => boot::Files::own(&cache, kernel::Config::Guest)?,
        Some(Kernel::Own(config)) => boot::Files::own(&cache, *config)?,
        Some(Kernel::File(path)) => boot::Files::ours(&cache, path.canonicalize()?)?,
        Some(Kernel::Stock(_)) => bail!("--kernel: guest, micro, micro-smp or a file"),
    };
    " quiet".clone_into(&mut files.words);
    let mut extra = args.extra.clone();
    let mut add = |words: &[&str]| extra.extend(words.iter().map(|&word| word.to_owned()));
    let out = |name: &str| format!("{}/out/{name}", boot::IN_L1);
    if args.initcalls {
        let own = |word: &String| ["--cmdline", "--console"].contains(&word.as_str());
        ensure!(
            !args.extra.iter().any(own),
            "--initcalls has a --cmdline and --console of its own"
        );
        let log = format!("file={}", out("kmsg"));
        add(&["--cmdline", initcalls::CMDLINE, "--console", &log]);
    }
    add(&["--trace", &out("trace.json")]);
    let brisk = build::program(None)?;
    let mut job = boot::job(&brisk, &files, &extra);
    let clock = if args.stopwatch || args.initcalls {
        job.mode = lab::Mode::Stopwatch;
        "the lab's stopwatch, 1 ns an instruction"
    } else {
        "the lab's fast mode, some 50 times slower than a real machine"
    };
    let output = lab::run(&job)?;
    ensure!(output.status == 0, "brisk ended with {}", output.status);
    let text = fs::read_to_string(output.dir.join("trace.json")).context("brisk wrote no trace")?;
    let mut lanes = lanes(&text).context(WRITTEN)?;
    let initcalls = match args.initcalls {
        true => {
            let log = fs::read(output.dir.join("kmsg")).context("nothing was on the console")?;
            let symbols = fs::read_to_string(files.kernel.with_file_name("System.map"));
            let log = String::from_utf8_lossy(&log);
            let found = Initcalls::parse(&log, &symbols.unwrap_or_default())?;
            found.add_to(&mut lanes)?;
            Some(found)
        }
        false => None,
    };
    Ok((format!("to userspace and out, in {clock}"), lanes, initcalls))
}

/// What a trace is that is none.
const WRITTEN: &str = "what brisk --trace wrote";

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
