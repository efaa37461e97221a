//! The state of an upgrade: a document that names every service and holds what each module saved.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::findings::Findings;
use super::saved_identity::SavedIdentity;
use crate::child::SavedPool;
use crate::config::seccomp::FilterFile;
use crate::config::{self, EnvironmentFile, FileTexts, LogFormat, ServiceText};
use crate::net::{SavedFile, SavedListener};
use crate::serve::admission::SavedRates;
use crate::serve::availability::Availability;
use crate::serve::control::acts::SavedActs;
use crate::serve::control::filter_calls::SavedListeners;
use crate::serve::control::saved_counters::SavedFigures;
use crate::serve::control::saved_rules::SavedServiceRules;
use crate::serve::control::socket::saved::SavedControl;
use crate::serve::control::tls::SavedTls;
use crate::serve::handlers::saved::{SavedHandler, SavedLingering};
use crate::serve::service::{DrainTimeouts, TimeLimits};
use crate::serve::worker::datagram::SavedExchange;
use crate::serve::worker::saved::SavedPending;
use crate::setup::Starter;
use crate::setup::cgroups::SavedBase;
use crate::setup::executable::SavedExecutable;
use crate::setup::log::SavedLog;
use crate::setup::notify::SavedManager;
use crate::setup::pidfile::SavedPidFile;
use crate::sys::capabilities;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::objects::Objects;
use crate::sys::reexec::{self, ExecArguments};
use crate::sys::users::UnknownIds;

/// What the document looks like. Fields may be added; a binary that needs a missing field, or
/// that sees another number here, fails its preflight.
pub(in crate::serve) const FORMAT: u32 = 3;

/// All that the next binary needs to know besides its configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    pub(in crate::serve) format: u32,
    /// The version of the skd that wrote it.
    pub(in crate::serve) version: String,
    pub(in crate::serve) open: OpenDescriptors,
    pub(in crate::serve) process: SavedProcess,
    /// The user that the process has become.
    pub(in crate::serve) identity: Option<SavedIdentity>,
    /// The users that handlers become.
    pub(in crate::serve) users: Vec<SavedIdentity>,
    #[serde(default)]
    pub(in crate::serve) environment_files: Vec<EnvironmentFile>,
    #[serde(default)]
    pub(in crate::serve) filter_files: Vec<FilterFile>,
    pub(in crate::serve) executable: SavedExecutable,
    pub(in crate::serve) pidfile: Option<SavedPidFile>,
    pub(in crate::serve) log: SavedLog,
    pub(in crate::serve) manager: Option<SavedManager>,
    /// The control groups of handlers.
    #[serde(default)]
    pub(in crate::serve) groups: Option<SavedBase>,
    /// Sessions of processes that aren't handlers'.
    #[serde(default)]
    pub(in crate::serve) sessions: Vec<i32>,
    pub(in crate::serve) services: Vec<SavedService>,
    /// The control socket, and its clients.
    #[serde(default)]
    pub(in crate::serve) control: Option<SavedControl>,
    /// What serves TLS.
    #[serde(default)]
    pub(in crate::serve) tls: Option<SavedTls>,
    pub(in crate::serve) lingering: Vec<SavedLingering>,
    /// What was counted, unless this is the state of a preflight.
    #[serde(default)]
    pub(in crate::serve) figures: Option<SavedFigures>,
    /// How many connections aren't here, since this is the state of a preflight.
    #[serde(default)]
    pub(in crate::serve) left_out: usize,
    /// How many handlers there have been, live ones among them.
    pub(in crate::serve) served: u64,
    /// What the files said that the services come from, if they do.
    #[serde(default)]
    pub(in crate::serve) texts: Option<FileTexts>,
    /// What clients of the control socket have begun.
    #[serde(default)]
    pub(in crate::serve) acts: SavedActs,
    /// What was asked for that only a start can do.
    #[serde(default)]
    pub(in crate::serve) settings: Option<Settings>,
    /// What the preflight has read and looked up, for a process that goes on after it.
    #[serde(skip)]
    pub(in crate::serve) findings: Option<Findings>,
    /// Why another binary, or other files, couldn't go on after all.
    #[serde(skip)]
    pub(in crate::serve) faults: Vec<String>,
}

