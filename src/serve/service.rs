//! A service as the threads that serve it share it, and the times that its handlers are held to.
//!
//! A setting is a field of [`config::Service`]. [`Service::new`] reads what workers need,
//! [`TimeLimits`] and [`DrainTimeouts`] what handlers are held to.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::admission::{Policy, RejectedSources, Rules, RulesHandle, Slots, Total, Traits, When};
use super::availability::{Availability, AvailabilityCell};
use super::gate::Gate;
use super::tls::TlsService;
use crate::child::{Plan, Source};
use crate::config::{self, DatagramMode, KILL_AFTER, Listen, ListenerId, ServiceId, Span, Style};
use crate::error::Error;
use crate::net::Listener;
use crate::report::{self, Client, Event};
use crate::sys::diagnosis::Diagnosis;
use crate::sys::events::Waker;

/// How long a sender of datagrams may be silent, where it isn't said.
const PEER_IDLE: Span = Span::seconds(60);

/// A service as the threads that serve it share it.
#[derive(Debug)]
pub(in crate::serve) struct Service {
    pub(in crate::serve) id: ServiceId,
    /// What its handlers are made from.
    pub(in crate::serve) source: Arc<Source>,
    /// The stream listeners from which skd accepts.
    pub(in crate::serve) listeners: Vec<Listener>,
    /// The datagram listeners from which skd receives.
    pub(in crate::serve) datagrams: Vec<Listener>,
    pub(in crate::serve) datagram_mode: DatagramMode,
    /// The lowest source port of UDP datagrams that are accepted.
    pub(in crate::serve) min_source_port: u16,
    /// How long a sender of datagrams may be silent before its handler reads the end.
    pub(in crate::serve) peer_idle: Duration,
    pub(in crate::serve) slots: Arc<Slots>,
    /// Whether it takes new clients.
    pub(in crate::serve) availability: AvailabilityCell,
    /// While it drains, how many of its workers have no client of it in hand, and take none.
    pub(in crate::serve) idle_workers: AtomicUsize,
    /// What else is asked of clients, if anything.
    pub(in crate::serve) policy: Option<Box<Policy>>,
    /// What is known of its TLS, if it has that.
    pub(in crate::serve) tls: Option<Box<TlsService>>,
    /// The program that has connections first, if there is one.
    pub(in crate::serve) gate: Option<Box<Gate>>,
    /// How long input is drained after a handler's end, if at all.
    pub(in crate::serve) linger: Option<Linger>,
    /// The rules that hold now, if there are any.
    pub(in crate::serve) rules: Option<RulesHandle>,
    /// The sources that are rejected most.
    pub(in crate::serve) rejected: RejectedSources,
    /// The number of its open exchanges, where it isn't configured any more.
    pub(in crate::serve) last_exchanges: AtomicUsize,
    /// The number of its pending connections that are queued.
    pub(in crate::serve) pending: AtomicUsize,
    /// Whether the main thread is asked to find out if clients wait in the backlog.
    pub(in crate::serve) asks_backlog: AtomicBool,
    /// How many of its datagram workers receive no more, since all handlers have begun that there may
    /// be, and need the listeners for no answer.
    pub(in crate::serve) done_workers: AtomicUsize,
    /// Whether the listeners are closed, since all handlers have begun that there may be. Those of
    /// datagrams are closed when all datagram workers are done.
    is_done: AtomicBool,
}

/// What a service consists of before it is shared.
#[derive(Debug)]
pub(in crate::serve) struct Parts {
    pub(in crate::serve) source: Arc<Source>,
    /// The plan of its gate.
    pub(in crate::serve) gate: Option<Plan>,
    pub(in crate::serve) listeners: Vec<Listener>,
    pub(in crate::serve) datagrams: Vec<Listener>,
    pub(in crate::serve) rules: Option<Rules>,
    /// Whether an earlier process has left pending connections.
    pub(in crate::serve) has_pending: bool,
    /// Whether it was done before, and the number of handlers that have ended if their total is
    /// limited.
    pub(in crate::serve) earlier: (bool, u64),
    pub(in crate::serve) availability: Availability,
}

