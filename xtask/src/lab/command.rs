//! `cargo xtask lab`: any command under a real KVM, with this machine's files and the caller's terminal.

use anyhow::{Context, Result, bail, ensure};
use argh::FromArgs;
use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Io, Job, Mode, OFF, OUT, environment, hidden, io, path_in_l1, quote, run};

/// Run a command in L1, a virtual machine with a real KVM: cargo xtask lab -- COMMAND…
///
/// It starts in this directory, as root, and sees this machine's files at their own paths; /dev, /proc,
/// /run and /sys are L1's. It can write anywhere, to memory: what is to stay goes below a --keep DIR.
/// Standard input, output, errors and the exit status are the command's. On a terminal it has one of
/// its own, of this one's size: Ctrl-C is the command's, Ctrl-] ends L1.
#[derive(FromArgs)]
#[argh(subcommand, name = "lab")]
pub struct Args {
    /// a directory in which what is written stays; may be repeated
    #[argh(option)]
    keep: Vec<PathBuf>,
    /// one CPU and a clock that advances 1 ns per instruction
    #[argh(switch)]
    stopwatch: bool,
    /// memory of L1 in MiB (default 4096)
    #[argh(option, default = "4096")]
    memory: u32,
    /// huge pages of 2 MiB to reserve in L1 (default 0)
    #[argh(option, default = "0")]
    hugepages: u32,
    /// seconds until L1 is killed (default: 300, on a terminal none)
    #[argh(option)]
    timeout: Option<u64>,
    /// the command: one word is a shell script, more are a program and its arguments
    #[argh(positional, greedy)]
    command: Vec<String>,
}

/// Where a program has no terminal, L1 is killed after this time.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Ends with the command's exit status.
///
/// # Errors
/// A path that is not there; or the lab failed.
pub fn command(args: &Args) -> Result<ExitCode> {
    let script = match &args.command[..] {
        [] => bail!("lab: no command; say for example: cargo xtask lab -- ls -l /dev/kvm"),
        [script] => script.clone(),
        words => words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" "),
    };
    ensure!(args.memory >= 512, "--memory {}: L1 needs at least 512 MiB", args.memory);
    check(&args.command)?;
    let kept = args.keep.iter().map(|dir| keep(dir)).collect::<Result<_>>()?;
    crate::debian::ensure(crate::debian::BOOT)?;
    let mut job = Job {
        mode: if args.stopwatch { Mode::Stopwatch } else { Mode::Fast },
        script,
        kept,
        memory_mib: args.memory,
        hugepages: args.hugepages,
        ..own()
    };
    if let Some(seconds) = args.timeout {
        job.timeout = Duration::from_secs(seconds);
    }
    let output = run(&job)?;
    Ok(ExitCode::from(u8::try_from(output.status).unwrap_or(1)))
}

/// A job with the caller's streams, or terminal, and files.
pub fn own() -> Job {
    let terminal = io::on_terminal();
    if terminal {
        eprintln!("lab: starting its machine, some 20 s (Ctrl-] ends it)");
    }
    let timeout = if terminal { Duration::MAX } else { TIMEOUT };
    Job { io: Io::Own { terminal }, timeout, ..Job::default() }
}

/// A directory that is to be written to.
///
/// # Errors
/// There is none.
pub fn keep(dir: &Path) -> Result<PathBuf> {
    let path = dir.canonicalize().with_context(|| format!("--keep {}", dir.display()))?;
    ensure!(path.is_dir(), "--keep {}: no directory", dir.display());
    Ok(path)
}

/// Says what of a command is not there, before L1 boots: the program, and what brisk is to read.
///
/// # Errors
/// The first that is not there.
pub fn check(words: &[String]) -> Result<()> {
    let Some(program) = words.first() else { return Ok(()) };
    let is_script = words.len() == 1 && !program.starts_with(['.', '/']);
    let is_script = is_script || program.contains(|c: char| c.is_whitespace() || c == ';');
    if !is_script {
        // The shell knows PATH, and what it does itself.
        let known = duct::cmd!("sh", "-c", "command -v -- \"$1\" > /dev/null", "sh", program);
        let known = known.unchecked().stderr_null().run()?.status.success();
        ensure!(known || is_l1s(program), "lab: {program}: there is no such program here");
    }
    if Path::new(program).file_name().is_some_and(|name| name == "brisk") {
        check_inputs(words)?;
    }
    Ok(())
}

/// Says which of the files is not there that brisk's flags name as inputs.
///
/// # Errors
/// The first that is not there.
pub fn check_inputs(words: &[String]) -> Result<()> {
    let mut flag = "";
    for word in words {
        let (name, value) = match word.split_once('=') {
            _ if !word.starts_with("--") => (flag, Some(word.as_str())),
            Some((name, value)) => (name, Some(value)),
            None => (word.as_str(), None),
        };
        flag = name;
        let Some(value) = value else { continue };
        let key = |key: &str| value.split(',').find_map(|pair| pair.strip_prefix(key));
        let path = match name {
            "--kernel" | "--initramfs" => Some(value),
            "--disk" => key("path="),
            "--pmem" => key("file="),
            _ => None,
        };
        if let Some(path) = path.filter(|path| !path.contains('"')) {
            ensure!(Path::new(path).exists() || is_l1s(path), "{name} {path}: no such file");
        }
    }
    Ok(())
}