/// What is open for the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct OpenDescriptors {
    pub(in crate::serve) all: Vec<i32>,
    /// The memory file itself.
    pub(in crate::serve) memory: i32,
    /// The binary that wrote the state, and the next.
    pub(in crate::serve) old: i32,
    pub(in crate::serve) new: i32,
    /// /dev/null.
    pub(in crate::serve) null: i32,
    /// A memory file for what a preflight finds.
    #[serde(default)]
    pub(in crate::serve) findings: Option<i32>,
}

/// What only the start knew of the process.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedProcess {
    pub(in crate::serve) hangup_ends: bool,
    pub(in crate::serve) starter: Starter,
    /// Whether rules or files are being read, which the next binary does from the beginning.
    pub(in crate::serve) reloads: bool,
    /// Whether it goes on with the same binary, to read files again.
    #[serde(default)]
    pub(in crate::serve) is_reload: bool,
    /// How many stream workers there are: after chroot(2), what limits them can't be seen.
    pub(in crate::serve) stream_workers: usize,
    /// The limit of open files that handlers get back.
    pub(in crate::serve) files: Option<(libc::rlim_t, libc::rlim_t)>,
    /// When skd was started, in milliseconds of the monotonic clock.
    #[serde(default)]
    pub(in crate::serve) began: Option<u64>,
    /// Whether other processes of its user may look into it.
    pub(in crate::serve) dumpable: bool,
    /// The ids that stand for unknown users: after chroot(2), /proc may be out of sight.
    pub(in crate::serve) unknown_ids: UnknownIds,
}

/// A service. The next binary knows it by its name, and its listeners by their addresses.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedService {
    pub(in crate::serve) name: String,
    pub(in crate::serve) limits: Option<TimeLimits>,
    pub(in crate::serve) drain: Option<DrainTimeouts>,
    pub(in crate::serve) datagram_workers: usize,
    /// How many handlers there have been, where that is limited, live ones among them.
    #[serde(default)]
    pub(in crate::serve) total: u64,
    /// Whether those were all, so that its stream listeners are closed.
    #[serde(default)]
    pub(in crate::serve) is_done: bool,
    /// Whether it takes new clients, whatever its configuration says by then.
    #[serde(default)]
    pub(in crate::serve) availability: Availability,
    pub(in crate::serve) listeners: Vec<SavedListener>,
    /// The files of the listeners.
    pub(in crate::serve) files: Vec<SavedFile>,
    pub(in crate::serve) rules: Option<SavedServiceRules>,
    pub(in crate::serve) handlers: Vec<SavedHandler>,
    pub(in crate::serve) pending: Vec<SavedPending>,
    pub(in crate::serve) exchanges: Vec<SavedExchange>,
    /// The token buckets that aren't full.
    #[serde(default)]
    pub(in crate::serve) rates: Option<SavedRates>,
    /// How it was written, if it isn't configured any more and still serves clients.
    #[serde(default)]
    pub(in crate::serve) retiring: Option<Arc<ServiceText>>,
    /// Its prestarted handlers.
    #[serde(default)]
    pub(in crate::serve) pool: Option<SavedPool>,
    /// The listeners of its handlers' filters.
    #[serde(default)]
    pub(in crate::serve) filter_listeners: Vec<SavedListeners>,
}

impl SavedService {
    /// Whether nothing is left of it that a process would have to go on with.
    pub(in crate::serve) fn is_over(&self) -> bool {
        self.handlers.is_empty()
            && self.listeners.is_empty()
            && self.pending.is_empty()
            && self.exchanges.is_empty()
    }
}

/// What was asked for that only a start can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    user: Option<OsString>,
    root: Option<PathBuf>,
    background: bool,
    pidfile: Option<PathBuf>,
    ready_fd: Option<i32>,
    log: Option<String>,
    #[serde(default)]
    log_format: LogFormat,
    #[serde(default)]
    log_time: Option<bool>,
    /// The number of threads, which a reload can change.
    threads: Option<NonZeroUsize>,
    #[serde(default)]
    control: Option<config::Control>,
}

impl Settings {
    /// The settings of a daemon.
    pub fn of(daemon: &config::Daemon) -> Self {
        Self {
            user: daemon.identity.as_ref().map(|it| it.name.clone()),
            root: daemon.root.clone(),
            background: daemon.background,
            pidfile: daemon.pidfile.clone(),
            ready_fd: daemon.ready_fd,
            log: daemon.log.as_ref().map(|log| format!("{log:?}")),
            log_format: daemon.log_format,
            log_time: daemon.log_time,
            threads: daemon.threads,
            control: daemon.control.clone(),
        }
    }

