//! Threads that live as long as the guest runs, or load it: made before it runs, and without signals,
//! which are the first vCPU's.
//!
//! They are the C library's. The standard library's bring 30 KB along for what nobody asks of these: a list
//! of their stacks' guard pages for a handler of stack overflows, which is never set here, hooks, handles,
//! and, with musl, printf, by which their names are set.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What threads ask of the kernel to wait for one another.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[crate::seccomp::rule::Rule] =
    &[crate::seccomp::rule::Rule::call(libc::SYS_futex)];

/// Bytes of a thread's stack, as the standard library has them; musl's own are less.
const STACK: usize = 2 << 20;

/// A thread that gives a `T`. Nobody waits for the disk's or the API's.
#[cfg_attr(not(any(feature = "smp", feature = "async-loader")), allow(dead_code))]
pub struct Thread<T> {
    id: libc::pthread_t,
    gives: PhantomData<T>,
}

impl<T> Thread<T> {
    /// Waits for its end.
    #[cfg_attr(not(any(feature = "smp", feature = "async-loader")), allow(dead_code))]
    pub fn join(self) -> T {
        let mut result = ptr::null_mut::<c_void>();
        // SAFETY: not waited for before, since this is the only handle; and what comes is what
        // `start` has its work return, as a thread never ends in another way: a panic ends the process.
        unsafe {
            libc::pthread_join(self.id, &mut result);
            *Box::from_raw(result.cast::<T>())
        }
    }
}

/// Starts a thread that gets no signals but those that `block` leaves it.
///
/// # Errors
/// There is no room for a thread.
pub fn start<T: Send + 'static>(
    block: fn(),
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    let work = Box::new(|| Box::into_raw(Box::new(work())).cast());
    let mut own = Start { block, name: [0; 16], work };
    // A zero byte is left at the end.
    own.name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, byte)| *to = byte);
    Ok(Thread { id: create(own)?, gives: PhantomData })
}

/// Whether there was ever a thread beside the first one.
static SEVERAL: AtomicBool = AtomicBool::new(false);

/// What a thread starts with.
struct Start {
    block: fn(),
    name: [u8; 16],
    work: Box<dyn FnOnce() -> *mut c_void + Send>,
}

#[inline(never)]
fn create(start: Start) -> io::Result<libc::pthread_t> {
    SEVERAL.store(true, Ordering::Relaxed);
    one_heap();
    let start = Box::into_raw(Box::new(start));
    // SAFETY: an all-zero structure, which the first call fills and the last one empties; the thread gets
    // the box, or, where there is none, we take it back.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&mut attributes);
        libc::pthread_attr_setstacksize(&mut attributes, STACK);
        let mut id = std::mem::zeroed();
        let failed = libc::pthread_create(&mut id, &attributes, begin, start.cast());
        libc::pthread_attr_destroy(&mut attributes);
        if failed != 0 {
            drop(Box::from_raw(start));
            return Err(io::Error::from_raw_os_error(failed));
        }
        settled::is_made();
        Ok(id)
    }
}

extern "C" fn begin(start: *mut c_void) -> *mut c_void {
    // SAFETY: the box that `create` gave away.
    let Start { block, name, work } = *unsafe { Box::from_raw(start.cast::<Start>()) };
    block();
    // SAFETY: reads the name, which ends with a zero byte.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    settled::is_ready();
    work()
}

/// For what threads use one after the other. It costs nothing until there are several.
pub struct Lock(Mutex<()>);

#[allow(dead_code, reason = "a C library that is shared has a heap of its own")]
impl Lock {
    /// Nobody has it.
    pub const fn new() -> Lock {
        Lock(Mutex::new(()))
    }

    /// Waits until no other thread has it. A thread is made by one that holds no lock, so who found itself alone
    /// stays so until it is done.
    #[inline]
    pub fn lock(&self) -> Option<MutexGuard<'_, ()>> {
        let several = SEVERAL.load(Ordering::Relaxed);
        several.then(|| self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Does `own` here, and each of `others` on a thread; what all gave. Those for which there is no thread to
/// be had are done here too, which is said of `flag`, once.
#[cfg(feature = "smp")]
pub fn with_others<T: Send + 'static>(
    (name, flag): (&str, &str),
    others: impl Iterator<Item = impl FnOnce() -> T + Copy + Send + 'static>,
    own: impl FnOnce() -> T,
) -> Vec<T> {
    let (mut threads, mut left) = (Vec::new(), Vec::new());
    for work in others {
        match start(|| {}, name, work) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                if left.is_empty() {
                    log::info!("{flag}: with fewer threads: {error}");
                }
                left.push(work);
            }
        }
    }
    let mut gave = vec![own()];
    gave.extend(left.into_iter().map(|work| work()));
    gave.extend(threads.into_iter().map(Thread::join));
    gave
}

/// CPUs that this process may use. The standard library's answer reads files of the cgroup's too.
#[cfg(any(feature = "smp", feature = "async-loader"))]
pub fn cpus() -> usize {
    // SAFETY: fills and counts a set of our own; where that fails it stays empty.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        usize::try_from(libc::CPU_COUNT(&set)).unwrap_or(0).max(1)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_what_its_work_gave() {
        let text = String::from("text");
        let thread = start(
            || {},
            "longer than fifteen",
            move || {
                let mut name = [0u8; 16];
                // SAFETY: fills sixteen bytes.
                unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
                (text, name)
            },
        );
        let (text, name) = thread.unwrap().join();
        assert_eq!((text.as_str(), &name), ("text", b"longer than fif\0"));
        start(|| {}, "", || ()).unwrap().join();
    }

    #[test]
    fn signals_are_for_others() {
        fn block() {
            // SAFETY: plain calls on a set of our own.
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut());
            }
        }
        let blocked = || {
            // SAFETY: asks for this thread's set.
            unsafe {
                let mut now = std::mem::zeroed();
                libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), &mut now);
                libc::sigismember(&now, libc::SIGTERM) == 1
            }
        };
        assert!(start(block, "a", blocked).unwrap().join());
        assert!(!start(|| {}, "b", blocked).unwrap().join());
    }

    #[cfg(feature = "smp")]
    #[test]
    fn all_parts_are_done_on_threads_of_their_own() {
        let id = || std::thread::current().id();
        let ids = with_others(("part", "--part"), std::iter::repeat_n(id, 3), id);
        assert_eq!(ids.len(), 4);
        assert_eq!(ids[0], std::thread::current().id());
        assert!((1..4).all(|at| !ids[..at].contains(&ids[at])), "{ids:?}");
    }
}
