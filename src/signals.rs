//! Signals as flags: a handler only sets one and makes `KVM_RUN` of the first vCPU return.

use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use kvm_bindings::kvm_run;

/// SIGTERM or SIGINT came: end the VM cleanly.
static STOP: AtomicBool = AtomicBool::new(false);
/// The input may have something to read.
static INPUT: AtomicBool = AtomicBool::new(false);
/// The terminal has another size.
static RESIZE: AtomicBool = AtomicBool::new(false);
/// Where to ask KVM for an immediate exit: closes the gap between the check of a flag and `KVM_RUN`.
static RUN: AtomicPtr<kvm_run> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn handle(signal: libc::c_int) {
    match signal {
        libc::SIGIO => &INPUT,
        libc::SIGWINCH => &RESIZE,
        _ => &STOP,
    }
    .store(true, Ordering::Relaxed);
    let run = RUN.load(Ordering::Relaxed);
    if !run.is_null() {
        // SAFETY: `attach` stored a vCPU's mapping, which lives as long as the process; KVM reads
        // this byte only, so a plain volatile store is enough.
        unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
    }
}

/// Catches the signals that end the VM, and ignores that a reader of its output went away.
pub fn install() {
    #[cfg(any(feature = "serial", feature = "console"))]
    // SAFETY: sets a disposition, no handler of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    // A disk past the user's limit is an I/O error for the guest, not the end of the VM.
    #[cfg(feature = "block")]
    // SAFETY: sets a disposition, no handler of ours.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    catch(libc::SIGTERM);
    catch(libc::SIGINT);
}

/// Catches SIGIO, and the signals that would leave a raw terminal behind.
#[cfg(any(feature = "serial", feature = "console"))]
pub fn install_for_input(raw_terminal: bool) {
    catch(libc::SIGIO);
    if raw_terminal {
        catch(libc::SIGHUP);
        catch(libc::SIGQUIT);
    }
}

/// Catches SIGIO, by which a disk's waiting thread, or the watch on a pmem image, says so.
#[cfg(any(feature = "io-uring", feature = "pmem"))]
pub fn install_for_io() {
    catch(libc::SIGIO);
}

/// Brings the first vCPU, which runs on the process's first thread, out of the guest.
#[cfg(feature = "io-uring")]
pub fn interrupt() {
    // SAFETY: names the process's first thread, which ends only with the process.
    unsafe {
        let process = libc::getpid();
        libc::syscall(libc::SYS_tgkill, process, process, libc::SIGIO);
    }
}

/// Catches SIGWINCH.
#[cfg(feature = "console")]
pub fn install_for_resize() {
    catch(libc::SIGWINCH);
}

fn catch(signal: libc::c_int) {
    // SAFETY: an all-zero sigaction is valid; the handler only touches atomics and the run page.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

/// Names the vCPU whose `KVM_RUN` is to return when a signal comes. Call from its own thread, and look
/// at the flags afterwards for what came before.
pub fn attach(run: *mut kvm_run) {
    RUN.store(run, Ordering::Relaxed);
}

/// As if SIGIO had come.
#[cfg(any(feature = "serial", feature = "console"))]
pub fn expect_input() {
    INPUT.store(true, Ordering::Relaxed);
}

/// Keeps the process's signals away from the calling thread, so that the first vCPU's gets them.
#[cfg(any(feature = "smp", feature = "io-uring", feature = "async-loader"))]
pub fn block() {
    // SAFETY: fills and applies a signal set of our own.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

/// Allows the vCPU to run again after an interrupted `KVM_RUN`; call before looking at the flags.
pub fn rearm() {
    let run = RUN.load(Ordering::Relaxed);
    if !run.is_null() {
        // SAFETY: as in `handle`.
        unsafe { (&raw mut (*run).immediate_exit).write_volatile(0) };
    }
}

/// Ends the VM as SIGTERM would: what Ctrl-A x comes to in the middle of an access.
#[cfg(feature = "serial")]
pub fn request_stop() {
    handle(libc::SIGTERM);
}

/// Whether the VM is to end.
pub fn stop() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Whether input may be there; asking takes the flag back.
#[cfg(any(feature = "serial", feature = "console"))]
pub fn take_input() -> bool {
    INPUT.swap(false, Ordering::Relaxed)
}

/// Whether the terminal may have another size; asking takes the flag back.
#[cfg(feature = "console")]
pub fn take_resize() -> bool {
    RESIZE.swap(false, Ordering::Relaxed)
}
