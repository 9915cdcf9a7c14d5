//! Runs the tests against each mutant.

use anyhow::{Context, Result, ensure};
use duct::cmd;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::build::Copy;
use super::switch::Mutant;
use crate::debian;
use crate::parallel;
use crate::ui::Step;

/// What became of a mutant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A test failed.
    Seen,
    /// A test took so long that it was ended.
    TooLate,
    /// All tests that reach it passed.
    Survived,
    /// No test reaches it.
    Unreached,
    /// In what the compiler evaluates, or it does not compile.
    NotBuilt,
}

/// One test, and what it reaches.
struct Test {
    program: PathBuf,
    dir: PathBuf,
    name: String,
    took: Duration,
    /// A byte for each mutant; none where it fails while it is looked at, which counts system calls: such a
    /// test is asked last.
    reaches: Option<Vec<u8>>,
}

/// Two at a time, as the tests wait for a guest now and then.
const JOBS: usize = 2;

/// The fate of each of `mutants`, in order.
///
/// # Errors
/// The tests cannot be run.
pub fn all(copy: &Copy, mutants: &[Mutant]) -> Result<Vec<Fate>> {
    let tests = looked_at(copy, mutants.len())?;
    let mut step = Step::counted("each mutant", mutants.len() as u64);
    let mut fates: Vec<Result<Fate>> = mutants.iter().map(|_| Ok(Fate::NotBuilt)).collect();
    let indices: Vec<usize> = (0..mutants.len()).collect();
    parallel::each(
        JOBS,
        &indices,
        |_, index| {
            let number = index as u32 + 1;
            copy.built.contains(&number).then(|| of_one(&tests, number))
        },
        |index, found| {
            if matches!(found, Some(Ok(Fate::Survived | Fate::Unreached))) {
                eprintln!("  survived: {}", mutants[index].name);
            }
            if let Some(found) = found {
                fates[index] = found;
            }
            step.tick();
        },
    );
    step.done();
    fates.into_iter().collect()
}

fn of_one(tests: &[Test], number: u32) -> Result<Fate> {
    let reaches = |test: &Test| {
        test.reaches.as_ref().is_none_or(|map| map.get(number as usize).is_some_and(|it| *it != 0))
    };
    let mut reached = false;
    for test in tests.iter().filter(|test| reaches(test)) {
        reached |= test.reaches.is_some();
        let limit = test.took * 8 + Duration::from_secs(10);
        match test.run(&[("BRISK_MUTANT", number.to_string())], limit)? {
            Some(true) => {}
            Some(false) => return Ok(Fate::Seen),
            None => return Ok(Fate::TooLate),
        }
    }
    Ok(if reached { Fate::Survived } else { Fate::Unreached })
}

/// Runs each test as it is: how long it takes, and which mutants it reaches. The fastest come first.
fn looked_at(copy: &Copy, mutants: usize) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for (program, dir) in &copy.tests {
        let list = cmd!(program, "--list", "--format", "terse").dir(dir).read()?;
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        tests.extend(names.map(|name| Test {
            program: program.clone(),
            dir: dir.clone(),
            name: name.to_owned(),
            took: Duration::ZERO,
            reaches: None,
        }));
    }
    ensure!(!tests.is_empty(), "there are no tests in {}", copy.dir.display());
    let mut step = Step::counted("what each test reaches", tests.len() as u64);
    let map = tempfile::NamedTempFile::new()?;
    let path = map.path().to_str().context("the path of a temporary file")?.to_owned();
    let limit = Duration::from_secs(120);
    let mut sound = Vec::new();
    for mut test in tests {
        fs::write(&path, vec![0; mutants + 1])?;
        let since = Instant::now();
        let passed = test.run(&[("BRISK_MUTANT_MAP", path.clone())], limit)? == Some(true);
        test.took = since.elapsed();
        if passed {
            test.reaches = Some(fs::read(&path)?);
            sound.push(test);
        } else if test.run(&[], limit)? == Some(true) {
            sound.push(test);
        } else {
            eprintln!("  fails without a mutant, so it is left out: {}", test.name);
        }
        step.tick();
    }
    step.done();
    sound.sort_by_key(|test| (test.reaches.is_none(), test.took));
    Ok(sound)
}

impl Test {
    /// Whether it passes; `None` if it takes longer than `limit`.
    ///
    /// # Errors
    /// It cannot be started, which says nothing of a mutant.
    fn run(&self, env: &[(&str, String)], limit: Duration) -> Result<Option<bool>> {
        let scratch = tempfile::tempdir()?;
        let child = self
            .command()
            .args(["--exact", &self.name])
            .env("TMPDIR", scratch.path())
            .current_dir(&self.dir)
            .env("CARGO_MANIFEST_DIR", &self.dir)
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .envs(env.iter().map(|(key, value)| (*key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a test leaves behind is ended with it.
            .process_group(0)
            .spawn();
        let mut child = child.with_context(|| self.program.display().to_string())?;
        let since = Instant::now();
        let passed = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status.success()),
                Ok(None) if since.elapsed() < limit => thread::sleep(Duration::from_millis(5)),
                _ => break None,
            }
        };
        end(&mut child);
        Ok(passed)
    }

    /// The program, with a `/dev/shm` of its own where one may be mounted: what a test leaves that is ended
    /// in the middle, a disk that a mutant has filled for instance, goes with it.
    fn command(&self) -> Command {
        if !debian::is_root() {
            return Command::new(&self.program);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev/shm && exec \"$@\"", "sh"]);
        command.arg(&self.program);
        command
    }
}

fn end(child: &mut Child) {
    // SAFETY: kill takes two numbers; the group is the child's own.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    let _ = child.wait();
}
