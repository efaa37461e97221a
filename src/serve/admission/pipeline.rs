//! The admission pipeline of one service in one thread: the only way to a handler.
//!
//! ```text
//! header → rules → TLS → first byte → limits of the source → rate → gate → slot
//! ```
//!
//! It also decides whether new clients are accepted now ([`Pipeline::acceptance`]). It decides, and does
//! nothing: the caller accepts and receives, reads what the pipeline asks
//! for, waits, and sends messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::denials::Denials;
use super::pending::{FirstByte, FoundGate, FoundTls, Kind, Pending, Stage, TakenSourceSlot};
use super::policy::Policy;
use super::reject::{RejectAction, Rejection};
use super::rules::Client;
use super::rules_handle::{RulesHandle, RulesReader};
use super::slots::{Slot, Slots, When};
use super::sources::{Over, SourceLimits};
use super::token_bucket::{Bucket, Clock};
use crate::config::{AtLimit, Peer, ServiceId, Source, SourcePrefix, TLS_TIMEOUT};
use crate::net::proxy::Received;
use crate::report::{Awaited, Reason};

/// What the pipeline decides about a client.
#[derive(Debug)]
pub(in crate::serve) enum Step<'a> {
    /// The caller looks for this, tells the client's [`Pending`] what it has found, and asks
    /// again.
    Look(Look),
    /// The caller hands the connection to skd-tls, or looks for its answer, and goes on likewise.
    Tls,
    /// The caller starts the client's gate, or looks at it if it runs, and goes on likewise.
    Gate,
    /// The client waits until something happens that its stage waits for, or until it is due.
    Wait,
    /// A handler starts for the client, with what [`Pending::admitted`] returns.
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
pub(in crate::serve) enum Acceptance {
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
    Tls,
    Gate,
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
    /// The service, and the clients that are denied for a time.
    denials: (ServiceId, &'a Denials),
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
        denials: (ServiceId, &'a Denials),
    ) -> Self {
        Self {
            policy,
            slots,
            rules: rules.map(|rules| (rules, rules.reader())),
            kind,
            min_source_port,
            clock,
            thread,
            denials,
            slot: None,
        }
    }

    /// Returns whether a client is denied for a time.
    pub(in crate::serve) fn is_denied(&self, peer: &Peer) -> bool {
        let (service, denials) = self.denials;
        let translators = || self.policy.map_or(&[][..], |policy| &policy.asked.nat64);
        !denials.are_none() && denials.deny_client(service, peer, translators())
    }

    /// Returns what becomes of a client that the service refuses altogether: what becomes of clients
    /// that find no slot, where they don't wait.
    pub(in crate::serve) fn refusal(&self) -> Rejection<'a> {
        Rejection::new(Reason::Disabled, RejectAction::at(self.at_max()))
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

    /// Gives back the slot of the next client, and waits for none until one is asked for again.
    pub(in crate::serve) fn give_way(&mut self) {
        self.release_slot();
        self.slots.stop_waiting(self.thread);
    }

    /// Hands out the slot of the next client, if it was taken.
    pub(in crate::serve) fn taken_slot(&mut self) -> Option<Slot> {
        self.slot.take()
    }

    /// Takes the service's token for the next client, where clients stay in the backlog until
    /// there is one. Returns when it was taken; an error if there is none.
    pub(in crate::serve) fn take_token(&self) -> Result<Option<u64>, Acceptance> {
        let Some(bucket) = self.backlog_bucket() else {
            return Ok(None);
        };
        if self.kind == Kind::Connection && self.slots.when() == When::Needed {
            // In its stage: another stage may come to nothing before.
            return Ok(None);
        }
        let now = self.clock.read(Instant::now());
        match bucket.take(now) {
            Ok(()) => Ok(Some(now)),
            Err(_) => Err(Acceptance::Rate),
        }
    }

    /// Gives back a token that was taken for a client that wasn't there.
    pub(in crate::serve) fn release_token(&self, token: Option<u64>) {
        if let (Some(taken), Some(bucket)) = (token, self.backlog_bucket()) {
            bucket.give_back(taken, self.clock.read(Instant::now()));
        }
    }

    fn backlog_bucket(&self) -> Option<&'a Bucket> {
        self.policy.and_then(Policy::backlog_bucket)
    }

