//! The waiting room of an acceptor thread: connections that are accepted and not yet let
//! through. Whoever waits here costs an entry and a descriptor, but no process; and nobody else
//! waits for them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use socket2::Socket;

use super::super::admission::{Policy, Ready, Slot, Source, SourceLimits, SourceSlot};
use super::super::handlers::token::Token;
use crate::net::Peer;
use crate::net::proxy::{self, Received};
use crate::sys::events::{Interest, Poller};

/// Somebody who has come and has no handler yet, with whatever has been got for them.
#[derive(Debug)]
pub(in crate::serve) struct PendingConnection {
    pub(in crate::serve) connection: Socket,
    pub(in crate::serve) peer: Peer,
    pub(in crate::serve) source: Source,
    pub(in crate::serve) service: usize,
    pub(in crate::serve) listener: usize,
    /// What is to be seen to next.
    pub(in crate::serve) stage: Stage,
    /// What was found of its header, where that was looked at in the room.
    pub(in crate::serve) header: Option<Received>,
    /// Until when that may take, if not for ever.
    pub(in crate::serve) deadline: Option<Instant>,
    /// When to look again, though nothing tells.
    pub(in crate::serve) retry: Option<Instant>,
    /// What it has got of its source's limits, and when.
    pub(in crate::serve) source_slot: Option<(SourceSlot, SourceLimits, u64)>,
    /// When it got its token of the service's rate.
    pub(in crate::serve) token: Option<u64>,
    pub(in crate::serve) slot: Option<Slot>,
    /// The rule that let it in, if that says anything else about it.
    pub(in crate::serve) rule: Option<Arc<Ready>>,
}

impl PendingConnection {
    /// Somebody who has just come to this listener of a service.
    pub(in crate::serve) fn new(
        connection: Socket,
        peer: Peer,
        policy: &Policy,
        (service, listener): (usize, usize),
    ) -> Self {
        Self {
            connection,
            source: policy.source(&peer),
            peer,
            service,
            listener,
            stage: Stage::Header,
            header: None,
            deadline: None,
            retry: None,
            source_slot: None,
            token: None,
            slot: None,
            rule: None,
        }
    }

    fn alarm(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.retry).min()
    }
}

/// What a connection passes, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Stage {
    /// The header that says who the client is.
    Header,
    /// The rules.
    Rules,
    /// The client's first byte.
    FirstByte,
    /// The limits of its source.
    Source,
    /// The service's rate.
    Rate,
    /// A place.
    Slot,
}

impl Stage {
    pub(in crate::serve) fn next(self) -> Option<Self> {
        match self {
            Self::Header => Some(Self::Rules),
            Self::Rules => Some(Self::FirstByte),
            Self::FirstByte => Some(Self::Source),
            Self::Source => Some(Self::Rate),
            Self::Rate => Some(Self::Slot),
            Self::Slot => None,
        }
    }

    /// Whether it is the client's turn.
    fn is_clients(self) -> bool {
        matches!(self, Self::Header | Self::FirstByte)
    }
}

/// Who waits, by numbers that grow: so by their order of arrival.
#[derive(Debug)]
pub(in crate::serve) struct PendingQueue {
    visitors: BTreeMap<u32, PendingConnection>,
    next: u32,
    alarms: BTreeSet<(Instant, u32)>,
    /// Those of each source.
    shares: BTreeMap<Source, Share>,
    /// Those whose turn it is, by their alarms: who has been silent for longest is the first.
    silent: BTreeSet<(Instant, u32)>,
    /// Those who wait for the rate or a place. Who looked in vain keeps its turn.
    pub(in crate::serve) for_rate: BTreeSet<u32>,
    pub(in crate::serve) for_place: BTreeSet<u32>,
    capacity: usize,
}

/// Those of one source.
#[derive(Debug, Default)]
struct Share {
    visitors: usize,
    /// As of the whole room.
    silent: BTreeSet<(Instant, u32)>,
    /// Those who wait for the source's limits. The first alone is woken or has an alarm for
    /// that, and the next when it has gone: or each handler of somebody with thousands in line
    /// would have them all asked.
    line: BTreeSet<u32>,
}

/// The most that wait in all threads, whatever number of files may be open.
const MOST: usize = 65_536;

/// How many may wait in each of so many rooms. Together they take half of the files that may be
/// open at most: handlers need theirs.
pub(in crate::serve) fn capacity(rooms: usize) -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    ((files / 2).min(MOST) / rooms.max(1)).max(8)
}

impl PendingQueue {
    /// An empty one, for so many.
    pub(in crate::serve) fn new(capacity: usize) -> Self {
        Self {
            visitors: BTreeMap::new(),
            next: 0,
            alarms: BTreeSet::new(),
            shares: BTreeMap::new(),
            silent: BTreeSet::new(),
            for_rate: BTreeSet::new(),
            for_place: BTreeSet::new(),
            capacity,
        }
    }

    pub(in crate::serve) fn is_empty(&self) -> bool {
        self.visitors.is_empty()
    }

