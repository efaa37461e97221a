//! The admission options of one service, with its token bucket and its sources. The pipeline asks
//! them.

use std::sync::Arc;

use super::pending::{Kind, Pending};
use super::rules::Ready;
use super::slots::When;
use super::sources::{SourceLimits, SourceSlot, Sources};
use super::token_bucket::Bucket;
use crate::config::{Admission, AtLimit, Peer, Source, Span};
use crate::sys::events::Waker;

/// What a service asks of its clients besides a slot, if it asks anything.
#[derive(Debug)]
pub(in crate::serve) struct Policy {
    /// The options of the service.
    pub(in crate::serve) asked: Admission,
    /// The limits of a source for which no rule sets others.
    pub(super) limits: SourceLimits,
    /// The sources whose handlers are counted.
    pub(super) sources: Option<Arc<Sources>>,
    /// The rate of all clients together.
    pub(super) bucket: Option<Bucket>,
    /// What the service has besides.
    pub(super) traits: Traits,
}

/// What a service has besides admission options that its clients' way to a handler depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::serve) struct Traits {
    /// Whether it receives datagrams, which take a slot when they arrive.
    pub(in crate::serve) datagrams: bool,
    /// How long the TLS handshake of a connection may take, if there is one.
    pub(in crate::serve) tls: Option<Span>,
    /// Whether a gate has connections first.
    pub(in crate::serve) gated: bool,
}

impl Policy {
    /// Returns the policy that `asked` describes, for the workers with these `wakers`. Returns
    /// `None` if each accepted connection gets a handler at once; a service with any of the `traits`
    /// always has a policy.
    pub(in crate::serve) fn new(
        asked: Admission,
        traits: Traits,
        wakers: &Arc<[Waker]>,
    ) -> Option<Self> {
        let policy = Self::of(asked, traits, wakers);
        let asks = policy.asked.has_rules()
            || policy.sources.is_some()
            || policy.bucket.is_some()
            || policy.slots_when() == When::Needed;
        asks.then_some(policy)
    }

    /// Returns the policy even if it asks nothing: an earlier process has left pending connections.
    pub(in crate::serve) fn of(asked: Admission, traits: Traits, wakers: &Arc<[Waker]>) -> Self {
        let limits = SourceLimits {
            max: asked.max_per_source,
            rate: asked.rate_per_source,
        };
        Self {
            limits,
            // Rules may set limits of their own, now or after a reload.
            sources: (limits != SourceLimits::default() || asked.rules_file.is_some())
                .then(|| Sources::new(Arc::clone(wakers))),
            bucket: asked.rate.map(Bucket::new),
            asked,
            traits,
        }
    }

    /// Returns when slots are taken: not in advance if a client is accepted that may need none,
    /// or may need it later.
    pub(in crate::serve) fn slots_when(&self) -> When {
        let waits = |at: &AtLimit| matches!(at, AtLimit::Queue(Some(_)));
        let Admission {
            proxies,
            first_byte,
            ..
        } = &self.asked;
        let needed = self.traits.datagrams
            || self.traits.tls.is_some()
            || self.traits.gated
            || proxies.is_some()
            || first_byte.is_some()
            || !self.backlog_at_max()
            || waits(self.asked.at_rate())
            || waits(self.asked.at_source_rate())
            || waits(self.asked.at_source_max());
        if needed { When::Needed } else { When::Before }
    }

    /// Returns whether clients stay in the backlog while all slots are taken.
    pub(super) fn backlog_at_max(&self) -> bool {
        *self.asked.at_max() == AtLimit::Queue(None)
    }

    /// Returns the service's bucket if clients stay in the backlog while it is empty.
    pub(in crate::serve) fn backlog_bucket(&self) -> Option<&Bucket> {
        let bucket = self.bucket.as_ref();
        bucket.filter(|_| *self.asked.at_rate() == AtLimit::Queue(None))
    }

    /// Returns the limits of a source: those of the rule that allows it, or else those of options.
    pub(super) fn limits_with(&self, rule: Option<&Ready>) -> SourceLimits {
        SourceLimits {
            max: rule.and_then(|rule| rule.max).or(self.limits.max),
            rate: rule.and_then(|rule| rule.rate).or(self.limits.rate),
        }
    }

    /// Returns the source that this client belongs to.
    pub(super) fn source(&self, peer: &Peer) -> Source {
        Source::of(peer, self.asked.source_prefix, &self.asked.nat64)
    }

    /// Begins with a client that has arrived, and has taken nothing.
    pub(in crate::serve) fn begin(&self, peer: Peer, kind: Kind) -> Pending {
        Pending::new(peer, self.source(&peer), kind)
    }

    /// Returns whether its connections have a TLS handshake.
    pub(in crate::serve) fn has_tls(&self) -> bool {
        self.traits.tls.is_some()
    }

    /// Returns whether a rejected client may get a message, from skd or from its gate.
    pub(in crate::serve) fn tells(&self) -> bool {
        let Admission {
            at_max,
            at_source_max,
            at_rate,
            ..
        } = &self.asked;
        let mut limits = [at_max, at_source_max, at_rate].into_iter().flatten();
        self.traits.gated
            || self.asked.rules_file.is_some()
            || limits.any(|at| matches!(at, AtLimit::Message(_)))
    }

    /// Returns the sources that have lost a handler and for which this worker waits.
    pub(super) fn freed(&self, worker: usize) -> Vec<Source> {
        let sources = self.sources.as_ref();
        sources.map_or_else(Vec::new, |sources| sources.freed(worker))
    }

    /// Returns the source slot of a handler that already runs.
    pub(in crate::serve) fn occupy(&self, peer: &Peer) -> Option<SourceSlot> {
        let sources = self.sources.as_ref()?;
        sources.occupy(self.source(peer))
    }
}
