//! A kernel that fails, and signals that come, for tests.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// What `body` gives on a thread on which `call` fails with `error`.
pub fn failing<T: Send>(
    call: libc::c_long,
    error: libc::c_int,
    body: impl FnOnce() -> T + Send,
) -> T {
    let rules = [(call, Vec::new())].into_iter().collect();
    let fail = SeccompAction::Errno(error as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, fail, TargetArch::x86_64);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let on_it = || {
        seccompiler::apply_filter(&program).unwrap();
        body()
    };
    std::thread::scope(|scope| scope.spawn(on_it).join().unwrap())
}

/// Lets SIGUSR2 interrupt this thread's calls, as a signal does that ends no VM, and returns the thread.
pub fn interruptible() -> libc::pthread_t {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: no pointers; an all-zero sigaction is valid, and without SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()), 0);
        libc::pthread_self()
    }
}

/// Interrupts `thread`, which was not joined, for 50 ms.
pub fn interrupt(thread: libc::pthread_t) {
    for _ in 0..10 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        // SAFETY: the thread is there.
        assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR2) }, 0);
    }
}

/// What `life` gives in a process of its own, whose signals are brisk's: it has nothing else to end.
/// `life` must lock nothing that another thread may have.
pub fn in_a_process(life: impl FnOnce() -> bool) -> bool {
    let mut status = 0;
    // SAFETY: the child lives as it is asked to, and ends.
    unsafe {
        match libc::fork() {
            0 => {
                crate::events::install();
                libc::_exit((!life()).into());
            }
            child => assert_eq!(libc::waitpid(child, &raw mut status, 0), child),
        }
    }
    status == 0
}

/// SIGTERM in 50 ms, as from a user, for a `life` of [`in_a_process`].
pub fn end_soon() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: as a user would.
        unsafe { libc::raise(libc::SIGTERM) };
    }
    let nothing = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let soon = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    let once = libc::itimerval { it_interval: nothing, it_value: soon };
    // SAFETY: a handler that makes a system call, and a time that is read.
    unsafe {
        libc::signal(libc::SIGALRM, end as *const () as usize);
        libc::setitimer(libc::ITIMER_REAL, &raw const once, std::ptr::null_mut());
    }
}
