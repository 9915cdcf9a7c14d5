//! What the host has to say to a VM that runs: each source has its own bit and its own signal, so that
//! one wakes nobody but the device that it is for.
//!
//! A signal's handler only sets the bit and has `KVM_RUN` of the vCPU on its thread return; that vCPU
//! then takes the bits and hands them to the bus. The process's signals go to the first vCPU's thread,
//! since all others block them; what another thread has to say, [`raise`] brings to any vCPU.

#[cfg(any(feature = "streams", feature = "exit-status"))]
mod ends;
#[cfg(not(any(feature = "streams", feature = "exit-status")))]
#[path = "events/ends/off.rs"]
mod ends;
#[cfg(all(feature = "streams", feature = "seccomp"))]
pub(crate) use ends::RULES as END_RULES;
#[cfg(feature = "exit-status")]
pub use ends::last_signal;
#[cfg(feature = "streams")]
pub use ends::{forward, install as install_for_workload, take_forwarded};
mod timer;
#[cfg(any(feature = "serial", feature = "console", feature = "pmem"))]
pub use timer::Timer;
#[cfg(feature = "smp")]
mod vcpus;
#[cfg(not(feature = "smp"))]
#[path = "events/vcpus/off.rs"]
mod vcpus;

use std::cell::Cell;
use std::ops::BitOr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use kvm_bindings::kvm_run;

use crate::last_words;

/// Timers, and a thread that brings a vCPU out of the guest.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] = &[
    crate::seccomp::rule::Rule::call(libc::SYS_timer_create),
    crate::seccomp::rule::Rule::call(libc::SYS_timer_settime),
    #[cfg(any(feature = "serial", feature = "console"))]
    crate::seccomp::rule::Rule::call(libc::SYS_timer_delete),
    #[cfg(any(feature = "smp", feature = "io-uring", feature = "api"))]
    crate::seccomp::rule::Rule::on_ourselves(libc::SYS_tgkill),
    #[cfg(any(feature = "smp", feature = "io-uring", feature = "api"))]
    crate::seccomp::rule::Rule::call(libc::SYS_getpid),
];

/// A set of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// No event.
    pub const NONE: Events = Events(0);
    /// The user wants the VM to end: SIGTERM or SIGINT. It stays set.
    pub const STOP: Events = Events(1 << 0);
    /// Standard input may have something to read.
    pub const INPUT: Events = Events(1 << 1);
    /// The console's output may have room again.
    pub const OUTPUT: Events = Events(1 << 2);
    /// The terminal has another size.
    pub const WINDOW: Events = Events(1 << 3);
    /// All that a console waits for.
    pub const CONSOLE: Events = Events(Self::INPUT.0 | Self::OUTPUT.0 | Self::WINDOW.0);
    /// The guest touched memory that the host could not give. Nobody signals it: the vCPU sees it.
    pub const MEMORY: Events = Events(1 << 4);
    /// A second is over: is a vCPU where it was?
    pub const TICK: Events = Events(1 << 5);
    /// A signal came that is the workload's.
    pub const SIGNAL: Events = Events(1 << 6);
    /// All that a workload's streams wait for.
    #[cfg(feature = "streams")]
    pub const STREAMS: Events = Events(Self::INPUT.0 | Self::OUTPUT.0 | Self::SIGNAL.0);
    const DEVICE: u32 = 8;

    /// What virtio device `index`, of at most 16, waits for: a file that changed, a request that is
    /// done.
    pub const fn device(index: usize) -> Events {
        Events(1 << (Events::DEVICE + (index as u32 & 15)))
    }

    /// Whether the two have one in common.
    pub const fn intersects(self, other: Events) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Events {
    type Output = Events;

    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

static PENDING: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Where to ask KVM for an immediate exit: closes the gap between a look at the events and
    /// `KVM_RUN`.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(std::ptr::null_mut()) };
}

