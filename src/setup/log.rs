//! The target of standard error: unchanged, or a file or syslog through a relay.

use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::dup2_stderr;
use serde::{Deserialize, Serialize};

use super::log_file::{self, Writer};
use super::relay::{Destination, Relay, Said, SavedRelay};
use super::syslog;
use crate::config::{Daemon, LogTarget, Service};
use crate::error::{At, Error};
use crate::report::{self, Event, SavedSink, Sink, Trouble};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::directory::{Entry, FileId};
use crate::sys::root::Root;
use crate::sys::trusted::Refusal;

/// The least time between two starts of the relay.
const RELAY_PAUSE: Duration = Duration::from_secs(1);

/// How long the end of skd waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log. It is opened early, with the rights and paths of the start. It becomes standard error
/// when the start has succeeded: until then, errors go to the caller.
#[derive(Debug)]
pub struct Log {
    output: Output,
    /// How to write reports, which needs /proc.
    sink: Option<Sink>,
    /// /dev/null, which a daemon in the background has instead of what it lets go of.
    null: Option<OwnedFd>,
}

/// What a process in the background lets go of, besides standard input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Nothing: it runs in the foreground.
    Nothing,
    /// A terminal.
    Terminal,
    /// A terminal, pipe or socket, by which the caller could wait for its end.
    Connections,
}

/// The log as it is saved for the next binary, which has it as standard error already.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLog {
    relay: Option<SavedRelay>,
    sink: SavedSink,
}

#[derive(Debug)]
enum Output {
    Inherited,
    Nowhere,
    File(LogFile),
    Syslog(Relay),
}

impl Log {
    /// Opens the log. A log file isn't emptied yet.
    pub fn open(daemon: &Daemon, services: &[Service], detach: Detach) -> Result<Self, Error> {
        let null = (detach != Detach::Nothing)
            .then(descriptors::null)
            .transpose()
            .map_err(|reason| Error::start("can't open /dev/null", reason))?;
        let (output, sink) = match &daemon.log {
            None if detach.lets_go_of(io::stderr()) => (Output::Nowhere, Sink::Plain),
            None => (Output::Inherited, Sink::to(io::stderr())),
            Some(LogTarget::File { path, truncate }) => {
                let file = LogFile::open(path, *truncate, daemon, services)?;
                let sink = file.relay.sink();
                (Output::File(file), sink)
            }
            Some(LogTarget::Syslog { tag, level }) => {
                let mut relay = relay(Destination::Syslog {
                    tag: tag.clone(),
                    level: *level,
                    root: Root::open().ok(),
                    lines: daemon.log_lines(),
                })?;
                relay.start().map_err(no_relay)?;
                let sink = relay.sink();
                (Output::Syslog(relay), sink)
            }
        };
        Ok(Self {
            output,
            sink: Some(sink),
            null,
        })
    }

    /// Saves the log for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedLog, Errno> {
        Ok(SavedLog {
            relay: self.relay().map(|relay| relay.save(to)).transpose()?,
            sink: report::save(to)?,
        })
    }

    /// Restores the log of the previous binary, and has reports written to it.
    pub fn restore(daemon: &Daemon, saved: &SavedLog) -> Result<Self, Errno> {
        let lines = daemon.log_lines();
        let output = match (&saved.relay, &daemon.log) {
            (Some(relay), Some(LogTarget::File { .. })) => Output::File(LogFile {
                relay: Relay::restore(None, lines, relay)?,
                truncate: false,
                made: None,
            }),
            (Some(relay), Some(LogTarget::Syslog { tag, level })) => {
                Output::Syslog(Relay::restore(Some((tag.clone(), *level)), lines, relay)?)
            }
            (_, None) => Output::Inherited,
            // The command line has another log.
            _ => return Err(Errno::EINVAL),
        };
        report::use_sink(Sink::restore(saved.sink)?);
        Ok(Self {
            output,
            sink: None,
            null: None,
        })
    }

    /// Returns the error of [`Self::open`], as far as it can be predicted without opening or
    /// creating anything.
    pub fn check(daemon: &Daemon, services: &[Service]) -> Result<(), Error> {
        match &daemon.log {
            Some(LogTarget::File { path, .. }) => {
                let writer = Writer::of(daemon, services);
                LogFile::check(path, &writer).map_err(|why| cannot_open(path, why.into()))
            }
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

    /// Returns what will be standard error once the log has taken over; none if that stays as it is.
    pub fn error(&self) -> Option<BorrowedFd<'_>> {
        match &self.output {
            Output::Inherited => None,
            Output::Nowhere => self.null.as_ref().map(AsFd::as_fd),
            Output::File(_) | Output::Syslog(_) => self.relay().and_then(Relay::input),
        }
    }

    /// Makes the log standard error. Before that, says on standard error which lines will be lost.
    pub fn take_over(&mut self) -> Result<(), Error> {
        let result = match &mut self.output {
            Output::Inherited => Ok(()),
            Output::Nowhere => match self.null.take() {
                Some(null) => {
                    report::note(
                        "--background without --log: from here on, standard error of skd and its \
                         handlers goes to /dev/null",
                    );
                    dup2_stderr(&null).map_err(io::Error::from)
                }
                None => Ok(()),
            },
            Output::File(file) => file.relay.take_over(),
            Output::Syslog(relay) => {
                if let Some(errno) = syslog::unreachable() {
                    report::note(format_args!(
                        "--log: no syslog reads /dev/log ({}): lines are lost until one does",
                        errno.desc()
                    ));
                }
                relay.take_over()
            }
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
        match &self.output {
            Output::File(file) if file.truncate => file
                .relay
                .empty()
                .map_err(|reason| Error::start("can't empty the log file", reason)),
            _ => Ok(()),
        }
    }

    /// Keeps a log file that the start has created, since it has succeeded.
    pub fn keep(&mut self) {
        if let Output::File(file) = &mut self.output {
            file.made = None;
        }
    }

    /// Whether there is a log file.
    pub fn is_file(&self) -> bool {
        matches!(self.output, Output::File(_))
    }

    /// Has a log file opened again, after logrotate(8) has renamed it. The relay opens it, and
    /// reports a failure: this doesn't wait. Returns whether the relay will say when that is done.
    pub fn reopen(&self) -> bool {
        match &self.output {
            Output::File(file) => file.relay.reopen(),
            _ => false,
        }
    }

    /// Returns the process id of the relay, if there is one.
    pub fn relay_id(&self) -> Option<i32> {
        self.relay().and_then(Relay::id)
    }

    /// Returns what the relay has said, after its descriptor became readable.
    pub fn listen(&self) -> Said {
        self.relay().map_or(Said::Ended, Relay::listen)
    }

    /// Waits shortly until the last lines of skd are written.
    pub fn finish(&self) {
        if let Some(relay) = self.relay() {
            relay.flush(LAST_LINES);
        }
    }

    /// Returns when a relay that has ended may be started again, at most once a second.
    pub fn relay_due(&self) -> Instant {
        self.relay()
            .map_or_else(Instant::now, |relay| relay.started() + RELAY_PAUSE)
    }

    /// Starts the relay again if it has ended, and reports that. Lines written meanwhile wait in
    /// the pipe.
    pub fn restart_relay(&mut self) {
        let (relay, syslog) = match &mut self.output {
            Output::File(file) => (&mut file.relay, false),
            Output::Syslog(relay) => (relay, true),
            Output::Inherited | Output::Nowhere => return,
        };
        report::event(Event::Trouble(match relay.restart() {
            Ok(true) => Trouble::RelayRestarted { syslog },
            Ok(false) => return,
            Err(_) => Trouble::NoRelay { syslog },
        }));
    }

    /// Returns a descriptor that becomes readable when the relay ends or says something.
    pub fn relay_end(&self) -> Option<BorrowedFd<'_>> {
        self.relay()?.end()
    }

    fn relay(&self) -> Option<&Relay> {
        match &self.output {
            Output::File(file) => Some(&file.relay),
            Output::Syslog(relay) => Some(relay),
            Output::Inherited | Output::Nowhere => None,
        }
    }
}

