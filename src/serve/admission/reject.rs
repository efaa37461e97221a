//! Rejections: why a client gets no handler, and what it gets instead.

use std::sync::Arc;

use super::rules::Ready;
use crate::config::AtLimit;
use crate::report::Reason;

/// A client that is turned away.
#[derive(Debug)]
pub(in crate::serve) struct Rejection<'a> {
    cause: Cause,
    pub(in crate::serve) action: RejectAction<'a>,
}

#[derive(Debug)]
enum Cause {
    /// This rule denies the client.
    Rule(Arc<Ready>),
    Other(Reason<'static>),
}

impl<'a> Rejection<'a> {
    pub(super) fn new(reason: Reason<'static>, action: RejectAction<'a>) -> Self {
        let cause = Cause::Other(reason);
        Self { cause, action }
    }

    /// A client that this rule denies.
    pub(super) fn by_rule(rule: &Arc<Ready>) -> Self {
        Self {
            cause: Cause::Rule(Arc::clone(rule)),
            action: RejectAction::Close.unless_told(Some(rule)),
        }
    }

    /// A client whose connection is closed for this reason.
    pub(in crate::serve) fn close(reason: Reason<'static>) -> Self {
        Self::new(reason, RejectAction::Close)
    }

    pub(in crate::serve) fn reason(&self) -> Reason<'_> {
        match &self.cause {
            Cause::Rule(ready) => Reason::Rule(&ready.location),
            Cause::Other(reason) => *reason,
        }
    }
}

/// What happens to the connection of a rejected client.
#[derive(Clone, Debug)]
pub(in crate::serve) enum RejectAction<'a> {
    /// It is closed.
    Close,
    /// It is closed, but what its gate has said arrives.
    Linger,
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

    /// Returns this, or that the client gets the message of this rule, if that has one.
    pub(super) fn unless_told(self, rule: Option<&Arc<Ready>>) -> Self {
        let rule = rule.filter(|ready| ready.message.is_some());
        rule.map_or(self, |rule| Self::RuleMessage(Arc::clone(rule)))
    }

    /// Returns the message for the client, if it gets one.
    pub(in crate::serve) fn message(&self) -> Option<&[u8]> {
        match self {
            Self::Close | Self::Linger | Self::Reset => None,
            Self::Message(text) => Some(text),
            Self::RuleMessage(ready) => ready.message.as_deref(),
        }
    }
}
