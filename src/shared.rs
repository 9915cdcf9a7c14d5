//! What all vCPUs use: behind a lock where there can be several, a plain cell where there is one.

#[cfg(all(any(feature = "block", feature = "streams"), not(feature = "smp")))]
pub use std::rc::Rc as Handle;
#[cfg(all(any(feature = "block", feature = "streams"), feature = "smp"))]
pub use std::sync::Arc as Handle;
#[cfg(feature = "smp")]
use std::sync::{Mutex, MutexGuard};

/// Who has the value.
#[cfg(feature = "smp")]
pub type Guard<'a, T> = MutexGuard<'a, T>;
/// Who has the value.
#[cfg(not(feature = "smp"))]
pub type Guard<'a, T> = std::cell::RefMut<'a, T>;

/// One value for all vCPUs.
#[cfg(feature = "smp")]
pub struct Shared<T>(Mutex<T>);

#[cfg(feature = "smp")]
impl<T> Shared<T> {
    /// Shares `value`.
    pub fn new(value: T) -> Shared<T> {
        Shared(Mutex::new(value))
    }

    /// Waits for the other vCPUs to be done with it.
    pub fn lock(&self) -> Guard<'_, T> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One value for the only vCPU, whose thread makes every access.
#[cfg(not(feature = "smp"))]
pub struct Shared<T>(std::cell::RefCell<T>);

#[cfg(not(feature = "smp"))]
impl<T> Shared<T> {
    /// Keeps `value`.
    pub fn new(value: T) -> Shared<T> {
        Shared(std::cell::RefCell::new(value))
    }

    /// The value; nothing that holds it asks again.
    pub fn lock(&self) -> Guard<'_, T> {
        self.0.borrow_mut()
    }
}
