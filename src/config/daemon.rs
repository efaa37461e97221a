//! The configuration of the process as a whole.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::{Control, LogTarget, Refused, SourcePrefix, Span};

/// The default time between telling a program to end and killing it.
pub const KILL_AFTER: Span = Span::seconds(5);

/// The maximum number of threads that accept connections.
pub const MOST_THREADS: usize = 16;

/// The configuration of the process as a whole.
#[derive(Debug, Default)]
pub struct Daemon {
    /// How much is reported: 0 errors, 1 connections, 2 more.
    pub verbosity: u8,
    /// Whether to run in the background.
    pub background: bool,
    /// The target of standard error. If unset, it stays as it is.
    pub log: Option<LogTarget>,
    /// The format of skd's own lines there.
    pub log_format: LogFormat,
    /// Whether lines of text have a time. If unset, they do in a file.
    pub log_time: Option<bool>,
    /// The prefixes that addresses of clients are cut to, if they are.
    pub log_mask: Option<SourcePrefix>,
    /// The file that the process id is written to.
    pub pidfile: Option<PathBuf>,
    /// The descriptor that gets a newline when skd is ready: standard output, or one from 3 up.
    pub ready_fd: Option<i32>,
    /// The user that skd itself becomes after binding, and all handlers with it. Then no service has
    /// a user of its own.
    pub identity: Option<Identity>,
    /// The root directory that skd itself enters after binding, before the change of user.
    pub root: Option<PathBuf>,
    /// The number of threads that accept connections, up to [`MOST_THREADS`]. If unset, three for
    /// two CPUs.
    pub threads: Option<NonZeroUsize>,
    /// The control socket.
    pub control: Option<Control>,
    /// The process that serves TLS.
    pub tls: TlsProcess,
}

impl Daemon {
    /// Returns how lines of the log are written.
    pub fn log_lines(&self) -> LogLines {
        let is_file = matches!(self.log, Some(LogTarget::File { .. }));
        match (self.log_format, self.log_time.unwrap_or(is_file)) {
            (LogFormat::Json, _) => LogLines::Json,
            (LogFormat::Text, true) => LogLines::TimedText,
            (LogFormat::Text, false) => LogLines::Text,
        }
    }
}

/// The process that serves TLS, which is one for all services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsProcess {
    /// The user that it becomes, if one was chosen. Only root can choose.
    pub user: Option<Identity>,
    /// The path of skd-tls, if it was chosen.
    pub program: Option<PathBuf>,
    /// The file that secrets of sessions are written to, if there is one.
    pub keylog: Option<PathBuf>,
}

/// The format of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Sentences.
    #[default]
    Text,
    /// A JSON object in each line.
    Json,
}

impl FromStr for LogFormat {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Refused("it takes text or json".into())),
        }
    }
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLines {
    /// As text.
    #[default]
    Text,
    /// As text after a time.
    TimedText,
    /// As JSON.
    Json,
}

/// A user to become, with all names already looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What was looked up.
    pub name: OsString,
    /// User id, never 0.
    pub uid: Uid,
    /// Group id.
    pub gid: Gid,
    /// All supplementary groups, sorted.
    pub groups: Vec<Gid>,
    /// The values of HOME, USER, LOGNAME and SHELL.
    pub account: Account,
}

/// The values of HOME, USER, LOGNAME and SHELL after a change of user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Account {
    /// The inherited values.
    Inherited,
    /// They are unset, since the user has no entry in passwd(5).
    Unknown,
    /// The values in passwd(5).
    Known {
        /// USER and LOGNAME.
        name: OsString,
        /// HOME.
        home: OsString,
        /// SHELL.
        shell: OsString,
    },
}
