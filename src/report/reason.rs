//! The reasons for which connections and datagrams are rejected.

use std::fmt;

use nix::errno::Errno;
use skd_tls_protocol::FailureKind;

use super::mask;
use crate::config::proxy_header::Fault;
use crate::config::{Count, RuleLocation, Source};
use crate::sys::process::Ended;
use std::time::Duration;

/// Why a connection or datagram is rejected.
#[derive(Clone, Copy, Debug)]
pub enum Reason<'a> {
    /// This rule denies it.
    Rule(&'a RuleLocation),
    /// No rule fits, and there are rules that allow.
    NoRule,
    /// All slots, this many, are taken.
    Max(usize),
    /// The rate of the service is used up.
    Rate,
    /// All slots of its source, this many, are taken.
    SourceMax(Source, usize),
    /// The rate of its source is used up.
    SourceRate(Source),
    /// This source port is below the lowest that is accepted.
    SourcePort(u16),
    /// Its first byte did not come in time.
    Silent,
    /// It ended before its first byte came.
    Ended,
    /// It comes from an address that is none of `--proxy-from`.
    Proxy,
    /// Its PROXY header is faulty.
    Header(Fault),
    /// It waited for this for too long.
    Late(Awaited),
    /// The pending queue is full.
    Crowd,
    /// skd ends.
    End,
    /// It can't be watched while it waits.
    NotWatched(Errno),
    /// Its descriptor is needed for another.
    NoDescriptor,
    /// The service refuses clients until it is enabled.
    Disabled,
    /// It is denied for a time, through the control socket.
    Denied,
    /// Its gate has ended like this, after so long.
    Gate(Ended, Duration),
    /// All slots of the gate, this many, are taken.
    GateMax(usize),
    /// Its gate has taken so long, longer than it may.
    GateTimeout(Duration),
    /// Its gate couldn't be started.
    GateFailed,
    /// Its TLS handshake did not end in time.
    TlsTimeout,
    /// skd-tls did not take it in time.
    TlsBusy,
    /// skd-tls has ended.
    TlsEnded,
    /// skd-tls has sent something else than an answer.
    TlsFault,
    /// There is no TLS session, for this reason, of which skd-tls says more.
    TlsFailed(FailureKind, &'a str),
}

/// What a pending connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Its PROXY header.
    Header,
    /// The limits of this source.
    Source(Source),
    /// The rate of the service.
    Rate,
    /// A slot, of this many.
    Slot(usize),
}

/// The reasons without their data: what rejections are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "those of Reason")]
pub enum RejectKind {
    Rule,
    NoRule,
    Max,
    Rate,
    SourceMax,
    SourceRate,
    SourcePort,
    Silent,
    Ended,
    Proxy,
    Header,
    Late,
    Crowd,
    End,
    NotWatched,
    NoDescriptor,
    Disabled,
    Denied,
    Gate,
    GateMax,
    GateTimeout,
    GateFailed,
    TlsTimeout,
    TlsBusy,
    TlsEnded,
    TlsFault,
    TlsClosed,
    TlsPlain,
    TlsMismatch,
    TlsName,
    TlsCertificate,
    TlsAlert,
    TlsOther,
}

impl RejectKind {
    /// All kinds.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Rule,
        Self::NoRule,
        Self::Max,
        Self::Rate,
        Self::SourceMax,
        Self::SourceRate,
        Self::SourcePort,
        Self::Silent,
        Self::Ended,
        Self::Proxy,
        Self::Header,
        Self::Late,
        Self::Crowd,
        Self::End,
        Self::NotWatched,
        Self::NoDescriptor,
        Self::Disabled,
        Self::Denied,
        Self::Gate,
        Self::GateMax,
        Self::GateTimeout,
        Self::GateFailed,
        Self::TlsTimeout,
        Self::TlsBusy,
        Self::TlsEnded,
        Self::TlsFault,
        Self::TlsClosed,
        Self::TlsPlain,
        Self::TlsMismatch,
        Self::TlsName,
        Self::TlsCertificate,
        Self::TlsAlert,
        Self::TlsOther,
    ];

    /// The number of kinds.
    pub const COUNT: usize = Self::TlsOther as usize + 1;

    /// Returns its label in counters and JSON lines. Labels stay.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::NoRule => "no-rule",
            Self::Max => "max",
            Self::Rate => "rate",
            Self::SourceMax => "source-max",
            Self::SourceRate => "source-rate",
            Self::SourcePort => "source-port",
            Self::Silent => "first-byte",
            Self::Ended => "ended",
            Self::Proxy => "proxy-from",
            Self::Header => "proxy-header",
            Self::Late => "queue-timeout",
            Self::Crowd => "queue-full",
            Self::End => "shutdown",
            Self::NotWatched => "not-watched",
            Self::NoDescriptor => "no-descriptor",
            Self::Disabled => "disabled",
            Self::Denied => "denied",
            Self::Gate => "gate",
            Self::GateMax => "gate-max",
            Self::GateTimeout => "gate-timeout",
            Self::GateFailed => "gate-failed",
            Self::TlsTimeout => "tls-timeout",
            Self::TlsBusy => "tls-busy",
            Self::TlsEnded => "tls-ended",
            Self::TlsFault => "tls-fault",
            Self::TlsClosed => "tls-closed",
            Self::TlsPlain => "tls-plain",
            Self::TlsMismatch => "tls-mismatch",
            Self::TlsName => "tls-name",
            Self::TlsCertificate => "tls-certificate",
            Self::TlsAlert => "tls-alert",
            Self::TlsOther => "tls-other",
        }
    }
}

