//! A workload: a program from an image, run as a container's is, and its exit status handed to brisk.
//!
//! The file `/config` of the initramfs says what and how: `KEY=VALUE`, a NUL behind each.
//!
//! | key | value |
//! |---|---|
//! | `root` | the device with the image, `/dev/pmem0` |
//! | `type` | its file system |
//! | `writable` | `tmpfs`: what is written goes to memory; `no`: nothing can be written; `image`: the image |
//! | `terminal` | `yes`: the program's streams are the console, which is its terminal |
//! | `init` | what goes on as process 1 in the place of all that follows, with the console |
//! | `hostname` | the host's name |
//! | `uid`, `gid` | numbers |
//! | `group` | the number of one more group; may be repeated |
//! | `cwd` | the working directory |
//! | `env` | `NAME=VALUE`; may be repeated |
//! | `command` | a word of the command line; may be repeated |
//! | `argument` | a word that follows where brisk has none; may be repeated |

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

const MS_RDONLY: usize = 1;
const MS_NOSUID: usize = 2;
const MS_REMOUNT: usize = 32;
const MS_MOVE: usize = 8192;
const SIGCHLD: u64 = 17;
/// A device may appear a little after init has started. First whoever makes it appear is let run; a sleep is
/// as long as a tick of the kernel's, of 4 ms.
const TRIES: usize = 21_000;
const SLEEPS: usize = 20_000;

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
    fn one(self, key: &'static [u8]) -> &'static [u8] {
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
    if let Err(problem) = prepare(config) {
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
    if config.one(b"writable") == b"image" {
        // Whoever still writes ends first; then all is on the image.
        call(nr::KILL, [usize::MAX, 9, 0, 0, 0, 0]);
        call(nr::SYNC, [0; 6]);
        mount(b"\0", b"/\0", b"\0", MS_REMOUNT | MS_RDONLY, b"\0");
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

/// Makes the image the root, and of a bare root what programs expect.
fn prepare(config: Config) -> Result<(), &'static [u8]> {
    let (device, kind) = (Path::new(config.one(b"root")), Path::new(config.one(b"type")));
    let writable = config.one(b"writable");
    let tmpfs = writable == b"tmpfs";
    let flags = if writable == b"image" { 0 } else { MS_RDONLY };
    let at: &[u8] = if tmpfs { b"/lower\0" } else { b"/root\0" };
    mkdir(at);
    let mut tries = TRIES;
    let mut options: &[u8] = b"dax\0";
    loop {
        match mount(device.bytes(), at, kind.bytes(), flags, options) {
            0 => break,
            errno::NOENT | errno::NXIO if tries > 0 => {
                tries -= 1;
                if tries > SLEEPS {
                    call(nr::SCHED_YIELD, [0; 6]);
                    continue;
                }
                call(nr::NANOSLEEP, [[0_usize, 50_000].as_ptr() as usize, 0, 0, 0, 0, 0]);
            }
            // A disk, and small blocks on a pmem.
            errno::INVAL if options.len() > 1 => options = b"\0",
            errno::NODEV => return Err(b"the kernel does not know the image's file system"),
            errno::NOENT | errno::NXIO => {
                return Err(
                    b"the kernel has no driver for the device of the image (CONFIG_VIRTIO_PMEM, \
                             CONFIG_VIRTIO_BLK, CONFIG_VIRTIO_MMIO)",
                );
            }
            _ => return Err(b"the kernel cannot mount the image"),
        }
    }
    if tmpfs {
        for directory in [&b"/root\0"[..], b"/rw\0"] {
            mkdir(directory);
        }
        mount(b"tmpfs\0", b"/rw\0", b"tmpfs\0", 0, b"mode=755\0");
        for directory in [&b"/rw/upper\0"[..], b"/rw/work\0"] {
            mkdir(directory);
        }
        let options = b"lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work\0";
        if mount(b"overlay\0", b"/root\0", b"overlay\0", 0, options) != 0 {
            return Err(
                b"the kernel has no overlayfs (CONFIG_OVERLAY_FS), or writable=no is to be given",
            );
        }
    }
    for (from, to) in [
        (&b"/dev\0"[..], &b"/root/dev\0"[..]),
        (b"/proc\0", b"/root/proc\0"),
        (b"/sys\0", b"/root/sys\0"),
    ] {
        mkdir(to);
        if mount(from, to, b"\0", MS_MOVE, b"\0") != 0 {
            return Err(
                b"the image has no directory /dev, /proc or /sys, and cannot be written to",
            );
        }
    }
    chdir(b"/root\0");
    mount(b".\0", b"/\0", b"\0", MS_MOVE, b"\0");
    call(nr::CHROOT, [b".\0".as_ptr() as usize, 0, 0, 0, 0, 0]);
    chdir(b"/\0");
    for (at, kind, options) in [
        (&b"/dev/pts\0"[..], &b"devpts\0"[..], &b"ptmxmode=666\0"[..]),
        (b"/dev/shm\0", b"tmpfs\0", b"mode=1777\0"),
    ] {
        mkdir(at);
        mount(kind, at, kind, MS_NOSUID, options);
    }
    for (to, name) in [
        (c"/proc/self/fd", c"/dev/fd"),
        (c"/proc/self/fd/0", c"/dev/stdin"),
        (c"/proc/self/fd/1", c"/dev/stdout"),
        (c"/proc/self/fd/2", c"/dev/stderr"),
        (c"pts/ptmx", c"/dev/ptmx"),
    ] {
        call(nr::SYMLINK, [to.as_ptr() as usize, name.as_ptr() as usize, 0, 0, 0, 0]);
    }
    if tmpfs {
        mkdir(b"/tmp\0");
        const MODE: usize = 0o1777;
        call(nr::CHMOD, [b"/tmp\0".as_ptr() as usize, MODE, 0, 0, 0, 0]);
    }
    let name = config.one(b"hostname");
    call(nr::SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]);
    loopback();
    Ok(())
}

/// Switches `lo` on, where the kernel has a network.
fn loopback() {
    const AF_INET: usize = 2;
    const SOCK_DGRAM: usize = 2;
    const SIOCSIFFLAGS: usize = 0x8914;
    let socket = call(nr::SOCKET, [AF_INET, SOCK_DGRAM | O_CLOEXEC, 0, 0, 0, 0]);
    if socket.cast_signed() < 0 {
        return;
    }
    // struct ifreq: the name, then the flags, of which IFF_UP is the first.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16] = 1;
    call(nr::IOCTL, [socket, SIOCSIFFLAGS, request.as_ptr() as usize, 0, 0, 0]);
    sys::close(socket);
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
    if chdir(directory.bytes()) != 0 {
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

/// What is given ends with NUL, here and below.
fn mount(from: &[u8], to: &[u8], kind: &[u8], flags: usize, options: &[u8]) -> isize {
    let [from, to, kind, options] = [from, to, kind, options].map(|text| text.as_ptr() as usize);
    call(nr::MOUNT, [from, to, kind, flags, options, 0]).cast_signed()
}

fn mkdir(path: &[u8]) {
    call(nr::MKDIR, [path.as_ptr() as usize, 0o755, 0, 0, 0, 0]);
}

fn chdir(path: &[u8]) -> usize {
    call(nr::CHDIR, [path.as_ptr() as usize, 0, 0, 0, 0, 0])
}
