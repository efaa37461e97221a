//! The target of standard error: unchanged, a file, or syslog through a relay.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::dup2_stderr;
use serde::{Deserialize, Serialize};

use super::relay::{Relay, SavedRelay};
use crate::config::{Identity, LogTarget};
use crate::error::{At, Error};
use crate::report::{self, Event, SavedSink, Sink, Trouble};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::directory::{Entry, FileId, SavedEntry};
use crate::sys::trusted::{Purpose, Refusal};

/// The least time between two starts of the relay.
const RELAY_PAUSE: Duration = Duration::from_secs(1);

/// The log. It is opened early, with the rights and paths of the start. It becomes standard error
/// when the start has succeeded: until then, errors go to the caller.
#[derive(Debug)]
pub struct Log {
    target: Target,
    /// How to write reports, which needs /proc.
    sink: Option<Sink>,
    /// /dev/null, which a daemon in the background has instead of a terminal.
    null: Option<OwnedFd>,
}

/// The log as it is saved for the next binary, which has it as standard error already.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLog {
    target: SavedTarget,
    sink: SavedSink,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedTarget {
    Elsewhere,
    File(SavedEntry, i32),
    Syslog(SavedRelay),
}

#[derive(Debug)]
enum Target {
    Inherited,
    Nowhere,
    File(LogFile),
    Syslog(Relay),
}

impl Log {
    /// Opens the log. A log file isn't emptied yet.
    ///
    /// A daemon in the background doesn't log to the terminal that it was started from.
    pub fn open(wanted: Option<&LogTarget>, background: bool) -> Result<Self, Error> {
        let null = background
            .then(descriptors::null)
            .transpose()
            .map_err(|reason| Error::start("can't open /dev/null", reason))?;
        let (target, sink) = match wanted {
            None if background && io::stderr().is_terminal() => (Target::Nowhere, Sink::Plain),
            None => (Target::Inherited, Sink::to(io::stderr())),
            Some(LogTarget::File { path, truncate }) => {
                let file = LogFile::open(path, *truncate).map_err(|why| cannot_open(path, why))?;
                let sink = Sink::to(&file.file);
                (Target::File(file), sink)
            }
            Some(LogTarget::Syslog { tag, level }) => {
                let relay = Relay::new(tag.clone(), *level).map_err(|reason| {
                    Error::start("--log: can't create a pipe for the relay", reason)
                })?;
                let sink = relay.sink();
                (Target::Syslog(relay), sink)
            }
        };
        Ok(Self {
            target,
            sink: Some(sink),
            null,
        })
    }

