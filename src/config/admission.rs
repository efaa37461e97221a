//! Who may come in, how many, how fast and for how long; and what the others hear.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Rate, Refused, Rule, Span, Trusted, decimal, unescape};

/// What a service asks of its clients, as far as it was said: the options of stream listeners
/// whose connections skd accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// How many handlers each source may have at once.
    pub max_per_source: Option<NonZeroUsize>,
    /// What counts as one source.
    pub source_prefix: SourcePrefix,
    /// How many connections are let through in a time, of all sources together.
    pub rate: Option<Rate>,
    /// The same of each source.
    pub rate_per_source: Option<Rate>,
    /// What happens when all handlers run that may.
    pub at_max: Option<AtLimit>,
    /// What happens when all handlers of a source run that may.
    pub at_source_max: Option<AtLimit>,
    /// What happens to those who come too fast.
    pub at_rate: Option<AtLimit>,
    /// The rules of the command line, in order.
    pub rules: Vec<Rule>,
    /// The file with those that follow.
    pub rules_file: Option<PathBuf>,
    /// Who says whom they bring, if anybody does.
    pub proxies: Option<Proxies>,
    /// How long a client may be silent before anything is run for it.
    pub first_byte: Option<Span>,
    /// How long a handler may run.
    pub timeout: Option<Span>,
    /// How long its connection may be idle.
    pub idle_timeout: Option<Span>,
    /// How long a client is heard out after its handler's end, so that the answer arrives.
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
        // What one customer of a provider has (RFC 6177).
        Self { v4: 32, v6: 64 }
    }
}

/// What happens to a connection that is one too many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtLimit {
    /// It waits: in the backlog for as long as it takes, or accepted and for so long at most.
    Queue(Option<Span>),
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// It is told this, and closed.
    Message(Vec<u8>),
}

/// Proxies that say in a header who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies {
    /// Who they are.
    pub from: Vec<Trusted>,
    /// How long a header may take.
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
                Span::ZERO => Err(Refused("to wait for no time is close".into())),
                time => Ok(Self::Queue(Some(time))),
            },
            Some(("message", "")) => Err(Refused("to be told nothing is close".into())),
            Some(("message", text)) => Ok(Self::Message(unescape(text)?)),
            Some(_) => Err(Refused(
                "it takes queue, queue:DURATION, close, reset or message:TEXT".into(),
            )),
        }
    }
}

impl Admission {
    /// Whether anybody may be refused for who he is.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty() || self.rules_file.is_some()
    }

    /// What happens to those who come when all handlers run that may.
    pub fn at_max(&self) -> &AtLimit {
        self.at_max.as_ref().unwrap_or(&AtLimit::Queue(None))
    }

    /// What happens to those who come too fast, all together.
    pub fn at_rate(&self) -> &AtLimit {
        self.at_rate.as_ref().unwrap_or(&AtLimit::Queue(None))
    }

    /// What happens to those of whose source as many handlers run as may.
    pub fn at_source_max(&self) -> &AtLimit {
        self.at_source_max.as_ref().unwrap_or(&AtLimit::Close)
    }

    /// What happens to those whose source comes too fast. It can't be left in the backlog, where
    /// it would hold up the others.
    pub fn at_source_rate(&self) -> &AtLimit {
        match &self.at_rate {
            None | Some(AtLimit::Queue(None)) => &AtLimit::Close,
            Some(other) => other,
        }
    }
}
