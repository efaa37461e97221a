//! The configuration of the process as a whole.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::{LogTarget, Span};

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