    /// Saves the log for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedLog, Errno> {
        Ok(SavedLog {
            target: match &self.target {
                Target::Inherited | Target::Nowhere => SavedTarget::Elsewhere,
                Target::File(log) => SavedTarget::File(log.entry.save(to)?, to.pass(&log.file)?),
                Target::Syslog(relay) => SavedTarget::Syslog(relay.save(to)?),
            },
            sink: report::save(to)?,
        })
    }

    /// Restores the log of the previous binary, and has reports written to it.
    pub fn restore(wanted: Option<&LogTarget>, saved: &SavedLog) -> Result<Self, Errno> {
        let target = match (&saved.target, wanted) {
            (SavedTarget::File(entry, file), Some(LogTarget::File { truncate, .. })) => {
                Target::File(LogFile {
                    entry: Entry::restore(entry.clone())?,
                    file: descriptors::claim(*file)?.into(),
                    truncate: *truncate,
                    fresh: false,
                })
            }
            (SavedTarget::Syslog(relay), Some(LogTarget::Syslog { tag, level })) => {
                Target::Syslog(Relay::restore(tag.clone(), *level, relay)?)
            }
            (_, None) => Target::Inherited,
            // The command line has another log.
            _ => return Err(Errno::EINVAL),
        };
        report::use_sink(Sink::restore(saved.sink)?);
        Ok(Self {
            target,
            sink: None,
            null: None,
        })
    }

    /// Returns the error of [`Self::open`], as far as it can be predicted without opening or
    /// creating anything.
    pub fn check(wanted: Option<&LogTarget>) -> Result<(), Error> {
        match wanted {
            Some(LogTarget::File { path, .. }) => {
                LogFile::check(path).map_err(|why| cannot_open(path, why))
            }
            _ => Ok(()),
        }
    }

    /// Starts the relay to syslog, if there is one, as the user that skd will become.
    pub fn start_relay(&mut self, identity: Option<&Identity>) -> Result<(), Error> {
        match &mut self.target {
            Target::Syslog(relay) => relay
                .start(identity)
                .map(drop)
                .map_err(|reason| Error::start("--log: can't start the relay to syslog", reason)),
            _ => Ok(()),
        }
    }

    /// Replaces standard input and output of a daemon in the background with /dev/null: always, or
    /// only terminals.
    pub fn leave_terminal(&mut self, always: bool) -> Result<(), Error> {
        let Some(null) = &self.null else {
            return Ok(());
        };
        let failed = |errno: Errno| Error::start("can't leave the terminal", errno);
        if always || io::stdin().is_terminal() {
            nix::unistd::dup2_stdin(null).map_err(failed)?;
        }
        if always || io::stdout().is_terminal() {
            nix::unistd::dup2_stdout(null).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes the log standard error.
    pub fn take_over(&mut self) -> Result<(), Error> {
        let result = match &mut self.target {
            Target::Inherited => Ok(()),
            Target::Nowhere => match self.null.take() {
                Some(null) => dup2_stderr(&null).map_err(io::Error::from),
                None => Ok(()),
            },
            Target::File(file) => dup2_stderr(&file.file).map_err(io::Error::from),
            Target::Syslog(relay) => relay.take_over(),
        };
        result.map_err(|reason| Error::start("can't make the log standard error", reason))?;
        if let Some(sink) = self.sink.take() {
            report::use_sink(sink);
        }
        Ok(())
    }

    /// Empties a log file of `--log '>FILE'`. Call this when the start is unlikely to fail, and
    /// before another process writes to the log.
    pub fn empty(&self) -> Result<(), Error> {
        match &self.target {
            Target::File(file) => file
                .empty()
                .map_err(|reason| Error::start("can't empty the log file", reason)),
            _ => Ok(()),
        }
    }

    /// Keeps a log file that the start has created, since it has succeeded.
    pub fn keep(&mut self) {
        if let Target::File(file) = &mut self.target {
            file.fresh = false;
        }
    }

    /// Opens a log file again, after logrotate(8) has renamed it. Returns whether there is a log
    /// file. After a failure, the old one stays open.
    pub fn reopen(&mut self) -> Result<bool, Refusal> {
        match &mut self.target {
            Target::File(file) => file.reopen().map(|()| true),
            _ => Ok(false),
        }
    }

    /// Returns when a relay that has ended may be started again, at most once a second.
    pub fn relay_due(&self) -> Instant {
        match &self.target {
            Target::Syslog(relay) => relay.started() + RELAY_PAUSE,
            _ => Instant::now(),
        }
    }

    /// Starts the relay again if it has ended, and reports that. Lines written meanwhile wait in
    /// the pipe.
    pub fn restart_relay(&mut self) {
        if let Target::Syslog(relay) = &mut self.target {
            report::event(Event::Trouble(match relay.start(None) {
                Ok(true) => Trouble::RelayRestarted,
                Ok(false) => return,
                Err(_) => Trouble::NoRelay,
            }));
        }
    }

    /// Returns a descriptor that becomes readable when the relay ends.
    pub fn relay_end(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::Syslog(relay) => relay.end(),
            _ => None,
        }
    }
}

fn cannot_open(path: &Path, why: Refusal) -> Error {
    let what = format!("--log {}: the file can't be opened", path.display());
    Error::start(what, At(io::Error::from(why), path))
}

/// A log file and its path.
#[derive(Debug)]
struct LogFile {
    entry: Entry,
    file: File,
    truncate: bool,
    /// Whether this start has created it and may still fail. Then it is removed.
    fresh: bool,
}

impl LogFile {
    fn open(path: &Path, truncate: bool) -> Result<Self, Refusal> {
        let entry = Entry::of(path)?;
        let (file, fresh) = entry.open(&Purpose::LOG)?;
        // If the rest fails, dropping this removes a created file.
        let log = Self {
            entry,
            file,
            truncate,
            fresh,
        };
        descriptors::set_blocking(&log.file, true)?;
        Ok(log)
    }

    fn check(path: &Path) -> Result<(), Refusal> {
        Entry::of(path)?.check(&Purpose::LOG)
    }

    fn empty(&self) -> io::Result<()> {
        if self.truncate && FileId::of_open(&self.file)?.is_file() {
            self.file.set_len(0)?;
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Refusal> {
        let (file, _) = self.entry.open(&Purpose::LOG)?;
        descriptors::set_blocking(&file, true)?;
        dup2_stderr(&file)?;
        // It may be of another type than the old one.
        report::use_sink(Sink::to(&file));
        self.file = file;
        Ok(())
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        if !self.fresh {
            return;
        }
        if let Ok(id) = FileId::of_open(&self.file) {
            // If this process may not remove it, the launcher still may.
            let _ = self.entry.remove(id);
        }
    }
}
