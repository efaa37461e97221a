//! Connections at a wait-mode socket. They have no mark to know them by before they are accepted,
//! and can't be taken away. So a handler is judged by what it leaves: if as many wait as at its
//! start, and none has arrived since, it has accepted nothing.

use nix::errno::Errno;

use super::found::{Found, STARTS};
use crate::child::Plan;
use crate::config::ServiceId;
use crate::net::{BoundAddress, Listener, Peer};
use crate::report::{self, Event};
use crate::sys::backlog::Backlog;
use crate::sys::events::{Interest, Poller, is_readable};
use crate::sys::sockets;

/// What became of the connections that waited last.
#[derive(Debug)]
pub(super) struct Connections {
    /// Remembers whether a connection has arrived since it was last asked, without waking a
    /// thread.
    arrivals: Poller,
    backlog: Backlog,
    /// How many waited when the last handler was started, if the kernel says.
    waiting: Option<u32>,
    /// How many handlers in a row have accepted nothing.
    starts: u32,
    /// Whether the connections that wait were reported.
    known: bool,
}

impl Connections {
    pub(super) fn new(listener: &Listener) -> Result<Self, Errno> {
        let arrivals = Poller::new()?;
        arrivals.add(listener, Interest::ReadableEdge, 0)?;
        Ok(Self {
            arrivals,
            backlog: Backlog::default(),
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
        Found::Arrival {
            peer: Peer::Unaccepted(match listener.bound_address() {
                BoundAddress::Inet(address) => Some(*address),
                BoundAddress::Unix(_) => None,
            }),
            new,
            starts: self.starts,
        }
    }

    /// A handler is about to have the socket.
    pub(super) fn begin(&mut self, listener: &Listener) {
        self.arrivals.take_ready();
        self.waiting = self.backlog.length(listener);
    }

    /// A handler was started for what was found.
    pub(super) fn tried(&mut self) {
        self.starts += 1;
    }

    /// The handler has ended.
    pub(super) fn returned(&mut self, service: ServiceId, listener: &Listener, plan: &Plan) {
        // Before the arrivals are asked about: a connection that arrives in between is then no
        // reason to think that those before it were left.
        let waiting = self.backlog.length(listener);
        let fewer = waiting
            .zip(self.waiting)
            .is_some_and(|(now, then)| now < then);
        if self.arrivals.take_ready() || fewer || !is_readable(listener) {
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
