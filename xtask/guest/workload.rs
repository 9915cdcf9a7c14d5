//! A workload: a program from an image, run as a container's is, and its exit status handed to brisk.
//!
//! The file `/config` of the initramfs says what and how: `KEY=VALUE`, a NUL behind each.
//!
//! | key | value |
//! |---|---|
//! | `root` | the device with the image, `/dev/pmem0` |
//! | `type` | its file system |
//! | `writable` | `tmpfs`: what is written goes to memory; `disk`: to the ext4 on `/dev/vda`; `image`: to the image; `no`: nothing can be written |
//! | `terminal` | `yes`: the program's streams are the console, which is its terminal |
//! | `init` | what goes on as process 1 in the place of all that follows, with the console |
//! | `hostname` | the host's name |
//! | `uid`, `gid` | numbers |
//! | `group` | the number of one more group; may be repeated |
//! | `cwd` | the working directory |
//! | `env` | `NAME=VALUE`; may be repeated |
//! | `command` | a word of the command line; may be repeated |
//! | `argument` | a word that follows where brisk has none; may be repeated |

use crate::root;
use crate::streams::Streams;
use crate::sys::{self, O_CLOEXEC, O_RDWR, Path, call, cut, errno, memory, nr, number, open};
use crate::terminal;

/// Where the exit status goes, and where "switch off" (`brisk_boot::layout`).
const EXIT_STATUS_PORT: u16 = 0x84;
const SLEEP_CONTROL_PORT: u16 = 0x600;
const SLEEP_CONTROL_OFF: u8 = 0x34;
/// Statuses as docker has them: init's own failure, a program that cannot be run, one that is not there.
const OWN: u8 = 125;
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

const SIGCHLD: u64 = 17;

