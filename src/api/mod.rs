//! A VM's clients (feature `api`): `--api-socket`, HTTP over a Unix socket as Cloud Hypervisor's users
//! call it.
//!
//! A thread has the socket and the connections, and is made only where the flag is given. Were
//! they served on the first vCPU's thread, by signals of the sockets, each byte that a client sends would
//! bring the vCPU out of the guest, and a vCPU that waits for a slow reader of the console would keep a
//! client waiting who wants it to end. So what bytes come is read on that thread, and only a
//! whole command that needs the machine goes to the vCPU's, by the mailbox: which works as well with
//! a guest that spins as with one that is paused.

mod button;
pub mod http;
mod info;
mod json;
mod keeper;
mod mailbox;
mod server;
mod socket;

use button::Button;
use http::{Answer, Command};
use info::Info;
use mailbox::Mailbox;
use server::Server;
pub use socket::{Socket, named};

use std::io;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::events;
use crate::machine::Machine;
use crate::paused::Paused;
#[cfg(feature = "seccomp")]
use crate::seccomp::rule::Rule;
use crate::threads;

/// What clients cost of the sandbox. poll(2), write(2) and the signal are others' too.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[Rule] = &[
    Rule::call(libc::SYS_accept4),
    Rule::call(libc::SYS_read),
    Rule::call(libc::SYS_close),
    Rule::ioctl(KVM_KVMCLOCK_CTRL),
];

/// `_IO(KVMIO, 0xad)`
#[cfg(feature = "seccomp")]
const KVM_KVMCLOCK_CTRL: libc::c_ulong = 0xaead;

/// That clients wait for the first vCPU's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked;

/// Whether they do; for vCPU `id`, which a signal has brought out of the guest.
pub fn asked(id: u8) -> Option<Asked> {
    mailbox::asked(id).then_some(Asked)
}

/// The end of the process is near.
pub fn end() {
    keeper::end();
}

/// What the machine has of it.
pub struct Api {
    open: Option<Open>,
    button: Button,
}

struct Open {
    config: &'static Config,
    socket: &'static Socket,
    mailbox: &'static Mailbox,
}

impl Api {
    /// As `config` says. Nothing is there for clients yet.
    ///
    /// # Errors
    /// There is no descriptor or process to be had.
    #[inline(never)]
    pub fn prepare(config: &'static Config) -> Result<Api> {
        let Some(socket) = &config.api else {
            return Ok(Api { open: None, button: Button::default() });
        };
        let mailbox = || -> io::Result<Mailbox> {
            if let Some(path) = socket.path() {
                keeper::start(&path)?;
            }
            Mailbox::new()
        };
        let failed = Error::file(socket::FLAG, socket.text());
        let mailbox = Box::leak(Box::new(mailbox().map_err(failed)?));
        Ok(Api { open: Some(Open { config, socket, mailbox }), button: Button::default() })
    }

    /// Gives the machine a button, if it is to have one: what a snapshot was `saved` with, or what a machine
    /// with ACPI gets, whose interrupt `gsi` is free. Answers its interrupt.
    pub fn button(&mut self, saved: Option<Option<u32>>, acpi: bool, gsi: u32) -> Option<u32> {
        let new = || (acpi && self.open.is_some()).then_some(gsi);
        self.button = Button(saved.unwrap_or_else(new));
        self.button.0
    }

    /// The button's interrupt, for a snapshot.
    pub fn gsi(&self) -> Option<u32> {
        self.button.0
    }

    /// Opens the socket and makes the thread.
    ///
    /// # Errors
    /// It cannot be opened, or there is no room for a thread.
    #[inline(never)]
    pub fn open(&self) -> Result<()> {
        let Some(Open { config, socket, mailbox }) = &self.open else { return Ok(()) };
        let listener = socket.open()?;
        events::install_kick();
        let server = Server::new(listener, mailbox, Info::new(config));
        let thread = threads::start(events::block, "api", || server.run());
        thread.map(|_| ()).map_err(Error::file(socket::FLAG, "(a thread)"))
    }

    /// Does what clients have asked of the machine; comes back when it runs again, or is to end. To be
    /// called by the first vCPU's thread, outside of [`Machine::enter`].
    #[inline(never)]
    pub fn serve(&self, machine: &Machine) {
        let Some(Open { mailbox, .. }) = &self.open else { return };
        let mut paused = None;
        while let Some(command) = mailbox.next(paused.is_some()) {
            let answer = self.answer(command, machine, &mut paused);
            mailbox.reply(answer, paused.is_some());
        }
    }

    fn answer<'a>(
        &self,
        command: Command,
        machine: &'a Machine,
        paused: &mut Option<Paused<'a>>,
    ) -> Answer {
        let why = match command {
            Command::Pause if paused.is_none() => {
                *paused = Some(machine.pause());
                return Answer::done();
            }
            Command::Pause => "vm.pause: the VM is paused already",
            Command::Resume => {
                if let Some(was) = paused.take() {
                    was.vcpus.iter().for_each(|vcpu| vcpu.was_paused());
                    was.resume();
                    return Answer::done();
                }
                "vm.resume: the VM is not paused"
            }
            Command::Counters => {
                let counters = machine.counters();
                if !counters.is_empty() {
                    return Answer::json(counters);
                }
                "vm.counters: there are some in builds with `exit-stats`"
            }
            Command::Snapshot => match machine.save(paused) {
                Ok(()) => return Answer::done(),
                Err(why) => return Answer::failed(&why),
            },
            Command::PowerButton => match self.button.press(machine) {
                Ok(()) => return Answer::done(),
                Err(why) => why,
            },
            // Answered where the clients are.
            Command::Ping | Command::Info | Command::Shutdown => return Answer::done(),
        };
        Answer::failed(why)
    }
}
