//! The control protocol of skd, and the lines of its log in JSON, as types.
//!
//! A client connects to the unix socket of `--control` and writes requests, one JSON object a line.
//! skd answers each with one line, in the order of the requests; [`Request::Events`] is answered with a
//! line for each event until the client closes the connection. Lines end with a newline, and no
//! string in them has one.
//!
//! ```json
//! {"version":1,"id":7,"request":"drain","service":"web"}
//! {"version":1,"id":7,"answer":"done","message":"web drains: 3 handlers are left"}
//! ```
//!
//! Fields may be added to any object; readers ignore those that they don't know. [`VERSION`] changes
//! when a field is removed or means something else.
//!
//! Times are seconds, sizes are bytes; the names of fields say so.

mod answer;
pub mod duration;
mod event;
mod request;
mod status;

pub use answer::{
    Answer, AnswerLine, Done, ExplainedService, Explanation, Failure, FailureKind, HandlerStatus,
    Handlers, SourceStatus, Sources,
};
pub use event::{EVENTS, Endpoint, EventLine, Level, TlsLine};
pub use request::{EventFilter, HandlerOrder, HandlerQuery, Request, RequestLine, SourceQuery};
pub use status::{
    Attempts, CertificateStatus, Denial, GateStatus, Histogram, ListenerStatus, PoolStatus,
    ProcessStatus, ServiceState, ServiceStatus, Slots, Status, TlsStatus,
};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// The longest request in bytes, its newline included.
pub const LONGEST_REQUEST: usize = 64 * 1024;
