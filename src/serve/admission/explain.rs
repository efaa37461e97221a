//! What the pipeline would decide about a client now. Nothing is taken: a look at the same rules and
//! counts, in the same order.

use std::fmt;
use std::time::Duration;

use super::pending::Kind;
use super::policy::Policy;
use super::rules::{Client, Decision, Ready};
use super::rules_handle::RulesHandle;
use super::slots::Slots;
use super::token_bucket::Pace;
use crate::config::{AtLimit, Count, Source, Span, Trusted};
use crate::report::Reason;

/// A client that is asked about.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Asked {
    /// As rules see it.
    pub(in crate::serve) client: Client,
    pub(in crate::serve) source: Source,
    pub(in crate::serve) kind: Kind,
}

/// What the pipeline of a service asks, and the time.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Explainer<'a> {
    pub(in crate::serve) policy: Option<&'a Policy>,
    pub(in crate::serve) slots: &'a Slots,
    pub(in crate::serve) rules: Option<&'a RulesHandle>,
    pub(in crate::serve) now: u64,
}

/// What would happen, and why.
#[derive(Debug, Default)]
pub(in crate::serve) struct Explained {
    /// Whether no limit is reached and no rule denies.
    pub(in crate::serve) admitted: bool,
    /// Each in words.
    pub(in crate::serve) lines: Vec<String>,
}

impl Explained {
    fn say(&mut self, text: impl fmt::Display) {
        self.lines.push(text.to_string());
    }

    /// Says how a limit is, and what happens if it is reached.
    fn limit(&mut self, state: impl fmt::Display, then: Option<impl fmt::Display>) {
        match then {
            None => self.say(state),
            Some(then) => {
                self.admitted = false;
                self.say(format_args!("{state}: {then}"));
            }
        }
    }
}

