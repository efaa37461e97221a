//! The admission pipeline of one service in one thread: the only way to a handler.
//!
//! ```text
//! header → rules → first byte → limits of the source → rate → slot
//! ```
//!
//! It decides, and does nothing. The caller accepts and receives, reads what the pipeline asks
//! for, waits, and sends messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pending::{FirstByte, Kind, Pending, Stage, TakenSourceSlot};
use super::policy::Policy;
use super::reject::{RejectAction, Rejection};
use super::rules::Ready;
use super::rules_handle::{RulesHandle, RulesReader};
use super::slots::{Slot, Slots, When};
use super::sources::{Over, SourceLimits};
use super::token_bucket::{Bucket, Clock};
use crate::config::{AtLimit, Peer, Source};
use crate::net::proxy::Received;
use crate::report::{Awaited, Reason};

/// What the pipeline decides about a client.
#[derive(Debug)]
pub(in crate::serve) enum Step<'a> {
    /// The caller looks for this, tells the client's [`Pending`] what it has found, and asks
    /// again.
    Look(Look),
    /// The client waits until something happens that its stage waits for, or until it is due.
    Wait,
    /// A handler starts for the client, with what [`Pending::admitted`] hands over.
    Admit,
    /// The client is turned away. What it had taken was given back.
    Reject(Rejection<'a>),
}

/// What the caller looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Look {
    /// The PROXY header at the beginning of the connection.
    Header,
    /// The first byte of the connection.
    FirstByte,
}

/// Whether new clients of a service are accepted or received now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Gate {
    Open,
    /// All slots are taken: this thread is woken when one may be free.
    Full,
    /// The rate is used up: there is a token at [`Pipeline::next_token`].
    Rate,
}

/// The result of one stage.
enum Passed<'a> {
    Yes,
    Look(Look),
    /// Not yet: perhaps when something happens, or at `retry`. The stage times out `within` that
    /// time.
    Later {
        retry: Option<Instant>,
        within: Option<Duration>,
    },
    No(Rejection<'a>),
}

/// The admission pipeline of one service in one thread.
#[derive(Debug)]
pub(in crate::serve) struct Pipeline<'a> {
    /// `None` where a client needs nothing but a slot.
    policy: Option<&'a Policy>,
    slots: &'a Arc<Slots>,
    rules: Option<(&'a RulesHandle, RulesReader)>,
    kind: Kind,
    /// The lowest source port of datagrams.
    min_source_port: u16,
    clock: Clock,
    thread: usize,
    /// The slot for the next client, where it is taken before the client is accepted or received.
    slot: Option<Slot>,
}

impl<'a> Pipeline<'a> {
    pub(in crate::serve) fn new(
        policy: Option<&'a Policy>,
        slots: &'a Arc<Slots>,
        rules: Option<&'a RulesHandle>,
        kind: Kind,
        min_source_port: u16,
        (clock, thread): (Clock, usize),
    ) -> Self {
        Self {
            policy,
            slots,
            rules: rules.map(|rules| (rules, rules.reader())),
            kind,
            min_source_port,
            clock,
            thread,
            slot: None,
        }
    }

    /// Returns whether a client needs more than a slot.
    pub(in crate::serve) fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    /// Whether the slot is taken before the client is accepted or received.
    fn takes_slot_first(&self) -> bool {
        match self.kind {
            Kind::Connection => self.slots.when() == When::Before,
            Kind::Datagram => matches!(self.at_max(), AtLimit::Queue(_)),
        }
    }