    /// Returns whether new clients are accepted or received now. Pending ones come first: the
    /// caller passes whether some wait for a slot, and for the rate.
    pub(in crate::serve) fn acceptance(
        &self,
        slot_waited_for: bool,
        rate_waited_for: bool,
    ) -> Acceptance {
        let waits = match self.kind {
            Kind::Connection => *self.at_max() == AtLimit::Queue(None),
            Kind::Datagram => matches!(self.at_max(), AtLimit::Queue(_)),
        };
        let gated = self.policy.is_some_and(|policy| policy.traits.gated);
        let free = || match waits {
            // Clients pass the gate meanwhile, unless some have done so and wait.
            true if gated => !slot_waited_for && self.slots.may_begin(self.thread),
            true => !slot_waited_for && self.slots.may_take(self.thread),
            false => self.slots.may_begin(self.thread),
        };
        let free = self.slot.is_some() || self.slots.when() == When::Needed && free();
        if !free {
            return Acceptance::Full;
        }
        let used_up = self.backlog_bucket().is_some_and(|bucket| {
            let now = self.clock.read(Instant::now());
            rate_waited_for || bucket.next(now) > now
        });
        if used_up {
            Acceptance::Rate
        } else {
            Acceptance::Open
        }
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
            // An administrator may have it refused all the same, and sees who it was.
            None => {
                let source = Source::of(&peer, SourcePrefix::default(), &[]);
                Pending::new(peer, source, self.kind)
            }
        };
        (client.token, client.slot) = (token, self.slot.take());
        client
    }

    /// Takes a client as far as possible, and returns what comes next.
    pub(in crate::serve) fn advance(&mut self, client: &mut Pending, now: Instant) -> Step<'a> {
        loop {
            match self.pass(client, now) {
                Passed::Yes => match client.stage.next() {
                    Some(stage) => client.enter(stage),
                    None => return Step::Admit,
                },
                Passed::Look(look) => return Step::Look(look),
                Passed::Tls => return Step::Tls,
                Passed::Gate => return Step::Gate,
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
            Stage::Tls if client.is_in_handshake => Reason::TlsTimeout,
            Stage::Tls => Reason::TlsBusy,
            Stage::Rules | Stage::FirstByte => Reason::Silent,
            Stage::Source => {
                action = action.unless_told(client.rule.as_ref());
                Reason::Late(Awaited::Source(client.source))
            }
            Stage::Rate => Reason::Late(Awaited::Rate),
            // Of a gate, the caller sees to that.
            Stage::Gate => Reason::End,
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
            Stage::Tls => self.pass_tls(client),
            Stage::FirstByte => self.pass_first_byte(client),
            Stage::Source => self.pass_source(client, now),
            Stage::Rate => self.pass_rate(client, now),
            Stage::Gate => self.pass_gate(client),
            Stage::Slot => self.pass_slot(client),
        }
    }

    fn pass_header(&self, client: &mut Pending) -> Passed<'a> {
        let policy = self.policy.filter(|_| client.kind == Kind::Connection);
        let Some((policy, proxies)) = policy.and_then(|it| Some((it, it.asked.proxies.as_ref()?)))
        else {
            return Passed::Yes;
        };
        // The client that it names is looked at with the rules.
        if self.is_denied(&client.peer) {
            return Passed::No(Rejection::close(Reason::Denied));
        }
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
        if self.is_denied(&client.peer) {
            return Passed::No(Rejection::close(Reason::Denied));
        }
        if client.kind == Kind::Datagram {
            let port = client.peer.address().map(|address| address.port());
            if let Some(port) = port.filter(|port| *port < self.min_source_port) {
                return Passed::No(Rejection::close(Reason::SourcePort(port)));
            }
        }
        let awaits_tls = self.awaits_tls(client);
        let Some((handle, reader)) = &mut self.rules else {
            return Passed::Yes;
        };
        let translators = self.policy.map_or(&[][..], |policy| &policy.asked.nat64);
        let decision = reader
            .current(handle)
            .decide(Client::of(&client.peer, translators));
        if decision.allow {
            client.rule = decision.rule.filter(|rule| rule.has_terms()).cloned();
            return Passed::Yes;
        }
        Passed::No(match decision.rule {
            // Without TLS, its message would be nothing that the client can read.
            Some(rule) if rule.message.is_some() && awaits_tls => {
                client.is_denied_later = true;
                return Passed::Yes;
            }
            Some(rule) => Rejection::by_rule(rule),
            None => Rejection::close(Reason::NoRule),
        })
    }

    fn awaits_tls(&self, client: &Pending) -> bool {
        let asked = self.policy.is_some_and(Policy::has_tls) || client.is_in_handshake;
        asked && !client.is_secure && client.kind == Kind::Connection
    }

    fn pass_tls(&mut self, client: &mut Pending) -> Passed<'a> {
        if !self.awaits_tls(client) {
            return Passed::Yes;
        }
        match client.tls.take() {
            None => Passed::Tls,
            Some(FoundTls::Established) => {
                client.is_secure = true;
                // By a rule that has a message.
                match std::mem::take(&mut client.is_denied_later) {
                    true => self.pass_rules(client),
                    false => Passed::Yes,
                }
            }
            Some(found @ (FoundTls::Runs | FoundTls::Later)) => {
                client.is_in_handshake |= matches!(found, FoundTls::Runs);
                // A service that was reloaded may have none by now.
                let within = self.policy.and_then(|policy| policy.traits.tls);
                Passed::Later {
                    // The caller goes on with the first that waits to be passed.
                    retry: None,
                    within: Some(within.unwrap_or(TLS_TIMEOUT).into()),
                }
            }
            Some(FoundTls::Refused(reason)) => Passed::No(Rejection::close(reason)),
        }
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
        let limits = policy.limits_with(client.rule.as_deref());
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

    fn pass_gate(&self, client: &mut Pending) -> Passed<'a> {
        let gated = self.policy.is_some_and(|policy| policy.traits.gated);
        if !gated && !client.is_in_gate || client.has_passed || client.kind == Kind::Datagram {
            return Passed::Yes;
        }
        match client.gate.take() {
            None => match self.slots.full() {
                // It would pass the gate in vain.
                Some(limit) if !client.is_in_gate && !self.waits_for_slot(client) => Passed::No(
                    Rejection::new(Reason::Max(limit), RejectAction::at(self.at_max())),
                ),
                _ => Passed::Gate,
            },
            Some(FoundGate::Passed) => {
                client.has_passed = true;
                Passed::Yes
            }
            Some(FoundGate::Runs(retry)) => {
                client.is_in_gate = true;
                Passed::Later {
                    retry,
                    within: None,
                }
            }
            Some(FoundGate::Refused(reason)) => {
                let action = match reason {
                    Reason::GateMax(_) => RejectAction::at(self.at_max()),
                    Reason::Gate(..) | Reason::GateTimeout(_) => RejectAction::Linger,
                    _ => RejectAction::Close,
                };
                Passed::No(Rejection::new(reason, action))
            }
        }
    }

    /// Returns whether a client without a slot waits for one, rather than being rejected.
    fn waits_for_slot(&self, client: &Pending) -> bool {
        client.kind == Kind::Connection && matches!(self.at_max(), AtLimit::Queue(_))
    }

    fn pass_slot(&self, client: &mut Pending) -> Passed<'a> {
        let at_max = self.at_max();
        let waits = self.waits_for_slot(client);
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
            // Another client has got the last slot of all, since this one was let in.
            _ if !self.slots.may_begin(self.thread) => Passed::No(Rejection::close(Reason::End)),
            at => {
                let limit = self.slots.limit().unwrap_or_default();
                Passed::No(Rejection::new(Reason::Max(limit), RejectAction::at(at)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::proxy_header::{Fault, Header};
    use crate::config::{
        Admission, Proxies, Rate, Rule, RuleLocation, SourcePrefix, Span, Trusted, Who,
    };
    use crate::serve::admission::policy::Traits;
    use crate::serve::admission::rules::Rules;
    use crate::serve::admission::sources::Sources;
    use crate::sys::events::Waker;
    use crate::sys::process::Ended;
    use std::net::SocketAddr;
    use std::num::NonZeroUsize;

    const SECOND: Duration = Duration::from_secs(1);

    /// All that a pipeline asks.
    struct Parts {
        policy: Option<Policy>,
        slots: Arc<Slots>,
        rules: Option<RulesHandle>,
        denials: Denials,
        start: Instant,
    }

    impl Parts {
        fn new(asked: Admission, max: usize, rules: Option<Vec<Rule>>) -> Self {
            Self::of(asked, max, rules, false)
        }

        fn of(asked: Admission, max: usize, rules: Option<Vec<Rule>>, datagrams: bool) -> Self {
            let traits = Traits {
                datagrams,
                ..Traits::default()
            };
            Self::with(asked, max, rules, traits)
        }

        fn with(asked: Admission, max: usize, rules: Option<Vec<Rule>>, traits: Traits) -> Self {
            let wakers: Arc<[Waker]> = (0..2).map(|_| Waker::new().unwrap()).collect();
            let policy = Policy::new(asked, traits, &wakers);
            let when = policy.as_ref().map_or(When::Before, Policy::slots_when);
            Self {
                slots: Slots::new(NonZeroUsize::new(max), when, wakers),
                policy,
                rules: rules.map(|rules| RulesHandle::new(ready(rules))),
                denials: Denials::default(),
                start: Instant::now(),
            }
        }

        fn pipeline(&self, kind: Kind) -> Pipeline<'_> {
            let policy = self.policy.as_ref();
            let thread = (Clock::new(self.start), 0);
            let denials = (ServiceId::new(0), &self.denials);
            let rules = self.rules.as_ref();
            Pipeline::new(policy, &self.slots, rules, kind, 1024, thread, denials)
        }

        fn bucket(&self) -> &Bucket {
            self.policy.as_ref().unwrap().bucket.as_ref().unwrap()
        }

        /// Returns whether one more handler of this source may run, for all that counts.
        fn has_source_slot(&self, peer: &Peer) -> bool {
            let policy = self.policy.as_ref().unwrap();
            let sources = policy.sources.as_ref().unwrap();
            sources.admit(policy.source(peer), policy.limits, 0).is_ok()
        }

        fn has_token(&self, time: Instant) -> bool {
            let time = Clock::new(self.start).read(time);
            self.bucket().next(time) == time
        }

        /// Asserts that all slots are free.
        fn assert_free(&self) {
            let slots: Vec<_> = std::iter::from_fn(|| self.slots.take_now()).collect();
            assert_eq!(Some(slots.len()), self.slots.limit());
        }
    }

    fn gated() -> Traits {
        Traits {
            gated: true,
            ..Traits::default()
        }
    }

    fn ready(rules: Vec<Rule>) -> Rules {
        let rules = rules.into_iter().map(|rule| (rule, vec![]));
        Rules::new(&rules.collect::<Vec<_>>(), &[].into())
    }

    fn rule(allow: bool) -> Rule {
        Rule::new(allow, Who::All, RuleLocation::Line(1))
    }

    fn peer(last: u8) -> Peer {
        Peer::Tcp {
            remote: SocketAddr::from(([192, 0, 2, last], 4000)),
            local: None,
        }
    }

    fn proxies() -> Option<Proxies> {
        Some(Proxies {
            from: vec![Trusted::Net("192.0.2.0/24".parse().unwrap())],
            timeout: Span::seconds(2),
        })
    }

    fn one() -> Option<NonZeroUsize> {
        NonZeroUsize::new(1)
    }

    fn hourly() -> Option<Rate> {
        Some(Rate {
            interval: Duration::from_secs(3600),
            burst: 1,
        })
    }

    fn queue(seconds: u64) -> Option<AtLimit> {
        Some(AtLimit::Queue(Some(Span::seconds(seconds))))
    }

    /// A step without its data.
    fn name(step: &Step<'_>) -> String {
        match step {
            Step::Look(look) => format!("look {look:?}"),
            Step::Tls => "tls".into(),
            Step::Gate => "gate".into(),
            Step::Wait => "wait".into(),
            Step::Admit => "admit".into(),
            Step::Reject(rejection) => format!("reject: {}", rejection.reason()),
        }
    }

    #[track_caller]
    fn expect(step: Step<'_>, expected: &str) {
        assert_eq!(name(&step), expected);
    }

    fn named(last: u8) -> Received {
        let address = |last| SocketAddr::from(([198, 51, 100, last], 5000));
        Received::Header(Header::Inet {
            source: address(last),
            destination: address(1),
        })
    }

    #[test]
    fn a_client_without_a_policy_needs_a_slot_alone() {
        let parts = Parts::new(Admission::default(), 1, None);
        let mut pipeline = parts.pipeline(Kind::Connection);
        assert!(!pipeline.has_policy());
        assert_eq!(pipeline.acceptance(false, false), Acceptance::Full);
        assert!(pipeline.take_slot() && pipeline.take_slot());
        assert_eq!(pipeline.acceptance(false, false), Acceptance::Open);
        assert_eq!(pipeline.take_token(), Ok(None));
        let slot = pipeline.taken_slot().unwrap();
        assert!(!pipeline.take_slot());
        drop(slot);
        assert!(pipeline.take_slot());
        let mut client = pipeline.begin(peer(1), None);
        expect(pipeline.advance(&mut client, parts.start), "admit");
        drop(client.admitted().unwrap());
        parts.assert_free();
    }

    #[test]
    fn stages_come_in_their_order() {
        let asked = Admission {
            proxies: proxies(),
            first_byte: Some(Span::seconds(3)),
            max_per_source: one(),
            at_source_max: queue(4),
            rate: hourly(),
            at_rate: queue(5),
            at_max: queue(6),
            ..Admission::default()
        };
        let parts = Parts::new(asked, 1, Some(vec![rule(true)]));
        let mut pipeline = parts.pipeline(Kind::Connection);
        let now = parts.start;
        // All that a client takes is taken by others.
        let slot = parts.slots.take_now().unwrap().in_use();
        let source = Source::address([198, 51, 100, 7].into(), SourcePrefix::default());
        let policy = parts.policy.as_ref().unwrap();
        let sources = policy.sources.as_ref().unwrap();
        let source_slot = sources.admit(source, policy.limits, 0).unwrap();
        parts.bucket().take(0).unwrap();

        let mut client = pipeline.begin(peer(1), None);
        expect(pipeline.advance(&mut client, now), "look Header");
        client.found_header(Received::Incomplete { begun: true });
        expect(pipeline.advance(&mut client, now), "wait");
        assert_eq!(client.due(), Some(now + 2 * SECOND));
        assert!(!client.is_identified());
        client.found_header(named(7));
        expect(pipeline.advance(&mut client, now), "look FirstByte");
        assert_eq!(client.source, source);
        client.found_first_byte(FirstByte::Missing);
        expect(pipeline.advance(&mut client, now), "wait");
        assert_eq!(client.due(), Some(now + 3 * SECOND));
        client.found_first_byte(FirstByte::Arrived);
        for (stage, seconds) in [(Stage::Source, 4), (Stage::Rate, 5), (Stage::Slot, 6)] {
            expect(pipeline.advance(&mut client, now), "wait");
            assert_eq!(
                (client.stage(), client.due()),
                (stage, Some(now + seconds * SECOND))
            );
            // A wait doesn't begin anew.
            expect(pipeline.advance(&mut client, now + SECOND), "wait");
            assert_eq!(client.due(), Some(now + seconds * SECOND));
            match stage {
                Stage::Source => source_slot_of(&mut client, sources, source),
                Stage::Rate => client.token = Some(0),
                _ => client.give(parts.slots.occupy()),
            }
            if stage == Stage::Source {
                client.enter(Stage::Rate);
            }
        }
        expect(pipeline.advance(&mut client, now), "admit");
        let admitted = client.admitted().unwrap();
        assert!(admitted.source_slot.is_some() && admitted.rule.is_none());
        drop((slot, source_slot));
    }

    fn source_slot_of(client: &mut Pending, sources: &Arc<Sources>, source: Source) {
        let limits = SourceLimits::default();
        let slot = sources.admit(source, limits, 0).unwrap();
        client.source_slot = Some(TakenSourceSlot {
            slot,
            limits,
            at: 0,
        });
    }

    #[test]
    fn each_stage_times_out_with_its_reason() {
        let asked = Admission {
            proxies: proxies(),
            first_byte: Some(Span::seconds(1)),
            max_per_source: one(),
            at_source_max: queue(1),
            rate: hourly(),
            at_rate: queue(1),
            at_max: queue(1),
            ..Admission::default()
        };
        let parts = Parts::new(asked, 1, None);
        let policy = parts.policy.as_ref().unwrap();
        let sources = policy.sources.as_ref().unwrap();
        let late = parts.start + 2 * SECOND;
        let vain = "reject: it has waited in vain: ";
        for (taken, reason) in [
            ("header", format!("{vain}its PROXY header has not come")),
            ("byte", "reject: it sent nothing in time".into()),
            (
                "source",
                format!("{vain}198.51.100.7 has reached its limit"),
            ),
            (
                "token",
                format!("{vain}connections come faster than --rate"),
            ),
            ("slot", format!("{vain}the only slot is taken")),
        ] {
            let mut pipeline = parts.pipeline(Kind::Connection);
            let mut client = pipeline.begin(peer(1), None);
            client.found_header(named(7));
            client.found_first_byte(FirstByte::Arrived);
            let source = Source::address([198, 51, 100, 7].into(), SourcePrefix::default());
            let (mut slot, mut other) = (None, None);
            match taken {
                "header" => client.found_header(Received::Incomplete { begun: false }),
                "byte" => client.found_first_byte(FirstByte::Missing),
                "source" => other = sources.admit(source, policy.limits, 0).ok(),
                "token" => parts.bucket().take(0).unwrap(),
                _ => slot = parts.slots.take_now(),
            }
            expect(pipeline.advance(&mut client, parts.start), "wait");
            match client.stage() {
                Stage::Header => client.found_header(Received::Incomplete { begun: false }),
                Stage::FirstByte => client.found_first_byte(FirstByte::Missing),
                _ => {}
            }
            assert!(client.is_late(late));
            expect(pipeline.advance(&mut client, late), &reason);
            drop((slot, other));
            if taken == "token" {
                parts.bucket().give_back(0, 0);
            }
            // Whatever it had taken is free again.
            parts.assert_free();
            assert!(parts.has_token(late), "{taken}");
            assert!(parts.has_source_slot(&client.peer), "{taken}");
        }
    }

    #[test]
    fn each_stage_rejects_with_its_reason_and_gives_back_what_was_taken() {
        let asked = Admission {
            proxies: proxies(),
            first_byte: Some(Span::seconds(1)),
            max_per_source: one(),
            at_source_max: Some(AtLimit::Close),
            rate: hourly(),
            at_rate: Some(AtLimit::Reset),
            at_max: Some(AtLimit::Message(b"full\n".to_vec())),
            ..Admission::default()
        };
        let parts = Parts::new(asked, 1, None);
        let policy = parts.policy.as_ref().unwrap();
        let sources = policy.sources.as_ref().unwrap();
        let source = Source::address([198, 51, 100, 7].into(), SourcePrefix::default());
        for (fault, reason) in [
            ("proxy", "it is none of --proxy-from"),
            ("byte", "it left before it had sent anything"),
            ("source", "198.51.100.7 has as many handlers as it may, 1"),
            ("token", "connections come faster than --rate"),
            ("slot", "the only slot is taken"),
        ] {
            let mut pipeline = parts.pipeline(Kind::Connection);
            let untrusted = Peer::Tcp {
                remote: SocketAddr::from(([203, 0, 113, 1], 4000)),
                local: None,
            };
            let from = if fault == "proxy" { untrusted } else { peer(1) };
            let mut client = pipeline.begin(from, None);
            client.found_header(named(7));
            client.found_first_byte(match fault {
                "byte" => FirstByte::Ended,
                _ => FirstByte::Arrived,
            });
            let (mut slot, mut other) = (None, None);
            match fault {
                "source" => other = sources.admit(source, policy.limits, 0).ok(),
                "token" => parts.bucket().take(0).unwrap(),
                "slot" => slot = parts.slots.take_now(),
                _ => {}
            }
            let step = pipeline.advance(&mut client, parts.start);
            let Step::Reject(rejection) = &step else {
                panic!("{}", name(&step));
            };
            assert_eq!(rejection.reason().to_string(), reason);
            let message = rejection.action.message();
            assert_eq!(message, (fault == "slot").then_some(&b"full\n"[..]));
            let resets = matches!(rejection.action, RejectAction::Reset);
            assert_eq!(resets, fault == "token");
            drop((slot, other));
            if fault == "token" {
                parts.bucket().give_back(0, 0);
            }
            parts.assert_free();
            assert!(parts.has_token(parts.start), "{fault}");
            assert!(parts.has_source_slot(&client.peer), "{fault}");
        }
        let mut pipeline = parts.pipeline(Kind::Connection);
        let mut client = pipeline.begin(peer(1), None);
        client.found_header(Received::Fault(Fault::Ended));
        let step = pipeline.advance(&mut client, parts.start);
        assert!(matches!(step, Step::Reject(_)));
    }

    #[test]
    fn an_abandoned_client_gives_back_all() {
        let asked = Admission {
            max_per_source: one(),
            rate: hourly(),
            at_max: queue(1),
            ..Admission::default()
        };
        let parts = Parts::new(asked, 1, None);
        let mut pipeline = parts.pipeline(Kind::Connection);
        let mut client = pipeline.begin(peer(1), None);
        expect(pipeline.advance(&mut client, parts.start), "admit");
        // Admitted, but there is no memory for its handler.
        client.postpone(parts.start + SECOND);
        assert!(!parts.has_token(parts.start) && !parts.has_source_slot(&client.peer));
        assert_eq!(client.due(), Some(parts.start + SECOND));
        expect(pipeline.advance(&mut client, parts.start), "admit");
        pipeline.give_back(&mut client, parts.start);
        assert!(client.admitted().is_none());
        parts.assert_free();
        assert!(parts.has_token(parts.start) && parts.has_source_slot(&client.peer));
    }

    #[test]
    fn a_slot_that_was_taken_first_stays_for_the_next_client() {
        let asked = Admission {
            rules: vec![rule(false)],
            ..Admission::default()
        };
        let parts = Parts::new(asked, 1, Some(vec![rule(false)]));
        let mut pipeline = parts.pipeline(Kind::Connection);
        assert!(pipeline.take_slot());
        let mut client = pipeline.begin(peer(1), None);
        let step = pipeline.advance(&mut client, parts.start);
        assert!(name(&step).starts_with("reject: denied by"));
        assert!(pipeline.taken_slot().is_some());
        assert!(pipeline.take_slot());
        pipeline.release_slot();
        parts.assert_free();
    }

    #[test]
    fn rules_that_are_reloaded_apply_to_clients_that_have_not_passed_them() {
        let asked = Admission {
            proxies: proxies(),
            rules: vec![rule(true)],
            at_max: queue(1),
            ..Admission::default()
        };
        let parts = Parts::new(asked, 1, Some(vec![rule(true)]));
        let mut pipeline = parts.pipeline(Kind::Connection);
        let slot = parts.slots.take_now().unwrap().in_use();
        let (mut first, mut second) =
            (pipeline.begin(peer(1), None), pipeline.begin(peer(2), None));
        first.found_header(named(7));
        expect(pipeline.advance(&mut first, parts.start), "wait");
        second.found_header(Received::Incomplete { begun: false });
        expect(pipeline.advance(&mut second, parts.start), "wait");
        parts
            .rules
            .as_ref()
            .unwrap()
            .replace(ready(vec![rule(false)]));
        pipeline.refresh_rules();
        drop(slot);
        expect(pipeline.advance(&mut first, parts.start), "admit");
        second.found_header(named(8));
        let step = pipeline.advance(&mut second, parts.start);
        assert!(name(&step).starts_with("reject: denied by"));
    }

    #[test]
    fn a_rule_has_limits_and_a_message_of_its_own() {
        let asked = Admission {
            rules: vec![rule(true)],
            rules_file: Some("rules".into()),
            ..Admission::default()
        };
        let limited = Rule {
            max: one(),
            message: Some(b"one at a time\n".to_vec()),
            ..rule(true)
        };
        let parts = Parts::new(asked, 4, Some(vec![limited]));
        let mut pipeline = parts.pipeline(Kind::Connection);
        assert!(pipeline.take_slot());
        let mut first = pipeline.begin(peer(1), None);
        expect(pipeline.advance(&mut first, parts.start), "admit");
        let admitted = first.admitted().unwrap();
        assert!(admitted.rule.is_some() && admitted.source_slot.is_some());
        assert!(pipeline.take_slot());
        let mut second = pipeline.begin(peer(1), None);
        let Step::Reject(rejection) = pipeline.advance(&mut second, parts.start) else {
            panic!();
        };
        assert_eq!(rejection.action.message(), Some(&b"one at a time\n"[..]));
    }

    #[test]
    fn clients_stay_in_the_backlog_until_there_is_a_token() {
        let asked = Admission {
            rate: hourly(),
            ..Admission::default()
        };
        let parts = Parts::new(asked, 2, None);
        let mut pipeline = parts.pipeline(Kind::Connection);
        assert!(pipeline.take_slot());
        assert_eq!(pipeline.acceptance(false, false), Acceptance::Open);
        assert_eq!(pipeline.acceptance(false, true), Acceptance::Rate);
        let token = pipeline.take_token().unwrap();
        assert!(token.is_some());
        assert_eq!(pipeline.acceptance(false, false), Acceptance::Rate);
        assert_eq!(pipeline.take_token(), Err(Acceptance::Rate));
        assert!(pipeline.next_token(parts.start).unwrap() > parts.start + SECOND);
        pipeline.release_token(token);
        let token = pipeline.take_token().unwrap();
        let mut client = pipeline.begin(peer(1), token);
        expect(pipeline.advance(&mut client, parts.start), "admit");
    }

    fn with_tls() -> Traits {
        Traits {
            tls: Some(Span::seconds(2)),
            ..Traits::default()
        }
    }

    /// Returns why a client is turned away, and whether it gets a message.
    #[track_caller]
    fn rejected(step: Step<'_>) -> (String, bool) {
        let Step::Reject(rejection) = step else {
            panic!("{step:?}");
        };
        let tells = rejection.action.message().is_some();
        (rejection.reason().to_string(), tells)
    }

    #[test]
    fn a_handshake_comes_after_the_rules_and_before_the_first_byte() {
        let asked = Admission {
            proxies: proxies(),
            first_byte: Some(Span::seconds(3)),
            ..Admission::default()
        };
        let parts = Parts::with(asked, 1, Some(vec![rule(true)]), with_tls());
        let mut pipeline = parts.pipeline(Kind::Connection);
        let now = parts.start;
        let mut client = pipeline.begin(peer(1), None);
        expect(pipeline.advance(&mut client, now), "look Header");
        client.found_header(named(7));
        expect(pipeline.advance(&mut client, now), "tls");
        // It isn't passed yet: nothing is to be read, and the time runs.
        client.found_tls(FoundTls::Later);
        expect(pipeline.advance(&mut client, now), "wait");
        assert_eq!(client.stage(), Stage::Tls);
        assert_eq!(client.due(), Some(now + 2 * SECOND));
        assert!(!client.awaits_input());
        expect(pipeline.advance(&mut client, now + SECOND), "tls");
        client.found_tls(FoundTls::Runs);
        expect(pipeline.advance(&mut client, now + SECOND), "wait");
        assert_eq!(client.due(), Some(now + 2 * SECOND));
        assert!(client.awaits_input() && !client.is_secure());
        client.found_tls(FoundTls::Runs);
        assert!(client.lacks_input());
        client.found_tls(FoundTls::Established);
        assert!(!client.lacks_input());
        expect(
            pipeline.advance(&mut client, now + SECOND),
            "look FirstByte",
        );
        assert!(client.is_secure());
        client.found_first_byte(FirstByte::Missing);
        expect(pipeline.advance(&mut client, now + SECOND), "wait");
        assert_eq!(client.due(), Some(now + 4 * SECOND));
        client.found_first_byte(FirstByte::Arrived);
        expect(pipeline.advance(&mut client, now + SECOND), "admit");
        drop(client.admitted());
        parts.assert_free();
    }

    #[test]
    fn a_handshake_that_fails_or_takes_too_long_costs_the_client_nothing_else() {
        let asked = Admission {
            max_per_source: one(),
            rate: hourly(),
            at_rate: queue(5),
            ..Admission::default()
        };
        let parts = Parts::with(asked, 1, None, with_tls());
        let mut pipeline = parts.pipeline(Kind::Connection);
        let now = parts.start;
        let failed = Reason::TlsFailed(skd_tls_protocol::FailureKind::Alert, "no");
        for (found, at, text) in [
            (
                FoundTls::Refused(failed),
                now,
                "its TLS handshake has failed: no",
            ),
            (
                FoundTls::Runs,
                now + 2 * SECOND,
                "its TLS handshake has not ended in time",
            ),
            (
                FoundTls::Later,
                now + 2 * SECOND,
                "skd-tls has not taken it in time",
            ),
        ] {
            let mut client = pipeline.begin(peer(1), None);
            expect(pipeline.advance(&mut client, now), "tls");
            client.found_tls(found);
            if at > now {
                expect(pipeline.advance(&mut client, now), "wait");
                client.found_tls(found);
            }
            let (reason, tells) = rejected(pipeline.advance(&mut client, at));
            assert_eq!((&*reason, tells), (text, false));
        }
        assert!(parts.has_source_slot(&peer(1)) && parts.has_token(now));
        parts.assert_free();
    }

    #[test]
    fn a_handshake_of_an_earlier_process_goes_on_though_the_service_has_no_tls_any_more() {
        let parts = Parts::with(Admission::default(), 1, None, gated());
        let mut pipeline = parts.pipeline(Kind::Connection);
        let now = parts.start;
        let mut secure = pipeline.begin(peer(1), None);
        secure.set_secure();
        expect(pipeline.advance(&mut secure, now), "gate");
        let mut begun = pipeline.begin(peer(1), None);
        begun.set_in_handshake();
        expect(pipeline.advance(&mut begun, now), "tls");
        begun.found_tls(FoundTls::Runs);
        expect(pipeline.advance(&mut begun, now), "wait");
        assert_eq!(begun.due(), Some(now + TLS_TIMEOUT.into()));
        begun.found_tls(FoundTls::Established);
        expect(pipeline.advance(&mut begun, now), "gate");
        // Datagrams have no handshake, and neither have they where there is one.
        let parts = Parts::with(Admission::default(), 1, None, with_tls());
        let mut datagrams = parts.pipeline(Kind::Datagram);
        let mut datagram = datagrams.begin(peer(1), None);
        expect(datagrams.advance(&mut datagram, now), "admit");
    }

    #[test]
    fn the_message_of_a_rule_is_told_when_the_client_can_read_it() {
        let told = Rule {
            message: Some(b"not you\n".to_vec()),
            ..rule(false)
        };
        let now = Instant::now();
        for (deny, is_asked_first) in [(rule(false), false), (told, true)] {
            let parts = Parts::with(Admission::default(), 1, Some(vec![deny]), with_tls());
            let mut pipeline = parts.pipeline(Kind::Connection);
            let mut client = pipeline.begin(peer(1), None);
            let mut step = pipeline.advance(&mut client, now);
            if is_asked_first {
                expect(step, "tls");
                client.found_tls(FoundTls::Established);
                step = pipeline.advance(&mut client, now);
            }
            let (reason, tells) = rejected(step);
            assert!(reason.starts_with("denied by "), "{reason}");
            assert_eq!(tells, is_asked_first);
            parts.assert_free();
        }
    }

    #[test]
    fn a_client_passes_the_gate_before_it_takes_a_slot() {
        let parts = Parts::with(Admission::default(), 1, None, gated());
        let mut pipeline = parts.pipeline(Kind::Connection);
        let now = parts.start;
        let mut first = pipeline.begin(peer(1), None);
        expect(pipeline.advance(&mut first, now), "gate");
        let retry = now + SECOND;
        first.found_gate(FoundGate::Runs(Some(retry)));
        expect(pipeline.advance(&mut first, now), "wait");
        assert_eq!((first.stage(), first.due()), (Stage::Gate, Some(retry)));
        assert!(!first.is_late(retry + 60 * SECOND));
        // Meanwhile it has no slot.
        let mut second = pipeline.begin(peer(2), None);
        expect(pipeline.advance(&mut second, now), "gate");
        second.found_gate(FoundGate::Passed);
        expect(pipeline.advance(&mut second, now), "admit");
        let taken = second.admitted().unwrap();
        assert_eq!(pipeline.acceptance(false, false), Acceptance::Open);
        assert_eq!(pipeline.acceptance(true, false), Acceptance::Full);
        expect(pipeline.advance(&mut first, now), "gate");
        first.found_gate(FoundGate::Passed);
        expect(pipeline.advance(&mut first, now), "wait");
        assert_eq!(first.stage(), Stage::Slot);
        drop(taken);
        // It isn't asked again, not by a later process either.
        expect(pipeline.advance(&mut first, now), "admit");
        drop(first.admitted());
        let mut third = pipeline.begin(peer(3), None);
        third.set_passed();
        expect(pipeline.advance(&mut third, now), "admit");
        drop(third.admitted());
        for (reason, text, lingers) in [
            (
                Reason::GateMax(1),
                "1 client is in the gate, and no more may be",
                false,
            ),
            (
                Reason::Gate(Ended::Exited(2), SECOND),
                "its gate exited with status 2 after 1000 ms",
                true,
            ),
        ] {
            let mut client = pipeline.begin(peer(4), None);
            expect(pipeline.advance(&mut client, now), "gate");
            client.found_gate(FoundGate::Refused(reason));
            let Step::Reject(rejection) = pipeline.advance(&mut client, now) else {
                panic!("it is let in");
            };
            assert_eq!(rejection.reason().to_string(), text);
            let action = &rejection.action;
            assert_eq!(matches!(action, RejectAction::Linger), lingers);
        }
        parts.assert_free();
    }

    #[test]
    fn a_full_service_that_rejects_does_so_before_the_gate() {
        let asked = Admission {
            at_max: Some(AtLimit::Close),
            ..Admission::default()
        };
        let parts = Parts::with(asked, 1, None, gated());
        let mut pipeline = parts.pipeline(Kind::Connection);
        let now = parts.start;
        let mut inside = pipeline.begin(peer(1), None);
        expect(pipeline.advance(&mut inside, now), "gate");
        inside.found_gate(FoundGate::Runs(None));
        expect(pipeline.advance(&mut inside, now), "wait");
        let slot = parts.slots.take_now().unwrap().in_use();
        let mut late = pipeline.begin(peer(2), None);
        let full = "reject: the only slot is taken";
        expect(pipeline.advance(&mut late, now), full);
        // What is in the gate isn't ended for that, but needs a slot.
        expect(pipeline.advance(&mut inside, now), "gate");
        inside.found_gate(FoundGate::Passed);
        expect(pipeline.advance(&mut inside, now), full);
        drop(slot);
        parts.assert_free();
    }

    #[test]
    fn a_client_in_the_gate_of_an_earlier_process_stays_in_it() {
        let asked = Admission::default();
        let wakers: Arc<[Waker]> = [Waker::new().unwrap()].into();
        let policy = Policy::of(asked, Traits::default(), &wakers);
        let parts = Parts {
            policy: Some(policy),
            ..Parts::new(Admission::default(), 1, None)
        };
        let mut pipeline = parts.pipeline(Kind::Connection);
        let mut client = pipeline.begin(peer(1), None);
        client.set_in_gate();
        expect(pipeline.advance(&mut client, parts.start), "gate");
        let mut other = pipeline.begin(peer(2), None);
        expect(pipeline.advance(&mut other, parts.start), "admit");
    }

    #[test]
    fn a_datagram_never_waits() {
        let asked = Admission {
            max_per_source: one(),
            at_source_max: queue(9),
            rate: Some(Rate {
                interval: Duration::from_secs(3600),
                burst: 2,
            }),
            at_rate: queue(9),
            at_max: queue(9),
            ..Admission::default()
        };
        let parts = Parts::of(asked, 2, Some(vec![rule(true)]), true);
        let sender = |last, port| {
            let address = SocketAddr::from(([192, 0, 2, last], port));
            Peer::datagram(Some(address), None)
        };
        let mut pipeline = parts.pipeline(Kind::Datagram);
        let now = parts.start;
        let mut low = pipeline.begin(sender(1, 53), None);
        let expected = "reject: port 53 is below --min-source-port";
        expect(pipeline.advance(&mut low, now), expected);
        let mut first = pipeline.begin(sender(1, 4000), None);
        expect(pipeline.advance(&mut first, now), "admit");
        // The slot that was taken first stays in hand.
        assert!(pipeline.take_slot());
        let mut same = pipeline.begin(sender(1, 4001), None);
        let expected = "reject: 192.0.2.1 has as many handlers as it may, 1";
        expect(pipeline.advance(&mut same, now), expected);
        assert_eq!(pipeline.acceptance(false, false), Acceptance::Open);
        let mut second = pipeline.begin(sender(2, 4000), None);
        expect(pipeline.advance(&mut second, now), "admit");
        assert_eq!(pipeline.acceptance(false, false), Acceptance::Full);
        assert!(!pipeline.take_slot());
        let mut third = pipeline.begin(sender(3, 4000), None);
        let expected = "reject: connections come faster than --rate";
        expect(pipeline.advance(&mut third, now), expected);
        parts.bucket().give_back(0, 0);
        expect(
            pipeline.advance(&mut third, now),
            "reject: all 2 slots are taken",
        );
        assert!(parts.bucket().next(0) == 0);
        drop((first.admitted(), second.admitted()));
        parts.assert_free();
    }
}