/// Whether only L1 knows if the file is there.
fn is_l1s(path: &str) -> bool {
    hidden(Path::new(path)) && !path.starts_with("/tmp")
}

/// The shell program that L1's init ends in, for a job of [`Io::Own`].
pub fn start(job: &Job, terminal: bool, here: &Path) -> String {
    let mut text = environment(job.mode);
    let term = env::var("TERM").unwrap_or_default();
    let _ = writeln!(text, "TERM={}", quote(if terminal { &term } else { "dumb" }));
    for (index, dir) in job.kept.iter().enumerate() {
        let dir = quote(&dir.to_string_lossy());
        let options = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap";
        let _ = writeln!(text, "mkdir -p {dir}; mount -t 9p -o {options} kept{index} {dir}");
    }
    // Below /run a directory of this machine's is at another path.
    let [own, other] = [here, &path_in_l1(here)].map(|dir| quote(&dir.to_string_lossy()));
    let _ = writeln!(text, "cd {own} 2> /dev/null || cd {other}");
    text += PORT;
    if terminal {
        if let Some((rows, columns)) = io::size() {
            let _ = writeln!(text, "size='rows {rows} columns {columns}'");
        }
        text += TERMINAL;
    } else {
        text += STREAMS;
    }
    let _ = writeln!(text, "sync\necho $status > {OUT}/.lab/status");
    text + OFF
}

/// The device of a port by its name, once it is there.
const PORT: &str = r#"
port() {
  while true; do
    for each in /sys/class/virtio-ports/*; do
      if [ "$(cat "$each/name" 2> /dev/null)" = "$1" ]; then echo "/dev/${each##*/}"; return; fi
    done
    sleep 0.01
  done
}
"#;

/// The script is the leader of the terminal's session, so that Ctrl-C and a new size reach what it runs.
/// The terminal is kept open; the last stty waits for it to be written out.
const TERMINAL: &str = r#"
control=$(port control)
exec 3<> /dev/hvc0
stty sane $size <&3
while read -r rows columns; do stty rows "$rows" columns "$columns" <&3; done < "$control" &
setsid --ctty --wait /bin/sh /run/lab/.lab/script <&3 >&3 2>&3 3<&-
status=$?
stty sane <&3
"#;

/// Pipes between, since a port can be opened once and programs open /dev/stdout again; input comes in
/// pieces with their lengths (see [`io`]). What is still
/// running when the script has ended may write for 5 s more.
const STREAMS: &str = r#"
mkdir /run/pipes
mkfifo /run/pipes/input /run/pipes/output /run/pipes/errors
while read -r count && [ "$count" -gt 0 ]; do head -c "$count" || break; done \
  < "$(port input)" > /run/pipes/input 2> /dev/null &
cat < /run/pipes/output > "$(port output)" &
output=$!
cat < /run/pipes/errors > "$(port errors)" &
errors=$!
/bin/sh /run/lab/.lab/script < /run/pipes/input > /run/pipes/output 2> /run/pipes/errors
status=$?
{ sleep 5; kill $output $errors; } 2> /dev/null &
wait $output $errors 2> /dev/null
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn error(text: &str) -> String {
        check(&words(text)).map_or_else(|e| format!("{e:#}"), |()| String::new())
    }

    #[test]
    fn what_is_not_there_is_said_before() {
        for fine in [
            "sh",
            "ls -l /nowhere",
            "cd /nowhere",
            "/run/only/in/l1 a",
            "brisk --kernel /proc/x",
            "for i in 1 2; do echo; done",
        ] {
            assert!(!error(fine).contains("no such file"), "{fine}: {}", error(fine));
        }
        assert_eq!(error("sh"), "");
        assert!(check(&["echo a; ls /nowhere".to_owned()]).is_ok());
        assert_eq!(
            error("no-such-program a"),
            "lab: no-such-program: there is no such program here"
        );
        assert_eq!(error("./nowhere"), "lab: ./nowhere: there is no such program here");
        let inputs = |text: &str| check_inputs(&words(text)).map_err(|e| e.to_string());
        for (line, wrong) in [
            ("--kernel /nowhere", "--kernel /nowhere"),
            ("--kernel=/nowhere", "--kernel /nowhere"),
            ("--disk path=/nowhere,readonly=on", "--disk /nowhere"),
            ("--pmem file=/bin/sh file=/nowhere", "--pmem /nowhere"),
        ] {
            assert_eq!(inputs(line).unwrap_err(), format!("{wrong}: no such file"));
        }
        for fine in ["--kernel /bin/sh --boot-log /nowhere", "--serial file=/nowhere", "--kernel"] {
            assert!(inputs(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn the_start_is_a_shell_program() {
        for terminal in [false, true] {
            let kept = vec!["/home/a b".into()];
            let job = Job { io: Io::Own { terminal }, kept, ..Job::default() };
            let text = start(&job, terminal, Path::new("/run/x y"));
            assert!(text.contains("kept0 '/home/a b'\n"), "{text}");
            assert!(
                text.contains("cd '/run/x y' 2> /dev/null || cd '/run/host/run/x y'"),
                "{text}"
            );
            let check = Command::new("sh").args(["-n", "-c", &text]).status();
            assert!(check.unwrap().success(), "{text}");
        }
    }
}