    fn at_max(&self) -> &'a AtLimit {
        const QUEUE: AtLimit = AtLimit::Queue(None);
        self.policy.map_or(&QUEUE, |policy| policy.asked.at_max())
    }

    /// Takes the slot of the next client, where slots are taken first. Returns whether there is
    /// what a client needs; if not, this thread is woken when it is worth asking again.
    pub(in crate::serve) fn take_slot(&mut self) -> bool {
        if self.slot.is_none() && self.takes_slot_first() {
            self.slot = self.slots.take(self.thread);
            return self.slot.is_some();
        }
        true
    }

    /// Gives back the slot of the next client.
    pub(in crate::serve) fn release_slot(&mut self) {
        self.slot = None;
    }

    /// Hands out the slot of the next client, if it was taken.
    pub(in crate::serve) fn taken_slot(&mut self) -> Option<Slot> {
        self.slot.take()
    }

    /// Takes the service's token for the next client, where clients stay in the backlog until
    /// there is one. Returns when it was taken; an error if there is none.
    pub(in crate::serve) fn take_token(&self) -> Result<Option<u64>, Gate> {
        let Some(bucket) = self.gate_bucket() else {
            return Ok(None);
        };
        if self.kind == Kind::Connection && self.slots.when() == When::Needed {
            // In its stage: another stage may come to nothing before.
            return Ok(None);
        }
        let now = self.clock.read(Instant::now());
        match bucket.take(now) {
            Ok(()) => Ok(Some(now)),
            Err(_) => Err(Gate::Rate),
        }
    }

    /// Gives back a token that was taken for a client who wasn't there.
    pub(in crate::serve) fn release_token(&self, token: Option<u64>) {
        if let (Some(taken), Some(bucket)) = (token, self.gate_bucket()) {
            bucket.give_back(taken, self.clock.read(Instant::now()));
        }
    }

    fn gate_bucket(&self) -> Option<&'a Bucket> {
        self.policy.and_then(Policy::gate)
    }

    /// Returns whether new clients are accepted or received now. Pending ones come first: the
    /// caller says whether some wait for a slot, and for the rate.
    pub(in crate::serve) fn gate(&self, slot_waited_for: bool, rate_waited_for: bool) -> Gate {
        let waits = match self.kind {
            Kind::Connection => *self.at_max() == AtLimit::Queue(None),
            Kind::Datagram => matches!(self.at_max(), AtLimit::Queue(_)),
        };
        let free = || !waits || !slot_waited_for && self.slots.may_take(self.thread);
        let free = self.slot.is_some() || self.slots.when() == When::Needed && free();
        if !free {
            return Gate::Full;
        }
        let used_up = self.gate_bucket().is_some_and(|bucket| {
            let now = self.clock.read(Instant::now());
            rate_waited_for || bucket.next(now) > now
        });
        if used_up { Gate::Rate } else { Gate::Open }
    }

    /// Returns when the service's rate has a token, if it has a rate.
    pub(in crate::serve) fn next_token(&self, now: Instant) -> Option<Instant> {
        let bucket = self.policy?.bucket.as_ref()?;
        Some(self.clock.instant(bucket.next(self.clock.read(now))))
    }

    /// Returns the sources that have lost a handler and for which this thread waits.
    pub(in crate::serve) fn freed_sources(&self) -> Vec<Source> {
        let policy = self.policy.as_ref();
        policy.map_or_else(Vec::new, |policy| policy.freed(self.thread))
    }

    /// Takes the rules that apply now, so that this thread doesn't keep old ones.
    pub(in crate::serve) fn refresh_rules(&mut self) {
        if let Some((handle, reader)) = &mut self.rules {
            reader.refresh(handle);
        }
    }

    /// Begins with a client that has arrived, with the slot of the next client and this token if
    /// they were taken.
    pub(in crate::serve) fn begin(&mut self, peer: Peer, token: Option<u64>) -> Pending {
        let mut client = match self.policy {
            Some(policy) => policy.begin(peer, self.kind),
            None => Pending::new(peer, Source::UNKNOWN, self.kind),
        };
        (client.token, client.slot) = (token, self.slot.take());
        client
    }

    /// Takes a client as far as possible, and says what comes next.
    pub(in crate::serve) fn advance(&mut self, client: &mut Pending, now: Instant) -> Step<'a> {
        loop {
            match self.pass(client, now) {
                Passed::Yes => match client.stage.next() {
                    Some(stage) => client.enter(stage),
                    None => return Step::Admit,
                },
                Passed::Look(look) => return Step::Look(look),
                Passed::Later { retry, within } => {
                    let deadline = client.deadline.or_else(|| Some(now + within?));
                    if deadline.is_some_and(|deadline| deadline <= now) {
                        return self.reject_late(client, now);
                    }
                    (client.deadline, client.retry) = (deadline, retry);
                    return Step::Wait;
                }
                Passed::No(rejection) => {
                    self.give_back(client, now);
                    return Step::Reject(rejection);
                }
            }
        }
    }

    /// Gives back all that a client has taken, since no handler starts for it.
    pub(in crate::serve) fn give_back(&mut self, client: &mut Pending, now: Instant) {
        let time = self.clock.read(now);
        if let Some(taken) = client.source_slot.take() {
            taken.slot.undo(taken.limits, taken.at, time);
        }
        let bucket = self.policy.and_then(|policy| policy.bucket.as_ref());
        if let (Some(taken), Some(bucket)) = (client.token.take(), bucket) {
            bucket.give_back(taken, time);
        }
        let slot = client.slot.take();
        if self.slot.is_none() && self.takes_slot_first() {
            self.slot = slot;
        }
    }

    fn reject_late(&mut self, client: &mut Pending, now: Instant) -> Step<'a> {
        let mut action = RejectAction::Close;
        let reason = match client.stage {
            Stage::Header => Reason::Late(Awaited::Header),
            Stage::Rules | Stage::FirstByte => Reason::Silent,
            Stage::Source => {
                action = action.unless_told(client.rule.as_ref());
                Reason::Late(Awaited::Source(client.source))
            }
            Stage::Rate => Reason::Late(Awaited::Rate),
            Stage::Slot => {
                let limit = self.slots.limit().unwrap_or_default();
                Reason::Late(Awaited::Slot(limit))
            }
        };
        self.give_back(client, now);
        Step::Reject(Rejection::new(reason, action))
    }

    fn pass(&mut self, client: &mut Pending, now: Instant) -> Passed<'a> {
        match client.stage {
            Stage::Header => self.pass_header(client),
            Stage::Rules => self.pass_rules(client),
            Stage::FirstByte => self.pass_first_byte(client),
            Stage::Source => self.pass_source(client, now),
            Stage::Rate => self.pass_rate(client, now),
            Stage::Slot => self.pass_slot(client),
        }
    }

    fn pass_header(&self, client: &mut Pending) -> Passed<'a> {
        let policy = self.policy.filter(|_| client.kind == Kind::Connection);
        let Some((policy, proxies)) = policy.and_then(|it| Some((it, it.asked.proxies.as_ref()?)))
        else {
            return Passed::Yes;
        };
        if !client.peer.is_trusted(&proxies.from) {
            return Passed::No(Rejection::close(Reason::Proxy));
        }
        match client.header.take() {
            None => Passed::Look(Look::Header),
            Some(Received::Header(header)) => {
                client.peer = client.peer.brings(header);
                client.source = policy.source(&client.peer);
                Passed::Yes
            }
            Some(Received::Incomplete { .. }) => Passed::Later {
                retry: None,
                within: Some(proxies.timeout.into()),
            },
            Some(Received::Fault(fault)) => Passed::No(Rejection::close(Reason::Header(fault))),
        }
    }

    fn pass_rules(&mut self, client: &mut Pending) -> Passed<'a> {
        if client.kind == Kind::Datagram {
            let port = client.peer.address().map(|address| address.port());
            if let Some(port) = port.filter(|port| *port < self.min_source_port) {
                return Passed::No(Rejection::close(Reason::SourcePort(port)));
            }
        }
        let Some((handle, reader)) = &mut self.rules else {
            return Passed::Yes;
        };
        let decision = reader.current(handle).decide((&client.peer).into());
        if decision.allow {
            client.rule = decision.rule.filter(|rule| rule.has_terms()).cloned();
            return Passed::Yes;
        }
        Passed::No(match decision.rule {
            Some(rule) => Rejection::by_rule(rule),
            None => Rejection::close(Reason::NoRule),
        })
    }

    fn pass_first_byte(&self, client: &mut Pending) -> Passed<'a> {
        let policy = self.policy.filter(|_| client.kind == Kind::Connection);
        let Some(within) = policy.and_then(|policy| policy.asked.first_byte) else {
            return Passed::Yes;
        };
        match client.first_byte.take() {
            None => Passed::Look(Look::FirstByte),
            Some(FirstByte::Arrived) => Passed::Yes,
            Some(FirstByte::Missing) => Passed::Later {
                retry: None,
                within: Some(within.into()),
            },
            Some(FirstByte::Ended) => Passed::No(Rejection::close(Reason::Ended)),
        }
    }

    fn pass_source(&self, client: &mut Pending, now: Instant) -> Passed<'a> {
        let Some((policy, sources)) = self.policy.and_then(|it| Some((it, it.sources.as_ref()?)))
        else {
            return Passed::Yes;
        };
        let limits = match client.rule.as_deref() {
            Some(Ready { rule, .. }) => SourceLimits {
                max: rule.max.or(policy.limits.max),
                rate: rule.rate.or(policy.limits.rate),
            },
            None => policy.limits,
        };
        if limits == SourceLimits::default() {
            return Passed::Yes;
        }
        let time = self.clock.read(now);
        let at_max = policy.asked.at_source_max();
        let waits = client.kind == Kind::Connection && matches!(at_max, AtLimit::Queue(_));
        let slot = match waits {
            true => sources.admit_or_wait(client.source, limits, time, self.thread),
            false => sources.admit(client.source, limits, time),
        };
        let (at, reason, retry) = match slot {
            Ok(slot) => {
                let at = time;
                client.source_slot = Some(TakenSourceSlot { slot, limits, at });
                return Passed::Yes;
            }
            Err(Over::Max) => {
                let max = limits.max.map_or(0, |max| max.get());
                (at_max, Reason::SourceMax(client.source, max), None)
            }
            Err(Over::Rate(when)) => (
                policy.asked.at_source_rate(),
                Reason::SourceRate(client.source),
                Some(self.clock.instant(when)),
            ),
        };
        match at {
            AtLimit::Queue(Some(within)) if client.kind == Kind::Connection => Passed::Later {
                retry,
                within: Some((*within).into()),
            },
            at => {
                let action = RejectAction::at(at).unless_told(client.rule.as_ref());
                Passed::No(Rejection::new(reason, action))
            }
        }
    }

    fn pass_rate(&self, client: &mut Pending, now: Instant) -> Passed<'a> {
        let Some((policy, bucket)) = self.policy.and_then(|it| Some((it, it.bucket.as_ref()?)))
        else {
            return Passed::Yes;
        };
        if client.token.is_some() {
            return Passed::Yes;
        }
        let time = self.clock.read(now);
        if bucket.take(time).is_ok() {
            client.token = Some(time);
            return Passed::Yes;
        }
        match policy.asked.at_rate() {
            // The first that waits is looked at when there is a token.
            AtLimit::Queue(within) if client.kind == Kind::Connection => Passed::Later {
                retry: None,
                within: within.map(Into::into),
            },
            at => Passed::No(Rejection::new(Reason::Rate, RejectAction::at(at))),
        }
    }

    fn pass_slot(&self, client: &mut Pending) -> Passed<'a> {
        let at_max = self.at_max();
        let waits = client.kind == Kind::Connection && matches!(at_max, AtLimit::Queue(_));
        if client.slot.is_none() {
            client.slot = match waits {
                true => self.slots.take(self.thread),
                false => self.slots.take_now(),
            };
        }
        match at_max {
            _ if client.slot.is_some() => Passed::Yes,
            AtLimit::Queue(within) if waits => Passed::Later {
                retry: None,
                within: within.map(Into::into),
            },
            at => {
                let limit = self.slots.limit().unwrap_or_default();
                Passed::No(Rejection::new(Reason::Max(limit), RejectAction::at(at)))
            }
        }
    }
}
