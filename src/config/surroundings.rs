//! The process attributes that handlers start with.

use std::ffi::{CString, OsString};

use super::EnvironmentFile;
use crate::sys::child::Resource;

/// The process attributes that handlers start with. Unset attributes are inherited from skd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The working directory.
    pub directory: Option<CString>,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// The nice value, from -20 to 19.
    pub nice: Option<i32>,
    /// The resource limits.
    pub limits: Vec<Limit>,
    /// What the program gets as its name (`argv[0]`), if that isn't PROG.
    pub argv0: Option<CString>,
    /// Whether variables of skd are inherited only if they are `passed`.
    pub clears_environment: bool,
    /// The variables that are inherited all the same.
    pub passed: Vec<OsString>,
    /// The files whose variables are in `environment`.
    pub environment_files: Vec<EnvironmentFile>,
    /// Changes to the environment, in order: a value, or `None` to unset the variable.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Whether handlers and their descendants can never gain privileges (PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// The target of handlers' standard error.
    pub error: StandardError,
}

/// The target of handlers' standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StandardError {
    /// That of skd: the log, if there is one.
    #[default]
    Log,
    /// The same as that of their standard output, as in inetd.
    Client,
}

/// A resource limit (setrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name in `--limit`.
    pub name: &'static str,
    /// Its number.
    pub resource: Resource,
    /// The soft limit. `u64::MAX` is unlimited.
    pub soft: u64,
    /// The hard limit. `u64::MAX` is unlimited.
    pub hard: u64,
}

/// The resource limits by their names in prlimit(1).
pub const RESOURCES: [(&str, Resource); 16] = [
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];
