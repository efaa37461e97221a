//! The control channel: what skd tells skd-tls to do, and what that reports. Packets of JSON.

use serde::{Deserialize, Serialize};

/// What skd tells skd-tls to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// The first: to give up all rights, and to get ready. Beside it are the receiving end of the request
    /// channel, and a memory file for the keys of session tickets, which all processes share that skd starts
    /// one after the other. Answered by [`Report::Started`].
    Start {
        /// The version of the protocol.
        version: u8,
        /// The user and group to become, if skd-tls is started as root.
        user: Option<(u32, u32)>,
        /// How many threads serve connections.
        threads: usize,
    },
    /// A file of the next settings, beside it. The first one has index 0.
    File,
    /// The files are all there; the settings are in the memory file beside it, as JSON of
    /// [`Settings`](crate::Settings). Answered by [`Report::Loaded`] or [`Report::Refused`]: then the earlier
    /// ones, if there were any, stay.
    Load,
    /// To take no more connections, and to end after the last one.
    Retire,
    /// To tell all clients that this was all (`close_notify`), to send what there is, and to end after so many
    /// milliseconds at most.
    Stop {
        /// Milliseconds.
        within: u64,
    },
}

/// What skd-tls reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// It has given up its rights.
    Started {
        /// What it couldn't keep itself from, for the log; nothing as a rule.
        lacks: Vec<String>,
    },
    /// A certificate of the settings that are being loaded, or a new look at one a day later.
    Certificate(Certificate),
    /// The settings hold now.
    Loaded,
    /// The settings don't hold, for these reasons: each a line, a sentence that names the service, the option and the
    /// file.
    Refused {
        /// The sentences.
        why: String,
    },
    /// A client's connection has ended in a way that its handler can't see.
    Truncated {
        /// The name of the service.
        service: String,
        /// The token of its request, in hexadecimal digits.
        token: String,
    },
    /// What has changed in the figures of a service since this was last reported, each second at most.
    Figures(ServiceFigures),
}

/// A certificate of a service, or another of its files that there is something to be said about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The name of the service.
    pub service: String,
    /// The path of its file.
    pub file: String,
    /// The names that it is for. None if it is another file: of an authority of clients' certificates, a list
    /// of revoked ones, or an OCSP response.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970. 0 if it has no end.
    pub not_after: i64,
    /// What is to be said about it, if anything: that it ends soon, or isn't valid yet.
    pub warning: Option<String>,
}

/// The figures of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFigures {
    /// The name of the service.
    pub service: String,
    /// How many connections there are, those in a handshake among them.
    pub live: u64,
    /// Bytes that clients have sent, without TLS, since the last report.
    pub received: u64,
    /// Bytes that were sent to clients, without TLS, since the last report.
    pub sent: u64,
    /// Connections that ended without `close_notify` of the client, since the last report.
    pub truncated: u64,
}
