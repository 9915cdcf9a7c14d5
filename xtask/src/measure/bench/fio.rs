//! `cargo xtask bench --fio`: how many requests of 4 KiB a disk serves, by fio in the guest, brisk and
//! QEMU's microvm side by side on the stopwatch; `--fio-on` says in which [`Setting`].

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tabled::builder::Builder;

use self::setting::Setting;
use super::{table, vmm};
use crate::cache::Cache;
use crate::guest::kernel;
use crate::lab::{self, path_in_l1, quote};
use crate::measure::metrics::history::{Better, Line, Metric};
use crate::{build, debian};

mod image;
pub mod setting;
pub mod smp;

/// fio's jobs.
const JOBS: [&str; 4] = ["read", "randread", "write", "randwrite"];
/// Requests on their way at a time.
const DEPTHS: [u32; 2] = [1, 32];
/// What each job moves.
const SIZE_MIB: u32 = 8;
/// Bytes of a request.
const REQUEST: u64 = 4096;
/// How long one guest may take on the machine below: 80 s of its CPU, and with four vCPUs many times that.
const LIMIT: Duration = Duration::from_secs(1800);
/// QEMU's program.
const QEMU: &str = "qemu-system-x86_64";

/// The result.
#[derive(Serialize, Debug)]
pub struct Report {
    /// Always `lab`: 1 ns an instruction.
    pub clock: &'static str,
    /// In which setting.
    pub setting: Setting,
    /// One for each VMM, engine, depth and job.
    pub rows: Vec<Row>,
}

/// What a job came to.
#[derive(Serialize, Debug, PartialEq)]
pub struct Row {
    /// `brisk` or `QEMU microvm`.
    pub vmm: &'static str,
    /// How the VMM does its requests.
    pub engine: &'static str,
    /// Requests on their way at a time.
    pub depth: u32,
    /// fio's name of the job.
    pub job: String,
    /// How many requests were done.
    pub requests: u64,
    /// In how many virtual milliseconds: those of the job's slowest thread. Threads start one after another,
    /// so that of 32 the first ends before the last begins, and from the first request to the last it is up
    /// to a seventh more.
    pub ms: u64,
    /// Requests in a virtual millisecond.
    pub per_ms: f64,
}

/// A VMM with one way to do requests.
struct Subject {
    vmm: &'static str,
    engine: &'static str,
}

/// In the order of the table's columns.
const SUBJECTS: [Subject; 3] = [
    Subject { vmm: "brisk", engine: "io_uring" },
    Subject { vmm: "QEMU microvm", engine: "io_uring" },
    Subject { vmm: "brisk", engine: "sync" },
];

impl Subject {
    /// The command, with the files in `dir`.
    fn command(&self, setting: Setting, brisk: &str, dir: &str) -> String {
        let Self { vmm, engine } = self;
        let line = "root=/dev/vda init=/sbin/init console=ttyS0 quiet";
        let data = setting.data(dir);
        if *vmm == "brisk" {
            return format!(
                "{brisk} --kernel {dir}/vmlinux --disk path={dir}/root.raw,readonly=on \
                 --disk path={data},engine={engine}{} \
                 --cmdline '{line} fio_disk=vdb' --memory size=256M --serial file={dir}/serial",
                setting.brisk()
            );
        }
        let disk = |id, file: &str, more: &str, device: &str| {
            format!(
                "-drive id={id},file={file},format=raw,if=none,{more} \
                 -device virtio-blk-device,drive={id}{device}"
            )
        };
        let (cpus, cache, device) = setting.qemu();
        // The command line names the last device first.
        format!(
            "{QEMU} -M microvm,acpi=off,x-option-roms=off,pit=off,pic=off,rtc=off,\
             isa-serial=on -accel kvm -cpu host{cpus} -m 256M -nodefaults -no-user-config \
             -display none -no-reboot -serial file:{dir}/serial -kernel {dir}/vmlinux \
             -append '{line} fio_disk=vdb reboot=t panic=-1 tsc=reliable no_timer_check' {} {}",
            disk("root", &format!("{dir}/root.raw"), "readonly=on", ""),
            disk("data", &data, &format!("aio={engine},cache={cache}"), device),
        )
    }
}

/// Measures, and returns the result.
///
/// # Errors
/// Something could not be built, or a job did not run.
pub fn measure(setting: Setting) -> Result<Report> {
    of(&SUBJECTS, setting)
}

/// Measures brisk alone, with the engine that is the default.
///
/// # Errors
/// As [`measure`].
pub fn measure_brisk(setting: Setting) -> Result<Report> {
    let [.., sync] = &SUBJECTS;
    of(std::slice::from_ref(sync), setting)
}