extern "C" fn handle(signal: libc::c_int) {
    let events = match signal {
        libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT | libc::SIGALRM => {
            ends::event(signal).0
        }
        libc::SIGWINCH => Events::WINDOW.0,
        // Whose is the terminal now?
        libc::SIGCONT => Events::INPUT.0,
        // The kernel's queue of a file's own signals was full (fcntl(2), F_SETSIG).
        libc::SIGIO => !Events::STOP.0,
        // A file's own, or the kick, which says nothing.
        _ => 1u32.unbounded_shl((signal - kick_signal()) as u32) & !Events::STOP.0,
    };
    let before = PENDING.fetch_or(events, Ordering::Release);
    set_immediate_exit(1);
    // A call that waits (a write to a pipe that nobody reads) ends by a signal, but one that began right
    // after this signal does not. So it comes again, until the process ends.
    if events & !before & Events::STOP.0 != 0 {
        timer::start(STOP_AGAIN, libc::SIGTERM);
    }
    if signal == libc::SIGTERM {
        vcpus::kick_others();
    }
    if events & Events::TICK.0 != 0 {
        SECONDS.fetch_add(1, Ordering::Relaxed);
        vcpus::kick_others();
    }
}

/// How often [`Events::TICK`] came.
static SECONDS: AtomicU32 = AtomicU32::new(0);

/// How many seconds are over since somebody asked for [`Events::TICK`].
#[cfg(feature = "pmem")]
pub fn seconds() -> u32 {
    SECONDS.load(Ordering::Relaxed)
}

/// Milliseconds until whatever waits is interrupted again.
const STOP_AGAIN: u32 = 50;

/// Writes to the page of the vCPU on this thread, if one is.
fn set_immediate_exit(value: u8) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: `attach` got a vCPU's mapping, which lives as long as the process; KVM reads this byte
        // only, so a plain volatile store is enough.
        unsafe { (&raw mut (*run).immediate_exit).write_volatile(value) };
    }
}

/// Brings a vCPU out of the guest. A file that means event `1 << n` has this one plus `n`.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Catches the signals that end the VM. That a reader of its output went away, or a file is past the
/// user's limit, is an error of the write, not the end of the VM.
pub fn install() {
    // SAFETY: sets dispositions, no handler of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    catch(libc::SIGTERM);
    catch(libc::SIGINT);
}

/// Catches the signals that would leave a raw terminal behind.
pub fn install_for_raw_terminal() {
    catch(libc::SIGHUP);
    catch(libc::SIGQUIT);
    catch(libc::SIGCONT);
    handle_by(libc::SIGBUS, memory_is_gone as *const ());
}

/// brisk itself touched memory of a file, of a guest's ring for instance, and the file has no page there.
extern "C" fn memory_is_gone(_signal: libc::c_int) {
    last_words::end(format_args!(
        "memory of a file is gone: an image or a snapshot was made shorter, or its file system is full"
    ))
}

/// Catches SIGWINCH.
pub fn install_for_resize() {
    catch(libc::SIGWINCH);
}

/// Catches the signal by which [`raise`] reaches a vCPU.
pub fn install_kick() {
    catch(kick_signal());
}

/// Has `file` say `event`, one bit, when it is ready, once its description gets O_ASYNC.
pub fn watch(file: &impl AsRawFd, event: Events) {
    /// `F_SETSIG`, which libc has for no target.
    const SET_SIGNAL: libc::c_int = 10;
    /// Who gets the signals: this process, once the first one is caught.
    static OWNER: AtomicI32 = AtomicI32::new(0);
    let signal = kick_signal() + event.0.trailing_zeros() as libc::c_int;
    let fd: RawFd = file.as_raw_fd();
    // Relaxed: files are opened by one thread.
    let mut owner = OWNER.load(Ordering::Relaxed);
    if owner == 0 {
        catch(libc::SIGIO);
        owner = std::process::id() as i32;
        OWNER.store(owner, Ordering::Relaxed);
    }
    catch(signal);
    // SAFETY: plain calls on a descriptor that is open; one that cannot signal is looked at once.
    unsafe {
        libc::fcntl(fd, libc::F_SETOWN, owner);
        libc::fcntl(fd, SET_SIGNAL, signal);
    }
}

fn catch(signal: libc::c_int) {
    handle_by(signal, handle as *const ());
}