impl Explainer<'_> {
    /// Explains what would happen to a client now. `show` is how its source is written.
    pub(in crate::serve) fn explain(self, asked: Asked, show: impl fmt::Display) -> Explained {
        let mut found = Explained {
            admitted: true,
            ..Explained::default()
        };
        self.header(asked, &mut found);
        let rules = self.rules.map(RulesHandle::current);
        let decision = rules.as_ref().map(|rules| rules.decide(asked.client));
        if let Some(decision) = decision {
            decided(decision, &mut found);
        }
        if !found.admitted {
            return found;
        }
        self.tls(asked.kind, &mut found);
        self.first_byte(asked.kind, &mut found);
        let rule = decision.and_then(|decision| decision.rule);
        self.source(asked, rule.map(|rule| &**rule), show, &mut found);
        self.rate(asked.kind, &mut found);
        let gated = self.policy.is_some_and(|policy| policy.traits.gated);
        if gated && asked.kind == Kind::Connection {
            found.say("the gate has to let it through (--gate)");
        }
        self.slot(asked.kind, &mut found);
        found
    }

    fn header(self, asked: Asked, found: &mut Explained) {
        let proxies = self.policy.and_then(|policy| policy.asked.proxies.as_ref());
        let Some(proxies) = proxies.filter(|_| asked.kind == Kind::Connection) else {
            return;
        };
        let is_trusted = |trusted: &Trusted| match (trusted, asked.client) {
            (Trusted::Net(prefix), Client::Inet(address)) => prefix.contains(address),
            _ => false,
        };
        found.say(match proxies.from.iter().any(is_trusted) {
            true => "it is a trusted proxy (--proxy-from); what follows is for clients, not for it",
            false => "a trusted proxy has to name it (--proxy-from); by itself it is rejected",
        });
    }

    fn tls(self, kind: Kind, found: &mut Explained) {
        let within = self.policy.and_then(|policy| policy.traits.tls);
        if let Some(within) = within.filter(|_| kind == Kind::Connection) {
            found.say(format_args!(
                "its TLS handshake has to succeed within {within} (--tls, --tls-timeout)"
            ));
        }
    }

    fn first_byte(self, kind: Kind, found: &mut Explained) {
        let within = self.policy.and_then(|policy| policy.asked.first_byte);
        if let Some(within) = within.filter(|_| kind == Kind::Connection) {
            found.say(format_args!(
                "it has to send its first byte within {within}"
            ));
        }
    }

    fn source(
        self,
        asked: Asked,
        rule: Option<&Ready>,
        show: impl fmt::Display,
        found: &mut Explained,
    ) {
        let parts = self.policy.and_then(|it| Some((it, it.sources.as_ref()?)));
        let Some((policy, sources)) = parts else {
            return;
        };
        let limits = policy.limits_with(rule);
        let (handlers, full) = sources.look(asked.source);
        let message = rule.is_some_and(|rule| rule.message.is_some());
        if let Some(max) = limits.max {
            let over = handlers as usize >= max.get();
            let then = Then::of(asked.kind, policy.asked.at_source_max(), Awaits::Source);
            let from = Origin(rule.filter(|rule| rule.max.is_some()), "--max-per-source");
            found.limit(
                format_args!(
                    "{show} has {handlers} of {} ({from})",
                    handlers_of(max.get())
                ),
                over.then_some(then.unless_told(message)),
            );
        }
        if let Some(rate) = limits.rate {
            let pace = Pace::from(rate);
            let due = pace.take(full, self.now).err();
            let then = Then::of(asked.kind, policy.asked.at_source_rate(), Awaits::Source);
            let from = Origin(rule.filter(|rule| rule.rate.is_some()), "--rate-per-source");
            found.limit(
                format_args!(
                    "{show} may come at {rate}, {} ({from})",
                    self.tokens(pace.left(full, self.now), due)
                ),
                due.map(|_| then.unless_told(message)),
            );
        }
    }

    fn rate(self, kind: Kind, found: &mut Explained) {
        let parts = self
            .policy
            .and_then(|policy| Some((policy, policy.bucket.as_ref()?, policy.asked.rate?)));
        let Some((policy, bucket, rate)) = parts else {
            return;
        };
        let due = Some(bucket.next(self.now)).filter(|due| *due > self.now);
        let then = Then::of(kind, policy.asked.at_rate(), Awaits::Rate);
        found.limit(
            format_args!(
                "all clients together may come at {rate}, {} (--rate)",
                self.tokens(bucket.left(self.now), due)
            ),
            due.map(|_| then),
        );
    }

    fn slot(self, kind: Kind, found: &mut Explained) {
        const QUEUE: AtLimit = AtLimit::Queue(None);
        if let Some(limit) = self.slots.limit() {
            let at = self.policy.map_or(&QUEUE, |policy| policy.asked.at_max());
            let used = self.slots.used();
            found.limit(
                format_args!("{used} of {} taken", Count(limit, "slot is", "slots are")),
                (used >= limit).then_some(Then::of(kind, at, Awaits::Slot)),
            );
        }
        if let Some(limit) = self.slots.total_limit() {
            let begun = self.slots.total();
            found.limit(
                format_args!(
                    "{begun} of {} begun (--max-total)",
                    Count(limit, "handler has", "handlers have")
                ),
                (begun >= limit).then_some("no more are started"),
            );
        }
    }

    fn tokens(self, left: u64, due: Option<u64>) -> String {
        match due {
            Some(due) => {
                let wait = Duration::from_nanos(due.saturating_sub(self.now));
                format!("and again in {:.3}s", wait.as_secs_f64())
            }
            None => format!("{} at once now", Count(left, "more", "more")),
        }
    }
}

fn decided(decision: Decision<'_>, found: &mut Explained) {
    found.admitted = decision.allow;
    match (decision.allow, decision.rule) {
        (true, Some(rule)) => found.say(format_args!("allowed by {}", rule.location)),
        (true, None) => found.say("allowed: no rule matches it, and none allows others"),
        (false, Some(rule)) => found.say(Reason::Rule(&rule.location)),
        (false, None) => found.say(Reason::NoRule),
    }
}

fn handlers_of(count: usize) -> impl fmt::Display {
    Count(count as u64, "handler", "handlers")
}

/// Where a limit comes from: the rule, if that sets it, or else the option.
struct Origin<'a>(Option<&'a Ready>, &'static str);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rule) => rule.location.fmt(f),
            None => f.write_str(self.1),
        }
    }
}

/// What a client waits for that is over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Source,
    Rate,
    Slot,
}

/// What happens to a client over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    InBacklog,
    InSocket,
    For(Span),
    Closed,
    Reset,
    Message,
    Dropped,
}

impl Then {
    fn of(kind: Kind, at: &AtLimit, awaits: Awaits) -> Self {
        match (kind, at) {
            (Kind::Datagram, AtLimit::Queue(None)) if awaits != Awaits::Source => Self::InSocket,
            (Kind::Datagram, AtLimit::Queue(_)) if awaits == Awaits::Slot => Self::InSocket,
            (Kind::Datagram, _) => Self::Dropped,
            (Kind::Connection, AtLimit::Queue(Some(time))) => Self::For(*time),
            (Kind::Connection, AtLimit::Queue(None)) if awaits != Awaits::Source => Self::InBacklog,
            (Kind::Connection, AtLimit::Queue(None) | AtLimit::Close) => Self::Closed,
            (Kind::Connection, AtLimit::Reset) => Self::Reset,
            (Kind::Connection, AtLimit::Message(_)) => Self::Message,
        }
    }

