//! A connection, from the handshake to its end.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use skd_tls_protocol::{Answer, Failure, FailureKind};

use super::buffers::{Rest, Scratches};
use super::figures::Counters;
use super::handshake::{Fault, Handshake, Shaken};
use super::linger::{Linger, Lingers};
use super::link::Link;
use super::relay::{Next, Relay};
use super::socket::Socket;
use crate::load::Service;
use crate::session;

/// How long the peer may take nothing of what was said at the plain side, if no process is there anymore. With one,
/// that is its affair.
const ABANDONED: Duration = Duration::from_secs(60);

/// A connection.
pub(super) struct Connection {
    phase: Phase,
    role: Role,
    idle: Option<Duration>,
    /// When bytes were taken last, by either side.
    last: Instant,
    /// When the peer has taken something last, or the plain side was closed.
    last_out: Instant,
    /// Whether the plain side was closed.
    is_abandoned: bool,
    /// Whether it waits for its turn.
    pub(super) is_queued: bool,
    /// The earliest time at which its thread looks at it.
    pub(super) noted: Option<Instant>,
}

/// How far a connection has come.
enum Phase {
    Handshake(Link, Handshake),
    Relay(Link, Relay),
    Linger(Linger),
    Over,
}

/// What a connection is for.
pub(super) enum Role {
    /// A client's, which skd has accepted.
    Server {
        /// What it was accepted for.
        service: Arc<Service>,
        /// The figures of its service.
        counters: Arc<Counters>,
        /// What skd knows it by.
        token: Box<[u8]>,
    },
    /// One to a server.
    Client {
        /// How long the handshake may take.
        within: Duration,
        /// What is told of its end, once.
        end: Ended,
        /// Who is told.
        ended: Box<dyn FnOnce(Ended) + Send>,
    },
}

/// How a connection to a server has ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides have ended it.
    Complete,
    /// The server's end has come without `close_notify`, or the connection was broken.
    Truncated,
    /// There was no session, for this reason.
    NoSession(Fault),
    /// The handshake hasn't come to an end in time.
    Late,
    /// No thread takes connections anymore.
    NotTaken,
}

/// A connection that has ended without `close_notify` of its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The name of the service.
    pub service: Box<str>,
    /// The token of its request.
    pub token: Box<[u8]>,
}

/// What comes after a turn of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Another turn, when others have had theirs.
    Turn,
    /// An event, or the deadline.
    Waits,
    /// Nothing: it is over.
    Over,
}

/// What a connection has to do with in a turn.
pub(super) struct Turn<'a> {
    pub(super) scratches: &'a mut Scratches,
    pub(super) now: Instant,
    pub(super) truncated: &'a dyn Fn(Truncated),
}

impl Connection {
    pub(super) fn new(link: Link, role: Role, idle: Option<Duration>, now: Instant) -> Self {
        if let Role::Server { counters, .. } = &role {
            counters.begin();
        }
        Self {
            phase: Phase::Handshake(link, Handshake::default()),
            role,
            idle,
            last: now,
            last_out: now,
            is_abandoned: false,
            is_queued: false,
            noted: None,
        }
    }

    /// Takes what the epoll set has told of the plain side, or of the peer's.
    pub(super) fn tell(&mut self, is_plain: bool, events: EpollFlags) {
        match &mut self.phase {
            Phase::Handshake(link, _) | Phase::Relay(link, _) => match is_plain {
                true => link.plain.tell(events),
                false => link.tcp.tell(events),
            },
            Phase::Linger(linger) if !is_plain => linger.tcp().tell(events),
            Phase::Linger(_) | Phase::Over => {}
        }
    }

