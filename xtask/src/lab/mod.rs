//! The lab: a real KVM on a machine that has none.
//!
//! QEMU's software CPU emulates AMD SVM, so a Debian kernel in it (L1) has a real `kvm_amd`. L1's
//! root is this machine's root over 9p, read-only, with `/tmp` and `/run` of its own; for a job of
//! the user's ([`Io::Own`]) all of it but `/run`, `/dev`, `/proc` and `/sys` can be written to.

use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use std::{env, fs};

use crate::cache::Cache;
use crate::paths;

pub mod boot;
pub mod command;
pub mod io;
mod l1;
mod qemu;
pub mod run;
mod vmrun;

/// The job's directory as L1 sees it, whatever the job's [`Io`].
pub const OUT: &str = "/run/lab";

/// Where VMMs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// In L1.
    Lab,
    /// On this machine's KVM.
    Host,
}

impl FromStr for On {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lab" => Ok(Self::Lab),
            "host" => Ok(Self::Host),
            _ => Err(format!("{text}: neither lab nor host")),
        }
    }
}

/// How L1 runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Two CPUs, as fast as it goes.
    Fast,
    /// One CPU, and the clock advances 1 ns for each instruction, in L1 and its guests.
    Stopwatch,
    /// Two CPUs, of which one runs at a time, and the clock advances 1 ns for each instruction of either:
    /// for many guests at once, which [`Mode::Fast`] now and then has hang.
    InTurn,
}

/// Something to run in L1.
pub struct Job {
    /// How L1 runs.
    pub mode: Mode,
    /// POSIX shell script, run as root. tracefs and debugfs are mounted below `/sys/kernel`,
    /// `BRISK_LAB` is `fast` or `stopwatch`.
    pub script: String,
    /// Where the script's input comes from and its output goes, and which files it sees.
    pub io: Io,
    /// Directories of this machine in which what the script writes stays, for [`Io::Own`].
    pub kept: Vec<PathBuf>,
    /// Files copied into the job directory: L1 sees them as `/tmp/out/NAME`. Programs and files
    /// elsewhere on this machine can be used by their own path, but for those below `/tmp`, `/run`,
    /// `/dev`, `/proc` and `/sys`: these are at `/run/host/PATH`. The workspace, cargo's target
    /// folder and the cache are at their own path wherever they are.
    pub files: Vec<(PathBuf, String)>,
    /// Memory of L1 in MiB.
    pub memory_mib: u32,
    /// 2 MiB huge pages to reserve in L1.
    pub hugepages: u32,
    /// Whether L1's kernel says in its log what filters of system calls would have it say (`type=1326`).
    pub audit: bool,
    /// L1 is killed after this time.
    pub timeout: Duration,
    /// Whether L1's console is shown while it comes, each line after `L1| `.
    pub relay: bool,
}

/// A script's input and output, and the files that it sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Io {
    /// No input, and L1's console. Its working directory is the job's, `/tmp/out`; of this machine it
    /// sees what is said at [`Job::files`], read-only.
    Console,
    /// The caller's own, a terminal of its own where `terminal`. It starts in the caller's directory
    /// and sees all files at their own paths; what it writes goes to L1's memory.
    Own {
        /// See [`io::on_terminal`].
        terminal: bool,
    },
}

/// What a job left.
pub struct Output {
    /// The job's directory, with what the script wrote to `/tmp/out`. Removed with this struct.
    pub dir: PathBuf,
    /// What the script (and L1's kernel, if it had to complain) wrote to the console.
    pub console: String,
    /// The script's exit status; [`io::ENDED`] where the user ended L1.
    pub status: i32,
    _guard: tempfile::TempDir,
}

impl Output {
    fn of(guard: tempfile::TempDir, console: String, status: i32) -> Self {
        Self { dir: guard.path().to_path_buf(), console, status, _guard: guard }
    }
}

impl Default for Job {
    /// Fast mode, 4 GiB, 5 minutes, nothing to run.
    fn default() -> Self {
        Self {
            mode: Mode::Fast,
            script: String::new(),
            io: Io::Console,
            kept: Vec::new(),
            files: Vec::new(),
            memory_mib: 4096,
            hugepages: 0,
            audit: false,
            timeout: Duration::from_secs(300),
            relay: false,
        }
    }
}

