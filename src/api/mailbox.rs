//! Between the thread that has the clients and the first vCPU's, which has the machine: one command at a
//! time one way, its answer the other.
//!
//! The vCPU's thread is brought out of the guest by a signal, so nothing of this is on the way of an exit.
//! While the VM is paused that thread waits at its end of a pair of sockets, where a signal that ends the
//! VM wakes it too.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use super::http::{Answer, Command};
use crate::events;
use crate::fd::{self, Fd};

/// The command that is there, its number and one, or 0; what a vCPU looks at when a signal has brought it
/// out of the guest.
static ASKED: AtomicU8 = AtomicU8::new(0);

/// One for a machine.
pub struct Mailbox {
    /// The answer that is there, a box's, or null.
    answer: AtomicPtr<Answer>,
    paused: AtomicBool,
    /// The ends of the pair: a byte in one says that there is something for who has the other.
    clients: Fd,
    machine: Fd,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn new() -> io::Result<Mailbox> {
        let [clients, machine] = Fd::pair(libc::SOCK_NONBLOCK)?;
        let (answer, paused) = Default::default();
        Ok(Mailbox { answer, paused, clients, machine })
    }

    /// Hands a command over. Not before the one before was answered.
    pub fn ask(&self, command: Command) {
        ASKED.store(command as u8 + 1, Ordering::Release);
        self.clients.write(&[0]);
        events::kick(0);
    }

    /// Where to wait for the answer, with poll(2).
    pub fn answered(&self) -> libc::pollfd {
        self.clients.poll(libc::POLLIN)
    }

    /// The answer, when it is there.
    pub fn answer(&self) -> Option<Answer> {
        self.clients.read(&mut [0; 8]);
        let answer = self.answer.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: a box that `reply` gave away, which nobody else gets.
        (!answer.is_null()).then(|| unsafe { *Box::from_raw(answer) })
    }

    /// Whether the VM is paused.
    pub fn paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The next command: at once, or not at all unless the VM is `paused`. Then there is none only when
    /// the VM is to end.
    pub fn next(&self, paused: bool) -> Option<Command> {
        loop {
            self.machine.read(&mut [0; 8]);
            if let Some(number) = ASKED.swap(0, Ordering::Acquire).checked_sub(1) {
                return Command::numbered(number);
            }
            // The signal of an end that comes right behind this look comes again.
            if !paused || events::stopping() {
                return None;
            }
            fd::poll(&mut [self.machine.poll(libc::POLLIN)], -1);
        }
    }

    /// Answers what [`Self::next`] gave, of a VM that is `paused` now or not.
    pub fn reply(&self, answer: Answer, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        // There is none: a command comes only when the answer to the one before was taken.
        self.answer.store(Box::into_raw(Box::new(answer)), Ordering::Release);
        self.machine.write(&[0]);
    }
}

/// Whether the first vCPU, if `id` is its number, is to look into its mailbox.
pub fn asked(id: u8) -> bool {
    id == 0 && ASKED.load(Ordering::Relaxed) != 0
}