    /// Both sockets, the peer's first, and what the epoll set is to tell of them.
    pub(super) fn sockets(&self) -> [Option<(BorrowedFd<'_>, EpollFlags)>; 2] {
        match &self.phase {
            Phase::Handshake(link, _) | Phase::Relay(link, _) => {
                [&link.tcp, &link.plain].map(|it| Some((it.as_fd(), it.events())))
            }
            Phase::Linger(_) | Phase::Over => [None, None],
        }
    }

    /// Returns the plain side, if what the epoll set is to tell of it has changed.
    pub(super) fn changed_plain(&mut self) -> Option<(BorrowedFd<'_>, EpollFlags)> {
        let (Phase::Handshake(link, _) | Phase::Relay(link, _)) = &mut self.phase else {
            return None;
        };
        let changes = link.plain.changes_events();
        changes.then(|| (link.plain.as_fd(), link.plain.events()))
    }

    /// Goes on, as far as possible without waiting, and not for too long.
    pub(super) fn turn(&mut self, turn: &mut Turn<'_>) -> Outcome {
        turn.scratches.clear();
        if let Phase::Handshake(link, handshake) = &mut self.phase {
            match handshake.advance(link, turn.scratches) {
                Shaken::Waits => return Outcome::Waits,
                Shaken::Abandoned => return self.over(),
                Shaken::Established => self.establish(turn),
                Shaken::Failed(fault) => self.fail(fault, turn.now),
            }
        }
        if matches!(self.phase, Phase::Relay(..)) {
            match self.relay(turn) {
                Next::Turn => return Outcome::Turn,
                Next::Event => return Outcome::Waits,
                Next::Linger => self.linger(turn.now),
                Next::Over => return self.over(),
            }
        }
        let Phase::Linger(linger) = &mut self.phase else {
            return self.over();
        };
        match linger.turn(turn.scratches) {
            Lingers::Turn => Outcome::Turn,
            Lingers::Waits => Outcome::Waits,
            Lingers::Over => self.over(),
        }
    }

    fn over(&mut self) -> Outcome {
        self.phase = Phase::Over;
        Outcome::Over
    }

    /// There is a session: says so, and sends what the client has said already.
    fn establish(&mut self, turn: &mut Turn<'_>) {
        let Phase::Handshake(mut link, handshake) = std::mem::replace(&mut self.phase, Phase::Over)
        else {
            return;
        };
        if let Role::Server {
            counters, service, ..
        } = &self.role
        {
            let name = handshake.server_name.as_deref();
            match session::session(service, link.tls.state(), name) {
                Ok(session) => {
                    let answer = Answer::Established(session).bytes();
                    // If it isn't taken, what follows isn't taken either.
                    let _ = link.to_plain.send(&mut link.plain, &answer);
                }
                Err(failure) => {
                    refuse(&mut link.plain, failure);
                    link.close(&mut turn.scratches.output);
                    let _ = link.send_output(turn.scratches);
                    self.phase = Phase::Linger(Linger::new(link, turn.now));
                    return;
                }
            }
            counters.add(turn.scratches.plain.filled().len() as u64, 0);
        }
        if !turn.scratches.plain.is_empty() {
            let _ = link.send_plain(turn.scratches);
        }
        (self.last, self.last_out) = (turn.now, turn.now);
        self.phase = Phase::Relay(link, Relay::default());
    }

    /// There is no session: says so. What rustls has to say about it is sent to the peer.
    fn fail(&mut self, fault: Fault, now: Instant) {
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        let Phase::Handshake(mut link, handshake) = phase else {
            return;
        };
        match &mut self.role {
            Role::Server { .. } => {
                let failure = failure(&fault, handshake.first());
                refuse(&mut link.plain, failure);
            }
            Role::Client { end, .. } => *end = Ended::NoSession(fault),
        }
        self.phase = Phase::Linger(Linger::new(link, now));
    }

    fn relay(&mut self, turn: &mut Turn<'_>) -> Next {
        let Phase::Relay(link, relay) = &mut self.phase else {
            return Next::Over;
        };
        let done = relay.turn(link, turn.scratches);
        let was_abandoned = std::mem::replace(&mut self.is_abandoned, link.plain.is_gone());
        if done.went_out || self.is_abandoned != was_abandoned {
            self.last_out = turn.now;
        }
        if done.went_out || done.went_in {
            self.last = turn.now;
        }
        match &mut self.role {
            Role::Server {
                counters, token, ..
            } => {
                counters.add(done.received, done.sent);
                if done.is_truncated {
                    counters.truncate();
                    (turn.truncated)(Truncated {
                        service: counters.service().into(),
                        token: token.clone(),
                    });
                }
            }
            Role::Client { end, .. } if done.is_truncated => *end = Ended::Truncated,
            Role::Client { .. } => {}
        }
        done.next
    }

    /// Closes the plain side, and then the peer's connection.
    fn linger(&mut self, now: Instant) {
        if let Phase::Relay(link, _) = std::mem::replace(&mut self.phase, Phase::Over) {
            self.phase = Phase::Linger(Linger::new(link, now));
        }
    }

    /// Ends it: only what there is already is sent.
    pub(super) fn finish(&mut self) {
        match &mut self.phase {
            Phase::Handshake(..) => self.phase = Phase::Over,
            Phase::Relay(_, relay) => relay.finish(),
            Phase::Linger(_) | Phase::Over => {}
        }
    }

    /// Returns when it has to be looked at though nothing has happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (&self.phase, &self.role) {
            (Phase::Handshake(..), Role::Client { within, .. }) => Some(self.last + *within),
            // skd decides, and closes the plain side.
            (Phase::Handshake(..), Role::Server { .. }) | (Phase::Over, _) => None,
            (Phase::Relay(..), _) => {
                let idle = self.idle.map(|idle| self.last + idle);
                let abandoned = self.is_abandoned.then(|| self.last_out + ABANDONED);
                idle.into_iter().chain(abandoned).min()
            }
            (Phase::Linger(linger), _) => Some(linger.deadline()),
        }
    }

    /// The deadline is over: the peer is told the end, as far as there is room for it.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        turn.scratches.clear();
        match &mut self.phase {
            Phase::Handshake(..) => {
                if let Role::Client { end, .. } = &mut self.role {
                    *end = Ended::Late;
                }
                self.phase = Phase::Over;
            }
            Phase::Relay(link, _) => {
                link.close(&mut turn.scratches.output);
                let _ = link.send_output(turn.scratches);
                self.linger(turn.now);
            }
            Phase::Linger(_) | Phase::Over => self.phase = Phase::Over,
        }
    }

    /// Returns whether it is only there so that what was sent last arrives.
    pub(super) fn lingers(&self) -> bool {
        matches!(self.phase, Phase::Linger(_))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        match &mut self.role {
            Role::Server { counters, .. } => counters.end(),
            Role::Client { end, ended, .. } => {
                let end = std::mem::replace(end, Ended::Complete);
                std::mem::replace(ended, Box::new(|_| {}))(end);
            }
        }
    }
}

/// Tells skd that there is no session.
pub(super) fn refuse(plain: &mut Socket, failure: Failure<'_>) {
    let answer = Answer::Failed(failure).bytes();
    // Without it, skd finds the end, which says the same with less words.
    let _ = Rest::default().send(plain, &answer);
}

fn failure(fault: &Fault, first: &[u8]) -> Failure<'static> {
    let (errno, has_begun) = match fault {
        Fault::Refused(error) => return session::failure(error, first),
        Fault::Closed { errno, has_begun } => (*errno, *has_begun),
    };
    let when = match has_begun {
        false => "before it sent anything",
        true => "in the handshake",
    };
    let why = match errno {
        None | Some(Errno::EPIPE) => format!("it has closed the connection {when}"),
        Some(Errno::ECONNRESET) => format!("it has reset the connection {when}"),
        Some(errno) => format!("its connection has broken {when}: {}", errno.desc()),
    };
    Failure {
        kind: FailureKind::Closed,
        why: why.into(),
    }
}