/// Makes sure that L1's kernel and initrd are in the cache.
///
/// # Errors
/// The kernel package cannot be fetched or the cache cannot be written.
pub fn ensure(cache: &Cache) -> Result<()> {
    l1::ensure(cache).map(drop)
}

/// L1's kernel, which is Debian's: unpacked where xtask knows how.
///
/// # Errors
/// As [`ensure`].
pub fn kernel(cache: &Cache) -> Result<PathBuf> {
    Ok(l1::ensure(cache)?.kernel)
}

/// A line of shell that loads what tests need in L1, from the cache: disks that are files, and ext4. One
/// for a crypto instruction that the CPU lacks fails, and that is fine.
///
/// # Errors
/// As [`ensure`].
pub fn load_modules(cache: &Cache) -> Result<String> {
    let modules = quote(&l1::ensure(cache)?.modules.to_string_lossy());
    Ok(format!("for module in {modules}/*.ko; do insmod $module 2> /dev/null; done\n"))
}

/// Runs a job in L1 and waits for its end.
///
/// # Errors
/// L1 did not come up, died (the end of its console is in the error) or took longer than the
/// timeout. A script that fails is no error: see [`Output::status`].
pub fn run(job: &Job) -> Result<Output> {
    let cache = Cache::open()?;
    let l1 = l1::ensure(&cache)?;
    let guard = tempfile::Builder::new().prefix("brisk-lab-").tempdir()?;
    let dir = guard.path();
    fs::create_dir(dir.join(".lab"))?;
    fs::write(dir.join(".lab/script"), &job.script)?;
    let start = match job.io {
        Io::Console => start(job.mode, &[paths::workspace(), &paths::target()?, cache.root()]),
        Io::Own { terminal } => {
            fs::write(dir.join(".lab/own"), "")?;
            let here = env::current_dir().context("the working directory")?;
            command::start(job, terminal, &here)
        }
    };
    fs::write(dir.join(".lab/start"), start)?;
    for (from, name) in &job.files {
        let to = dir.join(name);
        fs::create_dir_all(to.parent().unwrap_or(dir))?;
        fs::copy(from, &to).with_context(|| format!("{}: cannot copy", from.display()))?;
    }
    let _turn = turn()?;
    let end = qemu::run(job, &l1, dir)?;
    if let Some(status) = end.ended {
        if status == io::ENDED {
            eprintln!("\nlab: L1 was ended by Ctrl-]");
        }
        return Ok(Output::of(guard, end.console, status));
    }
    let Ok(status) = fs::read_to_string(dir.join(".lab/status")) else {
        let why = if end.timed_out { "was still running after" } else { "died within" };
        bail!(
            "lab: L1 {why} {} s; the end of its console:\n{}\n{}",
            job.timeout.as_secs(),
            end_of(&end.console),
            end_of(&end.complaints)
        );
    };
    let status = status.trim().parse().context("lab: exit status of the script")?;
    Ok(Output::of(guard, end.console, status))
}

/// On a machine that several use, labs can take turns: `BRISK_LAB_LOCK` names a file for `flock`, and
/// waiting for it is not in a job's timeout.
fn turn() -> Result<Option<fs::File>> {
    let Some(path) = env::var_os("BRISK_LAB_LOCK") else { return Ok(None) };
    let cannot = || format!("BRISK_LAB_LOCK={}", Path::new(&path).display());
    let file = fs::OpenOptions::new().create(true).append(true).open(&path).with_context(cannot)?;
    file.lock().with_context(cannot)?;
    Ok(Some(file))
}

/// As [`run()`], in another L1, once, where the first one's kernel panicked. Seen now and then, with two CPUs:
/// one came upon an instruction that the other was just patching. What the job does is not at fault.
///
/// # Errors
/// As [`run()`].
pub fn run_again(job: &Job) -> Result<Output> {
    run(job).or_else(|end| {
        anyhow::ensure!(end.to_string().contains("Kernel panic - not syncing"), end);
        println!("{end:#}\nL1's own kernel panicked; the same is run again in another");
        run(job)
    })
}

