//! A pending connection in its TLS handshake: it is handed to skd-tls, whose answer is the first that
//! comes from there.
//!
//! A connection with TLS costs a worker eight calls more than one without, and no others: socketpair(2),
//! since handlers need a descriptor of their own; one sendmsg(2) for both descriptors, and two close(2) of
//! what has gone; a peek, since the answer's length isn't known before, and a read of just that; and two
//! epoll_ctl(2), as for all connections that wait for something.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use skd_tls_protocol::Request;

use super::service_state::ServiceState;
use super::tls_pause::TlsPause;
use crate::config::ListenerId;
use crate::net::Listener;
use crate::report::{self, Client, Event, Reason};
use crate::serve::admission::{Capacity, FoundTls, PendingConnection};
use crate::serve::tls::TlsSession;
use crate::serve::worker::watched_queue::found_tls;
use crate::sys::aside::Aside;

impl ServiceState<'_> {
    /// Hands a pending connection to skd-tls, or looks for its answer if that was done, and notes what was
    /// found.
    pub(super) fn look_at_tls(&mut self, pending: &mut PendingConnection, now: Instant) {
        let found = match &mut pending.session {
            None => self.pass_on(pending, now),
            Some(session) => found_tls(session.look(&pending.connection)),
        };
        pending.client.found_tls(found);
    }

    fn pass_on(&mut self, pending: &mut PendingConnection, now: Instant) -> FoundTls {
        let (Some(link), Some(tls)) = (&self.thread.shared.tls, &self.service.tls) else {
            return FoundTls::Refused(Reason::TlsEnded);
        };
        // It will be queued, and a handshake in vain is dear.
        if self.queue.capacity_for(pending.client.source) == Capacity::Full {
            return FoundTls::Refused(Reason::Crowd);
        }
        if !self.tls_pause.is_open(now) {
            return FoundTls::Later;
        }
        let Ok((own, other)) = self.plain_pair() else {
            // A shortage, as of any descriptors.
            self.tls_pause.close(now);
            return FoundTls::Later;
        };
        let token = tls.token(pending.listener, &pending.client.peer);
        let request = Request {
            service: &tls.name,
            token: token.bytes(),
        };
        match link.pass(&request, &pending.connection, &other) {
            Ok(()) => {}
            // It is full; or too many descriptors of this user are on their way (unix(7)), or memory is short.
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM) => {
                self.tls_pause.close(now);
                return FoundTls::Later;
            }
            Err(_) => return FoundTls::Refused(Reason::TlsEnded),
        }
        self.tls_pause = TlsPause::default();
        let client = std::mem::replace(&mut pending.connection, own.into());
        let listener = self.service.listeners.get(pending.listener);
        if listener.is_some_and(Listener::holds_descriptors) {
            // skd-tls may have closed it already, so that this is its last close.
            drop(Aside::from(OwnedFd::from(client)));
        }
        pending.session = Some(TlsSession::begin(now));
        FoundTls::Runs
    }

    /// Makes the two ends of a plain side. If no descriptor is left, connections that have been silent for
    /// longest have to go for it.
    fn plain_pair(&mut self) -> Result<(OwnedFd, OwnedFd), Errno> {
        let pair = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
        };
        let mut made = pair();
        for _ in 0..2 {
            if !matches!(made, Err(Errno::EMFILE)) || !self.free_descriptor() {
                break;
            }
            made = pair();
        }
        made
    }

    /// Reports a session that has just been established, once.
    pub(super) fn report_session(&self, pending: &mut PendingConnection) {
        let listener = self.service.listeners.get(pending.listener);
        let client = Client {
            service: self.service.id,
            listener: listener.map_or(ListenerId::NONE, Listener::id),
            peer: &pending.client.peer,
        };
        let Some(session) = &mut pending.session else {
            return;
        };
        if let Some(took) = session.take_duration() {
            if let Some(session) = session.established() {
                report::event(Event::TlsEstablished(client, &session, took));
            }
        }
    }
}
