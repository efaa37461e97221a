//! Who may come in: pure parts, to which the time and the peer are told. What is done with what
//! they say is the business of [`super::visit`].

mod reject_log;
mod rules;
mod rules_handle;
mod slots;
mod sources;
mod token_bucket;

use std::sync::Arc;

use crate::config::{Admission, AtLimit};
use crate::net::Peer;
use crate::sys::events::Waker;

pub(in crate::serve) use crate::config::Source;
pub(in crate::serve) use reject_log::{RejectLog, Say};
pub use rules::{Client, Decision, Ready, Rules, SavedRules};
pub(in crate::serve) use rules_handle::{RulesHandle, RulesReader};
pub(in crate::serve) use slots::{Slot, Slots, When};
pub(in crate::serve) use sources::{Over, SourceLimits, SourceSlot, Sources};
pub(in crate::serve) use token_bucket::{Bucket, Clock};

/// What a service asks of its clients besides a place, if it asks anything.
#[derive(Debug)]
pub(in crate::serve) struct Policy {
    /// As it was asked for.
    pub(in crate::serve) asked: Admission,
    /// What each source may, for which no rule says anything else.
    pub(in crate::serve) limits: SourceLimits,
    /// Those who are counted.
    pub(in crate::serve) sources: Option<Arc<Sources>>,
    /// The rate of all together.
    pub(in crate::serve) bucket: Option<Bucket>,
    /// Whether places are for datagrams too, which take one when they come.
    datagrams: bool,
}

impl Policy {
    /// What this asks for; `wakers` are the acceptors'. `None` if a connection that is accepted
    /// has a handler, whoever it is and whatever it does; not where skd receives `datagrams`.
    pub(in crate::serve) fn new(
        asked: Admission,
        datagrams: bool,
        wakers: &Arc<[Waker]>,
    ) -> Option<Self> {
        let limits = SourceLimits {
            max: asked.max_per_source,
            rate: asked.rate_per_source,
        };
        let policy = Self {
            limits,
            // Rules may have limits of their own, now or when they are read again.
            sources: (limits != SourceLimits::default() || asked.rules_file.is_some())
                .then(|| Sources::new(Arc::clone(wakers))),
            bucket: asked.rate.map(Bucket::new),
            asked,
            datagrams,
        };
        let asks = policy.asked.has_rules()
            || policy.sources.is_some()
            || policy.bucket.is_some()
            || policy.places_when() == When::Needed;
        asks.then_some(policy)
    }

    /// When places are taken: not in advance, where connections are accepted that may not need
    /// one, or not yet.
    pub(in crate::serve) fn places_when(&self) -> When {
        let waits = |at: &AtLimit| matches!(at, AtLimit::Queue(Some(_)));
        let Admission {
            proxies,
            first_byte,
            ..
        } = &self.asked;
        let needed = self.datagrams
            || proxies.is_some()
            || first_byte.is_some()
            || !self.leaves_at_max()
            || waits(self.asked.at_rate())
            || waits(self.asked.at_source_rate())
            || waits(self.asked.at_source_max());
        if needed { When::Needed } else { When::Before }
    }

    /// Whether clients are left in the backlog when all places are taken.
    pub(in crate::serve) fn leaves_at_max(&self) -> bool {
        *self.asked.at_max() == AtLimit::Queue(None)
    }

    /// The bucket, if clients are left in the backlog when it is empty.
    pub(in crate::serve) fn gate(&self) -> Option<&Bucket> {
        let bucket = self.bucket.as_ref();
        bucket.filter(|_| *self.asked.at_rate() == AtLimit::Queue(None))
    }

    /// What this client counts as.
    pub(in crate::serve) fn source(&self, peer: &Peer) -> Source {
        Source::of(peer, self.asked.source_prefix)
    }

    /// Whether anybody may be told anything.
    pub(in crate::serve) fn tells(&self) -> bool {
        let Admission {
            at_max,
            at_source_max,
            at_rate,
            ..
        } = &self.asked;
        let mut limits = [at_max, at_source_max, at_rate].into_iter().flatten();
        limits.any(|at| matches!(at, AtLimit::Message(_))) || self.asked.rules_file.is_some()
    }

    /// The sources of which a handler has gone, for which this acceptor waits.
    pub(in crate::serve) fn freed(&self, acceptor: usize) -> Vec<Source> {
        let sources = self.sources.as_ref();
        sources.map_or_else(Vec::new, |sources| sources.freed(acceptor))
    }

    /// The seat of a handler that runs already.
    pub(in crate::serve) fn occupy(&self, peer: &Peer) -> Option<SourceSlot> {
        let sources = self.sources.as_ref()?;
        sources.occupy(self.source(peer))
    }
}

/// What becomes of a connection that isn't let through.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) enum RejectAction<'a> {
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// It is told this, and closed.
    Tell(&'a [u8]),
}

impl<'a> RejectAction<'a> {
    /// What is done at a limit at which nobody waits, or after having waited.
    pub(in crate::serve) fn at(limit: &'a AtLimit) -> Self {
        match limit {
            AtLimit::Queue(_) | AtLimit::Close => Self::Close,
            AtLimit::Reset => Self::Reset,
            AtLimit::Message(text) => Self::Tell(text),
        }
    }
}