fn of(subjects: &[Subject], setting: Setting) -> Result<Report> {
    debian::ensure(&debian::ALL)?;
    let cache = Cache::open()?;
    let kernel = kernel::ensure(&cache, kernel::Config::Guest)?.vmlinux;
    let root = image::ensure(&cache)?;
    let brisk = build::program(Some(&setting.features()))?;
    let prepare = setting.prepare(&cache, SIZE_MIB)?;
    let warm = vmm::files(&vmm::program(QEMU)?.0, "")?;
    let mut rows = Vec::new();
    for subject in subjects {
        let name = format!("{}, {}", subject.vmm, subject.engine);
        let step = crate::ui::Step::start(&format!("fio in the lab: {name}"));
        let output = lab::run(&lab::Job {
            mode: lab::Mode::Stopwatch,
            script: script(subject, setting, &prepare, [&brisk, &kernel, &root], &warm),
            timeout: LIMIT,
            ..lab::Job::default()
        })
        .with_context(|| name.clone())?;
        step.done();
        ensure!(output.status == 0, "{name}: the script failed in the lab:\n{}", output.console);
        let read = |kind: &str| {
            let bytes = fs::read(output.dir.join(kind)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let text = read("serial");
        let parsed = parse(&text, subject);
        rows.extend(parsed.with_context(|| format!("{name}: {}\n{text}", read("log")))?);
    }
    Ok(Report { clock: "lab", setting, rows })
}

/// Runs a subject once, when the disk was made (`prepare`), with brisk, a kernel and a root (`files`). All
/// images are in L1's memory, and QEMU's own files (`warm`) are read before: nothing waits for the machine
/// below. While L1 does that, its clock goes to the next timer at once, so there is no limit by L1's clock
/// either.
fn script(
    subject: &Subject,
    setting: Setting,
    prepare: &str,
    files: [&Path; 3],
    warm: &BTreeSet<PathBuf>,
) -> String {
    let quoted = |path: &Path| quote(&path_in_l1(path).to_string_lossy());
    let mut text = String::from("set -u; dir=/tmp/fio; mkdir $dir || exit 1\n");
    for (from, to) in files.into_iter().zip(["brisk", "vmlinux", "root.raw"]) {
        let _ = writeln!(text, "cp {} $dir/{to} || exit 1", quoted(from));
    }
    text += prepare;
    if subject.vmm != "brisk" {
        let warm: Vec<String> = warm.iter().map(|path| quoted(path)).collect();
        let _ = writeln!(text, "cat {} > /dev/null", warm.join(" "));
    }
    let _ = writeln!(
        text,
        "{} < /dev/null > /tmp/out/log 2>&1\ncp $dir/serial /tmp/out/serial",
        subject.command(setting, "/tmp/fio/brisk", "/tmp/fio")
    );
    text
}

/// The rows of one guest's console. Fields of fio's terse output, version 3: 2 the job's name, 4 its
/// error, 5 and 8 what was read (KiB) and in how long (ms), 46 and 49 the same of writes.
fn parse(console: &str, subject: &Subject) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for line in console.lines().filter(|line| line.starts_with("3;fio-")) {
        let fields: Vec<&str> = line.trim_end().split(';').collect();
        let number = |at: usize| -> Result<u64> {
            let text = fields.get(at).with_context(|| format!("no field {at}"))?;
            text.parse().with_context(|| format!("field {at}: {text}"))
        };
        let (job, depth) = fields[2].rsplit_once('-').context("no job's name")?;
        ensure!(number(4)? == 0, "{job}: error {}", fields[4]);
        let (kib, ms) = (number(5)? + number(46)?, number(8)? + number(49)?);
        ensure!(ms > 0, "{job}: took no time");
        let requests = kib * 1024 / REQUEST;
        rows.push(Row {
            vmm: subject.vmm,
            engine: subject.engine,
            depth: depth.parse().with_context(|| format!("depth {depth}"))?,
            job: job.to_owned(),
            requests,
            ms,
            per_ms: (requests as f64 * 1000.0 / ms as f64).round() / 1000.0,
        });
    }
    let whole = console.contains(image::DONE) && rows.len() == JOBS.len() * DEPTHS.len();
    ensure!(whole, "{} of {} jobs ran", rows.len(), JOBS.len() * DEPTHS.len());
    Ok(rows)
}

/// The report as lines of the history, one for each VMM, each row called `JOB, DEPTH, ENGINE`; suite `fio`,
/// and those of other settings than the default have their words behind that.
///
/// # Errors
/// A program that tells its version cannot be run.
pub fn lines(report: &Report) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    for row in &report.rows {
        if !lines.iter().any(|line| line.vmm == row.vmm) {
            let mut line = Line::here(&report.setting.suite(), report.clock)?;
            row.vmm.clone_into(&mut line.vmm);
            if row.vmm != "brisk" {
                (line.version, line.subject) = (line.qemu.clone(), String::new());
            }
            lines.push(line);
        }
        if let Some(line) = lines.iter_mut().find(|line| line.vmm == row.vmm) {
            let name = format!("{}, {}, {}", row.job, row.depth, row.engine);
            line.metrics.insert(name, Metric::single("1/ms", Better::More, row.per_ms, ""));
        }
    }
    Ok(lines)
}