impl Detach {
    fn lets_go_of(self, error: impl AsFd + IsTerminal) -> bool {
        match self {
            Self::Nothing => false,
            Self::Terminal => error.is_terminal(),
            Self::Connections => error.is_terminal() || is_connection(error.as_fd()),
        }
    }
}

/// Whether this is a pipe or a socket, but not the journal, for whose end nothing waits.
fn is_connection(fd: BorrowedFd<'_>) -> bool {
    let Ok(stat) = fstat(fd) else { return false };
    // systemd.exec(5): device and inode of the socket.
    let journal = env::var("JOURNAL_STREAM").unwrap_or_default();
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    kind == SFlag::S_IFIFO
        || kind == SFlag::S_IFSOCK && journal != format!("{}:{}", stat.st_dev, stat.st_ino)
}

fn cannot_open(path: &Path, reason: io::Error) -> Error {
    let what = format!("--log {}: the file can't be opened", path.display());
    Error::start(what, At(reason, path))
}

fn no_relay(reason: io::Error) -> Error {
    Error::start("--log: can't start the relay to syslog", reason)
}

fn relay(to: Destination) -> Result<Relay, Error> {
    Relay::new(to)
        .map_err(|reason| Error::start("--log: can't create a pipe for the relay", reason))
}

/// A log file, by the relay that has it open.
#[derive(Debug)]
struct LogFile {
    relay: Relay,
    truncate: bool,
    /// The file that this start has made and may have to remove.
    made: Option<(Arc<Entry>, FileId)>,
}

impl LogFile {
    fn open(
        path: &Path,
        truncate: bool,
        daemon: &Daemon,
        services: &[Service],
    ) -> Result<Self, Error> {
        let failed = |reason| cannot_open(path, reason);
        let entry = Entry::of(standard(path)).map_err(|why| failed(why.into()))?;
        let entry = Arc::new(entry);
        let mut relay = relay(Destination::File {
            entry: Arc::clone(&entry),
            writer: Writer::of(daemon, services),
            lines: daemon.log_lines(),
        })?;
        let made = relay.start().map_err(failed)?;
        Ok(Self {
            relay,
            truncate,
            made: made.map(|id| (entry, id)),
        })
    }

    fn check(path: &Path, writer: &Writer) -> Result<(), Refusal> {
        log_file::check(Entry::of(standard(path))?, writer)
    }
}

/// Returns the path in /dev of a standard descriptor. The relay opens that in /proc/self, which is
/// its own. At the start it has the same standard descriptors as skd.
fn standard(path: &Path) -> &Path {
    let number = ["/dev/fd", "/proc/self/fd"]
        .iter()
        .find_map(|directory| path.strip_prefix(directory).ok());
    match number.and_then(Path::to_str) {
        Some("0") => Path::new("/dev/stdin"),
        Some("1") => Path::new("/dev/stdout"),
        Some("2") => Path::new("/dev/stderr"),
        _ => path,
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        if let Some((entry, id)) = &self.made {
            // If this process may not remove it, the launcher still may.
            let _ = entry.remove(*id);
        }
    }
}
