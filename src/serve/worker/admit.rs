//! From a connection that is accepted to one that is let through, where something is asked of
//! clients: header → rules → first byte → source → rate → place. Whoever has to wait on the way
//! does so in the [`PendingQueue`](super::room), and goes on from there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use super::super::admission::{Over, Policy, Ready, RejectAction, Say, SourceLimits, When};
use super::queue::{PendingConnection, Stage};
use super::stream::{PAUSE, StreamWorker};
use crate::config::{AtLimit, Proxies};
use crate::net::proxy::{self, Received};
use crate::report::{self, Awaited, Event, Reason};
use crate::sys::sockets::{is_shut_down, receive_now};

/// How long somebody who was told why is heard out, so that it arrives.
const HEARING: Duration = Duration::from_secs(5);

/// What came of a stage.
enum Passed<'a> {
    /// It is done.
    Yes,
    /// It goes on when something happens, or at that time; and may take until the other.
    Later {
        retry: Option<Instant>,
        within: Option<Duration>,
    },
    /// It doesn't go on.
    No(RejectAction<'a>, Reason<'a>),
}

impl<'a> StreamWorker<'a> {
    /// Takes a visitor as far as possible: to a handler, into the room, or away.
    pub(in crate::serve) fn advance(
        &mut self,
        policy: &'a Policy,
        id: Option<u32>,
        mut visitor: PendingConnection,
    ) {
        loop {
            if visitor.stage == Stage::Rules
                && let Err(rule) = self.ask_rules(&mut visitor)
            {
                return self.deny(policy, visitor, rule.as_deref());
            }
            let now = Instant::now();
            match self.pass(policy, &mut visitor, now) {
                Passed::Yes => match visitor.stage.next() {
                    Some(stage) => {
                        visitor.stage = stage;
                        (visitor.deadline, visitor.retry) = (None, None);
                    }
                    None => return self.let_in(policy, id, visitor),
                },
                Passed::Later { retry, within } => {
                    let deadline = visitor.deadline.or_else(|| Some(now + within?));
                    if deadline.is_some_and(|deadline| deadline <= now) {
                        return self.too_late(policy, visitor);
                    }
                    (visitor.deadline, visitor.retry) = (deadline, retry);
                    return self.let_wait(policy, id, visitor);
                }
                Passed::No(farewell, reason) => {
                    let rule = visitor.rule.clone();
                    let told = rule.as_deref().filter(|_| visitor.stage == Stage::Source);
                    return self.refuse(policy, visitor, by_rule(told, farewell), reason);
                }
            }
        }
    }