    /// Lets somebody wait, under the number that it had, if any. It is watched if it is the
    /// client's turn; should that not be possible, it is given back.
    pub(in crate::serve) fn enter(
        &mut self,
        poller: &Poller,
        service: usize,
        id: Option<u32>,
        mut visitor: PendingConnection,
    ) -> Result<(), Box<(PendingConnection, Errno)>> {
        let id = id.unwrap_or_else(|| self.new_id());
        if visitor.stage.is_clients() {
            let key = Token::PendingConnection { service, id }.into();
            // What has come before it is watched is told too.
            if let Err(errno) = poller.add(&visitor.connection, Interest::ReadableEdge, key) {
                return Err(Box::new((visitor, errno)));
            }
        }
        let share = self.shares.entry(visitor.source).or_default();
        share.visitors += 1;
        if visitor.stage == Stage::Source {
            share.line.insert(id);
            visitor.retry.take_if(|_| share.line.first() != Some(&id));
        }
        let alarm = visitor.alarm().map(|alarm| (alarm, id));
        self.alarms.extend(alarm);
        if visitor.stage.is_clients() {
            self.silent.extend(alarm);
            share.silent.extend(alarm);
        } else if let Some(queue) = self.queue(&visitor) {
            queue.insert(id);
        }
        self.visitors.insert(id, visitor);
        Ok(())
    }

    fn new_id(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = id.wrapping_add(1);
            // After four thousand million of them.
            if !self.visitors.contains_key(&id) {
                return id;
            }
        }
    }

    /// Whether somebody has to stay, at this time, for want of the rest of a header. What has come
    /// of it remains unread; so who was taken out and watched anew would be told of it at once,
    /// and for ever. Whatever else is found goes with the visitor.
    pub(in crate::serve) fn lacks_header(&mut self, id: u32, now: Instant) -> bool {
        let Some(visitor) = self.visitors.get_mut(&id) else {
            return false;
        };
        if visitor.stage != Stage::Header || visitor.deadline.is_some_and(|end| end <= now) {
            return false;
        }
        visitor.header = match proxy::receive(&visitor.connection) {
            Received::Incomplete { .. } => None,
            found => Some(found),
        };
        visitor.header.is_none()
    }

    /// Takes somebody out, who isn't watched any more: a handler that has the connection would
    /// keep the registration alive, under a descriptor that is soon another's.
    pub(in crate::serve) fn take(&mut self, poller: &Poller, id: u32) -> Option<PendingConnection> {
        let visitor = self.visitors.remove(&id)?;
        let alarm = visitor.alarm().map(|alarm| (alarm, id));
        if let Some(alarm) = &alarm {
            self.alarms.remove(alarm);
            self.silent.remove(alarm);
        }
        if let Some(share) = self.shares.get_mut(&visitor.source) {
            share.visitors -= 1;
            share.line.remove(&id);
            if let Some(alarm) = &alarm {
                share.silent.remove(alarm);
            }
            if share.visitors == 0 {
                self.shares.remove(&visitor.source);
            }
        }
        if visitor.stage.is_clients() {
            let _ = poller.remove(&visitor.connection);
        } else if let Some(queue) = self.queue(&visitor) {
            queue.remove(&id);
        }
        Some(visitor)
    }

    /// Those who wait for the same, of all sources. Who has a place and waits for memory isn't
    /// among those to whom another is given.
    fn queue(&mut self, visitor: &PendingConnection) -> Option<&mut BTreeSet<u32>> {
        match visitor.stage {
            Stage::Rate => Some(&mut self.for_rate),
            Stage::Slot if visitor.slot.is_none() => Some(&mut self.for_place),
            _ => None,
        }
    }

    /// The source for whose limits somebody waits, if it is that.
    pub(in crate::serve) fn line_of(&self, id: u32) -> Option<Source> {
        let visitor = self.visitors.get(&id)?;
        (visitor.stage == Stage::Source).then_some(visitor.source)
    }

    /// The first of those who wait for the limits of this source.
    pub(in crate::serve) fn first_of(&self, source: Source) -> Option<u32> {
        self.shares.get(&source)?.line.first().copied()
    }

    /// Who has to go so that somebody can wait: nobody, if this is `None`. It is who has been
    /// silent for longest of those with whom it is the client's turn; of those of the newcomer's
    /// source, if they have a quarter of the room, which is all that one source may have. If
    /// there is no such one the newcomer has to go.
    pub(in crate::serve) fn in_the_way(&self, newcomer: &PendingConnection) -> Option<Option<u32>> {
        let first = |silent: &BTreeSet<(Instant, u32)>| silent.first().map(|(_, id)| *id);
        let share = self.shares.get(&newcomer.source);
        let most = (self.capacity / 4).max(1);
        if let Some(share) = share.filter(|share| share.visitors >= most) {
            Some(first(&share.silent))
        } else if self.visitors.len() >= self.capacity {
            Some(first(&self.silent))
        } else {
            None
        }
    }

    /// Of the source that has most of those with whom it is the client's turn, who has been silent
    /// for longest: somebody with many takes nothing from others. Looks at all sources, which are
    /// few where files are.
    pub(in crate::serve) fn most_silent(&self) -> Option<u32> {
        let first = |share: &Share| Some((share.silent.len(), Reverse(*share.silent.first()?)));
        let (_, Reverse((_, id))) = self.shares.values().filter_map(first).max()?;
        Some(id)
    }

    /// When to look at somebody, should nothing happen before.
    pub(in crate::serve) fn next_alarm(&self) -> Option<Instant> {
        self.alarms.first().map(|(alarm, _)| *alarm)
    }

    /// Somebody whose time has come.
    pub(in crate::serve) fn alarmed(&self, now: Instant) -> Option<u32> {
        let (alarm, id) = self.alarms.first()?;
        (*alarm <= now).then_some(*id)
    }

    /// Everybody, in their order of arrival.
    pub(in crate::serve) fn empty(&mut self, poller: &Poller) -> Vec<PendingConnection> {
        let ids: Vec<u32> = self.visitors.keys().copied().collect();
        ids.into_iter()
            .filter_map(|id| self.take(poller, id))
            .collect()
    }
}
