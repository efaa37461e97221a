//! Rejections: why a client gets no handler, and what it gets instead.

use std::fmt;
use std::sync::Arc;

use nix::errno::Errno;

use super::rules::Ready;
use super::sources::Source;
use crate::config::AtLimit;
use crate::net::proxy::Fault;

/// A client that is turned away.
#[derive(Debug)]
pub(in crate::serve) struct Rejection<'a> {
    pub(in crate::serve) reason: Reason,
    pub(in crate::serve) action: RejectAction<'a>,
}

impl Rejection<'_> {
    /// A client whose connection is closed for this reason.
    pub(in crate::serve) fn close(reason: Reason) -> Self {
        Self {
            reason,
            action: RejectAction::Close,
        }
    }
}

/// What happens to the connection of a rejected client.
#[derive(Clone, Debug)]
pub(in crate::serve) enum RejectAction<'a> {
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// It gets the message of a limit, and is closed.
    Message(&'a [u8]),
    /// It gets the message of this rule, and is closed.
    RuleMessage(Arc<Ready>),
}

impl<'a> RejectAction<'a> {
    /// Returns what is done at a limit at which clients don't wait, or have waited too long.
    pub(super) fn at(limit: &'a AtLimit) -> Self {
        match limit {
            AtLimit::Queue(_) | AtLimit::Close => Self::Close,
            AtLimit::Reset => Self::Reset,
            AtLimit::Message(text) => Self::Message(text),
        }
    }

    /// Returns what is done with a client that this rule, or a limit of it, rejects.
    pub(super) fn by_rule(rule: Option<&Arc<Ready>>, otherwise: Self) -> Self {
        let rule = rule.filter(|ready| ready.rule.message.is_some());
        rule.map_or(otherwise, |rule| Self::RuleMessage(Arc::clone(rule)))
    }

    /// Returns the message for the client, if it gets one.
    pub(in crate::serve) fn message(&self) -> Option<&[u8]> {
        match self {
            Self::Close | Self::Reset => None,
            Self::Message(text) => Some(text),
            Self::RuleMessage(ready) => ready.rule.message.as_deref(),
        }
    }
}

/// Why a client is rejected.
#[derive(Clone, Debug)]
pub(in crate::serve) enum Reason {
    /// This rule denies it.
    Rule(Arc<Ready>),
    /// There are rules that allow others.
    NoRule,
    /// All slots are taken, so many.
    Max(usize),
    /// Clients of the service come faster than allowed.
    Rate,
    /// All slots of its source are taken, so many.
    SourceMax(Source, usize),
    /// Clients of its source come faster than allowed.
    SourceRate(Source),
    /// It sends from this port, which is too low.
    SourcePort(u16),
    /// It sent nothing in time.
    Silent,
    /// It closed the connection before it sent anything.
    Ended,
    /// Only proxies may connect, and it is none.
    NotProxy,
    /// Its PROXY header is invalid or missing.
    Header(Fault),
    /// Its PROXY header didn't arrive in time.
    LateHeader,
    /// It waited too long for a limit of its source.
    LateSource(Source),
    /// It waited too long for the service's rate.
    LateRate,
    /// It waited too long for one of so many slots.
    LateMax(usize),
    /// Too many clients wait.
    Crowd,
    /// skd ends.
    End,
    /// There is no descriptor or memory for it.
    Short(Errno),
    /// Its connection can't be watched.
    Unwatched(Errno),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LATE: &str = "it has waited in vain: ";
        match self {
            Self::Rule(ready) => write!(f, "denied by {}", ready.rule.location),
            Self::NoRule => f.write_str("no rule allows it"),
            Self::Max(limit) => write!(f, "all {limit} slots are taken"),
            Self::Rate => f.write_str("connections come faster than --rate"),
            Self::SourceMax(source, limit) => {
                write!(f, "{source} has as many handlers as it may, {limit}")
            }
            Self::SourceRate(source) => write!(f, "{source} comes faster than it may"),
            Self::SourcePort(port) => write!(f, "port {port} is below --min-source-port"),
            Self::Silent => f.write_str("it sent nothing in time"),
            Self::Ended => f.write_str("it left before it had sent anything"),
            Self::NotProxy => f.write_str("it is none of --proxy-from"),
            Self::Header(fault) => write!(f, "{fault}"),
            Self::LateHeader => write!(f, "{LATE}its PROXY header has not come"),
            Self::LateSource(source) => write!(f, "{LATE}{source} has reached its limit"),
            Self::LateRate => write!(f, "{LATE}{}", Self::Rate),
            Self::LateMax(limit) => write!(f, "{LATE}{}", Self::Max(*limit)),
            Self::Crowd => f.write_str("too many wait"),
            Self::End => f.write_str("skd ends"),
            Self::Short(errno) => f.write_str(errno.desc()),
            Self::Unwatched(errno) => write!(f, "it can't be waited for: {}", errno.desc()),
        }
    }
}
