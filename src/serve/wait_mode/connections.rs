//! Connections have no mark to know them by before they are accepted, and can't be taken
//! away. So a handler is judged by what it leaves: if as many wait as when it was started,
//! and none has come since, it has accepted nothing.

use nix::errno::Errno;

use super::{Found, STARTS};
use crate::child::Plan;
use crate::config::ServiceId;
use crate::net::{BoundAddress, Listener, Peer};
use crate::report::{self, Event};
use crate::sys::backlog::Backlog;
use crate::sys::events::{Interest, Poller, is_readable};
use crate::sys::sockets;

/// What became of the connections that waited last.
#[derive(Debug)]
pub(in crate::serve) struct Connections {
    /// Remembers whether a connection has come since it was last asked, without waking
    /// anybody.
    comers: Poller,
    backlog: Backlog,
    /// How many waited when the last handler was started, if the kernel says.
    waiting: Option<u32>,
    /// How many handlers in a row have accepted nothing.
    starts: u32,
    /// Whether those who wait are known to the log.
    known: bool,
}

impl Connections {
    pub(in crate::serve) fn new(listener: &Listener) -> Result<Self, Errno> {
        let comers = Poller::new()?;
        comers.add(listener, Interest::ReadableEdge, 0)?;
        Ok(Self {
            comers,
            backlog: Backlog::default(),
            waiting: None,
            starts: 0,
            known: false,
        })
    }

    pub(in crate::serve) fn find(&mut self, listener: &Listener) -> Found {
        if sockets::is_shut_down(listener) {
            return Found::ShutDown;
        }
        if !is_readable(listener) {
            self.known = false;
            return Found::Nothing;
        }
        let new = !std::mem::replace(&mut self.known, true);
        Found::Somebody {
            peer: Peer::Unaccepted(match listener.bound_address() {
                BoundAddress::Inet(address) => Some(*address),
                BoundAddress::Unix(_) => None,
            }),
            new,
            starts: self.starts,
        }
    }

    /// A handler is about to have the socket.
    pub(in crate::serve) fn lend(&mut self, listener: &Listener) {
        self.comers.take_ready();
        self.waiting = self.backlog.length(listener);
    }

    /// A handler was started for what was found.
    pub(in crate::serve) fn tried(&mut self) {
        self.starts += 1;
    }

    /// The handler has ended.
    pub(in crate::serve) fn returned(
        &mut self,
        service: ServiceId,
        listener: &Listener,
        plan: &Plan,
    ) {
        // Before it is asked who has come: someone who comes in between is then no reason to
        // take those before him for left.
        let waiting = self.backlog.length(listener);
        let fewer = waiting
            .zip(self.waiting)
            .is_some_and(|(now, then)| now < then);
        if self.comers.take_ready() || fewer || !is_readable(listener) {
            self.starts = 0;
            self.known = false;
        } else if self.starts == STARTS && waiting.is_some() {
            report::event(Event::LeftWaiting {
                service,
                listener: listener.listener_name(),
                program: plan.name(),
                starts: STARTS,
            });
        }
    }
}
