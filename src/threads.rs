//! Threads that live as long as the guest runs, or load it: made before it runs, and without signals,
//! which are the first vCPU's.

use std::io;
use std::thread::{Builder, JoinHandle};

/// What threads ask of the kernel to wait for one another.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::call(libc::SYS_futex)];

/// Starts a thread that gets no signals but those that `block` leaves it.
///
/// # Errors
/// There is no room for a thread.
pub fn start<T: Send + 'static>(
    block: fn(),
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    one_heap();
    let thread = Builder::new().name(name).spawn(move || {
        block();
        settled::is_ready();
        work()
    })?;
    settled::is_made();
    Ok(thread)
}

/// The same for work that gives nothing: one function for all such threads.
///
/// # Errors
/// There is no room for a thread.
#[cfg(any(feature = "smp", feature = "io-uring", feature = "api"))]
#[inline(never)]
pub fn start_boxed(
    block: fn(),
    name: String,
    work: Box<dyn FnOnce() + Send>,
) -> io::Result<JoinHandle<()>> {
    start(block, name, work)
}

/// A second heap for the thread would be four more calls, which keep page faults waiting, on the way to a
/// few small allocations. And one that is made once the guest runs asks for what `seccomp` has taken.
#[cfg(target_env = "gnu")]
fn one_heap() {
    // SAFETY: a parameter of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// musl's allocator has one.
#[cfg(not(target_env = "gnu"))]
fn one_heap() {}

/// Whether all threads are past the system calls of their own beginning.
#[cfg(feature = "seccomp")]
mod settled {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static MADE: AtomicUsize = AtomicUsize::new(0);
    static READY: AtomicUsize = AtomicUsize::new(0);

    pub fn is_made() {
        MADE.fetch_add(1, Ordering::Relaxed);
    }

    pub fn is_ready() {
        READY.fetch_add(1, Ordering::Release);
    }

    /// Waits until they are.
    pub fn settle() {
        while READY.load(Ordering::Acquire) < MADE.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
    }
}

/// Nobody wants to know.
#[cfg(not(feature = "seccomp"))]
mod settled {
    #[inline(always)]
    pub fn is_made() {}

    #[inline(always)]
    pub fn is_ready() {}
}

#[cfg(feature = "seccomp")]
pub use settled::settle;
