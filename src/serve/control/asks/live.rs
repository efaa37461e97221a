//! Live handlers, copied out of their table.

use std::time::Instant;

use nix::unistd::Pid;
use skd_control::{Failure, FailureKind};

use crate::config::{Count, ListenerId, Nat64, Peer, ServiceId, SourcePrefix};
use crate::serve::control::view::View;
use crate::serve::handlers::table::Handler;

/// What is asked about a live handler.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) pid: Pid,
    pub(super) service: ServiceId,
    pub(super) listener: ListenerId,
    pub(super) peer: Peer,
    /// Whether skd-tls is between it and its client.
    pub(super) has_tls: bool,
    pub(super) started: Instant,
    /// Whether it has ended, and has left processes behind: its pid may be another process's.
    pub(super) has_ended: bool,
}

impl Live {
    fn of(handler: &Handler) -> Self {
        Self {
            pid: handler.pid,
            service: handler.service,
            listener: handler.listener,
            peer: handler.peer,
            has_tls: handler.has_tls,
            started: handler.started,
            has_ended: handler.left.is_some(),
        }
    }
}

/// Copies all live handlers of a service, or of all. The table of a thread is locked for as long as
/// it takes to copy some bytes of each of its handlers: 9,000 of all threads take 0.2 ms.
pub(super) fn handlers(view: &View, of: Option<ServiceId>) -> Result<Vec<Live>, Failure> {
    let table = &view.shared.handlers.table;
    let mut live = Vec::new();
    // Some more may begin meanwhile.
    let (count, _) = table.counts();
    let reserved = live.try_reserve(count + count / 8 + 16);
    reserved.map_err(|reason| Failure {
        kind: FailureKind::Failed,
        message: {
            let handlers = Count(count, "handler", "handlers");
            format!("no memory to list {handlers}: {reason}")
        },
    })?;
    table.each(|handler, _| {
        if of.is_none_or(|service| handler.service == service) {
            live.push(Live::of(handler));
        }
    });
    Ok(live)
}

/// Returns how a service tells sources apart, and the translators that it knows.
pub(super) fn source_options(view: &View, service: ServiceId) -> (SourcePrefix, &[Nat64]) {
    let policy = view.served(service).and_then(|it| it.policy.as_deref());
    policy.map_or((SourcePrefix::default(), &[]), |policy| {
        (policy.asked.source_prefix, &policy.asked.nat64)
    })
}