impl From<FailureKind> for RejectKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Closed => Self::TlsClosed,
            FailureKind::NotTls => Self::TlsPlain,
            FailureKind::NothingInCommon => Self::TlsMismatch,
            FailureKind::NoName => Self::TlsName,
            FailureKind::Certificate => Self::TlsCertificate,
            FailureKind::Alert => Self::TlsAlert,
            FailureKind::Other => Self::TlsOther,
        }
    }
}

impl Reason<'_> {
    /// Returns what it is counted by.
    pub fn kind(&self) -> RejectKind {
        match self {
            Self::Rule(_) => RejectKind::Rule,
            Self::NoRule => RejectKind::NoRule,
            Self::Max(_) => RejectKind::Max,
            Self::Rate => RejectKind::Rate,
            Self::SourceMax(..) => RejectKind::SourceMax,
            Self::SourceRate(_) => RejectKind::SourceRate,
            Self::SourcePort(_) => RejectKind::SourcePort,
            Self::Silent => RejectKind::Silent,
            Self::Ended => RejectKind::Ended,
            Self::Proxy => RejectKind::Proxy,
            Self::Header(_) => RejectKind::Header,
            Self::Late(_) => RejectKind::Late,
            Self::Crowd => RejectKind::Crowd,
            Self::End => RejectKind::End,
            Self::NotWatched(_) => RejectKind::NotWatched,
            Self::NoDescriptor => RejectKind::NoDescriptor,
            Self::Disabled => RejectKind::Disabled,
            Self::Denied => RejectKind::Denied,
            Self::Gate(..) => RejectKind::Gate,
            Self::GateMax(_) => RejectKind::GateMax,
            Self::GateTimeout(_) => RejectKind::GateTimeout,
            Self::GateFailed => RejectKind::GateFailed,
            Self::TlsTimeout => RejectKind::TlsTimeout,
            Self::TlsBusy => RejectKind::TlsBusy,
            Self::TlsEnded => RejectKind::TlsEnded,
            Self::TlsFault => RejectKind::TlsFault,
            Self::TlsFailed(kind, _) => (*kind).into(),
        }
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "denied by {}", mask::location(rule)),
            Self::NoRule => f.write_str("no rule allows it"),
            Self::Max(1) => f.write_str("the only slot is taken"),
            Self::Max(limit) => write!(f, "all {limit} slots are taken"),
            Self::Rate => f.write_str("connections come faster than --rate"),
            Self::SourceMax(source, limit) => {
                let source = mask::source(*source);
                write!(f, "{source} has as many handlers as it may, {limit}")
            }
            Self::SourceRate(source) => {
                write!(f, "{} comes faster than it may", mask::source(*source))
            }
            Self::SourcePort(port) => write!(f, "port {port} is below --min-source-port"),
            Self::Silent => f.write_str("it sent nothing in time"),
            Self::Ended => f.write_str("it left before it had sent anything"),
            Self::Proxy => f.write_str("it is none of --proxy-from"),
            Self::Header(fault) => fault.fmt(f),
            Self::Late(awaited) => {
                f.write_str("it has waited in vain: ")?;
                match awaited {
                    Awaited::Header => f.write_str("its PROXY header has not come"),
                    Awaited::Source(source) => {
                        write!(f, "{} has reached its limit", mask::source(*source))
                    }
                    Awaited::Rate => Self::Rate.fmt(f),
                    Awaited::Slot(limit) => Self::Max(*limit).fmt(f),
                }
            }
            Self::Crowd => f.write_str("too many wait"),
            Self::End => f.write_str("skd ends"),
            Self::NotWatched(errno) => write!(f, "it can't be waited for: {}", errno.desc()),
            Self::NoDescriptor => f.write_str(Errno::EMFILE.desc()),
            Self::Disabled => f.write_str("the service is disabled"),
            Self::Denied => f.write_str("it is denied for a time"),
            Self::Gate(ended, after) => {
                match ended {
                    Ended::Exited(status) => write!(f, "its gate exited with status {status}")?,
                    Ended::Killed(signal) => {
                        write!(f, "its gate was terminated by signal {signal}")?;
                    }
                }
                write!(f, " after {} ms", after.as_millis())
            }
            Self::GateMax(limit) => {
                let clients = Count(*limit, "client is", "clients are");
                write!(f, "{clients} in the gate, and no more may be")
            }
            Self::GateTimeout(after) => {
                write!(f, "its gate took too long, {} ms", after.as_millis())
            }
            Self::GateFailed => f.write_str("its gate can't be started"),
            Self::TlsTimeout => f.write_str("its TLS handshake has not ended in time"),
            Self::TlsBusy => f.write_str("skd-tls has not taken it in time"),
            Self::TlsEnded => f.write_str("skd-tls has ended during its handshake"),
            Self::TlsFault => f.write_str("skd-tls has sent something that isn't understood"),
            Self::TlsFailed(_, "") => f.write_str("its TLS handshake has failed"),
            Self::TlsFailed(_, why) => write!(f, "its TLS handshake has failed: {why}"),
        }
    }
}
