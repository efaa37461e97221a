//! Answers.

use serde::{Deserialize, Serialize};

use crate::{EventLine, Status};

/// An answer, as it stands in a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerLine {
    /// [`crate::VERSION`] of skd.
    pub version: u32,
    /// The number of the request.
    pub id: u64,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`crate::Request::Status`].
    Status(Box<Status>),
    /// To [`crate::Request::Handlers`].
    Handlers(Handlers),
    /// To [`crate::Request::Sources`].
    Sources(Sources),
    /// To [`crate::Request::Explain`].
    Explanation(Explanation),
    /// To [`crate::Request::Events`], again and again.
    Event(Box<EventLine<'static>>),
    /// It was done.
    Done(Done),
    /// It was not done.
    Failed(Failure),
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// In words.
    pub message: String,
    /// How many handlers it was about, if it was about handlers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handlers: Option<u64>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of reason, for programs.
    pub kind: FailureKind,
    /// The reason in words.
    pub message: String,
}

/// The kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request isn't understood.
    BadRequest,
    /// The client may not ask for it.
    NotPermitted,
    /// There is no such service, handler or source.
    NotFound,
    /// It was tried, and failed.
    Failed,
    /// It can't be done now: skd ends, or does the same already.
    Busy,
}

/// Live handlers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handlers {
    /// How many are selected. Not all may be here.
    pub total: u64,
    /// The first of them.
    pub handlers: Vec<HandlerStatus>,
}

/// A live handler. What the kernel doesn't tell is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HandlerStatus {
    /// Its process id.
    pub pid: i32,
    /// Its service.
    pub service: String,
    /// The address of the listener that its client has come to.
    pub listener: String,
    /// Its client, as in the log.
    pub client: String,
    /// How long it has run.
    pub age_seconds: f64,
    /// The CPU time that it has used, without its children.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Its resident memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// What its client has sent, of TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// What was sent to its client and acknowledged, of TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes: Option<u64>,
}

/// Sources, the most active first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sources {
    /// How many there are. Not all may be here.
    pub total: u64,
    /// The first of them.
    pub sources: Vec<SourceStatus>,
}

/// A source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The source, as in the log.
    pub source: String,
    /// The service.
    pub service: String,
    /// Its live handlers.
    pub running: u64,
    /// How many of its connections and datagrams were rejected lately. Of sources that are rejected
    /// seldom this may be too low, or missing.
    pub rejected: u64,
    /// Why the last one was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reason: Option<String>,
}

/// What would happen to a client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// For each service that was asked about.
    pub services: Vec<ExplainedService>,
}

/// What would happen to a client at one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExplainedService {
    /// The service.
    pub service: String,
    /// Whether a handler would start now.
    pub admitted: bool,
    /// Why, a line each: the rule, and the limits with their counts.
    pub lines: Vec<String>,
}
