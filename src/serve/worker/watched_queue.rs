//! A queue of pending connections that are watched while their clients have to send something, or are in
//! their TLS handshakes.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use crate::config::{Peer, Source};
use crate::net::proxy;
use crate::report::Reason;
use crate::serve::admission::{
    Capacity, FirstByte, FoundTls, Look, PendingConnection, PendingQueue, Stage,
};
use crate::serve::gate::GateStop;
use crate::serve::handlers::token::Token;
use crate::serve::tls::TlsSign;
use crate::sys::events::{Interest, Poller};
use crate::sys::sockets::{is_shut_down, receive_now};

/// A queue of pending connections, and the epoll set in which they are.
#[derive(Debug)]
pub(super) struct WatchedQueue<'a> {
    /// `None` until the first connection.
    queue: Option<Box<PendingQueue>>,
    capacity: usize,
    poller: &'a Poller,
    /// How many connections all threads have queued.
    count: &'a AtomicUsize,
}

impl<'a> WatchedQueue<'a> {
    pub(super) fn new(capacity: usize, poller: &'a Poller, count: &'a AtomicUsize) -> Self {
        Self {
            queue: None,
            capacity,
            poller,
            count,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.is_empty())
    }

    /// Adds a connection, under the id that it had if it had one. It is watched if it waits for input; if
    /// that fails, it is returned.
    pub(super) fn add(
        &mut self,
        id: Option<u32>,
        pending: PendingConnection,
    ) -> Result<(), Box<(PendingConnection, Errno)>> {
        let new = || Box::new(PendingQueue::new(self.capacity));
        let queue = self.queue.get_or_insert_with(new);
        let id = id.unwrap_or_else(|| queue.new_id());
        let service = pending.service;
        let token = Token::PendingConnection { service, id }.into();
        let poller = self.poller;
        if let Some(pidfd) = gate_of(&pending) {
            if let Err(errno) = poller.add(pidfd, Interest::Readable, token) {
                return Err(Box::new((pending, errno)));
            }
        }
        if pending.client.awaits_input() {
            // There is an event for what has arrived before, too.
            if let Err(errno) = poller.add(&pending.connection, Interest::ReadableEdge, token) {
                return Err(Box::new((pending, errno)));
            }
        }
        queue.insert(id, pending);
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Removes a connection. It isn't watched any more: a handler that has it would keep the
    /// registration alive, under a descriptor that is soon another's.
    pub(super) fn remove(&mut self, id: u32) -> Option<PendingConnection> {
        let pending = self.queue.as_mut()?.remove(id)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(pidfd) = gate_of(&pending) {
            let _ = self.poller.remove(pidfd);
        }
        if pending.client.awaits_input() {
            let _ = self.poller.remove(&pending.connection);
        }
        Some(pending)
    }

    /// Tells the gates of all connections to end, as skd does. Returns the ids of the connections, which
    /// are looked at again.
    pub(super) fn stop_gates(&mut self, now: Instant) -> Vec<u32> {
        let Some(queue) = &mut self.queue else {
            return Vec::new();
        };
        let mut ids = queue.ids();
        ids.retain(|id| {
            let pending = queue.get_mut(*id);
            let gate = pending.and_then(|pending| pending.gate.as_mut());
            gate.map(|gate| gate.stop(GateStop::End, now)).is_some()
        });
        ids
    }

    /// Removes all connections, in the order of arrival.
    pub(super) fn remove_all(&mut self) -> Vec<PendingConnection> {
        let ids = self
            .queue
            .as_ref()
            .map_or_else(Vec::new, |queue| queue.ids());
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Returns whether a connection has to stay because its PROXY header or skd-tls's answer is incomplete,
    /// or its first byte missing. Something may be unread even so: a part of these, or the out-of-band byte
    /// of a unix client. If the connection were removed and watched anew, there would be an event at once,
    /// and for ever. What has arrived, or a fault, is noted.
    pub(super) fn lacks_input(&mut self, id: u32, now: Instant) -> bool {
        let queue = self.queue.as_mut();
        let Some(pending) = queue.and_then(|queue| queue.get_mut(id)) else {
            return false;
        };
        match (pending.client.stage(), &mut pending.session) {
            _ if pending.client.is_late(now) => return false,
            (Stage::Header, _) => look_for(Look::Header, pending),
            (Stage::Tls, Some(session)) => {
                let sign = session.look(&pending.connection);
                pending.client.found_tls(found_tls(sign));
            }
            (Stage::FirstByte, _) => look_for(Look::FirstByte, pending),
            _ => return false,
        }
        pending.client.lacks_input()
    }

    /// Returns the ids of the connections whose clients `which` selects.
    pub(super) fn find(&self, which: impl Fn(&Peer) -> bool) -> Vec<u32> {
        let queue = self.queue.as_deref();
        queue.map_or_else(Vec::new, |queue| queue.find(which))
    }

    pub(super) fn source_waited_for(&self, id: u32) -> Option<Source> {
        self.queue.as_ref()?.source_waited_for(id)
    }

    pub(super) fn first_of(&self, source: Source) -> Option<u32> {
        self.queue.as_ref()?.first_of(source)
    }

    pub(super) fn first_for_rate(&self) -> Option<u32> {
        self.queue.as_ref()?.for_rate.first().copied()
    }

    pub(super) fn first_for_tls(&self) -> Option<u32> {
        self.queue.as_ref()?.for_tls.first().copied()
    }

    pub(super) fn first_for_slot(&self) -> Option<u32> {
        self.queue.as_ref()?.for_slot.first().copied()
    }

    pub(super) fn capacity_for(&self, source: Source) -> Capacity {
        let queue = self.queue.as_ref();
        queue.map_or(Capacity::Free, |queue| queue.capacity_for(source))
    }

    pub(super) fn most_silent(&self) -> Option<u32> {
        self.queue.as_ref()?.most_silent()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.as_ref()?.next_due()
    }

    pub(super) fn due(&self, now: Instant) -> Option<u32> {
        self.queue.as_ref()?.due(now)
    }
}

/// The pidfd of the gate that a connection waits for, if it does.
fn gate_of(pending: &PendingConnection) -> Option<BorrowedFd<'_>> {
    let gate = pending.gate.as_ref();
    gate.filter(|_| pending.client.stage() == Stage::Gate)?
        .pidfd()
}

/// Returns what a look at a plain side means to the pipeline.
pub(super) fn found_tls(sign: TlsSign) -> FoundTls {
    match sign {
        TlsSign::Runs => FoundTls::Runs,
        TlsSign::Established => FoundTls::Established,
        // The session has the rest of the reason.
        TlsSign::Failed(kind) => FoundTls::Refused(Reason::TlsFailed(kind, "")),
        TlsSign::Ended => FoundTls::Refused(Reason::TlsEnded),
        TlsSign::Fault => FoundTls::Refused(Reason::TlsFault),
    }
}

/// Looks for what the pipeline wants to know about a connection, and notes what it has found.
pub(super) fn look_for(what: Look, pending: &mut PendingConnection) {
    let PendingConnection {
        client, connection, ..
    } = pending;
    match what {
        Look::Header => client.found_header(proxy::receive(connection)),
        Look::FirstByte => {
            client.found_first_byte(
                match receive_now(&*connection, &mut [0], MsgFlags::MSG_PEEK) {
                    // An empty packet reads the same, and counts if the client hasn't closed since.
                    Ok(0) if is_shut_down(&*connection) => FirstByte::Ended,
                    Ok(_) => FirstByte::Arrived,
                    Err(Errno::EAGAIN) => FirstByte::Missing,
                    Err(_) => FirstByte::Ended,
                },
            );
        }
    }
}