    fn pass(
        &mut self,
        policy: &'a Policy,
        visitor: &mut PendingConnection,
        now: Instant,
    ) -> Passed<'a> {
        match visitor.stage {
            Stage::Header => match &policy.asked.proxies {
                Some(proxies) => header(policy, proxies, visitor),
                None => Passed::Yes,
            },
            // Asked already.
            Stage::Rules => Passed::Yes,
            Stage::FirstByte => match policy.asked.first_byte {
                Some(within) => first_byte(visitor, within.into()),
                None => Passed::Yes,
            },
            Stage::Source => self.pass_source(policy, visitor, now),
            Stage::Rate => self.pass_rate(policy, visitor, now),
            Stage::Slot => self.pass_place(policy, visitor),
        }
    }

    /// Asks the rules about somebody. If they deny it, says which rule, or that there is none.
    fn ask_rules(&mut self, visitor: &mut PendingConnection) -> Result<(), Option<Arc<Ready>>> {
        let state = &mut self.states[visitor.service];
        let (Some(rules), Some(book)) = (&mut state.rules, &state.served.rules) else {
            return Ok(());
        };
        let decision = rules.current(book).decide((&visitor.peer).into());
        if !decision.allow {
            return Err(decision.rule.cloned());
        }
        visitor.rule = decision.rule.filter(|rule| rule.has_terms()).cloned();
        Ok(())
    }

    fn deny(&mut self, policy: &'a Policy, visitor: PendingConnection, rule: Option<&Ready>) {
        let reason = match rule {
            Some(rule) => Reason::Rule(&rule.rule.location),
            None => Reason::NoRule,
        };
        self.refuse(policy, visitor, by_rule(rule, RejectAction::Close), reason);
    }

    fn pass_source(
        &mut self,
        policy: &'a Policy,
        visitor: &mut PendingConnection,
        now: Instant,
    ) -> Passed<'a> {
        let Some(sources) = &policy.sources else {
            return Passed::Yes;
        };
        let limits = match visitor.rule.as_deref() {
            Some(Ready { rule, .. }) => SourceLimits {
                max: rule.max.or(policy.limits.max),
                rate: rule.rate.or(policy.limits.rate),
            },
            None => policy.limits,
        };
        if limits == SourceLimits::default() {
            return Passed::Yes;
        }
        let clock = self.shared.clock;
        let time = clock.read(now);
        let at_max = policy.asked.at_source_max();
        let source_slot = match at_max {
            AtLimit::Queue(_) => sources.admit_or_wait(visitor.source, limits, time, self.index),
            _ => sources.admit(visitor.source, limits, time),
        };
        let (at, reason, retry) = match source_slot {
            Ok(source_slot) => {
                visitor.source_slot = Some((source_slot, limits, time));
                return Passed::Yes;
            }
            Err(Over::Max) => {
                let max = limits.max.map_or(0, |max| max.get());
                (at_max, Reason::SourceMax(visitor.source, max), None)
            }
            Err(Over::Rate(when)) => (
                policy.asked.at_source_rate(),
                Reason::SourceRate(visitor.source),
                Some(clock.instant(when)),
            ),
        };
        match at {
            AtLimit::Queue(Some(within)) => Passed::Later {
                retry,
                within: Some((*within).into()),
            },
            at => Passed::No(RejectAction::at(at), reason),
        }
    }

    fn pass_rate(
        &mut self,
        policy: &'a Policy,
        visitor: &mut PendingConnection,
        now: Instant,
    ) -> Passed<'a> {
        let Some(bucket) = policy.bucket.as_ref().filter(|_| visitor.token.is_none()) else {
            return Passed::Yes;
        };
        let time = self.shared.clock.read(now);
        match bucket.take(time) {
            Ok(()) => {
                visitor.token = Some(time);
                Passed::Yes
            }
            Err(_) => match policy.asked.at_rate() {
                // The first of those who wait is looked at when there is a token.
                AtLimit::Queue(within) => {
                    let id = self.states[visitor.service].served.id;
                    report::event(Event::Fast(id));
                    Passed::Later {
                        retry: None,
                        within: within.map(Into::into),
                    }
                }
                at => Passed::No(RejectAction::at(at), Reason::Rate),
            },
        }
    }

    fn pass_place(&mut self, policy: &'a Policy, visitor: &mut PendingConnection) -> Passed<'a> {
        let served = self.states[visitor.service].served;
        let slots = &served.slots;
        if visitor.slot.is_none() {
            visitor.slot = match policy.asked.at_max() {
                AtLimit::Queue(_) => slots.take(self.index),
                _ => slots.take_now(),
            };
        }
        if visitor.slot.is_some() {
            return Passed::Yes;
        }
        match policy.asked.at_max() {
            AtLimit::Queue(within) => {
                // Here is one that waits; in the backlog, that is found out by the main thread.
                if let Some(limit) = slots.full() {
                    report::event(Event::Full(served.id, limit));
                }
                Passed::Later {
                    retry: None,
                    within: within.map(Into::into),
                }
            }
            at => Passed::No(
                RejectAction::at(at),
                Reason::Max(slots.limit().unwrap_or_default()),
            ),
        }
    }

    fn let_in(&mut self, policy: &'a Policy, id: Option<u32>, mut visitor: PendingConnection) {
        let Some(slot) = visitor.slot.take_if(|_| self.make_room(visitor.service)) else {
            // It has all that it came for: no time that it may take is over any more, or it would
            // be asked again at once, and for ever.
            (visitor.deadline, visitor.retry) = (None, Some(Instant::now() + PAUSE));
            return self.let_wait(policy, id, visitor);
        };
        let served = self.states[visitor.service].served;
        let PendingConnection {
            connection,
            peer,
            service,
            listener,
            source_slot,
            rule,
            ..
        } = visitor;
        let source_slot = source_slot.map(|(source_slot, ..)| source_slot);
        let listener = &served.listeners[listener];
        let (slot, rule) = ((slot, source_slot), rule.as_deref());
        self.start(service, listener, connection, peer, slot, rule);
    }

    fn let_wait(&mut self, policy: &'a Policy, id: Option<u32>, visitor: PendingConnection) {
        let service = visitor.service;
        if let Some(way) = self.states[service].room.in_the_way(&visitor) {
            let Some(other) = way.and_then(|id| self.states[service].room.take(self.poller, id))
            else {
                return self.refuse(policy, visitor, RejectAction::Close, Reason::Crowd);
            };
            self.refuse(policy, other, RejectAction::Close, Reason::Crowd);
        }
        let room = &mut self.states[service].room;
        if let Err(failed) = room.enter(self.poller, service, id, visitor) {
            let (visitor, errno) = *failed;
            self.refuse(
                policy,
                visitor,
                RejectAction::Close,
                Reason::NotWatched(errno),
            );
        }
    }

    /// Has somebody go who says nothing, since there is no descriptor left for anybody else; says
    /// whether there was one. Or those who say nothing would hold up the
    /// others, wherever the limit of open files leaves less than the room may take.
    pub(in crate::serve) fn make_way(&mut self, service: usize) -> bool {
        let state = &mut self.states[service];
        let served = state.served;
        let silent = state.room.most_silent();
        let silent = silent.and_then(|id| state.room.take(self.poller, id));
        let (Some(policy), Some(silent)) = (&served.policy, silent) else {
            return false;
        };
        self.refuse(policy, silent, RejectAction::Close, Reason::NoDescriptor);
        true
    }

    fn too_late(&mut self, policy: &'a Policy, visitor: PendingConnection) {
        let slots = &self.states[visitor.service].served.slots;
        let (limit, source) = (slots.limit().unwrap_or_default(), visitor.source);
        let reason = match visitor.stage {
            Stage::Header => Reason::Late(Awaited::Header),
            Stage::Rules | Stage::FirstByte => Reason::Silent,
            Stage::Source => {
                let reason = Reason::Late(Awaited::Source(source));
                let rule = visitor.rule.clone();
                let farewell = by_rule(rule.as_deref(), RejectAction::Close);
                return self.refuse(policy, visitor, farewell, reason);
            }
            Stage::Rate => Reason::Late(Awaited::Rate),
            Stage::Slot => Reason::Late(Awaited::Slot(limit)),
        };
        self.refuse(policy, visitor, RejectAction::Close, reason);
    }

    /// Lets somebody go who isn't let through, with all that was got for the connection given
    /// back.
    pub(in crate::serve) fn refuse(
        &mut self,
        policy: &Policy,
        visitor: PendingConnection,
        farewell: RejectAction<'_>,
        reason: Reason<'_>,
    ) {
        let time = self.shared.clock.read(Instant::now());
        let state = &mut self.states[visitor.service];
        let event = Event::Rejected(state.served.id, &visitor.peer, reason);
        report::event_if(event, || {
            let reject_log = state.reject_log.as_mut();
            reject_log.is_some_and(|it| it.note(visitor.source, time) == Say::Line)
        });
        if let Some((source_slot, limits, taken)) = visitor.source_slot {
            source_slot.undo(limits, taken, time);
        }
        if let (Some(taken), Some(bucket)) = (visitor.token, &policy.bucket) {
            bucket.give_back(taken, time);
        }
        if state.slot.is_none() && state.served.slots.when() == When::Before {
            state.slot = visitor.slot;
        }
        match farewell {
            RejectAction::Close => {}
            RejectAction::Reset => {
                // Only TCP knows this; where it fails, closing has to do.
                let _ = visitor.connection.set_linger(Some(Duration::ZERO));
            }
            RejectAction::Tell(text) => {
                let until = Instant::now() + HEARING;
                let connection = visitor.connection.into();
                let leaving = &self.shared.handlers.lingering;
                leaving.tell(self.index, self.poller, connection, text, until);
            }
        }
    }

    /// Sees to those in the room for whom something may have changed.
    pub(in crate::serve) fn see_to_rooms(&mut self) {
        if self.states.iter().all(|state| state.room.is_empty()) {
            // Nobody is there any more whom it could be about.
            self.turns.clear();
        }
        // What wakes this thread in the midst of a start below is for the next time.
        let woken = std::mem::take(&mut self.woken);
        for service in 0..self.states.len() {
            let state = &self.states[service];
            if let Some(policy) = &state.served.policy {
                self.say_what_was_counted(service);
                if woken {
                    self.see_to_freed(policy, service);
                }
                if !self.states[service].room.is_empty() {
                    self.see_to(policy, service);
                }
            }
        }
    }

    /// Sees to those who wait for a source that has lost a handler.
    fn see_to_freed(&mut self, policy: &'a Policy, service: usize) {
        for source in policy.freed(self.index) {
            if let Some(first) = self.states[service].room.first_of(source) {
                self.go_on(policy, service, first);
            }
        }
    }

    fn see_to(&mut self, policy: &'a Policy, service: usize) {
        let now = Instant::now();
        while let Some((service, id)) = self.turns.pop_front() {
            if let Some(policy) = &self.states[service].served.policy {
                self.go_on(policy, service, id);
            }
        }
        // Each of them comes back, if at all, with a later alarm.
        while let Some(id) = self.states[service].room.alarmed(now) {
            self.go_on(policy, service, id);
        }
        while let Some(id) = self.states[service].room.for_rate.first().copied() {
            let time = self.shared.clock.read(now);
            let bucket = policy.bucket.as_ref();
            if bucket.is_some_and(|bucket| bucket.next(time) > time) {
                break;
            }
            self.go_on(policy, service, id);
            if self.states[service].room.for_rate.first() == Some(&id) {
                break;
            }
        }
        while let Some(id) = self.states[service].room.for_place.first().copied() {
            let Some(slot) = self.states[service].served.slots.take(self.index) else {
                break;
            };
            let Some(mut visitor) = self.states[service].room.take(self.poller, id) else {
                break;
            };
            visitor.slot = Some(slot);
            self.advance(policy, Some(id), visitor);
        }
    }

    /// Goes on with somebody from the room.
    pub(in crate::serve) fn go_on(&mut self, policy: &'a Policy, service: usize, id: u32) {
        let room = &mut self.states[service].room;
        if room.lacks_header(id, Instant::now()) {
            return;
        }
        let line = room.line_of(id);
        let mut next = Some(id);
        while let Some(id) = next {
            if let Some(visitor) = self.states[service].room.take(self.poller, id) {
                self.advance(policy, Some(id), visitor);
            }
            // Who has gone from the head of a line makes the next one its head, who asks, until one
            // stays there.
            let first = line.and_then(|source| self.states[service].room.first_of(source));
            next = first.filter(|first| *first != id);
        }
    }

    /// Says all that was counted, since there will be no later.
    pub(in crate::serve) fn say_what_is_left(&mut self) {
        for service in 0..self.states.len() {
            if let Some(reject_log) = &mut self.states[service].reject_log {
                reject_log.cut_short();
            }
            self.say_what_was_counted(service);
        }
    }

    fn say_what_was_counted(&mut self, service: usize) {
        let state = &mut self.states[service];
        let (id, reject_log) = (state.served.id, &mut state.reject_log);
        if let Some(reject_log) = reject_log.as_mut().filter(|it| it.due().is_some()) {
            let time = self.shared.clock.read(Instant::now());
            reject_log.flush(time, |source, count| {
                report::event(Event::RejectedConnections(id, count, source));
            });
        }
    }

    /// When a room or a limit has something to be seen to, should nothing happen before.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        let clock = self.shared.clock;
        let states = self.states.iter().filter_map(|state| {
            let policy = state.served.policy.as_ref()?;
            let token = || {
                let time = clock.read(Instant::now());
                policy.bucket.as_ref().map(|bucket| bucket.next(time))
            };
            let waits = !state.room.for_rate.is_empty() || state.closed_by_rate;
            let timeouts = [
                state.reject_log.as_ref()?.due(),
                waits.then(token).flatten(),
            ];
            let timeouts = timeouts
                .into_iter()
                .flatten()
                .map(|time| clock.instant(time));
            timeouts.chain(state.room.next_alarm()).min()
        });
        states.min()
    }

    /// Leaves all who wait to whoever goes on: this thread, or its like in another image.
    pub(in crate::serve) fn leave_rooms(&mut self) {
        for state in &mut self.states {
            let visitors = state.room.empty(self.poller);
            if !visitors.is_empty() {
                self.shared.pending(self.index).extend(visitors);
            }
        }
    }

    /// Lets all go who still wait at the end.
    pub(in crate::serve) fn let_go(&mut self) {
        for service in 0..self.states.len() {
            if let Some(policy) = &self.states[service].served.policy {
                for visitor in self.states[service].room.empty(self.poller) {
                    self.refuse(policy, visitor, RejectAction::Close, Reason::End);
                }
            }
        }
    }

    /// Takes over all who were left.
    pub(in crate::serve) fn enter_rooms(&mut self) {
        let visitors = std::mem::take(&mut *self.shared.pending(self.index));
        for visitor in visitors {
            if let Some(policy) = &self.states[visitor.service].served.policy {
                self.advance(policy, None, visitor);
            }
        }
    }
}