impl Service {
    /// Makes a service from its configuration and its parts. `wakers` are the workers'.
    pub(in crate::serve) fn new(
        id: ServiceId,
        config: config::Service,
        parts: Parts,
        wakers: &Arc<[Waker]>,
    ) -> Self {
        let linger = match config.admission.linger {
            Some(Span::ZERO) => None,
            // skd-tls drains the input of clients. The unix sockets between it and handlers lose nothing.
            _ if config.tls.is_some() => None,
            Some(time) => Some(Linger::always(time.into())),
            // A handler that has closed its connection isn't idle, which would show no more.
            None if config.admission.idle_timeout.is_some() => None,
            None => {
                let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
                let clients = config.max_clients.map(|clients| clients.get() as u64);
                (!parts.listeners.is_empty()).then(|| Linger::by_default(files, clients))
            }
        };
        let peer_idle = config.admission.idle_timeout.unwrap_or(PEER_IDLE);
        let traits = Traits {
            datagrams: !parts.datagrams.is_empty(),
            tls: config.tls.as_ref().map(|tls| tls.timeout),
            gated: config.gate.is_some(),
        };
        let tls = config.tls.as_ref();
        let tls = tls.map(|_| TlsService::new(&config.name, &parts.listeners));
        let gate = parts.gate.zip(config.gate);
        let gate = gate.map(|(plan, asked)| Gate::new(&asked, plan, config.kill_after));
        let asked = config.admission;
        let policy = match parts.has_pending {
            true => Some(Policy::of(asked, traits, wakers)),
            false => Policy::new(asked, traits, wakers),
        };
        let when = policy.as_ref().map_or(When::Before, Policy::slots_when);
        let (is_done, ended) = parts.earlier;
        let total = config.max_total.map(|total| Total::new(total, ended));
        Self {
            id,
            source: parts.source,
            tls: tls.map(Box::new),
            listeners: parts.listeners,
            datagrams: parts.datagrams,
            datagram_mode: config.datagrams,
            min_source_port: config.min_source_port,
            peer_idle: peer_idle.into(),
            slots: Slots::with_total(config.max_clients, total, when, Arc::clone(wakers)),
            availability: AvailabilityCell::new(parts.availability),
            idle_workers: AtomicUsize::new(0),
            policy: policy.map(Box::new),
            gate: gate.map(Box::new),
            linger,
            rules: parts.rules.map(RulesHandle::new),
            rejected: RejectedSources::new(wakers.len()),
            last_exchanges: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            asks_backlog: AtomicBool::new(false),
            done_workers: AtomicUsize::new(0),
            is_done: AtomicBool::new(is_done),
        }
    }

    /// Reports that a client with TLS, which skd-tls knows by this token in hexadecimal digits, has ended
    /// without saying so. A token that isn't one of skd is passed over.
    pub(in crate::serve) fn report_truncated(&self, token: &str) {
        let client = self.tls.as_ref().and_then(|tls| tls.client(token));
        if let Some((listener, peer)) = client {
            let listener = listener.and_then(|index| self.listeners.get(index));
            report::event(Event::TlsTruncated(Client {
                service: self.id,
                listener: listener.map_or(ListenerId::NONE, Listener::id),
                peer: &peer,
            }));
        }
    }

    /// Returns whether the listeners are closed, since all handlers have begun that there may be.
    /// For the main thread, which decides it.
    pub(in crate::serve) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::SeqCst)
    }

    pub(in crate::serve) fn set_done(&self) {
        self.is_done.store(true, Ordering::SeqCst);
    }

    /// Returns how many pending connections are queued.
    pub(in crate::serve) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Returns whether skd itself accepts or receives for this service, so that its slots count.
    pub(in crate::serve) fn takes_slots(&self) -> bool {
        !self.listeners.is_empty() || !self.datagrams.is_empty()
    }

    /// Returns whether another thread closes descriptors of this service.
    pub(in crate::serve) fn closes_aside(&self) -> bool {
        let mut listeners = self.listeners.iter().chain(&self.datagrams);
        self.lingers() || listeners.any(Listener::holds_descriptors)
    }

    /// Returns whether connections of this service may linger.
    pub(in crate::serve) fn lingers(&self) -> bool {
        self.linger.is_some() || self.tells()
    }

    /// Returns whether many of them may, because an option asks for it.
    pub(in crate::serve) fn lingers_much(&self) -> bool {
        self.linger.is_some_and(|linger| !linger.if_unread) || self.tells()
    }

    fn tells(&self) -> bool {
        self.policy.as_deref().is_some_and(Policy::tells)
    }
}

