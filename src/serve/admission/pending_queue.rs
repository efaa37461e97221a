//! The queue of pending connections: their order, their timeouts, and which of them has to go
//! where there are too many. A connection in it costs an entry and a descriptor, but no process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit};

use super::pending::{PendingConnection, Stage};
use crate::config::{Peer, Source};

/// Pending connections of one service in one thread. Their ids grow in the order of arrival.
#[derive(Debug)]
pub(in crate::serve) struct PendingQueue {
    pending: BTreeMap<u32, PendingConnection>,
    next: u32,
    due: BTreeSet<(Instant, u32)>,
    sources: BTreeMap<Source, OfSource>,
    /// The connections on which the client has to send something, or that are in their TLS handshakes,
    /// by their timeouts: the first has been silent for longest.
    silent: BTreeSet<(Instant, u32)>,
    /// The connections that wait for the service's rate. A connection that has asked in vain stays
    /// first.
    pub(in crate::serve) for_rate: BTreeSet<u32>,
    /// The connections that wait to be handed to skd-tls, likewise.
    pub(in crate::serve) for_tls: BTreeSet<u32>,
    /// The connections that wait for a slot, likewise.
    pub(in crate::serve) for_slot: BTreeSet<u32>,
    capacity: usize,
}

/// The pending connections of one source.
#[derive(Debug, Default)]
struct OfSource {
    count: usize,
    /// As of the whole queue.
    silent: BTreeSet<(Instant, u32)>,
    /// The connections that wait for the source's limits. Only the first is woken or has a retry,
    /// and the next when it has gone: otherwise each end of a handler would wake all connections
    /// of a source that has thousands.
    line: BTreeSet<u32>,
}

/// The most pending connections in all threads, whatever the limit of open files.
const MOST: usize = 65_536;

/// Returns how many connections each of so many queues takes. Together they take half of the files
/// that may be open at most: handlers need theirs.
pub(in crate::serve) fn capacity(queues: usize) -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    ((files / 2).min(MOST) / queues.max(1)).max(8)
}

/// Whether a connection may be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Capacity {
    /// It may.
    Free,
    /// This connection has to go first.
    After(u32),
    /// There is none, and no connection has to go for it.
    Full,
}

impl PendingQueue {
    /// An empty queue for so many connections.
    pub(in crate::serve) fn new(capacity: usize) -> Self {
        Self {
            pending: BTreeMap::new(),
            next: 0,
            due: BTreeSet::new(),
            sources: BTreeMap::new(),
            silent: BTreeSet::new(),
            for_rate: BTreeSet::new(),
            for_tls: BTreeSet::new(),
            for_slot: BTreeSet::new(),
            capacity,
        }
    }

    pub(in crate::serve) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns an id that no connection has.
    pub(in crate::serve) fn new_id(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = id.wrapping_add(1);
            // After four thousand million of them.
            if !self.pending.contains_key(&id) {
                return id;
            }
        }
    }

    /// Adds a connection under this id, which no other has.
    pub(in crate::serve) fn insert(&mut self, id: u32, mut pending: PendingConnection) {
        let client = &mut pending.client;
        let source = self.sources.entry(client.source).or_default();
        source.count += 1;
        if client.stage == Stage::Source {
            source.line.insert(id);
            client.retry.take_if(|_| source.line.first() != Some(&id));
        }
        let due = client.due().map(|due| (due, id));
        self.due.extend(due);
        if client.awaits_input() {
            self.silent.extend(due);
            source.silent.extend(due);
        }
        if let Some(line) = self.line(&pending) {
            line.insert(id);
        }
        self.pending.insert(id, pending);
    }

    pub(in crate::serve) fn get_mut(&mut self, id: u32) -> Option<&mut PendingConnection> {
        self.pending.get_mut(&id)
    }

    /// Removes a connection.
    pub(in crate::serve) fn remove(&mut self, id: u32) -> Option<PendingConnection> {
        let pending = self.pending.remove(&id)?;
        let client = &pending.client;
        let due = client.due().map(|due| (due, id));
        if let Some(due) = &due {
            self.due.remove(due);
            self.silent.remove(due);
        }
        if let Some(source) = self.sources.get_mut(&client.source) {
            source.count -= 1;
            source.line.remove(&id);
            if let Some(due) = &due {
                source.silent.remove(due);
            }
            if source.count == 0 {
                self.sources.remove(&client.source);
            }
        }
        // None if the client has to send something.
        if let Some(line) = self.line(&pending) {
            line.remove(&id);
        }
        Some(pending)
    }

    /// The connections of all sources that wait for the same as this one. A connection that has a
    /// slot and waits for memory isn't among those that get another.
    fn line(&mut self, pending: &PendingConnection) -> Option<&mut BTreeSet<u32>> {
        match pending.client.stage {
            Stage::Tls if !pending.client.is_in_handshake => Some(&mut self.for_tls),
            Stage::Rate => Some(&mut self.for_rate),
            Stage::Slot if pending.client.slot.is_none() => Some(&mut self.for_slot),
            _ => None,
        }
    }

    /// Returns the source for whose limits this connection waits, if it does.
    pub(in crate::serve) fn source_waited_for(&self, id: u32) -> Option<Source> {
        let client = &self.pending.get(&id)?.client;
        (client.stage == Stage::Source).then_some(client.source)
    }

    /// Returns the first of the connections that wait for the limits of this source.
    pub(in crate::serve) fn first_of(&self, source: Source) -> Option<u32> {
        self.sources.get(&source)?.line.first().copied()
    }

    /// Returns whether a connection of this source may be queued, or which connection has to go for
    /// it: the connection silent for longest. A source that has a quarter of the queue has
    /// all that a source gets, so one of its own goes.
    pub(in crate::serve) fn capacity_for(&self, source: Source) -> Capacity {
        let first = |silent: &BTreeSet<(Instant, u32)>| match silent.first() {
            Some((_, id)) => Capacity::After(*id),
            None => Capacity::Full,
        };
        let most = (self.capacity / 4).max(1);
        let of_source = self.sources.get(&source);
        if let Some(source) = of_source.filter(|source| source.count >= most) {
            first(&source.silent)
        } else if self.pending.len() >= self.capacity {
            first(&self.silent)
        } else {
            Capacity::Free
        }
    }

    /// Returns the connection that has been silent for longest, of the source that has most silent
    /// ones: a source with many takes nothing from others. Looks at all sources, which are few
    /// where files are.
    pub(in crate::serve) fn most_silent(&self) -> Option<u32> {
        let first =
            |source: &OfSource| Some((source.silent.len(), Reverse(*source.silent.first()?)));
        let (_, Reverse((_, id))) = self.sources.values().filter_map(first).max()?;
        Some(id)
    }

    /// Returns when a connection is due, should nothing happen before.
    pub(in crate::serve) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Returns a connection that is due.
    pub(in crate::serve) fn due(&self, now: Instant) -> Option<u32> {
        let (due, id) = self.due.first()?;
        (*due <= now).then_some(*id)
    }

    /// Returns the ids of the connections whose clients `which` selects.
    pub(in crate::serve) fn find(&self, which: impl Fn(&Peer) -> bool) -> Vec<u32> {
        let pending = self.pending.iter();
        let found = pending.filter(|(_, pending)| which(&pending.client.peer));
        found.map(|(id, _)| *id).collect()
    }

    /// Returns the ids of all connections, in the order of arrival.
    pub(in crate::serve) fn ids(&self) -> Vec<u32> {
        self.pending.keys().copied().collect()
    }
}