    /// Returns this, or that it gets the message of its rule, if that has one.
    fn unless_told(self, message: bool) -> Self {
        match self {
            Self::Closed | Self::Reset if message => Self::Message,
            other => other,
        }
    }
}

impl fmt::Display for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InBacklog => f.write_str("it waits in the backlog"),
            Self::InSocket => f.write_str("it waits in the socket"),
            Self::For(time) => write!(f, "it waits for {time} at most"),
            Self::Closed => f.write_str("its connection is closed"),
            Self::Reset => f.write_str("its connection is reset"),
            Self::Message => f.write_str("it gets a message, and its connection is closed"),
            Self::Dropped => f.write_str("it is dropped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Admission, Peer, Rule, RuleLocation, ServiceId, Who};
    use crate::serve::admission::denials::Denials;
    use crate::serve::admission::pipeline::{Pipeline, Step};
    use crate::serve::admission::policy::Traits;
    use crate::serve::admission::rules::Rules;
    use crate::serve::admission::slots::{Total, When};
    use crate::serve::admission::token_bucket::Clock;
    use crate::sys::events::Waker;
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use std::num::NonZeroUsize;
    use std::sync::Arc;
    use std::time::Instant;

    struct Parts {
        policy: Option<Policy>,
        slots: Arc<Slots>,
        rules: Option<RulesHandle>,
        denials: Denials,
        start: Instant,
    }

    impl Parts {
        fn new(asked: Admission, max: usize, total: Option<usize>, rules: Option<&[Rule]>) -> Self {
            let wakers: Arc<[Waker]> = [Waker::new().unwrap()].into();
            let policy = Policy::new(asked, Traits::default(), &wakers);
            let when = policy.as_ref().map_or(When::Before, Policy::slots_when);
            let total = total.and_then(NonZeroUsize::new);
            let total = total.map(|total| Total::new(total, 0));
            let listed = |rule: &Rule| (rule.clone(), Vec::new());
            let rules = rules.map(|rules| rules.iter().map(listed).collect::<Vec<_>>());
            Self {
                policy,
                slots: Slots::with_total(NonZeroUsize::new(max), total, when, wakers),
                rules: rules.map(|rules| RulesHandle::new(Rules::new(&rules, &[].into()))),
                denials: Denials::default(),
                start: Instant::now(),
            }
        }

        fn pipeline(&self) -> Pipeline<'_> {
            let (policy, rules) = (self.policy.as_ref(), self.rules.as_ref());
            let thread = (Clock::new(self.start), 0);
            let denials = (ServiceId::new(0), &self.denials);
            Pipeline::new(
                policy,
                &self.slots,
                rules,
                Kind::Connection,
                0,
                thread,
                denials,
            )
        }

        fn explain(&self, last: u8, now: Instant) -> Explained {
            let explainer = Explainer {
                policy: self.policy.as_ref(),
                slots: &self.slots,
                rules: self.rules.as_ref(),
                now: Clock::new(self.start).read(now),
            };
            let peer = peer(last);
            let source = Source::of(&peer, crate::config::SourcePrefix::default(), &[]);
            let asked = Asked {
                client: Client::of(&peer, &[]),
                source,
                kind: Kind::Connection,
            };
            explainer.explain(asked, source)
        }
    }

    fn peer(last: u8) -> Peer {
        Peer::Tcp {
            remote: SocketAddr::from(([192, 0, 2, last], 4000)),
            local: None,
        }
    }

    fn rule(text: &str, line: usize) -> Rule {
        let (verdict, who) = text.split_once(' ').unwrap();
        let who = Who::parse(who.as_ref(), &|_, _| Ok(0)).unwrap();
        Rule::new(verdict == "allow", who, RuleLocation::Line(line))
    }

    #[test]
    fn each_limit_is_told_with_its_count() {
        let asked = Admission {
            max_per_source: NonZeroUsize::new(2),
            rate_per_source: Some("1/h:3".parse().unwrap()),
            rate: Some("1/h:2".parse().unwrap()),
            at_rate: Some(AtLimit::Reset),
            ..Admission::default()
        };
        let allowed = Rule {
            max: NonZeroUsize::new(1),
            ..rule("allow 192.0.2.1", 7)
        };
        let rules = [allowed, rule("deny 192.0.2.2", 8), rule("allow all", 9)];
        let parts = Parts::new(asked, 2, Some(10), Some(&rules));
        let fresh = [
            "allowed by line 7 of the rules file",
            "192.0.2.1 has 0 of 1 handler (line 7 of the rules file)",
            "192.0.2.1 may come at 1/h:3, 3 more at once now (--rate-per-source)",
            "all clients together may come at 1/h:2, 2 more at once now (--rate)",
            "0 of 2 slots are taken",
            "0 of 10 handlers have begun (--max-total)",
        ];
        let now = parts.start;
        let explained = parts.explain(1, now);
        assert!(explained.admitted);
        assert_eq!(explained.lines, fresh);
        let denied = parts.explain(2, now);
        assert!(!denied.admitted);
        assert_eq!(denied.lines, ["denied by line 8 of the rules file"]);

        let mut pipeline = parts.pipeline();
        let mut admitted = Vec::new();
        for last in [1, 3] {
            let mut client = pipeline.begin(peer(last), None);
            assert!(matches!(pipeline.advance(&mut client, now), Step::Admit));
            let taken = client.admitted().unwrap();
            admitted.push((taken.slot.in_use(), taken.source_slot));
        }
        let explained = parts.explain(1, now);
        assert!(!explained.admitted);
        assert_eq!(
            explained.lines[1..],
            [
                "192.0.2.1 has 1 of 1 handler (line 7 of the rules file): its connection is closed",
                "192.0.2.1 may come at 1/h:3, 2 more at once now (--rate-per-source)",
                "all clients together may come at 1/h:2, and again in 3600.000s (--rate): its \
                 connection is reset",
                "2 of 2 slots are taken: it waits in the backlog",
                "2 of 10 handlers have begun (--max-total)",
            ]
        );
        // Nothing was taken by asking.
        drop(admitted);
        assert_eq!(
            parts.explain(4, now).lines[1],
            "192.0.2.4 has 0 of 2 handlers (--max-per-source)"
        );
    }

    #[test]
    fn what_happens_over_a_limit_is_what_the_pipeline_does() {
        let then =
            |kind, at: &str, awaits| Then::of(kind, &at.parse().unwrap(), awaits).to_string();
        use Awaits::{Rate, Slot, Source};
        use Kind::{Connection, Datagram};
        for (kind, at, awaits, expected) in [
            (Connection, "queue", Slot, "it waits in the backlog"),
            (Connection, "queue:5s", Rate, "it waits for 5s at most"),
            (Connection, "close", Source, "its connection is closed"),
            (Connection, "reset", Rate, "its connection is reset"),
            (Datagram, "queue", Slot, "it waits in the socket"),
            (Datagram, "queue:5s", Slot, "it waits in the socket"),
            (Datagram, "queue:5s", Rate, "it is dropped"),
            (Datagram, "queue", Source, "it is dropped"),
            (Datagram, "reset", Slot, "it is dropped"),
        ] {
            assert_eq!(then(kind, at, awaits), expected, "{kind:?} {at} {awaits:?}");
        }
    }

    proptest! {
        #[test]
        fn it_foretells_what_the_pipeline_decides(
            max in 1..4_usize,
            total in prop::option::of(1..6_usize),
            max_per_source in prop::option::of(1..3_usize),
            rate in prop::option::of(1..4_u32),
            rate_per_source in prop::option::of(1..3_u32),
            has_rules in any::<bool>(),
            clients in prop::collection::vec(1..4_u8, 1..12),
        ) {
            let hourly = |burst: u32| format!("1/h:{burst}").parse().unwrap();
            let asked = Admission {
                max_per_source: max_per_source.and_then(NonZeroUsize::new),
                rate: rate.map(hourly),
                rate_per_source: rate_per_source.map(hourly),
                at_max: Some(AtLimit::Close),
                at_rate: Some(AtLimit::Close),
                ..Admission::default()
            };
            let rules = [rule("deny 192.0.2.3", 1), rule("allow all", 2)];
            let parts = Parts::new(asked, max, total, has_rules.then_some(&rules));
            let mut pipeline = parts.pipeline();
            let mut admitted = Vec::new();
            for (index, last) in clients.into_iter().enumerate() {
                let explained = parts.explain(last, parts.start);
                let mut client = pipeline.begin(peer(last), None);
                let admits = matches!(pipeline.advance(&mut client, parts.start), Step::Admit);
                prop_assert_eq!(explained.admitted, admits, "{:?}", explained.lines);
                if let Some(taken) = client.admitted().filter(|_| admits) {
                    admitted.push((taken.slot.in_use(), taken.source_slot));
                }
                // Some handlers end.
                if index % 4 == 3 {
                    admitted.pop();
                }
            }
        }
    }
}
