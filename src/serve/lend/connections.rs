//! Connections have no mark to know them by before they are accepted, and can't be taken
//! away. So a handler is judged by what it leaves: if as many wait as when it was started,
//! and none has come since, it has accepted nothing.

use std::time::Duration;

use nix::errno::Errno;

use super::{Found, STARTS};
use crate::child::Plan;
use crate::net::{Listener, Peer};
use crate::report::{self, Event};
use crate::sys::backlog::Backlog;
use crate::sys::events::{Interest, Poller, is_readable, no_events};
use crate::sys::sockets;

/// What became of the connections that waited last.
#[derive(Debug)]
pub(super) struct Connections {
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
    pub(super) fn new(listener: &Listener) -> Result<Self, Errno> {
        let comers = Poller::new()?;
        comers.add(listener, Interest::ReadableEdge, 0)?;
        Ok(Self {
            comers,
            backlog: Backlog::new(),
            waiting: None,
            starts: 0,
            known: false,
        })
    }

    pub(super) fn find(&mut self, listener: &Listener) -> Found {
        if sockets::is_shut_down(listener) {
            return Found::ShutDown;
        }
        if !is_readable(listener) {
            self.known = false;
            return Found::Nothing;
        }
        let new = !std::mem::replace(&mut self.known, true);
        Found::Somebody {
            peer: Peer::Unaccepted(listener.address()),
            new,
            starts: self.starts,
        }
    }

    /// A handler is about to have the socket.
    pub(super) fn lend(&mut self, listener: &Listener) {
        self.has_come();
        self.waiting = self.backlog.length(listener);
    }

    /// A handler was started for what was found.
    pub(super) fn tried(&mut self) {
        self.starts += 1;
    }

    /// The handler has ended.
    pub(super) fn returned(&mut self, listener: &Listener, plan: &Plan) {
        // Before it is asked who has come: someone who comes in between is then no reason to
        // take those before him for left.
        let waiting = self.backlog.length(listener);
        let fewer = waiting
            .zip(self.waiting)
            .is_some_and(|(now, then)| now < then);
        if self.has_come() || fewer || !is_readable(listener) {
            self.starts = 0;
            self.known = false;
        } else if self.starts == STARTS && waiting.is_some() {
            report::event(Event::LeftWaiting {
                listener,
                program: &plan.name(),
                starts: STARTS,
            });
        }
    }

    fn has_come(&self) -> bool {
        let mut room = no_events();
        // What can't be known counts as yes: at worst, the next start is sooner.
        let events = self.comers.wait(&mut room, Some(Duration::ZERO));
        events.map_or(true, |mut events| events.next().is_some())
    }
}
