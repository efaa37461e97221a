//! Lines of the log in JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The events that skd reports, by their names. Names stay; there may be more later.
pub const EVENTS: [&str; 45] = [
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
    "tls-loaded",
    "tls-started",
    "tls-certificate",
    "handler-late",
    "handler-killed",
    "call-logged",
    "call-killed",
    "tls-established",
    "tls-truncated",
    "gate-passed",
    "gate-killed",
    "processes-left",
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
    /// The process id of the handler or the gate.
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
    /// How long the handler or the gate ran, or the TLS handshake took, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// The exit status of the handler or the gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// The signal that has ended the handler or the gate.
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
    /// The TLS session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsLine<'a>>,
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
            tls: self.tls.map(TlsLine::into_owned),
        }
    }
}

/// A TLS session. What is long is cut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TlsLine<'a> {
    /// The version of the protocol: `TLSv1.3`, `TLSv1.2`.
    pub protocol: Cow<'a, str>,
    /// The cipher suite, by the name that OpenSSL has for it.
    pub cipher: Cow<'a, str>,
    /// The name that the client has asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Cow<'a, str>>,
    /// The protocol that was chosen (ALPN).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpn: Option<Cow<'a, str>>,
    /// The subject of the client's certificate, if it has a good one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Cow<'a, str>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl TlsLine<'_> {
    /// Returns the same, with text of its own.
    pub fn into_owned(self) -> TlsLine<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        TlsLine {
            protocol: own(self.protocol),
            cipher: own(self.cipher),
            server_name: self.server_name.map(own),
            alpn: self.alpn.map(own),
            client: self.client.map(own),
            resumed: self.resumed,
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
