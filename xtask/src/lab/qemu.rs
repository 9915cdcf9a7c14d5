//! Runs QEMU with L1 in it, and its console.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::io::{Moving, Ports};
use super::l1::L1;
use super::{Io, Job, Mode};

/// L1's kernel command line. Nothing of what is switched off matters to a VMM; it takes emulated
/// seconds: self-tests of ciphers, IPv6, certificates, entropy from jitter, timer checks.
const CMDLINE: &str = "console=ttyS0 reboot=t panic=-1 quiet mitigations=off nokaslr \
    cryptomgr.notests=1 tsc=reliable no_timer_check apparmor=0 ipv6.disable=1 \
    random.trust_cpu=on swiotlb=noforce \
    initcall_blacklist=jent_mod_init,load_system_certificate_list,init_encrypted";

/// How QEMU ended.
pub struct End {
    /// All of L1's console.
    pub console: String,
    /// QEMU's own standard error.
    pub complaints: String,
    /// Whether it had to be killed.
    pub timed_out: bool,
    /// The status where it was ended for the user, or for want of anybody who reads.
    pub ended: Option<i32>,
}

/// Boots L1 with `dir` as its `/tmp/out` and waits for its end.
///
/// # Errors
/// QEMU cannot be run.
pub fn run(job: &Job, l1: &L1, dir: &Path) -> Result<End> {
    let ports = match job.io {
        Io::Console => None,
        Io::Own { terminal } => Some(Ports::new(&dir.join(".lab"), terminal)?),
    };
    let mut command = command(job, l1, dir);
    command.args(ports.iter().flat_map(Ports::arguments));
    let mut child =
        command.spawn().context("lab: cannot run qemu-system-x86_64; try: cargo xtask setup")?;
    let deadline = Instant::now().checked_add(job.timeout);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let console = scope.spawn(|| stdout.map(|pipe| listen(pipe, job.relay)));
        let complaints = scope.spawn(|| stderr.map(|pipe| listen(pipe, false)));
        let mut moving = match ports.as_ref().map(Ports::start).transpose() {
            Ok(moving) => moving,
            Err(error) => {
                child.kill()?;
                let why = complaints.join().ok().flatten().unwrap_or_default();
                return Err(error.context(why));
            }
        };
        let (mut timed_out, mut ended) = (false, None);
        while child.try_wait()?.is_none() {
            ended = moving.as_mut().and_then(Moving::look);
            timed_out = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if timed_out || ended.is_some() {
                child.kill()?;
                child.wait()?;
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        if let Some(moving) = moving {
            moving.finish();
        }
        let text =
            |result: thread::Result<Option<String>>| result.ok().flatten().unwrap_or_default();
        let (console, complaints) = (text(console.join()), text(complaints.join()));
        // Said at each start, of CPU features that nobody here needs.
        let complaints = complaints
            .split_inclusive('\n')
            .filter(|line| !line.contains("TCG doesn't support requested feature"))
            .collect();
        Ok(End { console, complaints, timed_out, ended })
    })
}

fn command(job: &Job, l1: &L1, dir: &Path) -> Command {
    // setpriv: QEMU ends with this process, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "env"]);
    command.arg(format!("LD_PRELOAD={}", l1.vmrun.display())).arg("qemu-system-x86_64");
    command.args(match job.mode {
        Mode::Fast => ["-accel", "tcg,thread=multi", "-smp", "2"].as_slice(),
        Mode::Stopwatch => &["-accel", "tcg", "-smp", "1", "-icount", "shift=0,sleep=off"],
        Mode::InTurn => &["-accel", "tcg", "-smp", "2", "-icount", "shift=0,sleep=off"],
    });
    let share = |path: &Path, tag: &str, more: &str| {
        // QEMU's options need a comma doubled.
        let path = path.to_string_lossy().replace(',', ",,");
        format!("local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}")
    };
    command
        .args(["-machine", "q35,sata=off,smbus=off,vmport=off,hpet=off"])
        .args(["-cpu", "EPYC,+svm,+npt", "-m", &job.memory_mib.to_string()])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0xf4"])
        .args(["-virtfs", &share(Path::new("/"), "hostroot", ",readonly=on")])
        .args(["-virtfs", &share(dir, "out", "")])
        .args(job.kept.iter().enumerate().flat_map(|(index, dir)| {
            ["-virtfs".to_owned(), share(dir, &format!("kept{index}"), "")]
        }))
        .arg("-kernel")
        .arg(&l1.kernel)
        .arg("-initrd")
        .arg(&l1.initrd)
        .args([
            "-append",
            &format!("{CMDLINE} hugepages={} audit={}", job.hugepages, u8::from(job.audit)),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Reads a pipe to its end, showing each line as it comes if `relay`.
fn listen(pipe: impl Read, relay: bool) -> String {
    let mut reader = BufReader::new(pipe);
    let (mut all, mut line) = (String::new(), Vec::new());
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).replace('\r', "");
        if relay {
            println!("L1| {}", text.trim_end_matches('\n'));
        }
        all += &text;
        line.clear();
    }
    all
}
