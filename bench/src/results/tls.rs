//! TLS before a handler.

use serde::{Deserialize, Serialize};

use super::Percentiles;
use crate::stats::Summary;

/// What short connections with TLS are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TlsKind {
    /// A full handshake each, with an ECDSA certificate.
    Ecdsa,
    /// The same with an RSA certificate.
    Rsa,
    /// Resumed handshakes, with the ECDSA certificate.
    Resumed,
    /// One client at a time, full handshakes with the ECDSA certificate.
    Alone,
}

/// Where bulk data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    ToClient,
    ToHandler,
}

/// Short connections with TLS.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TlsPoint {
    pub server: String,
    pub kind: TlsKind,
    pub clients: usize,
    pub rounds: usize,
    pub failures: u64,
    /// Connections a second.
    pub rate: Summary,
    /// CPU time of all processes of the server, in microseconds for each connection.
    pub cpu: Option<Summary>,
    /// The same of the clients.
    pub load_cpu: Option<Summary>,
    /// Time to the first byte of the answer.
    pub first_byte: Percentiles,
    /// The share of connections that resumed a session.
    pub resumed: Summary,
    /// The share that ended without close_notify.
    pub unclean: Summary,
    /// The rate of skd over this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Summary>,
    /// The CPU time of this one over that of skd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ratio: Option<Summary>,
}

/// Bulk data through TLS and a handler.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TlsBulkPoint {
    pub server: String,
    pub way: Way,
    pub rounds: usize,
    /// Rounds in which not all data arrived.
    pub incomplete: usize,
    /// MiB a second.
    pub rate: Summary,
    /// CPU time of all processes of the server, in milliseconds for each MiB.
    pub cpu: Option<Summary>,
    /// The rate of skd over this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Summary>,
}

/// Memory for each idle connection with TLS, in KiB, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TlsIdlePoint {
    pub server: String,
    pub live: usize,
    /// Proportional set sizes: of a handler, of the process of skd-tls, and of all others.
    pub handler: f64,
    pub skd_tls: Option<f64>,
    pub others: f64,
    /// The kernel's, of /proc/meminfo: slab, page tables, stacks, and for each processor.
    pub kernel: f64,
}
