//! What only the start knew about the process.

use super::upgrade::Settings;
use crate::config::seccomp::FilterFile;
use crate::config::{EnvironmentFile, FileTexts, Identity};
use crate::setup::cgroups::Base;
use crate::setup::executable::Executable;
use crate::setup::{PidFile, Starter};

/// What is known from the start alone, and what ends with the process.
#[derive(Debug)]
pub struct Origin {
    /// Where this program came from, if that could be seen.
    pub executable: Option<Executable>,
    /// Whether HUP ends a daemon that has nothing to open again.
    pub hangup_ends: bool,
    /// The user that has started skd.
    pub starter: Starter,
    /// The limit of open files that handlers get back.
    pub files: Option<libc::rlimit>,
    /// The user that the process has become.
    pub identity: Option<Identity>,
    /// The users that handlers become.
    pub users: Vec<Identity>,
    /// What was asked for that only a start can do.
    pub settings: Settings,
    /// What the files said that the services come from, if they do.
    pub texts: Option<FileTexts>,
    /// The files of variables that were read.
    pub environment_files: Vec<EnvironmentFile>,
    /// The control groups of handlers, if there are some.
    pub groups: Option<Base>,
    /// Sessions in which processes are that no handler has started, though this process, as a subreaper,
    /// is their parent or may become it: those of jailers of earlier binaries, and of what this process
    /// had started before it became skd.
    pub sessions: Vec<i32>,
    /// The files of system calls that were read.
    pub filter_files: Vec<FilterFile>,
    /// The last to go: a program that waits for its removal finds nothing else left.
    pub pidfile: Option<PidFile>,
}
