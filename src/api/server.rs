//! The thread that has the clients.
//!
//! Who asks slowly, nothing or without end costs a place of few, which is the first to be taken away when
//! another client comes; who reads slowly is not asked on. What it takes of memory is bounded by that.

use super::http::{Answer, Asked, Command, Inbox, MOST};
use super::info::Info;
use super::mailbox::Mailbox;
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
    connections: Vec<Connection>,
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
        let connections = Vec::with_capacity(CONNECTIONS);
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
        for (poll, connection) in polls[2..].iter_mut().zip(&self.connections) {
            *poll = connection.socket.poll(connection.waits_for());
        }
        let timeout = if self.backs_off { BACK_OFF } else { -1 };
        if !fd::poll(&mut polls, 2 + self.connections.len(), timeout) {
            // The limit of descriptors is lower than what is open.
            fd::poll(&mut [], 0, BACK_OFF);
        }
        self.backs_off = false;
        let [answered, listener, rest @ ..] = &polls;
        self.turn += 1;
        let (mailbox, info, turn) = (self.mailbox, &self.info, self.turn);
        let mut came = rest.iter().map(|poll| poll.revents != 0);
        self.connections.retain_mut(|connection| {
            // What comes to one that waits for nothing is that its client has gone.
            came.next() != Some(true)
                || connection.waits_for() != 0 && connection.advance(mailbox, info, turn)
        });
        if answered.revents != 0
            && let Some(answer) = self.mailbox.answer()
        {
            self.busy = false;
            self.answer(&answer);
        }
        if listener.revents != 0 {
            self.accept();
        }
        self.ask();
    }

    /// The machine's answer goes to who asked, if that one is still there.
    fn answer(&mut self, answer: &Answer) {
        let Some(at) = self.connections.iter().position(|one| one.wants == Wants::Answer) else {
            return;
        };
        let connection = &mut self.connections[at];
        connection.wants = Wants::Nothing;
        connection.say(answer);
        // And to what is asked behind it.
        if !connection.advance(self.mailbox, &self.info, self.turn) {
            self.connections.swap_remove(at);
        }
    }

    /// Hands the oldest command over, if the one before is done.
    fn ask(&mut self) {
        if self.busy {
            return;
        }
        let waiting = self.connections.iter_mut().filter(|one| matches!(one.wants, Wants::This(_)));
        if let Some(oldest) = waiting.min_by_key(|one| one.used)
            && let Wants::This(command) = std::mem::replace(&mut oldest.wants, Wants::Answer)
        {
            self.busy = true;
            self.mailbox.ask(command);
        }
    }

    /// Takes one client that waits. It is looked at before another comes, so that of a crowd each one
    /// that asks at once is answered.
    fn accept(&mut self) {
        let (address, len) = (std::ptr::null_mut(), std::ptr::null_mut());
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: asks for no address; the descriptor is new and nobody else's.
        let socket = unsafe { Fd::new(libc::accept4(self.listener.number(), address, len, flags)) };
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                // No descriptor, no memory: no reason to ask again and again.
                let gone = [Some(libc::EAGAIN), Some(libc::ECONNABORTED)];
                self.backs_off = !gone.contains(&error.raw_os_error());
                return;
            }
        };
        if self.connections.len() == CONNECTIONS {
            let others = self.connections.iter().enumerate();
            let others = others.filter(|(_, one)| one.wants != Wants::Answer);
            if let Some((oldest, _)) = others.min_by_key(|(_, one)| one.used) {
                self.connections.swap_remove(oldest);
            }
        }
        let mut connection = Connection {
            socket,
            inbox: Inbox::default(),
            out: Vec::new(),
            used: self.turn,
            wants: Wants::Nothing,
            stays: true,
        };
        if connection.advance(self.mailbox, &self.info, self.turn) {
            self.connections.push(connection);
        }
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
            if let Some(Asked { what, stays }) = self.inbox.take() {
                self.stays = stays;
                self.take(what, mailbox, info);
                continue;
            }
            if std::mem::replace(&mut read, true) {
                return true;
            }
            let mut bytes = [0; MOST];
            match self.socket.read(&mut bytes[..self.inbox.room()]) {
                Moved::Bytes(count) => {
                    self.used = turn;
                    self.inbox.put(&bytes[..count]);
                }
                Moved::Later => return true,
                Moved::Gone => return false,
            }
        }
    }

    fn take(&mut self, what: Result<Command, Answer>, mailbox: &Mailbox, info: &Info) {
        match what {
            Ok(Command::Ping) => self.say(&Answer::json(Info::ping())),
            Ok(Command::Info) => self.say(&Answer::json(info.of_vm(mailbox.paused()))),
            Ok(Command::Shutdown) => {
                self.say(&Answer::done());
                // The client may know before it cannot.
                self.flush();
                events::stop();
            }
            Ok(command) => self.wants = Wants::This(command),
            Err(answer) => self.say(&answer),
        }
    }

    fn say(&mut self, answer: &Answer) {
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
