//! Datagrams at a wait-mode socket. Each is known by the time at which the kernel received it, so
//! two equal ones are two. After a few starts for the same one it is discarded.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;

use super::found::{Found, STARTS};
use crate::child::Plan;
use crate::config::ServiceId;
use crate::net::Listener;
use crate::report::{self, Event};
use crate::sys::sockets::{self, discard_elsewhere};

/// What became of the last datagram.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// The datagram for which a handler was started last, and how often that was.
    last: Option<(Option<TimeSpec>, u32)>,
}

impl Datagrams {
    pub(super) fn find(&mut self, service: ServiceId, listener: &Listener, plan: &Plan) -> Found {
        let datagram = match sockets::peek_datagram(listener) {
            Ok(Some(datagram)) => datagram,
            Ok(None) if sockets::is_shut_down(listener) => return Found::ShutDown,
            Ok(None) => return Found::Nothing,
            Err(errno) => return Found::Trouble(errno),
        };
        let known = self.last.filter(|(last, _)| *last == datagram.received);
        let starts = known.map_or(0, |(_, starts)| starts);
        if starts == STARTS {
            return self.discard(service, listener, plan, datagram.length);
        }
        self.last = Some((datagram.received, starts));
        Found::Arrival {
            peer: listener.sender(datagram.sender),
            new: known.is_none(),
            starts,
        }
    }

    /// A handler was started for what was found.
    pub(super) fn tried(&mut self) {
        if let Some((_, starts)) = &mut self.last {
            *starts += 1;
        }
    }

    /// Discards the first datagram, of this length, and reports whose it was.
    fn discard(
        &mut self,
        service: ServiceId,
        listener: &Listener,
        plan: &Plan,
        length: usize,
    ) -> Found {
        self.last = None;
        let discarded = if listener.holds_descriptors() {
            let sender = None;
            discard_elsewhere(listener).map(|()| Some((sender, length)))
        } else {
            let discarded = sockets::discard_datagram(listener);
            discarded.map(|found| found.map(|it| (it.sender, it.length)))
        };
        match discarded {
            Ok(Some((sender, length))) => {
                report::event(Event::ReadAway {
                    service,
                    peer: &listener.sender(sender),
                    length,
                    listener: listener.listener_name(),
                    program: plan.name(),
                    starts: STARTS,
                });
                Found::Nothing
            }
            Ok(None) => Found::Nothing,
            Err(errno) => Found::Trouble(errno),
        }
    }

    /// Has the kernel note the time of each datagram, unless a handler has the socket: it would
    /// take room from the handler's own control data.
    pub(super) fn note_times(listener: &Listener, on: bool) -> Result<(), Errno> {
        sockets::set_receive_time(listener, on)
    }
}
