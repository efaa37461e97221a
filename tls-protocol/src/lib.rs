//! What skd and skd-tls say to each other.
//!
//! There are three channels, all of them unix sockets:
//!
//! - The *control channel*, a pair of `SOCK_SEQPACKET` sockets. A packet is a [`Command`] or a [`Report`] as
//!   JSON, with at most two descriptors beside it. skd-tls has its end as standard input.
//! - The *request channel*, another such pair. A packet is a [`Request`], with two descriptors: a client's
//!   connection, and one end of a `SOCK_STREAM` pair, the *plain side*. All worker threads of skd send to one
//!   end, and all threads of skd-tls receive from the other. skd keeps both ends, so that what was sent and
//!   not received isn't lost if skd-tls ends.
//! - The plain side of each connection. skd-tls first writes an [`Answer`] to it: a session is established, or
//!   the handshake has failed. After that it carries what client and handler say. If skd-tls ends, skd or the
//!   handler reads the end.
//!
//! Each side takes what the other says for untrusted input: an intruder in one of them shall not
//! get into the other that way.

mod answer;
mod control;
mod request;
mod settings;

pub use answer::{Answer, AnswerFault, Failure, FailureKind, Found, MAX_ANSWER, Session};
pub use control::{Certificate, Command, Report, ServiceFigures};
pub use request::{MAX_NAME, MAX_REQUEST, MAX_TOKEN, Request, RequestFault};
pub use settings::{CertificateFiles, ClientCertificates, FileIndex, Service, Settings, Version};

/// The version of all of it. skd and skd-tls of different versions refuse each other.
pub const VERSION: u8 = 1;
