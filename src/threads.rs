//! Threads that live as long as the guest runs, or load it: made before it runs, and without signals,
//! which are the first vCPU's.

use std::io;
#[cfg(feature = "seccomp")]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};

/// What threads ask of the kernel to wait for one another.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::call(libc::SYS_futex)];

/// Threads that were made, and those of them that have set themselves up.
#[cfg(feature = "seccomp")]
static MADE: AtomicUsize = AtomicUsize::new(0);
#[cfg(feature = "seccomp")]
static READY: AtomicUsize = AtomicUsize::new(0);

/// Starts a thread that gets no signals but those that `block` leaves it.
///
/// # Errors
/// There is no room for a thread.
pub fn start<T: Send + 'static>(
    block: fn(),
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // One heap: a second one for the thread would be four more calls, which keep page faults waiting,
    // on the way to a few small allocations. And a heap that is made late asks for what `seccomp` has
    // taken by then.
    #[cfg(target_env = "gnu")]
    // SAFETY: a parameter of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    let thread = Builder::new().name(name).spawn(move || {
        block();
        #[cfg(feature = "seccomp")]
        READY.fetch_add(1, Ordering::Release);
        work()
    })?;
    #[cfg(feature = "seccomp")]
    MADE.fetch_add(1, Ordering::Relaxed);
    Ok(thread)
}

/// Waits until no thread makes a system call any more for its own beginning.
#[cfg(feature = "seccomp")]
pub fn settle() {
    while READY.load(Ordering::Acquire) < MADE.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
}
