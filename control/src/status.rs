//! How skd and its services are, and what they have counted. Counters begin at the start of skd, and
//! go on over upgrades and reloads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How skd and its services are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of skd.
    pub skd: String,
    /// Its process id.
    pub pid: i32,
    /// Seconds since it was started, over all upgrades.
    pub uptime_seconds: f64,
    /// How much it reports.
    pub verbosity: u8,
    /// Whether it ends when its handlers have ended.
    pub draining: bool,
    /// Figures of the process.
    pub process: ProcessStatus,
    /// The services in the order of the configuration, and after them those that were removed and
    /// have handlers still.
    pub services: Vec<ServiceStatus>,
    /// The sources that are denied for a time.
    pub denials: Vec<Denial>,
}

/// Figures of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// CPU time in user mode, over all upgrades. Not that of handlers.
    pub user_cpu_seconds: f64,
    /// CPU time in the kernel.
    pub system_cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub open_descriptors: u64,
    /// How many descriptors may be open.
    pub max_descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Connections that linger.
    pub lingering: u64,
    /// Log lines that the log did not take.
    pub lost_lines: u64,
    /// Events that a client of the control socket did not take in time.
    pub lost_events: u64,
    /// What went wrong, by its cause.
    pub troubles: BTreeMap<String, u64>,
    /// Reloads.
    pub reloads: Attempts,
    /// Upgrades.
    pub upgrades: Attempts,
}

/// Reloads or upgrades.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempts {
    /// How many succeeded.
    pub succeeded: u64,
    /// How many failed, and changed nothing.
    pub failed: u64,
    /// When the last one was over, in seconds since 1970; zero if there was none.
    pub last_seconds: f64,
    /// Why the last one failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// How a service is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Whether it takes new clients.
    pub state: ServiceState,
    /// The program of its handlers.
    pub program: String,
    /// Live handlers, those in wait mode too.
    pub running: u64,
    /// Its slots.
    pub slots: Slots,
    /// Connections that are accepted and have no handler yet.
    pub pending: u64,
    /// Its gate, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateStatus>,
    /// Its TLS, if it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
    /// Its prestarted handlers, if it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolStatus>,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
    /// Handlers that were started, by the way: `exec`, `pool`, `copy`.
    pub started: BTreeMap<String, u64>,
    /// Handlers that could not be started, by the cause.
    pub start_failures: BTreeMap<String, u64>,
    /// Handlers that have ended, by the result: `success`, `failure`, `signal`, `timeout`,
    /// `idle-timeout`, `drain`, `killed`.
    pub ended: BTreeMap<String, u64>,
    /// How long handlers ran.
    pub durations: Histogram,
    /// The time from the accept of a connection to the start of its handler.
    pub start_latencies: Histogram,
    /// CPU time of handlers that have ended, in user mode.
    pub handlers_user_cpu_seconds: f64,
    /// The same in the kernel.
    pub handlers_system_cpu_seconds: f64,
}

/// Whether a service takes new clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// It does.
    #[default]
    Serving,
    /// It does, and has announced that it drains soon: a load balancer should send it no more.
    LameDuck,
    /// It doesn't until it is enabled: they wait in the backlog.
    Disabled,
    /// It refuses them until it is enabled.
    Refusing,
    /// They wait in the backlog, and its handlers are to end.
    Draining,
    /// It isn't configured any more, and serves its last clients.
    Removed,
    /// It has had all the handlers that it may have.
    Done,
}

/// Slots of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// How many have a handler.
    pub used: u64,
    /// How many there are, if that is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// The gate of a service. Clients that it has refused are among those that were rejected at listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateStatus {
    /// How many clients are in it.
    pub live: u64,
    /// How many there may be.
    pub limit: u64,
    /// How many it has let through.
    pub passed: u64,
}

/// The TLS of a service. Clients whose handshakes have failed are among those that were rejected at
/// listeners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TlsStatus {
    /// Connections that skd-tls has, those in a handshake among them.
    pub live: u64,
    /// Sessions that were established, by their kind: `full`, `resumed`.
    pub established: BTreeMap<String, u64>,
    /// How long their handshakes took, from the moment that skd-tls was given the connection.
    pub handshakes: Histogram,
    /// Bytes that clients have sent, without TLS.
    pub received_bytes: u64,
    /// Bytes that were sent to clients, without TLS.
    pub sent_bytes: u64,
    /// Connections that clients have ended without `close_notify`.
    pub truncated: u64,
    /// Its certificates.
    pub certificates: Vec<CertificateStatus>,
}

/// A certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// The path of its file.
    pub file: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after_seconds: i64,
}

/// Prestarted handlers of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// `warm` or `fork-server`.
    pub mode: String,
    /// How many wait for a client; of a fork server, how many templates it has.
    pub idle: u64,
    /// How many there may be.
    pub limit: u64,
    /// The call that the program is parked at, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_at: Option<String>,
}

/// What has come to a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its kind: `tcp`, `udp`, `unix`, `unix-seqpacket`, `unix-datagram`.
    pub kind: String,
    /// Its address, as messages have it.
    pub address: String,
    /// Connections that were admitted, and datagrams for which a handler was started.
    pub accepted: u64,
    /// Connections and datagrams that were rejected, by the reason.
    pub rejected: BTreeMap<String, u64>,
    /// Datagrams that skd has received.
    pub datagrams_received: u64,
    /// Datagrams that skd has sent for handlers.
    pub datagrams_sent: u64,
    /// Datagrams that skd has dropped, by the reason.
    pub datagrams_dropped: BTreeMap<String, u64>,
}

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// The upper bounds of the buckets but the last, in seconds, each inclusive.
    pub bounds: Vec<f64>,
    /// How many times are in each bucket alone, one more than bounds.
    pub counts: Vec<u64>,
    /// The sum of all times.
    pub sum_seconds: f64,
}

/// A source that is denied for a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Denial {
    /// The source.
    pub source: String,
    /// The service, if it is denied at one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How long it is denied still.
    pub left_seconds: f64,
}
