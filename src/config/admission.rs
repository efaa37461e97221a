//! Admission: which clients are served, how many, how fast and for how long, and how the others are
//! refused.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Nat64, Rate, Refused, Rule, Span, Trusted, decimal, unescape};

/// The admission options of a service. They apply to connections that skd accepts and to datagrams
/// that it receives. Unset limits don't exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The maximum number of concurrent handlers for one source.
    pub max_per_source: Option<NonZeroUsize>,
    /// Which addresses count as one source.
    pub source_prefix: SourcePrefix,
    /// The prefixes of translators, behind which clients have IPv4 addresses.
    pub nat64: Vec<Nat64>,
    /// The maximum rate of connections from all sources together.
    pub rate: Option<Rate>,
    /// The maximum rate of connections from one source.
    pub rate_per_source: Option<Rate>,
    /// The reject action at the maximum number of handlers.
    pub at_max: Option<AtLimit>,
    /// The reject action at the maximum number of handlers for a source.
    pub at_source_max: Option<AtLimit>,
    /// The reject action above a maximum rate.
    pub at_rate: Option<AtLimit>,
    /// The rules of the command line, in order.
    pub rules: Vec<Rule>,
    /// The file with the rules that follow them.
    pub rules_file: Option<PathBuf>,
    /// The proxies that send PROXY headers, if `--proxy-protocol` is set.
    pub proxies: Option<Proxies>,
    /// How long a client may take to send its first byte, before its handler is started.
    pub first_byte: Option<Span>,
    /// The maximum run time of a handler.
    pub timeout: Option<Span>,
    /// How long the connection of a handler may be idle.
    pub idle_timeout: Option<Span>,
    /// The maximum time of the lingering close: after a handler's end, input is drained so that the
    /// client receives the whole answer. Zero: none. If unset, a short one where input is unread.
    pub linger: Option<Span>,
}

/// The lengths of the prefixes within which addresses count as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix {
    /// For IPv4, up to 32.
    pub v4: u8,
    /// For IPv6, up to 128.
    pub v6: u8,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        // The addresses of one customer of a provider (RFC 6177).
        Self { v4: 32, v6: 64 }
    }
}

/// The action for a connection over a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// The connection waits: in the backlog without a limit, or accepted and for at most this
    /// time.
    Queue(Option<Span>),
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// The client gets this message, and the connection is closed.
    Message(Vec<u8>),
}

/// Trusted proxies, which name the client in a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses.
    pub from: Vec<Trusted>,
    /// How long a proxy may take to send a complete header.
    pub timeout: Span,
}

impl FromStr for SourcePrefix {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let bits = |text: &str, most| decimal(OsStr::new(text)).filter(|bits| *bits <= most);
        text.split_once(',')
            .and_then(|(v4, v6)| {
                Some(Self {
                    v4: bits(v4, 32)?,
                    v6: bits(v6, 128)?,
                })
            })
            .ok_or_else(|| Refused("it takes two decimal numbers like 24,56: how many bits of an IPv4 address, up to 32, and of an IPv6 address, up to 128".into()))
    }
}

impl FromStr for AtLimit {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        match text.split_once(':') {
            None => match text {
                "queue" => Ok(Self::Queue(None)),
                "close" => Ok(Self::Close),
                "reset" => Ok(Self::Reset),
                _ => Err(Refused(
                    "it takes queue, queue:DURATION, close, reset or message:TEXT".into(),
                )),
            },
            Some(("queue", time)) => match time.parse()? {
                Span::ZERO => Err(Refused("the duration is zero; use close".into())),
                time => Ok(Self::Queue(Some(time))),
            },
            Some(("message", "")) => Err(Refused("the message is empty; use close".into())),
            Some(("message", text)) => Ok(Self::Message(unescape(text)?)),
            Some(_) => Err(Refused(
                "it takes queue, queue:DURATION, close, reset or message:TEXT".into(),
            )),
        }
    }
}

impl Admission {
    /// Whether there are rules.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty() || self.rules_file.is_some()
    }

    /// Returns the action at the maximum number of handlers.
    pub fn at_max(&self) -> &AtLimit {
        self.at_max.as_ref().unwrap_or(&AtLimit::Queue(None))
    }

    /// Returns the action above the maximum rate of all sources.
    pub fn at_rate(&self) -> &AtLimit {
        self.at_rate.as_ref().unwrap_or(&AtLimit::Queue(None))
    }

    /// Returns the action at the maximum number of handlers for a source.
    pub fn at_source_max(&self) -> &AtLimit {
        self.at_source_max.as_ref().unwrap_or(&AtLimit::Close)
    }

    /// Returns the action above the maximum rate of one source. Such a connection can't wait in the
    /// backlog, where it would delay those of other sources.
    pub fn at_source_rate(&self) -> &AtLimit {
        match &self.at_rate {
            None | Some(AtLimit::Queue(None)) => &AtLimit::Close,
            Some(other) => other,
        }
    }
}
