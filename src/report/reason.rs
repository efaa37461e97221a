//! The reasons for which connections and datagrams are rejected.

use std::fmt;

use nix::errno::Errno;

use super::mask;
use crate::config::proxy_header::Fault;
use crate::config::{RuleLocation, Source};

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
    ];

    /// The number of kinds.
    pub const COUNT: usize = Self::Denied as usize + 1;

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
        }
    }
}