/// The table.
pub fn render(report: &Report) -> String {
    let mut builder = Builder::default();
    builder.push_record([
        "job, requests at a time",
        "brisk, io_uring",
        "QEMU microvm",
        "ratio",
        "brisk, sync",
        "ratio",
    ]);
    let find = |vmm: &str, engine: &str, like: &Row| {
        let same = |row: &&Row| {
            (row.vmm, row.engine) == (vmm, engine)
                && (row.depth, &row.job) == (like.depth, &like.job)
        };
        report.rows.iter().find(same).map(|row| row.per_ms)
    };
    for row in report.rows.iter().filter(|row| row.vmm != "brisk") {
        let mut cells = vec![format!("{}, {}", row.job, row.depth)];
        let (ring, sync) = (find("brisk", "io_uring", row), find("brisk", "sync", row));
        let cell = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
        let ratio = |value: Option<f64>| cell(value.map(|v| v / row.per_ms));
        cells.extend([cell(ring), cell(Some(row.per_ms)), ratio(ring), cell(sync), ratio(sync)]);
        builder.push_record(cells);
    }
    format!(
        "fio: psync in as many threads, direct=1, 4 KiB, {SIZE_MIB} MiB a job, 256 MiB, {}\n\
         requests per virtual ms, 1 ns an instruction\n\n{}\n",
        report.setting.about(),
        table::finish(builder)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(job: &str, read: (u64, u64), written: (u64, u64)) -> String {
        let mut fields = vec!["0".to_owned(); 121];
        fields[0] = "3".into();
        fields[1] = "fio-3.33".into();
        fields[2] = job.into();
        for (at, number) in [(5, read.0), (8, read.1), (46, written.0), (49, written.1)] {
            fields[at] = number.to_string();
        }
        fields.join(";") + "\r\n"
    }

    fn console() -> String {
        let mut text = "noise; here\r\n".to_owned();
        for depth in DEPTHS {
            for job in JOBS {
                let moved = (4096, u64::from(depth) * 10);
                let (read, written) =
                    if job.contains("read") { (moved, (0, 0)) } else { ((0, 0), moved) };
                text += &line(&format!("{job}-{depth}"), read, written);
            }
        }
        text + image::DONE
    }

    #[test]
    fn lines_of_fio_are_read() {
        let subject = &SUBJECTS[0];
        let rows = parse(&console(), subject).unwrap();
        assert_eq!(rows.len(), 8);
        let last = rows.last().unwrap();
        assert_eq!((&*last.job, last.depth), ("randwrite", 32));
        assert_eq!((last.requests, last.ms, last.per_ms), (1024, 320, 3.2));
        let less = console().replacen("3;fio", "x", 1);
        assert!(parse(&less, subject).unwrap_err().to_string().contains("7 of 8"));
        let failed = console().replacen(";read-1;0;0;", ";read-1;0;5;", 1);
        assert!(parse(&failed, subject).unwrap_err().to_string().contains("read: error 5"));
        assert!(parse("3;fio-3.33;read-1;0;0", subject).is_err());
    }

    #[test]
    fn tables_and_json_have_every_job() {
        let rows =
            SUBJECTS.iter().flat_map(|subject| parse(&console(), subject).unwrap()).collect();
        let report = Report { clock: "lab", setting: Setting::default(), rows };
        let text = render(&report);
        assert_eq!(text.lines().count(), 5 + 8, "{text}");
        let line = text.lines().find(|line| line.contains("randread, 32")).unwrap();
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells[2..7], ["3.20", "3.20", "1.00", "3.20", "1.00"]);
        assert_eq!(
            serde_json::to_string(&report.rows[0]).unwrap(),
            r#"{"vmm":"brisk","engine":"io_uring","depth":1,"job":"read","requests":1024,"ms":10,"per_ms":102.4}"#
        );
    }

    #[test]
    fn shells_understand_it() {
        let path = Path::new("/tmp/it's");
        for words in ["", "ext4", "smp", "pci", "ext4,smp,pci"] {
            let setting: Setting = words.parse().unwrap();
            let prepare = setting.commands("true\n", SIZE_MIB);
            for (subject, disks) in SUBJECTS.iter().zip([2, 0, 2]) {
                let warm = [path.to_path_buf()].into();
                let text = script(subject, setting, &prepare, [path; 3], &warm);
                assert_eq!(text.matches(" --disk ").count(), disks);
                let check = std::process::Command::new("sh").args(["-n", "-c", &text]).status();
                assert!(check.unwrap().success(), "{text}");
            }
        }
    }
}
