//! What an event is about, field by field, as in a line of JSON ([`EventLine`]).

use std::time::Duration;

use skd_control::Level;
use skd_tls_protocol::Session;

use super::event::{Attempt, Client, EndResult, Event, Late, Outcome};
use super::reason::Reason;
use super::reject_counts::RejectCounts;
use super::trouble::Trouble;
use crate::config::{ListenerId, ListenerName, Peer, Source};
use crate::sys::process::Ended;

/// The facts of an event, without its words.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) client: Option<By<'a>>,
    pub(super) server: Option<At<'a>>,
    pub(super) pid: Option<i32>,
    pub(super) reason: Option<&'static str>,
    pub(super) count: Option<u64>,
    pub(super) reasons: Option<&'a RejectCounts>,
    pub(super) outcome: Option<Outcome>,
    pub(super) ended: Option<Ended>,
    pub(super) duration: Option<Duration>,
    pub(super) session: Option<&'a Session<'a>>,
}

/// Who is meant by `client`.
#[derive(Clone, Copy, Debug)]
pub(super) enum By<'a> {
    Peer(&'a Peer),
    Source(Source),
}

/// What is meant by `server`.
#[derive(Clone, Copy, Debug)]
pub(super) enum At<'a> {
    Id(ListenerId),
    Name(ListenerName<'a>),
}

impl Event<'_> {
    /// Returns its name for programs, which never changes.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Rejected(..) => "rejected",
            Self::RejectedConnections(..) => "connections-rejected",
            Self::RejectedDatagrams(..) => "datagrams-rejected",
            Self::DatagramDropped(..) => "datagram-dropped",
            Self::Dropped(..) => "datagrams-dropped",
            Self::DatagramsReceived(..) => "datagrams-received",
            Self::DatagramsSent(..) => "datagrams-sent",
            Self::WaitModeStart(_) => "handler-starting",
            Self::HandlerStarted(..) => "handler-started",
            Self::HandlerNotStarted(..) => "handler-not-started",
            Self::Attempted(Attempt::Reload, _) => "reload-attempted",
            Self::Attempted(Attempt::Upgrade, _) => "upgrade-attempted",
            Self::ProcessFigures(_) => "figures",
            Self::ServiceFigures(..) => "service-figures",
            Self::ListenerFigures(..) => "listener-figures",
            Self::Received(_) => "received",
            Self::Closed(..) => "closed",
            Self::Finished(..) => "finished",
            Self::Slots(..) => "slots",
            Self::Full(..) => "slots-full",
            Self::Fast(_) => "rate-reached",
            Self::Listening(_) => "listening",
            Self::WouldListen(_) => "would-listen",
            Self::ClosedListener(_) => "listener-closed",
            Self::PassedOver(..) => "address-skipped",
            Self::Started(_) => "program-started",
            Self::Ended(..) => "program-ended",
            Self::Restarting(..) => "program-restarting",
            Self::Idle(..) => "program-idle",
            Self::Killing(_) => "program-killed",
            Self::ReadAway { .. } => "datagram-unread",
            Self::LeftWaiting { .. } => "connections-unaccepted",
            Self::Upgraded(_) => "upgraded",
            Self::Reloaded(_) => "reloaded",
            Self::Late(..) => "handler-late",
            Self::KillingHandler(..) => "handler-killed",
            Self::CallLogged(..) => "call-logged",
            Self::CallKilled(..) => "call-killed",
            Self::TlsEstablished(..) => "tls-established",
            Self::TlsTruncated(_) => "tls-truncated",
            Self::TlsFigures(..) => "tls-figures",
            Self::GatePassed(..) => "gate-passed",
            Self::KillingGate(..) => "gate-killed",
            Self::LeftBehind(..) => "processes-left",
            Self::Draining(..) => "draining",
            Self::Overdue(..) => "drain-overdue",
            Self::ReadRules(..) => "rules-reloaded",
            Self::TlsLoaded(_) => "tls-loaded",
            Self::TlsStarted(_) => "tls-started",
            Self::TlsCertificate(..) => "tls-certificate",
            Self::Parked(..) => "prestart-parked",
            Self::Ready(..) => "prestart-ready",
            Self::Trouble(_) => "trouble",
        }
    }

    /// Returns how grave it is.
    pub(super) fn level(&self) -> Level {
        match self {
            Self::Rejected(..)
            | Self::RejectedConnections(..)
            | Self::RejectedDatagrams(..)
            | Self::Dropped(..)
            | Self::DatagramDropped(..)
            | Self::Full(..)
            | Self::Fast(_)
            | Self::PassedOver(..)
            | Self::CallLogged(..)
            | Self::LeftBehind(..)
            | Self::TlsTruncated(_)
            | Self::Late(..) => Level::Notice,
            Self::ReadAway { .. }
            | Self::LeftWaiting { .. }
            | Self::Killing(_)
            | Self::KillingHandler(..)
            | Self::CallKilled(..)
            | Self::KillingGate(..)
            | Self::Overdue(..)
            | Self::TlsCertificate(..)
            | Self::Trouble(_) => Level::Warning,
            Self::Accepted(_)
            | Self::HandlerStarted(..)
            | Self::HandlerNotStarted(..)
            | Self::WaitModeStart(_)
            | Self::DatagramsReceived(..)
            | Self::DatagramsSent(..)
            | Self::Attempted(..)
            | Self::ProcessFigures(_)
            | Self::ServiceFigures(..)
            | Self::ListenerFigures(..)
            | Self::Received(_)
            | Self::Closed(..)
            | Self::Finished(..)
            | Self::TlsEstablished(..)
            | Self::TlsFigures(..)
            | Self::GatePassed(..)
            | Self::Slots(..)
            | Self::Listening(_)
            | Self::WouldListen(_)
            | Self::ClosedListener(_)
            | Self::Started(_)
            | Self::Ended(..)
            | Self::Restarting(..)
            | Self::Idle(..)
            | Self::Upgraded(_)
            | Self::Reloaded(_)
            | Self::Draining(..)
            | Self::ReadRules(..)
            | Self::TlsLoaded(_)
            | Self::TlsStarted(_)
            | Self::Parked(..)
            | Self::Ready(..) => Level::Info,
        }
    }
}

