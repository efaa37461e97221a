//! What the threads that serve a service with TLS know of it, and what skd-tls has reported of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use skd_tls_protocol::Certificate;

use super::client_token::{ClientToken, ListenerMark};
use crate::config::Peer;
use crate::net::Listener;

/// A service with TLS, as the threads that serve it share it.
#[derive(Debug)]
pub(in crate::serve) struct TlsService {
    /// Its name in requests.
    pub(in crate::serve) name: String,
    /// Its listeners in tokens.
    marks: Box<[ListenerMark]>,
    reported: Mutex<Reported>,
}

/// What skd-tls has reported of a service. Locked once a second, and by who asks.
#[derive(Debug, Default)]
struct Reported {
    /// How many connections each process of skd-tls has, by its id.
    live: BTreeMap<i32, u64>,
    certificates: Vec<Certificate>,
}

impl TlsService {
    /// That of a service with this name.
    pub(in crate::serve) fn new(name: &str, listeners: &[Listener]) -> Self {
        let mark = |listener: &Listener| ListenerMark::of(listener.listener_name());
        Self {
            name: name.into(),
            marks: listeners.iter().map(mark).collect(),
            reported: Mutex::default(),
        }
    }

    /// Returns the token of a client that has come to the listener with this index.
    pub(in crate::serve) fn token(&self, listener: usize, peer: &Peer) -> ClientToken {
        let mark = self.marks.get(listener);
        ClientToken::new(mark.copied().unwrap_or(ListenerMark::NONE), peer)
    }

    /// Returns the client with this token, in hexadecimal digits, and the index of the listener that it has
    /// come to, if that is still there.
    pub(in crate::serve) fn client(&self, token: &str) -> Option<(Option<usize>, Peer)> {
        let (mark, peer) = ClientToken::read(token)?;
        Some((self.marks.iter().position(|its| *its == mark), peer))
    }

    /// Notes how many connections a process of skd-tls has.
    pub(in crate::serve) fn note_live(&self, process: i32, live: u64) {
        self.reported().live.insert(process, live);
    }

    /// Notes that a process of skd-tls has ended.
    pub(in crate::serve) fn forget(&self, process: i32) {
        self.reported().live.remove(&process);
    }

    /// Returns how many connections skd-tls has.
    pub(in crate::serve) fn live(&self) -> u64 {
        let reported = self.reported();
        let all = reported.live.values();
        all.fold(0, |sum, live| sum.saturating_add(*live))
    }

    /// Sets the certificates that hold now.
    pub(in crate::serve) fn set_certificates(&self, certificates: Vec<Certificate>) {
        self.reported().certificates = certificates;
    }

    /// Notes a new look at one of them.
    pub(in crate::serve) fn note_certificate(&self, certificate: Certificate) {
        let mut reported = self.reported();
        let mut known = reported.certificates.iter_mut();
        match known.find(|its| its.file == certificate.file) {
            Some(its) => *its = certificate,
            None => reported.certificates.push(certificate),
        }
    }

    /// Returns the certificates that hold now.
    pub(in crate::serve) fn certificates(&self) -> Vec<Certificate> {
        self.reported().certificates.clone()
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
