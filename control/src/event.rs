//! Lines of the log in JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The events that skd reports, by their names. Names stay; there may be more later.
pub const EVENTS: [&str; 35] = [
    "accepted",
    "rejected",
    "connections-rejected",
    "datagrams-rejected",
    "datagrams-dropped",
    "received",
    "closed",
    "finished",
    "slots",
    "slots-full",
    "rate-reached",
    "listening",
    "listener-closed",
    "address-skipped",
    "program-started",
    "program-ended",
    "program-restarting",
    "program-idle",
    "program-killed",
    "datagram-unread",
    "connections-unaccepted",
    "upgraded",
    "reloaded",
    "rules-reloaded",
    "handler-late",
    "handler-killed",
    "draining",
    "drain-overdue",
    "prestart-parked",
    "prestart-ready",
    "figures",
    "service-figures",
    "listener-figures",
    "lines-lost",
    "trouble",
];

/// A line of the log with `--log-format json`, and an event of the control socket. Each has `time`,
/// `level`, `event` and `message`; what doesn't apply is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventLine<'a> {
    /// When it happened: RFC 3339, UTC, microseconds.
    pub time: Cow<'a, str>,
    /// How grave it is.
    pub level: Level,
    /// What has happened: one of [`EVENTS`], or `events-lost`.
    pub event: Cow<'a, str>,
    /// The same in words, as in the text log, without the name of the service.
    pub message: Cow<'a, str>,
    /// The service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Cow<'a, str>>,
    /// The process id of the handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Endpoint<'a>>,
    /// The listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Endpoint<'a>>,
    /// Why it was rejected or dropped: a label of the counters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// How many, in a summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How many for each reason, in a summary of rejections.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<Cow<'a, str>, u64>,
    /// How long the handler ran, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// The exit status of the handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// The signal that has ended the handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The CPU time of the handler in user mode, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_cpu: Option<f64>,
    /// The same in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_cpu: Option<f64>,
    /// The most memory that the handler has had resident, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rss: Option<u64>,
}

impl EventLine<'_> {
    /// Returns the same, with text of its own.
    pub fn into_owned(self) -> EventLine<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        EventLine {
            time: own(self.time),
            level: self.level,
            event: own(self.event),
            message: own(self.message),
            service: self.service.map(own),
            client: self.client.map(Endpoint::into_owned),
            server: self.server.map(Endpoint::into_owned),
            pid: self.pid,
            reason: self.reason.map(own),
            count: self.count,
            reasons: self
                .reasons
                .into_iter()
                .map(|(it, count)| (own(it), count))
                .collect(),
            duration: self.duration,
            status: self.status,
            signal: self.signal,
            user_cpu: self.user_cpu,
            system_cpu: self.system_cpu,
            max_rss: self.max_rss,
        }
    }
}

/// How grave an event is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is as it should be.
    #[default]
    Info,
    /// A client was refused, or waits.
    Notice,
    /// Something went wrong.
    Warning,
}

/// An end of a connection, or of a datagram's way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoint<'a> {
    /// An IP address; a path, or an abstract name after `@`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Cow<'a, str>>,
    /// A port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The user id of a client of a unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The process id of a client of a unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

impl Endpoint<'_> {
    /// Returns the same, with text of its own.
    pub fn into_owned(self) -> Endpoint<'static> {
        Endpoint {
            address: self.address.map(|address| Cow::Owned(address.into_owned())),
            port: self.port,
            uid: self.uid,
            pid: self.pid,
        }
    }
}