impl<'a> Event<'a> {
    /// Returns what it is about.
    pub(super) fn fields(&self) -> Fields<'a> {
        match *self {
            Self::Accepted(client) | Self::Received(client) | Self::WaitModeStart(client) => {
                client.into()
            }
            Self::Rejected(client, reason) => {
                let (ended, duration) = match reason {
                    Reason::Gate(ended, after) => (Some(ended), Some(after)),
                    _ => (None, None),
                };
                Fields {
                    reason: Some(reason.kind().label()),
                    ended,
                    duration,
                    ..client.into()
                }
            }
            Self::RejectedConnections(_, counts, source)
            | Self::RejectedDatagrams(_, counts, source) => Fields {
                client: source.map(By::Source),
                reasons: Some(counts),
                ..Fields::count(counts.total())
            },
            Self::DatagramDropped(_, listener, reason) => Fields {
                server: Some(At::Id(listener)),
                reason: Some(reason.label()),
                ..Fields::default()
            },
            Self::Dropped(_, count, reason) => Fields {
                reason: Some(reason.label()),
                ..Fields::count(count)
            },
            Self::DatagramsReceived(listener, count) | Self::DatagramsSent(listener, count) => {
                Fields {
                    server: Some(At::Id(listener)),
                    ..Fields::count(count)
                }
            }
            Self::HandlerStarted(_, start) => Fields {
                reason: Some(start.way.label()),
                ..Fields::pid(start.pid)
            },
            Self::HandlerNotStarted(_, why) => Fields {
                reason: Some(why.label()),
                ..Fields::default()
            },
            Self::Closed(client, outcome) | Self::Finished(client, outcome) => Fields {
                pid: Some(outcome.pid),
                reason: Some(outcome.result().label()),
                outcome: Some(outcome),
                ended: Some(outcome.ended),
                ..client.into()
            },
            Self::Listening(listener)
            | Self::ClosedListener(listener)
            | Self::PassedOver(listener, _)
            | Self::LeftWaiting { listener, .. } => listener.into(),
            Self::Ended(_, ended) => Fields {
                ended: Some(ended),
                ..Fields::default()
            },
            Self::ReadAway { peer, listener, .. } => Fields {
                client: Some(By::Peer(peer)),
                ..listener.into()
            },
            Self::Late(client, pid, late, _) => Fields {
                pid: Some(pid),
                reason: Some(EndResult::label(match late {
                    Late::Running(_) => EndResult::Timeout,
                    Late::Idle(_) => EndResult::IdleTimeout,
                })),
                ..client.into()
            },
            Self::CallLogged(_, call) | Self::CallKilled(_, call) => Fields::pid(call.pid),
            Self::TlsEstablished(client, session, after) => Fields {
                session: Some(session),
                duration: Some(after),
                ..client.into()
            },
            Self::TlsTruncated(client) => client.into(),
            Self::GatePassed(client, pid, after) => Fields {
                pid: Some(pid),
                duration: Some(after),
                ..client.into()
            },
            Self::KillingHandler(client, pid) | Self::KillingGate(client, pid) => Fields {
                pid: Some(pid),
                ..client.into()
            },
            Self::LeftBehind(client, pid, count) => Fields {
                pid: Some(pid),
                count: (count > 0).then_some(count as u64),
                ..client.into()
            },
            Self::Slots(_, count, _)
            | Self::Draining(count, _)
            | Self::Overdue(count, _)
            | Self::TlsLoaded(count)
            | Self::ReadRules(_, count) => Fields::count(count as u64),
            Self::Ready(_, _, pid) | Self::TlsStarted(pid) => Fields::pid(pid),
            Self::Trouble(trouble) => Fields {
                reason: Some(trouble.cause().label()),
                ..trouble.fields()
            },
            Self::Full(..)
            | Self::Fast(_)
            | Self::TlsFigures(..)
            | Self::Attempted(..)
            | Self::ProcessFigures(_)
            | Self::ServiceFigures(..)
            | Self::ListenerFigures(..)
            | Self::WouldListen(_)
            | Self::Started(_)
            | Self::Restarting(..)
            | Self::Idle(..)
            | Self::Upgraded(_)
            | Self::Reloaded(_)
            | Self::Killing(_)
            | Self::TlsCertificate(..)
            | Self::Parked(..) => Fields::default(),
        }
    }
}