/// The shell program that L1's init ends in. `visible` directories get to their own path again
/// where a mount of L1 hides them.
fn start(mode: Mode, visible: &[&Path]) -> String {
    let mut text = String::new();
    for dir in visible.iter().filter(|dir| hidden(dir)) {
        let dir = quote(&dir.to_string_lossy());
        let _ = writeln!(text, "mkdir -p {dir}; mount --bind /run/host{dir} {dir}");
    }
    let _ = write!(
        text,
        "stty -onlcr -echo < /dev/console\n{}TERM=dumb\n\
         cd /tmp/out\n\
         /bin/sh .lab/script < /dev/null\n\
         echo $? > /tmp/out/.lab/status\n{OFF}",
        environment(mode)
    );
    text
}

/// How L1 ends. stty waits for the console to be written out. QEMU ends with the write to I/O port
/// 0xf4, which is faster than to power off; the kernel's panic after that is for a machine without it.
const OFF: &str = "stty onlcr < /dev/console\n\
                   printf 0 | dd of=/dev/port bs=1 seek=244 2> /dev/null\n";

/// Exports: what PATH has here holds there too.
fn environment(mode: Mode) -> String {
    let mode = match mode {
        Mode::Fast => "fast",
        Mode::Stopwatch | Mode::InTurn => "stopwatch",
    };
    let path = quote(&env::var("PATH").unwrap_or_default());
    let home = quote(&env::var("HOME").unwrap_or_default());
    format!(
        "export PATH={path}:/usr/sbin:/usr/bin:/sbin:/bin HOME={home} BRISK_LAB={mode}\nexport "
    )
}

/// Whether L1 has a mount of its own over `path`.
fn hidden(path: &Path) -> bool {
    ["/tmp", "/run", "/dev", "/proc", "/sys"].iter().any(|own| path.starts_with(own))
}

/// The path by which L1 sees a file of this machine.
pub fn path_in_l1(path: &Path) -> PathBuf {
    match path.strip_prefix("/") {
        Ok(rest) if hidden(path) => Path::new("/run/host").join(rest),
        _ => path.to_path_buf(),
    }
}

/// `word` as one word of a shell command.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The part of a console that tells why it ended: a panic's first lines, else the last ones.
fn end_of(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let last = lines.len().saturating_sub(15);
    let from = lines.iter().position(|line| line.contains("Kernel panic")).unwrap_or(last);
    lines.get(from..).unwrap_or_default().iter().take(15).copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn quotes_for_the_shell() {
        for word in ["", "a b", "it's", "$HOME", "a\nb", "/plain/path", "*", "a=b", "\\"] {
            let output =
                Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output();
            assert_eq!(output.unwrap().stdout, word.as_bytes());
        }
        assert_eq!(quote("/plain/path"), "/plain/path");
    }

    #[test]
    fn paths_hidden_by_mounts_of_l1() {
        assert_eq!(path_in_l1(Path::new("/tmp/a")), Path::new("/run/host/tmp/a"));
        assert_eq!(path_in_l1(Path::new("/tmpfile")), Path::new("/tmpfile"));
        let text = start(Mode::Fast, &[Path::new("/home/a"), Path::new("/tmp/b c")]);
        assert!(text.contains("mount --bind /run/host'/tmp/b c' '/tmp/b c'\n"), "{text}");
        assert!(!text.contains("/home/a\n"), "{text}");
        let check = Command::new("sh").args(["-n", "-c", &text]).status();
        assert!(check.unwrap().success(), "{text}");
    }

    #[test]
    fn the_end_of_a_console() {
        assert_eq!(end_of("a\nb\n"), "a\nb");
        assert_eq!(end_of(""), "");
        let long = "line\n".repeat(100) + "last";
        assert_eq!(end_of(&long).lines().count(), 15);
        assert!(end_of(&long).ends_with("\nlast"));
        let panic = format!("before\n[1] Kernel panic - not syncing\n{long}");
        assert!(end_of(&panic).starts_with("[1] Kernel panic"));
        assert_eq!(end_of(&panic).lines().count(), 15);
    }
}
