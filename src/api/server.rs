//! The thread that has the clients.
//!
//! Who asks slowly, nothing or without end costs a place of few, which is the first to be taken away when
//! another client comes; who reads slowly is not asked on. What it takes of memory is bounded by that.

use std::os::fd::RawFd;

use super::http::{Answer, Asked, Command, Inbox};
use super::info::Info;
use super::mailbox::Mailbox;
use crate::error::errno;
use crate::events;
use crate::fd::{self, Fd, Moved};

/// The most connections at a time.
const CONNECTIONS: usize = 8;
/// Milliseconds until a connection is accepted again where there was no descriptor for it.
const BACK_OFF: libc::c_int = 1000;

/// All of the clients.
pub struct Server {
    listener: Fd,
    mailbox: &'static Mailbox,
    info: Info,
    connections: [Option<Connection>; CONNECTIONS],
    /// How often something came from a client: a clock by which connections are old or young.
    turn: u64,
    /// The machine has a command.
    busy: bool,
    /// Nobody is accepted for a while.
    backs_off: bool,
}

struct Connection {
    socket: Fd,
    inbox: Inbox,
    /// What the client has not taken yet of an answer.
    out: Vec<u8>,
    /// The last turn when it sent something.
    used: u64,
    wants: Wants,
    stays: bool,
}

/// Of the machine.
#[derive(PartialEq, Eq)]
enum Wants {
    Nothing,
    /// Its turn has not come.
    This(Command),
    /// Its answer, which is to come.
    Answer,
}

impl Server {
    /// For clients that come to `listener`, which does not block.
    pub fn new(listener: Fd, mailbox: &'static Mailbox, info: Info) -> Server {
        let connections = [const { None }; CONNECTIONS];
        Server { listener, mailbox, info, connections, turn: 0, busy: false, backs_off: false }
    }

    /// Serves them as long as the process lives.
    pub fn run(mut self) -> ! {
        loop {
            self.once();
        }
    }

    fn once(&mut self) {
        let none = libc::pollfd { fd: -1, events: 0, revents: 0 };
        let mut polls = [none; CONNECTIONS + 2];
        polls[0] = self.mailbox.answered();
        if !self.backs_off {
            polls[1] = self.listener.poll(libc::POLLIN);
        }
        for (poll, place) in polls[2..].iter_mut().zip(&self.connections) {
            if let Some(connection) = place {
                *poll = connection.socket.poll(connection.waits_for());
            }
        }
        let timeout = if self.backs_off { BACK_OFF } else { -1 };
        if !fd::poll(&mut polls, timeout) {
            // The limit of descriptors is lower than what is waited for.
            fd::poll(&mut [], BACK_OFF);
        }
        self.backs_off = false;
        let [answered, listener, rest @ ..] = &polls;
        self.turn += 1;
        for (poll, place) in rest.iter().zip(&mut self.connections) {
            if poll.revents == 0 {
                continue;
            }
            // What comes to one that waits for nothing is that its client has gone.
            if place.as_ref().is_some_and(|connection| connection.waits_for() == 0) {
                *place = None;
            }
            advance(place, self.mailbox, &self.info, self.turn);
        }
        if answered.revents != 0
            && let Some(answer) = self.mailbox.answer()
        {
            self.busy = false;
            self.answer(answer);
        }
        if listener.revents != 0 {
            self.accept();
        }
        self.ask();
    }

    /// The machine's answer goes to who asked, if that one is still there.
    fn answer(&mut self, answer: Answer) {
        for place in &mut self.connections {
            if let Some(connection) = place
                && connection.wants == Wants::Answer
            {
                connection.wants = Wants::Nothing;
                connection.say(answer);
                // And to what is asked behind it.
                return advance(place, self.mailbox, &self.info, self.turn);
            }
        }
    }

    /// Hands the oldest command over, if the one before is done.
    fn ask(&mut self) {
        if self.busy {
            return;
        }
        let waiting = self.connections.iter_mut().flatten();
        let waiting = waiting.filter(|one| matches!(one.wants, Wants::This(_)));
        if let Some(oldest) = waiting.min_by_key(|one| one.used)
            && let Wants::This(command) = std::mem::replace(&mut oldest.wants, Wants::Answer)
        {
            self.busy = true;
            self.mailbox.ask(command);
        }
    }

