//! A directory with a kernel in it, and brisk refusing to run it.

use std::process::Command;
use std::sync::LazyLock;

use super::common::kernel::{Code, Elf};
use super::common::{Scratch, brisk, has, run};

/// Powers off at once.
pub const OFF: Code = &[
    (&[0x66, 0xba, 0x00, 0x06], "mov dx,0x600"),
    (&[0xb0, 0x34], "mov al,0x34"),
    (&[0xee], "out dx,al"),
];
/// Exit status for the command line.
pub const USAGE: i32 = 2;
/// Exit status for the host and its files.
pub const FAILED: i32 = 1;

/// Each flag of the program's for an image: its path key, and what makes it not write.
pub static IMAGES: LazyLock<Vec<(&str, &str, &str)>> = LazyLock::new(|| {
    those([
        ("block", ("--disk", "path", "readonly=on")),
        ("pmem", ("--pmem", "file", "discard_writes=on")),
    ])
});

/// Each flag of the program's that writes a file: what it is given, with `PATH` where the path goes.
pub static OUTPUTS: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    those([
        ("boot-timer", ("--boot-log", "PATH")),
        ("exit-stats", ("--stats", "PATH")),
        ("trace", ("--trace", "PATH")),
        ("serial", ("--serial", "file=PATH")),
        ("console", ("--console", "file=PATH")),
    ])
});

/// The rows of features that the program has.
fn those<T, const N: usize>(rows: [(&str, T); N]) -> Vec<T> {
    rows.into_iter().filter(|(feature, _)| has(feature)).map(|(_, row)| row).collect()
}

/// A scratch directory with a kernel in it.
pub struct Place(pub Scratch);

impl Place {
    /// A kernel that powers off.
    pub fn new() -> Place {
        Place::with(&Elf::new(OFF, &[]).file())
    }

    /// Another kernel.
    pub fn with(kernel: &[u8]) -> Place {
        let scratch = Scratch::new();
        scratch.file("kernel", kernel);
        Place(scratch)
    }

    /// brisk with the kernel, little memory and `more`, in the scratch directory.
    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = brisk();
        command.current_dir(self.0.path("")).args(["--kernel", "kernel"]);
        if !more.contains(&"--memory") {
            command.args(["--memory", "size=16M"]);
        }
        command.args(more);
        command
    }

    /// Runs brisk, which has to refuse: with this status, one line that has all of `parts`, and no
    /// file made or changed.
    #[track_caller]
    pub fn refuses(&self, more: &[&str], status: i32, parts: &[&str]) {
        self.command_refuses(&mut self.command(more), status, parts);
    }

    /// The same for a command made elsewhere.
    #[track_caller]
    pub fn command_refuses(&self, command: &mut Command, status: i32, parts: &[&str]) {
        let before = self.0.names();
        let ended = run(command).with_status(status);
        assert_eq!(self.0.names(), before, "files left behind: {ended:?}");
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.starts_with("brisk: "), "{}", ended.stderr);
        for part in parts {
            assert!(ended.stderr.contains(part), "no `{part}` in: {}", ended.stderr);
        }
    }
}