/// What becomes of a connection after its handler's end.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Linger {
    /// How long input is drained.
    pub(in crate::serve) time: Duration,
    /// Whether that is so only if input is unread when the handler ends. It costs less.
    pub(in crate::serve) if_unread: bool,
    /// Only connections with lower descriptors are kept.
    pub(in crate::serve) below: RawFd,
}

/// How long input is drained by default.
const LINGER: Duration = Duration::from_secs(2);

impl Linger {
    /// The default where so many files may be open, and so many clients may be served: it mustn't
    /// take the descriptors of handlers.
    pub(in crate::serve) fn by_default(files: u64, clients: Option<u64>) -> Self {
        // Of the numbers below, handlers take two each; of the others, one.
        let spare = clients.map_or(files, |clients| files.saturating_sub(OWN + clients));
        let below = MOST_BELOW.min(files / 4).min(spare.saturating_mul(2));
        Self {
            time: LINGER,
            if_unread: true,
            below: RawFd::try_from(below).unwrap_or(RawFd::MAX),
        }
    }

    /// As the administrator wants it.
    pub(in crate::serve) fn always(time: Duration) -> Self {
        Self {
            time,
            if_unread: false,
            below: RawFd::MAX,
        }
    }
}

/// At most half as many connections are kept by default: thousands of live handlers cost what they
/// do without.
const MOST_BELOW: u64 = 512;

/// More than skd itself and its listeners have open, but for those of clients.
const OWN: u64 = 128;

/// How long the handlers of a service may run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TimeLimits {
    /// How long a handler may run.
    pub timeout: Option<Span>,
    /// How long its connection may be idle, if it is one of TCP.
    pub idle: Option<Span>,
    /// How long it may run after it was told to end.
    pub kill_after: Span,
}

impl TimeLimits {
    /// The limits of a service, if it has any.
    pub fn of(service: &config::Service) -> Option<Self> {
        // skd itself sees which sender of datagrams is idle.
        let stream = |listen: &Listen| listen.endpoint.style().is_none_or(Style::has_connections);
        let has_streams = service.listeners.iter().any(stream);
        let limits = Self {
            timeout: service.admission.timeout,
            // skd-tls sees which of its clients is idle.
            idle: service
                .admission
                .idle_timeout
                .filter(|_| has_streams && service.tls.is_none()),
            kill_after: service.kill_after.unwrap_or(KILL_AFTER),
        };
        limits.timeout.or(limits.idle).map(|_| limits)
    }

    /// Says why no handler could be held to them here, whatever the sockets.
    pub fn check(&self) -> Result<(), Error> {
        if self.idle.is_none() {
            return Ok(());
        }
        let mut diagnosis = Diagnosis::new().map_err(cannot_ask)?;
        diagnosis.tells_of_tcp().map_err(cannot_ask)
    }
}

/// How long the handlers of a service are waited for at the end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DrainTimeouts {
    /// How long they may run on.
    pub drain: Span,
    /// How long they may run after they were told to end.
    pub kill_after: Span,
}

impl DrainTimeouts {
    /// The drain timeouts of a service, if its handlers are waited for.
    pub fn of(service: &config::Service) -> Option<Self> {
        Some(Self {
            drain: service.drain?,
            kill_after: service.kill_after.unwrap_or(KILL_AFTER),
        })
    }
}

pub(in crate::serve) fn cannot_ask(errno: Errno) -> Error {
    let what = "--idle-timeout: the kernel can't be asked since when connections are idle (it \
                needs CONFIG_INET_TCP_DIAG, and a container has to allow netlink sockets)";
    Error::start(what, errno)
}