impl<'a> Trouble<'a> {
    fn fields(&self) -> Fields<'a> {
        match *self {
            Self::NotAccepted { listener, .. }
            | Self::NotReceived { listener, .. }
            | Self::ListenerNotWatched { listener, .. } => listener.into(),
            Self::AnswerNotSent { peer, listener, .. } => Fields {
                client: Some(By::Peer(peer)),
                ..listener.into()
            },
            Self::NotAsPeer { peer, .. }
            | Self::AnswerTooLong { peer, .. }
            | Self::OneAnswerTooLong { peer, .. } => Fields {
                client: Some(By::Peer(peer)),
                ..Fields::default()
            },
            Self::NewbornStopped(pid, _)
            | Self::PrestartedEnded { pid, .. }
            | Self::PrestartedSilent { pid, .. } => Fields::pid(pid),
            _ => Fields::default(),
        }
    }
}

impl Fields<'_> {
    fn pid(pid: i32) -> Self {
        Self {
            pid: Some(pid),
            ..Self::default()
        }
    }

    fn count(count: u64) -> Self {
        Self {
            count: Some(count),
            ..Self::default()
        }
    }
}

impl<'a> From<Client<'a>> for Fields<'a> {
    fn from(client: Client<'a>) -> Self {
        Self {
            client: Some(By::Peer(client.peer)),
            server: Some(At::Id(client.listener)),
            ..Self::default()
        }
    }
}

impl<'a> From<ListenerName<'a>> for Fields<'a> {
    fn from(listener: ListenerName<'a>) -> Self {
        Self {
            server: Some(At::Name(listener)),
            ..Self::default()
        }
    }
}