    /// The number of threads that accept connections, if it was set.
    pub fn threads(&self) -> Option<NonZeroUsize> {
        self.threads
    }

    /// Returns the options that differ and that a running process can't change, each with the reason.
    pub fn fixed(&self, new: &Self) -> impl Iterator<Item = (&'static str, &'static str)> {
        // Without both there is only one fault: that there is one, or none.
        let sockets = self.control.as_ref().zip(new.control.as_ref());
        let all = [
            (self.user != new.user, "daemon-user", "another user"),
            (self.root != new.root, "chroot", "another root directory"),
            (
                self.background != new.background,
                "background",
                "another place to run",
            ),
            (self.pidfile != new.pidfile, "pidfile", "another pid file"),
            (self.ready_fd != new.ready_fd, "ready-fd", "another caller"),
            (self.log != new.log, "log", "another log"),
            (
                self.log_format != new.log_format,
                "log-format",
                "another format of its log",
            ),
            (
                self.log_time != new.log_time,
                "log-time",
                "other lines in its log",
            ),
            (
                self.control.is_some() != new.control.is_some()
                    || sockets.is_some_and(|(old, new)| old.path != new.path),
                "control",
                "another control socket",
            ),
            (
                sockets.is_some_and(|(old, new)| old.mode != new.mode),
                "control-mode",
                "another mode of its control socket",
            ),
            (
                sockets.is_some_and(|(old, new)| old.owner != new.owner),
                "control-owner",
                "another owner of its control socket",
            ),
            (
                sockets.is_some_and(|(old, new)| old.readers != new.readers),
                "control-read",
                "other readers of its control socket",
            ),
        ];
        let changed = all.into_iter().filter(|(changed, ..)| *changed);
        changed.map(|(_, option, what)| (option, what))
    }
}

/// The number alone, which any document has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl State {
    /// Reads the document in a memory file.
    pub(in crate::serve) fn read(memory: i32) -> io::Result<Self> {
        let file = File::from(descriptors::claim(memory)?);
        let length = file.metadata()?.len();
        let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
        // Not from where the last reader left off.
        file.read_exact_at(&mut text, 0)?;
        Self::parse(&text)
    }

    /// Parses the document.
    pub fn parse(text: &[u8]) -> io::Result<Self> {
        let Objects(Format { format }) = serde_json::from_slice(text)?;
        if format != FORMAT {
            let text = format!("it is of format {format}, and this skd reads {FORMAT}");
            return Err(io::Error::other(text));
        }
        let Objects(state) = serde_json::from_slice(text)?;
        Ok(state)
    }
}

/// A state that is written down, and what goes with it.
pub(in crate::serve) struct Written {
    pub(in crate::serve) memory: i32,
    pub(in crate::serve) carried: SavedDescriptors,
    pub(in crate::serve) file: File,
    pub(in crate::serve) length: u64,
}

impl Written {
    /// Becomes the program in an open file, with all that is carried. Returns only with the reason
    /// why not.
    pub(in crate::serve) fn exec_file(&self, next: &OwnedFd, arguments: &ExecArguments) -> Errno {
        let ready = self.carried.survive(true);
        // A process that isn't root would have none of its capabilities afterwards.
        let ready = ready.and_then(|()| match Uid::effective().is_root() {
            true => Ok(()),
            false => capabilities::pass_on(),
        });
        match ready {
            Ok(()) => reexec::exec_file(next, arguments),
            Err(errno) => errno,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: &[u8] = include_bytes!("../../../../fuzz/seeds/upgrade/state");

    #[test]
    fn the_seed_of_fuzzing_is_a_state() {
        State::parse(SEED).unwrap();
    }

    proptest! {
        #[test]
        fn a_damaged_state_is_read_or_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
            end in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let mut text = SEED.to_vec();
            for (at, byte) in changes {
                let at = at.index(text.len());
                text[at] = byte;
            }
            if cut {
                text.truncate(end.index(text.len()));
            }
            if let Err(reason) = State::parse(&text) {
                prop_assert!(!reason.to_string().is_empty());
            }
        }
    }
}