/// Learns from a proxy whom it brings.
fn header<'a>(
    policy: &Policy,
    proxies: &'a Proxies,
    visitor: &mut PendingConnection,
) -> Passed<'a> {
    if !visitor.peer.is_trusted(&proxies.from) {
        return Passed::No(RejectAction::Close, Reason::Proxy);
    }
    let found = visitor.header.take();
    match found.unwrap_or_else(|| proxy::receive(&visitor.connection)) {
        Received::Header(header) => {
            visitor.peer = visitor.peer.brings(header);
            visitor.source = policy.source(&visitor.peer);
            Passed::Yes
        }
        Received::Incomplete { .. } => Passed::Later {
            retry: None,
            within: Some(proxies.timeout.into()),
        },
        Received::Fault(fault) => Passed::No(RejectAction::Close, Reason::Header(fault)),
    }
}

/// How those are let go whom a rule, or its limits, refuse: told what it says, if anything.
fn by_rule<'a>(rule: Option<&'a Ready>, otherwise: RejectAction<'a>) -> RejectAction<'a> {
    let text = rule.and_then(|ready| ready.rule.message.as_deref());
    text.map_or(otherwise, RejectAction::Tell)
}

/// Whether the client has sent something.
fn first_byte<'a>(visitor: &PendingConnection, within: Duration) -> Passed<'a> {
    match receive_now(&visitor.connection, &mut [0], MsgFlags::MSG_PEEK) {
        // An empty packet reads the same, and counts if the client hasn't closed since.
        Ok(0) if is_shut_down(&visitor.connection) => {
            Passed::No(RejectAction::Close, Reason::Ended)
        }
        Ok(_) => Passed::Yes,
        Err(Errno::EAGAIN) => Passed::Later {
            retry: None,
            within: Some(within),
        },
        Err(_) => Passed::No(RejectAction::Close, Reason::Ended),
    }
}
