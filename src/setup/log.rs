//! Where standard error goes: nowhere else, to a file, or through a relay to syslog.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, dup2_stderr};
use serde::{Deserialize, Serialize};

use super::relay::{Relay, SavedRelay};
use crate::config::{Identity, LogTarget};
use crate::error::Error;
use crate::report::{self, Event, SavedSink, Sink, Trouble};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::directory::{Entry, FileId, SavedEntry};

/// The least time between two starts of the relay.
const RELAY_PAUSE: Duration = Duration::from_secs(1);

/// The log, opened while that is possible, and taken as standard error when all else has
/// succeeded: until then, errors go where the caller sees them.
#[derive(Debug)]
pub struct Log {
    target: Target,
    /// How reports will be written, found out while /proc is in sight.
    sink: Option<Sink>,
    /// /dev/null, opened while that is in sight: what a daemon in the background has for a
    /// terminal.
    null: Option<OwnedFd>,
}

/// The same for another image of this process, whose standard error it is already.
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
    /// Opens the log. Nothing that is in a file is lost yet.
    ///
    /// A daemon in the background whose log is nowhere else has none on the terminal that
    /// it was started from.
    pub fn open(wanted: Option<&LogTarget>, background: bool) -> Result<Self, Error> {
        let null = background
            .then(descriptors::null)
            .transpose()
            .map_err(|reason| Error::start("can't open /dev/null", reason))?;
        let (target, sink) = match wanted {
            None if background && io::stderr().is_terminal() => (Target::Nowhere, Sink::Plain),
            None => (Target::Inherited, Sink::to(io::stderr())),
            Some(LogTarget::File { path, truncate }) => {
                let file =
                    LogFile::open(path, *truncate).map_err(|errno| cannot_open(path, errno))?;
                let sink = Sink::to(&file.file);
                (Target::File(file), sink)
            }
            Some(LogTarget::Syslog { tag, level }) => {
                let relay = Relay::new(tag.clone(), *level)
                    .map_err(|reason| Error::start("--log: no pipe for the relay", reason))?;
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

    /// Lets the next image of this process have it.
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

    /// What an earlier image had, for the log that is `wanted`; reports go there from now on.
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
            // Another log than this command line's.
            _ => return Err(Errno::EINVAL),
        };
        report::use_sink(Sink::restore(saved.sink)?);
        Ok(Self {
            target,
            sink: None,
            null: None,
        })
    }

    /// Says what [`Self::open`] would fail with, as far as that shows without opening or
    /// making anything.
    pub fn check(wanted: Option<&LogTarget>) -> Result<(), Error> {
        match wanted {
            Some(LogTarget::File { path, .. }) => {
                LogFile::check(path).map_err(|errno| cannot_open(path, errno))
            }
            _ => Ok(()),
        }
    }

    /// Starts the relay to syslog, if the log needs one, as the user that skd will be.
    pub fn start_relay(&mut self, identity: Option<&Identity>) -> Result<(), Error> {
        match &mut self.target {
            Target::Syslog(relay) => relay.start(identity).map(drop).map_err(|reason| {
                Error::start("--log: the relay to syslog can't be started", reason)
            }),
            _ => Ok(()),
        }
    }

    /// Puts /dev/null on standard input and output of a daemon in the background: on both
    /// always, or where they are a terminal.
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
        result.map_err(|reason| Error::start("the log can't become standard error", reason))?;
        if let Some(sink) = self.sink.take() {
            report::use_sink(sink);
        }
        Ok(())
    }

    /// Empties a log file that is to be emptied: when all has succeeded that is likely to
    /// fail, and before anybody else writes to it.
    pub fn empty(&self) -> Result<(), Error> {
        match &self.target {
            Target::File(file) => file
                .empty()
                .map_err(|reason| Error::start("the log file can't be emptied", reason)),
            _ => Ok(()),
        }
    }

    /// Says that the start has succeeded: a log file that it made stays.
    pub fn keep(&mut self) {
        if let Target::File(file) = &mut self.target {
            file.fresh = false;
        }
    }

    /// Opens a log file again, as after logrotate(8) has moved it away; says whether there
    /// is one. A failure keeps the old one.
    pub fn reopen(&mut self) -> Result<bool, Errno> {
        match &mut self.target {
            Target::File(file) => file.reopen().map(|()| true),
            _ => Ok(false),
        }
    }

    /// When a relay that has ended may be started again: at most once a second.
    pub fn relay_due(&self) -> Instant {
        match &self.target {
            Target::Syslog(relay) => relay.started() + RELAY_PAUSE,
            _ => Instant::now(),
        }
    }

    /// Starts the relay again if it has ended, and says so. What handlers wrote meanwhile waits
    /// in the pipe.
    pub fn restart_relay(&mut self) {
        if let Target::Syslog(relay) = &mut self.target {
            report::event(Event::Trouble(match relay.start(None) {
                Ok(true) => Trouble::RelayRestarted,
                Ok(false) => return,
                Err(_) => Trouble::NoRelay,
            }));
        }
    }

    /// What becomes readable when the relay has ended.
    pub fn relay_end(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::Syslog(relay) => relay.end(),
            _ => None,
        }
    }
}

