//! Between the thread that has the clients and the first vCPU's, which has the machine: one command at a
//! time one way, its answer the other.
//!
//! The vCPU's thread is brought out of the guest by a signal, so nothing of this is on the way of an exit.
//! While the VM is paused that thread waits at its end of a pair of sockets, where a signal that ends the
//! VM wakes it too.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::http::{Answer, Command};
use crate::events;
use crate::fd::{self, Fd};

/// There is a command; what a vCPU looks at when a signal has brought it out of the guest.
static ASKED: AtomicBool = AtomicBool::new(false);

/// What lies in it.
#[derive(Default)]
struct Letters {
    command: Option<Command>,
    answer: Option<Answer>,
}

/// One for a machine.
pub struct Mailbox {
    letters: Mutex<Letters>,
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
        let (letters, paused) = Default::default();
        Ok(Mailbox { letters, paused, clients, machine })
    }

    /// Hands a command over. Not before the one before was answered.
    pub fn ask(&self, command: Command) {
        self.open().command = Some(command);
        ASKED.store(true, Ordering::Release);
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
        self.open().answer.take()
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
            if ASKED.swap(false, Ordering::Acquire) {
                return self.open().command.take();
            }
            // The signal of an end that comes right behind this look comes again.
            if !paused || events::stopping() {
                return None;
            }
            fd::poll(&mut [self.machine.poll(libc::POLLIN)], 1, -1);
        }
    }

    /// Answers what [`Self::next`] gave, of a VM that is `paused` now or not.
    pub fn reply(&self, answer: Answer, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        self.open().answer = Some(answer);
        self.machine.write(&[0]);
    }

    fn open(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the first vCPU, if `id` is its number, is to look into its mailbox.
pub fn asked(id: u8) -> bool {
    id == 0 && ASKED.load(Ordering::Relaxed)
}
