//! What a start or an upgrade has made ready before any thread serves it.

use std::sync::Arc;

use crate::child::{Cgroups, FilterSocket, Jail, Method, Plan, SavedPool};
use crate::config::{self, KILL_AFTER, ServiceText, Span};
use crate::net::{Listener, SocketFile};
use crate::serve::admission::{Rules, SavedRates};
use crate::serve::availability::Availability;
use crate::serve::handlers::saved::{SavedHandler, SavedLingering};
use crate::serve::service::{DrainTimeouts, TimeLimits};
use crate::serve::worker::datagram::SavedExchange;
use crate::serve::worker::saved::SavedPending;
use crate::setup::{Log, Manager, RuleFiles};
use crate::sys::descriptors::Reserved;

use super::acts::SavedActs;
use super::filter_calls::SavedListeners;
use super::origin::Origin;
use super::saved_counters::SavedFigures;
use super::socket::bound::BoundControl;
use super::tls::TlsKeeper;

/// A service whose sockets listen and whose plan was proved.
#[derive(Debug)]
pub struct Prepared {
    /// What was asked for.
    pub config: config::Service,
    /// How its handlers are made.
    pub plan: Plan,
    /// Their sandbox, if they have one.
    pub jail: Option<Arc<Jail>>,
    /// Their control groups, if they have some.
    pub cgroups: Option<Arc<Cgroups>>,
    /// How its gates are made, if it has some.
    pub gate: Option<Plan>,
    /// Its sockets, which listen.
    pub listeners: Vec<Listener>,
    /// The rules about clients, and the files that they are read from again, unless a reload does.
    pub rules: Option<(Rules, Option<RuleFiles>)>,
    /// How many threads receive its datagrams.
    pub datagram_workers: usize,
    /// What an earlier binary has left of it.
    pub restored: Option<RestoredService>,
    /// How it was written, if it isn't configured any more and serves its last clients.
    pub retiring: Option<Arc<ServiceText>>,
}

/// What is left of a service that isn't configured any more: its handlers run on.
#[derive(Debug)]
pub struct RemovedService {
    /// The name that it had.
    pub name: String,
    /// How long its handlers may run.
    pub limits: Option<TimeLimits>,
    /// How long they are waited for at the end, if they are.
    pub drain: Option<DrainTimeouts>,
    /// What an earlier binary has left of it.
    pub restored: RestoredService,
}

impl RemovedService {
    /// Returns how long its handlers may run after they were told to end, as far as it is known.
    pub(super) fn kill_after(&self) -> Span {
        let drain = self.drain.map(|it| it.kill_after);
        let limits = || self.limits.map(|it| it.kill_after);
        drain.or_else(limits).unwrap_or(KILL_AFTER)
    }
}

/// What an earlier binary has left of a service, besides its listeners and its rules.
#[derive(Debug, Default)]
pub struct RestoredService {
    /// The files of its listeners.
    pub files: Vec<SocketFile>,
    /// How many handlers it has had, where that is limited, live ones among them.
    pub total: u64,
    /// Whether those were all.
    pub is_done: bool,
    /// Whether it takes new clients.
    pub availability: Availability,
    /// Its live handlers.
    pub handlers: Vec<SavedHandler>,
    /// Its pending connections.
    pub pending: Vec<SavedPending>,
    /// Its exchanges of datagrams.
    pub exchanges: Vec<SavedExchange>,
    /// Its token buckets that aren't full.
    pub rates: Option<SavedRates>,
    /// Its prestarted handlers.
    pub pool: Option<SavedPool>,
    /// The listeners of its handlers' filters.
    pub filter_listeners: Vec<SavedListeners>,
}

/// What the running daemon needs besides its services.
#[derive(Debug)]
pub struct Resources {
    /// How children are made here.
    pub method: Method,
    /// How many threads accept connections, of all services together.
    pub stream_workers: usize,
    /// The reserved descriptors, of which each thread that starts handlers needs one.
    pub reserved: Reserved,
    /// The socket for the listeners of handlers' filters, if a service needs it.
    pub filter_socket: Option<FilterSocket>,
    /// The log, to be opened again and to be kept going.
    pub log: Log,
    /// The service manager, to be told how things are.
    pub manager: Option<Manager>,
    /// What else is known from the start.
    pub origin: Origin,
    /// The control socket, if there is one.
    pub control: Option<BoundControl>,
    /// What serves TLS, if a service has that, or had it.
    pub tls: Option<TlsKeeper>,
    /// What an earlier binary has left, if there was one.
    pub restored: Restored,
}

/// What an earlier binary has left that belongs to no configured service.
#[derive(Debug, Default)]
pub struct Restored {
    /// Services that aren't configured any more.
    pub removed: Vec<RemovedService>,
    /// What its clients of the control socket have begun.
    pub acts: SavedActs,
    /// Its lingering connections.
    pub lingering: Vec<SavedLingering>,
    /// How many handlers there have been, live ones among them.
    pub served: u64,
    /// When skd was started, in milliseconds of the monotonic clock.
    pub began: Option<u64>,
    /// What it has counted.
    pub figures: Option<SavedFigures>,
    /// Whether it was reading rules or files.
    pub reloads: bool,
    /// Listeners that are closed at once: another program serves their clients, or it isn't known how
    /// they were served.
    pub closed: Vec<Listener>,
}