fn cannot_open(path: &Path, errno: Errno) -> Error {
    let path = path.display();
    Error::start(format!("--log {path}: the file can't be opened"), errno)
}

/// A log file and where it is.
#[derive(Debug)]
struct LogFile {
    entry: Entry,
    file: File,
    truncate: bool,
    /// Whether it was made here by a start that hasn't succeeded yet: if it fails, it goes.
    fresh: bool,
}

/// Non-blocking for the moment of opening: a FIFO without a reader would wait.
const FLAGS: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_APPEND)
    .union(OFlag::O_NONBLOCK);

impl LogFile {
    fn open(path: &Path, truncate: bool) -> Result<Self, Errno> {
        let entry = Entry::of(path)?;
        let (file, fresh) = entry.open_or_create(FLAGS, 0o666)?;
        // Dropped if the rest fails, and with it goes a file that was made.
        let log = Self {
            entry,
            file,
            truncate,
            fresh,
        };
        descriptors::set_blocking(&log.file, true)?;
        Ok(log)
    }

    fn check(path: &Path) -> Result<(), Errno> {
        let entry = Entry::of(path)?;
        match entry.target() {
            Ok(id) if id.is_directory() => Err(Errno::EISDIR),
            Ok(id) if id.is_socket() => Err(Errno::ENXIO),
            Ok(_) => entry.may_open(AccessFlags::W_OK),
            Err(Errno::ENOENT) => match entry.id() {
                // A symbolic link to what isn't there yet, which opening it would make.
                Ok(_) => Ok(()),
                Err(_) => entry.may_create(),
            },
            Err(errno) => Err(errno),
        }
    }

    fn empty(&self) -> io::Result<()> {
        if self.truncate && FileId::of_open(&self.file)?.is_file() {
            self.file.set_len(0)?;
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Errno> {
        // Not O_CREAT at once: in a sticky directory that others can write to, the kernel
        // may refuse it for a file that exists (proc_sys_fs(5), protected_regular).
        let file = match self.entry.open(FLAGS, 0o666) {
            Err(Errno::ENOENT) => self.entry.open(FLAGS | OFlag::O_CREAT, 0o666),
            opened => opened,
        }?;
        descriptors::set_blocking(&file, true)?;
        dup2_stderr(&file)?;
        // It may be of another kind than the old one.
        report::use_sink(Sink::to(&file));
        self.file = file;
        Ok(())
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        if self.fresh
            && let Ok(id) = FileId::of_open(&self.file)
        {
            // If it can't be, the witness of the start may still have the right.
            let _ = self.entry.remove(id);
        }
    }
}
