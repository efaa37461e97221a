//! The gate of a service, and who may be in it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::child::{Plan, Source};
use crate::config::{self, KILL_AFTER, Span};

/// The gate of a service, as the threads that serve it share it.
#[derive(Debug)]
pub(in crate::serve) struct Gate {
    /// What its processes are made from.
    pub(in crate::serve) source: Source,
    /// How long one may take.
    pub(in crate::serve) timeout: Span,
    /// How long it may run after it was told to end.
    pub(in crate::serve) kill_after: Duration,
    /// The maximum number of clients in it.
    pub(in crate::serve) most: NonZeroUsize,
    /// How many there are.
    live: Arc<AtomicUsize>,
}

/// A client's slot in the gate of a service, given back when it is dropped.
#[derive(Debug)]
pub(in crate::serve) struct GateSlot(Arc<AtomicUsize>);

impl Gate {
    pub(in crate::serve) fn new(
        config: &config::Gate,
        plan: Plan,
        kill_after: Option<Span>,
    ) -> Self {
        Self {
            // Neither prestarted nor kept in a sandbox.
            source: Source {
                plan: Arc::new(plan),
                pool: None,
                pool_variables: Vec::new(),
                jail: None,
                cgroups: None,
            },
            timeout: config.timeout,
            kill_after: kill_after.unwrap_or(KILL_AFTER).into(),
            most: config.most,
            live: Arc::default(),
        }
    }

    /// Takes a slot, if one is free.
    pub(in crate::serve) fn enter(&self) -> Option<GateSlot> {
        let slot = self.occupy();
        // Of several that enter the last slot at once, all may be turned away: never one too many.
        (self.live() <= self.most.get()).then_some(slot)
    }

    /// Takes a slot for a client that is in it already, whatever the limit.
    pub(in crate::serve) fn occupy(&self) -> GateSlot {
        self.live.fetch_add(1, Ordering::SeqCst);
        GateSlot(Arc::clone(&self.live))
    }

    /// Returns how many clients are in it.
    pub(in crate::serve) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

impl Drop for GateSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