    /// Takes one client that waits. It is looked at before another comes, so that of a crowd each one
    /// that asks at once is answered.
    #[inline(never)]
    fn accept(&mut self) {
        let (listener, flags) = (self.listener.number(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        // By its number, as in `Fd::pair`.
        // SAFETY: asks for no address; the descriptor is new and nobody else's.
        let socket =
            unsafe { Fd::new(libc::syscall(libc::SYS_accept4, listener, 0, 0, flags) as RawFd) };
        let Some(socket) = socket else {
            // No descriptor, no memory: no reason to ask again and again.
            self.backs_off = !matches!(errno(), libc::EAGAIN | libc::ECONNABORTED);
            return;
        };
        // One that is free, or the oldest one's, but not that of who waits for the machine's answer.
        let age = |place: &&mut Option<Connection>| match place {
            None => 0,
            Some(one) if one.wants == Wants::Answer => u64::MAX,
            Some(one) => one.used,
        };
        let Some(place) = self.connections.iter_mut().min_by_key(age) else { return };
        *place = Some(Connection {
            socket,
            inbox: Inbox::default(),
            out: Vec::new(),
            used: self.turn,
            wants: Wants::Nothing,
            stays: true,
        });
        advance(place, self.mailbox, &self.info, self.turn);
    }
}

/// Has the connection go on, if there is one; its place is free when it has ended.
#[inline(never)]
fn advance(place: &mut Option<Connection>, mailbox: &Mailbox, info: &Info, turn: u64) {
    if let Some(connection) = place
        && !connection.advance(mailbox, info, turn)
    {
        *place = None;
    }
}

impl Connection {
    /// Events of poll(2). That the client has gone is always one.
    fn waits_for(&self) -> libc::c_short {
        if !self.out.is_empty() {
            libc::POLLOUT
        } else if self.wants == Wants::Nothing {
            libc::POLLIN
        } else {
            0
        }
    }

    /// Takes one piece of what the client sent, and answers what can be answered without the machine;
    /// false where the connection has ended.
    fn advance(&mut self, mailbox: &Mailbox, info: &Info, turn: u64) -> bool {
        let mut read = false;
        loop {
            match self.flush() {
                Moved::Bytes(_) if self.wants != Wants::Nothing => return true,
                Moved::Bytes(_) if self.stays => {}
                Moved::Later => return true,
                _ => return false,
            }
            if let Some(asked) = self.inbox.take() {
                self.stays = asked.stays;
                self.take(asked, mailbox, info);
                continue;
            }
            if std::mem::replace(&mut read, true) {
                return true;
            }
            match self.inbox.fill(|room| self.socket.read(room)) {
                Moved::Bytes(_) => self.used = turn,
                Moved::Later => return true,
                Moved::Gone => return false,
            }
        }
    }

    #[inline(never)]
    fn take(&mut self, asked: Asked, mailbox: &Mailbox, info: &Info) {
        match asked.what {
            Ok(Command::Ping) => self.say(Answer::json(Info::ping())),
            Ok(Command::Info) => self.say(Answer::json(info.of_vm(mailbox.paused()))),
            Ok(Command::Shutdown) => {
                self.say(Answer::done());
                // The client may know before it cannot.
                self.flush();
                events::stop();
            }
            Ok(Command::Snapshot) if let Err(why) = info.may_write_to(&asked.url) => {
                self.say(Answer::failed(&why));
            }
            Ok(command) => self.wants = Wants::This(command),
            Err(answer) => self.say(answer),
        }
    }

    #[inline(never)]
    fn say(&mut self, answer: Answer) {
        answer.write(self.stays, &mut self.out);
    }

    /// Writes what the client takes; bytes are all that there were.
    fn flush(&mut self) -> Moved {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.socket.write(&self.out[sent..]) {
                Moved::Bytes(count) => sent += count,
                other => {
                    self.out.drain(..sent);
                    return other;
                }
            }
        }
        self.out.clear();
        Moved::Bytes(sent)
    }
}