fn handle_by(signal: libc::c_int, handler: *const ()) {
    // SAFETY: an all-zero sigaction is valid; the one handler only touches atomics and the run page, the
    // other does not return.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

/// Names the vCPU that runs on this thread, and whose `KVM_RUN` is to return when a signal comes to
/// it. Look at the events afterwards for what came before.
pub fn attach(id: u8, run: *mut kvm_run) {
    RUN.set(run);
    vcpus::attach(id);
}

/// The vCPU that runs on this thread; the first one where none does.
pub fn this_vcpu() -> u8 {
    vcpus::this()
}

/// As if `events` had come, for whoever looks next.
pub fn expect(events: Events) {
    PENDING.fetch_or(events.0, Ordering::Release);
}

/// As if `events` had come to the vCPU on this thread, which is in an exit: it takes them before it goes
/// on.
#[cfg(feature = "streams")]
pub fn again(events: Events) {
    expect(events);
    set_immediate_exit(1);
}

/// Tells vCPU `id`, from another thread.
pub fn raise(events: Events, id: u8) {
    PENDING.fetch_or(events.0, Ordering::Release);
    kick(id);
}

/// Brings vCPU `id` out of the guest, or keeps it from entering: its next exit is
/// `Exit::Interrupted`. Not before it is attached. [`install_kick`] goes before.
pub fn kick(id: u8) {
    if let Some(thread) = vcpus::thread(id) {
        // SAFETY: names a thread of ours, which ends only with the process.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
    }
}

/// Keeps all signals away from the calling thread, so that the first vCPU's gets them.
pub fn block() {
    block_all_but(None);
}

/// Keeps all signals but the kick away from the calling thread, which is to run a vCPU.
#[cfg(feature = "smp")]
pub fn block_for_vcpu() {
    block_all_but(Some(kick_signal()));
}

fn block_all_but(signal: Option<libc::c_int>) {
    // SAFETY: fills and applies a signal set of our own.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        // A forbidden system call is the thread's own, and so is memory that is gone.
        libc::sigdelset(&mut set, libc::SIGSYS);
        libc::sigdelset(&mut set, libc::SIGBUS);
        if let Some(signal) = signal {
            libc::sigdelset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

/// What came since this was last asked, and whether the VM is to end. Allows the vCPU to run again after
/// an interrupted `KVM_RUN`.
pub fn take() -> Events {
    set_immediate_exit(0);
    Events(PENDING.fetch_and(Events::STOP.0, Ordering::AcqRel))
}

/// Ends the VM, from another thread, as SIGTERM does that is not a workload's.
#[cfg(feature = "api")]
pub fn stop() {
    ends::note(libc::SIGTERM);
    if PENDING.fetch_or(Events::STOP.0, Ordering::AcqRel) & Events::STOP.0 == 0 {
        // Whatever the first vCPU's thread waits for, and the others'.
        timer::start(STOP_AGAIN, libc::SIGTERM);
    }
    kick(0);
}

/// Whether the VM is to end, for what may take long.
pub fn stopping() -> bool {
    PENDING.load(Ordering::Relaxed) & Events::STOP.0 != 0
}

#[cfg(test)]
#[cfg(feature = "smp")]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    /// A stand-in for what KVM maps: only `immediate_exit` is touched.
    fn page() -> &'static mut kvm_run {
        Box::leak(Box::default())
    }

    #[test]
    fn a_kick_reaches_the_vcpu_that_it_is_for_and_no_other() {
        install_kick();
        let (ready, wait) = mpsc::channel();
        let (done, over) = mpsc::channel::<()>();
        let run = |id: u8, over: mpsc::Receiver<()>| {
            let ready = ready.clone();
            std::thread::spawn(move || {
                block_for_vcpu();
                let page = page();
                let run: *mut kvm_run = page;
                attach(id, run);
                // SAFETY: the page is leaked; the handler writes this byte on this thread.
                let kicked = || unsafe { (&raw const (*run).immediate_exit).read_volatile() } == 1;
                ready.send(()).unwrap();
                let patience = Instant::now() + Duration::from_secs(10);
                while !kicked() && over.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    assert!(Instant::now() < patience, "not kicked");
                    std::thread::yield_now();
                }
                let was = kicked();
                let _ = take();
                (was, kicked())
            })
        };
        let (_keep, never) = mpsc::channel();
        let threads = [run(201, never), run(202, over)];
        wait.recv().unwrap();
        wait.recv().unwrap();
        kick(201);
        let [first, second] = threads;
        assert_eq!(first.join().unwrap(), (true, false), "kicked, and ready to run again");
        drop(done);
        assert_eq!(second.join().unwrap(), (false, false));
        // One that never was is none.
        kick(203);
    }

    #[test]
    fn an_event_is_for_one_device() {
        let sources = [Events::STOP, Events::INPUT, Events::OUTPUT, Events::WINDOW, Events::MEMORY];
        let all: Vec<Events> = sources.into_iter().chain((0..16).map(Events::device)).collect();
        for (at, event) in all.iter().enumerate() {
            assert!(event.intersects(*event));
            assert!(all[at + 1..].iter().all(|other| !event.intersects(*other)));
        }
    }
}