/// The file's content.
#[derive(Clone, Copy)]
pub struct Config(&'static [u8]);

/// What `/config` has, if it is there.
pub fn config() -> Option<Config> {
    let file = open(c"/config".to_bytes_with_nul(), O_CLOEXEC);
    if file.cast_signed() < 0 {
        return None;
    }
    let text = memory(1 << 20);
    let mut length = 0;
    loop {
        match sys::read(file, text.get_mut(length..).unwrap_or_default()) {
            0 => break,
            count => length += count,
        }
    }
    sys::close(file);
    Some(Config(text.get(..length).unwrap_or_default()))
}

impl Config {
    /// The values of `key`, each with its NUL.
    fn all(self, key: &'static [u8]) -> impl Iterator<Item = &'static [u8]> + Clone {
        let lines = self.0.split_inclusive(|byte| *byte == 0);
        lines.filter_map(move |line| line.strip_prefix(key)?.strip_prefix(b"="))
    }

    /// The value of `key` without its NUL, or nothing.
    pub fn one(self, key: &'static [u8]) -> &'static [u8] {
        self.all(key).next().and_then(|value| value.strip_suffix(b"\0")).unwrap_or_default()
    }

    fn number(self, key: &'static [u8]) -> usize {
        number(self.one(key), 10)
    }
}

/// Runs it, and switches the machine off.
pub fn run(config: Config, has_arguments: bool) -> ! {
    for _ in 0..3 {
        // So that no pipe gets the number of a standard stream.
        open(c"/dev/null".to_bytes_with_nul(), O_RDWR | O_CLOEXEC);
    }
    let own = !config.one(b"init").is_empty() || !config.one(b"terminal").is_empty();
    let mut streams = if own { None } else { Streams::open() };
    if let Err(problem) = root::prepare(config) {
        for part in [b"brisk-init: ".as_slice(), problem, b"\n"] {
            match &streams {
                Some(streams) => streams.complain(part),
                None => sys::print(part),
            }
        }
        end(OWN);
    }
    let given = match (&mut streams, has_arguments) {
        (Some(streams), true) => &*streams.arguments(),
        _ => &[],
    };
    let command = config.all(b"command");
    let arguments = match has_arguments {
        true => pointers(command.chain(given.split_inclusive(|byte| *byte == 0))),
        false => pointers(command.chain(config.all(b"argument"))),
    };
    let environment = pointers(config.all(b"env"));
    if !config.one(b"init").is_empty() {
        become_init(config, environment);
    }
    let signals = watch_children();
    let ends = streams.as_mut().map(Streams::pipes);
    let main = call(nr::FORK, [0; 6]);
    if main == 0 {
        become_workload(config, ends, arguments, environment);
    }
    for end in ends.into_iter().flatten() {
        sys::close(end);
    }
    let status = match &mut streams {
        Some(streams) => streams.serve(main, signals),
        None => loop {
            if let Some(status) = reap(signals, main) {
                break status;
            }
        },
    };
    if [&b"image"[..], b"disk"].contains(&config.one(b"writable")) {
        // Whoever still writes ends first; then all is on the image.
        call(nr::KILL, [usize::MAX, 9, 0, 0, 0, 0]);
        call(nr::SYNC, [0; 6]);
        root::close();
    }
    end(status)
}

/// The image's own init takes over, the first that there is.
fn become_init(config: Config, environment: &'static [usize]) -> ! {
    terminal::streams(terminal::console());
    call(nr::IOPL, [0; 6]);
    for init in config.all(b"init") {
        let arguments = [init.as_ptr(), core::ptr::null()];
        let pointers = [init.as_ptr(), arguments.as_ptr().cast(), environment.as_ptr().cast()];
        let [path, arguments, environment] = pointers.map(|pointer: *const u8| pointer as usize);
        call(nr::EXECVE, [path, arguments, environment, 0, 0, 0]);
    }
    sys::print(
        b"brisk-init: the root has no init that can be executed; give a command, or --shell\n",
    );
    call(nr::IOPL, [3, 0, 0, 0, 0, 0]);
    end(OWN);
}

/// Hands brisk the status and switches off.
fn end(status: u8) -> ! {
    sys::out(EXIT_STATUS_PORT, status);
    sys::out(SLEEP_CONTROL_PORT, SLEEP_CONTROL_OFF);
    crate::verbs::poweroff(b"");
    sys::exit(status.into())
}

/// SIGCHLD is told by a descriptor from now on.
fn watch_children() -> usize {
    let set: u64 = 1 << (SIGCHLD - 1);
    signal_mask(0, set); // SIG_BLOCK
    call(nr::SIGNALFD4, [usize::MAX, &raw const set as usize, 8, O_CLOEXEC, 0, 0])
}

fn signal_mask(how: usize, set: u64) {
    call(nr::RT_SIGPROCMASK, [how, &raw const set as usize, 0, 8, 0, 0]);
}

/// `signals` said that children ended: the exit status where process `main` was one of them.
pub fn reap(signals: usize, main: usize) -> Option<u8> {
    let mut information = [0; 128]; // struct signalfd_siginfo
    sys::read(signals, &mut information);
    reap_all(main)
}

fn reap_all(main: usize) -> Option<u8> {
    const WNOHANG: usize = 1;
    let mut found = None;
    loop {
        let mut status = 0_i32;
        let who =
            call(nr::WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG, 0, 0, 0]).cast_signed();
        if who <= 0 {
            return found;
        }
        if who.cast_unsigned() == main {
            let signal = status & 0x7f;
            let code = if signal == 0 { status >> 8 } else { 128 + signal };
            found = Some(code as u8);
        }
    }
}

/// The child: becomes the workload, or says why it cannot.
fn become_workload(
    config: Config,
    ends: Option<[usize; 3]>,
    arguments: &'static [usize],
    environment: &'static [usize],
) -> ! {
    let user = config.number(b"uid");
    for (number, end) in ends.into_iter().flatten().enumerate() {
        // So that the user may open /dev/stdout, which is the pipe, again.
        call(nr::FCHOWN, [end, user, config.number(b"gid"), 0, 0, 0]);
        call(nr::DUP2, [end, number, 0, 0, 0, 0]);
    }
    signal_mask(1, 1 << (SIGCHLD - 1)); // SIG_UNBLOCK
    match config.one(b"terminal") {
        b"" => drop(call(nr::SETSID, [0; 6])),
        _ => terminal::take(),
    }
    let directory = Path::new(config.one(b"cwd"));
    if root::chdir(directory.bytes()) != 0 {
        fail(OWN, directory.bytes(), b"no such working directory");
    }
    let groups = memory(4 * config.all(b"group").count());
    for (to, group) in groups.chunks_exact_mut(4).zip(config.all(b"group")) {
        let group = number(group.strip_suffix(b"\0").unwrap_or_default(), 10);
        to.copy_from_slice(&(group as u32).to_ne_bytes());
    }
    call(nr::SETGROUPS, [groups.len() / 4, groups.as_ptr() as usize, 0, 0, 0, 0]);
    call(nr::SETGID, [config.number(b"gid"), 0, 0, 0, 0, 0]);
    if call(nr::SETUID, [user, 0, 0, 0, 0, 0]) != 0 {
        fail(OWN, b"", b"the kernel has no users (CONFIG_MULTIUSER)");
    }
    // What init has and nobody else is to have: I/O ports.
    call(nr::IOPL, [0; 6]);
    let mut words = config.all(b"command");
    // The first argument, where the image names no command.
    let first = arguments.first().copied().filter(|pointer| *pointer != 0);
    let Some(first) = first else { fail(OWN, b"", b"no command: the image has none, give one") };
    let name = words.next().unwrap_or_else(|| text(first));
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let mut problem = errno::NOENT;
    let mut execute = |path: &[u8]| {
        let pointers = [path.as_ptr(), arguments.as_ptr().cast(), environment.as_ptr().cast()];
        let [path, arguments, environment] = pointers.map(|pointer: *const u8| pointer as usize);
        match call(nr::EXECVE, [path, arguments, environment, 0, 0, 0]).cast_signed() {
            errno::NOENT | errno::NOTDIR => {}
            other => problem = other,
        }
    };
    if name.contains(&b'/') {
        execute(text(first));
    } else {
        for directory in path(config).split(|byte| *byte == b':') {
            if let Some(path) = Path::join(directory, name) {
                execute(path.bytes());
            }
        }
    }
    match problem {
        errno::NOENT => fail(NOT_FOUND, name, b"not found"),
        errno::ACCES => fail(NOT_RUNNABLE, name, b"permission denied"),
        _ => fail(NOT_RUNNABLE, name, b"cannot be executed"),
    }
}

/// Where programs without a `/` are looked for.
fn path(config: Config) -> &'static [u8] {
    let values = config.all(b"env").filter_map(|value| value.strip_prefix(b"PATH="));
    let value = values.last().and_then(|value| value.strip_suffix(b"\0"));
    value.unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// The NUL-terminated string at one of the addresses that [`pointers`] made.
fn text(at: usize) -> &'static [u8] {
    // SAFETY: `at` is the start of a slice that ends with NUL and stays.
    unsafe { core::ffi::CStr::from_ptr(at as *const _) }.to_bytes_with_nul()
}

fn fail(status: u8, what: &[u8], why: &[u8]) -> ! {
    let what = cut(what, 0).0;
    let colon: &[u8] = if what.is_empty() { b"" } else { b": " };
    for part in [b"brisk-init: ".as_slice(), what, colon, why, b"\n"] {
        sys::write_all(2, part);
    }
    sys::exit(status.into())
}

/// The addresses of `texts` and a null behind them, as execve takes them.
fn pointers(texts: impl Iterator<Item = &'static [u8]> + Clone) -> &'static [usize] {
    let count = texts.clone().count();
    let room = memory((count + 1) * size_of::<usize>());
    let (_, room, _) =
        // SAFETY: any bytes are a usize.
        unsafe { room.align_to_mut::<usize>() };
    for (to, text) in room.iter_mut().zip(texts) {
        *to = text.as_ptr() as usize;
    }
    room.get(..=count).unwrap_or_default()
}
