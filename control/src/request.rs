//! Requests.

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

/// A request, as it stands in a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestLine {
    /// [`crate::VERSION`] of the client.
    pub version: u32,
    /// A number of the client's choice, which the answer repeats.
    #[serde(default)]
    pub id: u64,
    /// What is asked for.
    #[serde(flatten)]
    pub request: Request,
}

/// What is asked for. Those from [`Self::Reload`] on change something: root and the owner of the
/// socket may ask for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// How skd and all its services are: [`crate::Status`].
    Status {
        /// Only these services; all if it is empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        services: Vec<String>,
    },
    /// Live handlers: [`crate::Handlers`].
    Handlers(HandlerQuery),
    /// Sources, the most active first: [`crate::Sources`].
    Sources(SourceQuery),
    /// What would happen to a client with this address now: [`crate::Explanation`].
    Explain {
        /// An address as in a rule, or a user as `uid:N`.
        client: String,
        /// The service; all if it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Events from now on, a line each: [`crate::EventLine`].
    Events(EventFilter),
    /// Read files again, as at SIGHUP. Answered when that is over.
    Reload,
    /// Replace the program, as at SIGUSR2. Answered when that is over.
    Upgrade,
    /// Serve no new client of some services: they wait in the backlog. Answered when the handlers of all
    /// have ended.
    Drain {
        /// The services; `service` is one alone.
        #[serde(alias = "service", deserialize_with = "one_or_more")]
        services: Vec<String>,
        /// So many seconds after the drain has begun, its handlers are sent TERM, and KILL 5 s later (or
        /// `--kill-after`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<f64>,
        /// For so many seconds the services are [`crate::ServiceState::LameDuck`] before the drain begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        announce_seconds: Option<f64>,
    },
    /// Serve new clients again after [`Self::Drain`] or [`Self::Disable`].
    Enable {
        /// The services; `service` is one alone.
        #[serde(alias = "service", deserialize_with = "one_or_more")]
        services: Vec<String>,
    },
    /// Serve no new client of a service. Its handlers go on.
    Disable {
        /// The service.
        service: String,
        /// Whether new clients are refused. Otherwise they wait in the backlog.
        #[serde(default)]
        refuse: bool,
    },
    /// Send TERM to handlers, and KILL 5 s later (or `--kill-after`).
    Kill {
        /// One handler, by its process id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        /// All handlers of clients in this prefix (`192.0.2.0/24`), or of this user (`uid:N`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        /// Only those of this service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Report so much: 0, 1 as with `-v`, 2 as with `-vv`.
    SetVerbosity {
        /// The level.
        level: u8,
    },
    /// Refuse clients in a prefix for a time.
    Deny {
        /// `192.0.2.0/24`, or `uid:N`.
        source: String,
        /// For how long.
        seconds: f64,
        /// Only at this service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// Take back [`Self::Deny`].
    Allow {
        /// As it was denied.
        source: String,
        /// As it was denied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
}

impl Request {
    /// Returns whether it changes something, so that only root and the owner of the socket may ask
    /// for it.
    pub fn acts(&self) -> bool {
        match self {
            Self::Status { .. }
            | Self::Handlers(_)
            | Self::Sources(_)
            | Self::Explain { .. }
            | Self::Events(_) => false,
            Self::Reload
            | Self::Upgrade
            | Self::Drain { .. }
            | Self::Enable { .. }
            | Self::Disable { .. }
            | Self::Kill { .. }
            | Self::SetVerbosity { .. }
            | Self::Deny { .. }
            | Self::Allow { .. } => true,
        }
    }
}

/// Reads a string, or a list of strings that isn't empty.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    const EXPECTED: &str = "expected a string, or a list of strings that isn't empty";

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }

    match OneOrMore::deserialize(deserializer) {
        Ok(OneOrMore::One(one)) => Ok(vec![one]),
        Ok(OneOrMore::More(more)) if !more.is_empty() => Ok(more),
        _ => Err(de::Error::custom(EXPECTED)),
    }
}

/// Which handlers, and how many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandlerQuery {
    /// Only those of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only those of clients in this prefix, or of this user (`uid:N`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Which are first.
    pub order: HandlerOrder,
    /// So many at most; 1,000 if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Which handlers are first. All but age and pid cost a look at /proc for each handler that is
/// selected, instead of each that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HandlerOrder {
    /// The oldest.
    #[default]
    Oldest,
    /// The newest.
    Newest,
    /// Those with the lowest process ids.
    Pid,
    /// Those that have used most CPU time.
    Cpu,
    /// Those with most resident memory.
    Memory,
    /// Those that have transferred most.
    Bytes,
}

/// Which sources, and how many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceQuery {
    /// Only those of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// So many at most; 100 if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// Only those of these services; all if it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// Only those of these kinds ([`crate::EventLine::event`]); all if it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Only those of clients in this prefix, or of this user (`uid:N`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}
