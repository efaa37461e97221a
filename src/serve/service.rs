//! One service: what its handlers are made from, where its clients come, and what is asked of them.

use std::ffi::CString;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::admission::{Policy, Rules, RulesHandle, Slots};
use crate::child::{Plan, Pool};
use nix::errno::Errno;

use crate::config::{
    self, Admission, Daemon, DatagramMode, KILL_AFTER, Listen, Prestart, ServiceId, Span, Style,
};
use crate::error::Error;
use crate::net::Listener;
use crate::setup::RuleFiles;
use crate::sys::diagnosis::Diagnosis;

/// A service whose sockets are bound and whose plan was proved, before any thread serves it.
#[derive(Debug)]
pub struct Prepared {
    /// Its name in messages and in the state of an upgrade.
    pub name: String,
    /// How its handlers are made.
    pub plan: Plan,
    /// Its sockets, which listen.
    pub listeners: Vec<Listener>,
    /// Whether its stream listeners are in wait mode, as datagram ones are by default.
    pub wait: bool,
    /// What handlers of its datagram listeners are for.
    pub datagrams: DatagramMode,
    /// The lowest source port of UDP datagrams that are accepted, where skd receives them.
    pub min_source_port: u16,
    /// The largest number of handlers that run at once, except in wait mode.
    pub max_clients: Option<NonZeroUsize>,
    /// What else is asked of clients.
    pub admission: Admission,
    /// Whether handlers are started before their clients come, and how.
    pub prestart: Option<Prestart>,
    /// The time limits of its handlers.
    pub limits: Option<TimeLimits>,
    /// How long input is drained after a handler's end.
    pub linger: Option<Span>,
    /// The rules about clients, and the files that they are read from again.
    pub rules: Option<(Rules, RuleFiles)>,
}

/// A service as the threads that serve it share it.
#[derive(Debug)]
pub(in crate::serve) struct Service {
    pub(in crate::serve) id: ServiceId,
    pub(in crate::serve) name: String,
    pub(in crate::serve) plan: Arc<Plan>,
    /// Prestarted handlers, where there are any.
    pub(in crate::serve) pool: Option<Arc<Pool>>,
    /// What prestarted handlers have in their environment besides, and so have those that are
    /// started in their place: nothing about a client.
    pub(in crate::serve) pool_variables: Vec<CString>,
    /// The stream listeners from which skd accepts.
    pub(in crate::serve) listeners: Vec<Listener>,
    /// The datagram listeners from which skd receives.
    pub(in crate::serve) datagrams: Vec<Listener>,
    pub(in crate::serve) datagram_mode: DatagramMode,
    pub(in crate::serve) min_source_port: u16,
    /// How long a sender of datagrams may be silent before its handler reads the end.
    pub(in crate::serve) peer_idle: Duration,
    pub(in crate::serve) slots: Arc<Slots>,
    /// What else is asked of clients, if anything.
    pub(in crate::serve) policy: Option<Policy>,
    /// How long input is drained after a handler's end, if at all.
    pub(in crate::serve) linger: Option<Duration>,
    /// The rules that hold now, if there are any.
    pub(in crate::serve) rules: Option<RulesHandle>,
    /// Whether the main thread is asked to find out if clients wait in the backlog.
    pub(in crate::serve) asks_backlog: AtomicBool,
}

impl Service {
    /// Whether skd itself accepts or receives for this service, so that its slots count.
    pub(in crate::serve) fn takes_slots(&self) -> bool {
        !self.listeners.is_empty() || !self.datagrams.is_empty()
    }
}

/// What a service asks of its connections' handlers.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// How long one may run.
    pub timeout: Option<Span>,
    /// How long its connection may be idle, if it is one of TCP.
    pub idle: Option<Span>,
    /// How long it may run after it was told to end.
    pub kill_after: Span,
}

impl TimeLimits {
    /// Those of a service, if it has any.
    pub fn of(daemon: &Daemon, service: &config::Service) -> Option<Self> {
        // Of datagrams it is skd that knows who is idle.
        let stream = |listen: &Listen| listen.endpoint.style().is_none_or(Style::has_connections);
        let has_streams = service.listeners.iter().any(stream);
        let limits = Self {
            timeout: service.admission.timeout,
            idle: service.admission.idle_timeout.filter(|_| has_streams),
            kill_after: daemon.kill_after.unwrap_or(KILL_AFTER),
        };
        limits.timeout.or(limits.idle).map(|_| limits)
    }

    /// Says why nobody could be held to them here, whatever the sockets.
    pub fn check(&self) -> Result<(), Error> {
        if self.idle.is_none() {
            return Ok(());
        }
        let mut diagnosis = Diagnosis::new().map_err(cannot_ask)?;
        diagnosis.tells_of_tcp().map_err(cannot_ask)
    }
}

pub(in crate::serve) fn cannot_ask(errno: Errno) -> Error {
    let what = "--idle-timeout: the kernel can't be asked since when connections are idle (it \
                needs CONFIG_INET_TCP_DIAG, and a container has to allow netlink sockets)";
    Error::start(what, errno)
}
