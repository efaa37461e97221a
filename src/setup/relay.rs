//! The relay: a process that reads lines from a pipe, which is standard error of skd and all
//! handlers, and writes each to the log file or to syslog.
//!
//! No handler has the log itself, and only the relay waits for a file server or for syslog. The
//! relay is forked twice, so that its parent is init. It ignores the signals that end skd, and ends
//! when the last writer has closed the pipe and all lines are written. Where skd is root, it is a
//! process of root without capabilities, so that handlers of other users can neither signal nor trace
//! it; where handlers are root too, it can open any file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{dup2_stderr, setsid};
use serde::{Deserialize, Serialize};

use super::confine::{Process, confine};
use super::lines::{Lines, Output, TIMEOUT};
use super::log_file::{self, FileWriter, Opener, Writer};
use super::syslog::Syslog;
use crate::config::{Level, LogLines};
use crate::report::Sink;
use crate::sys::capabilities::{self, Capabilities};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::directory::{Entry, FileId, SavedEntry};
use crate::sys::objects::Objects;
use crate::sys::pipe::pipe;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::root::Root;
use crate::sys::signals;
use crate::sys::trusted::Refusal;
use crate::sys::{events, names};

/// The pipe to the relay process, and what is needed to start the process again.
#[derive(Debug)]
pub(super) struct Relay {
    to: Destination,
    /// The read end, which skd keeps open too: lines written while no relay runs wait for the next
    /// one, and SIGPIPE kills no handler.
    output: File,
    input: Option<File>,
    /// A socket for requests, whose other end only the relay process has. It is at end of file when
    /// the relay has ended.
    control: Option<File>,
    /// Its process id.
    id: Option<i32>,
    started: Instant,
}

/// What the relay writes to.
#[derive(Debug)]
pub(super) enum Destination {
    /// Syslog, by /dev/log of a root directory.
    Syslog {
        /// The beginning of each line.
        tag: OsString,
        /// The facility and severity of the messages.
        level: Level,
        /// The root directory of the start; none if it can't be opened.
        root: Option<Root>,
        /// How the relay writes its own lines.
        lines: LogLines,
    },
    /// A file.
    File {
        /// Its directory and name.
        entry: Arc<Entry>,
        /// The users of handlers.
        writer: Writer,
        /// Whether each line gets a time, and how the relay writes its own.
        lines: LogLines,
    },
}

/// The relay as it is saved for the next binary. The relay process keeps running.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedRelay {
    to: SavedDestination,
    output: i32,
    control: Option<i32>,
    #[serde(default)]
    id: Option<i32>,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedDestination {
    Syslog(Option<i32>),
    File(SavedEntry, Writer),
}

/// What skd asks of the relay: a message of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Request {
    /// To empty the file. Answered with the reason why it couldn't.
    Empty = b'E',
    /// To open the file again. Answered when that is done; a failure is a line of the log.
    Reopen = b'R',
    /// To write all that is in the pipe. Answered when that is done.
    Flush = b'F',
}

/// The relay's answer, as a message.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    /// The request, or none for the start.
    to: Option<u8>,
    /// The reason of a failure.
    failure: Option<Failure>,
    /// Device and inode of a file that was made.
    made: Option<(u64, u64)>,
}

/// Why a file can't be opened or emptied, as one process tells another.
#[derive(Debug, Serialize, Deserialize)]
enum Failure {
    Errno(i32),
    Untrusted(String),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno as i32)
    }
}

impl From<&Refusal> for Failure {
    fn from(why: &Refusal) -> Self {
        match why {
            Refusal::Failed(errno) => (*errno).into(),
            Refusal::Untrusted(why) => Self::Untrusted(why.clone()),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Errno(errno) => Errno::from_raw(errno).into(),
            Failure::Untrusted(why) => Self::other(why),
        }
    }
}

/// The length of the longest answer in bytes: a failure names a path.
const LONGEST_ANSWER: usize = 2 * libc::PATH_MAX as usize;

/// What the relay has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// It has opened the log file again, or tried to.
    Reopened,
    /// It has ended.
    Ended,
}

impl Relay {
    /// Makes the pipe.
    pub(super) fn new(to: Destination) -> io::Result<Self> {
        let (output, input) = pipe()?;
        // So that handlers of another user can open /dev/stderr, but not to read others' lines.
        fchmod(&input, Mode::from_bits_truncate(0o622))?;
        Ok(Self {
            to,
            output,
            input: Some(input),
            control: None,
            id: None,
            started: Instant::now(),
        })
    }

    /// Saves the relay for the next binary.
    pub(super) fn save(&self, to: &mut SavedDescriptors) -> Result<SavedRelay, Errno> {
        let mut pass = |fd: Option<BorrowedFd<'_>>| fd.map(|fd| to.pass(fd)).transpose();
        let control = pass(self.end())?;
        Ok(SavedRelay {
            to: match &self.to {
                Destination::Syslog { root, .. } => {
                    SavedDestination::Syslog(pass(root.as_ref().map(AsFd::as_fd))?)
                }
                Destination::File { entry, writer, .. } => {
                    SavedDestination::File(entry.save(to)?, writer.clone())
                }
            },
            control,
            id: self.id,
            output: to.pass(&self.output)?,
        })
    }

    /// Restores the relay of the previous binary. `syslog` is the tag and level of a relay to
    /// syslog, and none for a file.
    pub(super) fn restore(
        syslog: Option<(OsString, Level)>,
        lines: LogLines,
        saved: &SavedRelay,
    ) -> Result<Self, Errno> {
        let claim = |number: Option<i32>| number.map(descriptors::claim).transpose();
        let to = match (&saved.to, syslog) {
            (SavedDestination::Syslog(root), Some((tag, level))) => Destination::Syslog {
                tag,
                level,
                root: claim(*root)?.map(Root::restore),
                lines,
            },
            (SavedDestination::File(entry, writer), None) => Destination::File {
                entry: Arc::new(Entry::restore(entry.clone())?),
                writer: writer.clone(),
                lines,
            },
            _ => return Err(Errno::EINVAL),
        };
        Ok(Self {
            to,
            output: descriptors::claim(saved.output)?.into(),
            input: None,
            control: claim(saved.control)?.map(File::from),
            id: saved.id,
            started: Instant::now(),
        })
    }

    /// Returns how skd writes its own lines to it.
    pub(super) fn sink(&self) -> Sink {
        self.input.as_ref().map_or(Sink::Plain, Sink::to)
    }

    /// Returns the pipe, until it is standard error.
    pub(super) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    /// Makes the pipe standard error, and closes its other descriptor: it ends when no process has
    /// it as standard error.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        match self.input.take() {
            Some(input) => Ok(dup2_stderr(input)?),
            None => Ok(()),
        }
    }

    /// Returns when it was last started, or starting failed.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Returns a descriptor that becomes readable when the relay ends.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// Returns its process id, if it was started.
    pub(super) fn id(&self) -> Option<i32> {
        self.id
    }

    /// Starts the process for the first time. A log file is opened, and made if there is none.
    /// Returns the identity of a file that was made.
    pub(super) fn start(&mut self) -> io::Result<Option<FileId>> {
        self.fork(true)?;
        match &self.to {
            Destination::Syslog { .. } => Ok(None),
            Destination::File { .. } => {
                let made = self.answer(None, None)?.made;
                Ok(made.map(|(device, inode)| FileId::of_regular(device, inode)))
            }
        }
    }

    /// Starts the process again if it isn't running. Returns whether it was started.
    pub(super) fn restart(&mut self) -> io::Result<bool> {
        // Two relays would each get parts of lines.
        if !self.has_ended() {
            self.started = Instant::now();
            return Ok(false);
        }
        self.fork(false).map(|()| true)
    }

    /// Whether there is no relay any more, nor an answer of it that is to be received.
    fn has_ended(&self) -> bool {
        let Some(control) = &self.control else {
            return true;
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        let seen = recv(control.as_raw_fd(), &mut [0; 1], flags);
        seen.map_or_else(is_end, |length| length == 0)
    }

    /// Empties the log file.
    pub(super) fn empty(&self) -> io::Result<()> {
        self.ask(Request::Empty)?;
        self.answer(Some(Request::Empty), None).map(drop)
    }

    /// Has the log file opened again, without waiting for that. Returns whether there will be an
    /// answer.
    pub(super) fn reopen(&self) -> bool {
        // A relay that reads no requests, with so many unread, opens it when it reads the first. One
        // that has ended opens it when it starts again.
        self.ask(Request::Reopen).is_ok()
    }

    /// Returns what the relay has said, without waiting.
    pub(super) fn listen(&self) -> Said {
        let mut message = [0; LONGEST_ANSWER];
        match self.receive(&mut message) {
            Ok(Some(answer)) if answer.to == Some(Request::Reopen as u8) => Said::Reopened,
            Ok(_) => Said::Nothing,
            Err(_) => Said::Ended,
        }
    }

    /// Waits until the relay has written what is in the pipe, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        if self.ask(Request::Flush).is_ok() {
            let _ = self.answer(Some(Request::Flush), Some(limit));
        }
    }

    fn ask(&self, request: Request) -> Result<(), Errno> {
        let control = self.control.as_ref().ok_or(Errno::ENOTCONN)?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let mut tries = 3;
        loop {
            tries -= 1;
            match send(control.as_raw_fd(), &[request as u8], flags) {
                Err(Errno::EINTR) if tries > 0 => {}
                sent => return sent.map(drop),
            }
        }
    }

    /// Waits for the answer to this request, or to the start.
    fn answer(&self, to: Option<Request>, limit: Option<Duration>) -> io::Result<Answer> {
        let control = self.end().ok_or(Errno::ENOTCONN)?;
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut message = [0; LONGEST_ANSWER];
        loop {
            let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Errno::ETIMEDOUT.into());
            }
            events::wait_readable([control], left);
            match self.receive(&mut message)? {
                Some(answer) if answer.to == to.map(|request| request as u8) => {
                    return match answer.failure {
                        None => Ok(answer),
                        Some(failure) => Err(failure.into()),
                    };
                }
                _ => {}
            }
        }
    }

    /// Returns an answer; none if there is none now. The error is the relay's end.
    fn receive(&self, message: &mut [u8]) -> io::Result<Option<Answer>> {
        let control = self.control.as_ref().ok_or(Errno::ENOTCONN)?;
        match recv(control.as_raw_fd(), message, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(Errno::ECONNRESET.into()),
            Ok(length) => {
                let Objects(answer) = serde_json::from_slice(&message[..length])?;
                Ok(Some(answer))
            }
            Err(errno) if is_end(errno) => Err(errno.into()),
            Err(_) => Ok(None),
        }
    }

    fn fork(&mut self, first: bool) -> io::Result<()> {
        self.started = Instant::now();
        let (ours, its) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        descriptors::set_blocking(&its, false)?;
        let its = File::from(its);
        let (mut told, mut tell) = pipe()?;
        match process::fork()? {
            Fork::Parent(child) => {
                // Without the status, the socket tells whether there is a relay.
                let end = process::wait(Target::Process(child), Wait::UNTIL_END);
                if matches!(end, Ok(Some((_, Change::Ended(end)))) if end != Ended::Exited(0)) {
                    return Err(Errno::EAGAIN.into());
                }
                self.control = Some(ours.into());
                let mut id = [0; 4];
                drop(tell);
                self.id = told
                    .read_exact(&mut id)
                    .ok()
                    .map(|()| i32::from_ne_bytes(id));
                Ok(())
            }
            Fork::Child => match process::fork() {
                Ok(Fork::Child) => {
                    self.run(its, first);
                    process::exit_now(0)
                }
                Ok(Fork::Parent(relay)) => {
                    let _ = tell.write_all(&relay.as_raw().to_ne_bytes());
                    process::exit_now(0)
                }
                Err(_) => process::exit_now(1),
            },
        }
    }

    fn run(&self, control: File, first: bool) {
        let _ = setsid();
        signals::ignore(&signals::ENDING);
        let directory = match &self.to {
            Destination::Syslog { root, .. } => root.as_ref().map(AsFd::as_fd),
            Destination::File { entry, .. } => Some(entry.as_fd()),
        };
        let kept = [self.output.as_fd(), control.as_fd()].into_iter();
        let mut kept: Vec<_> = kept.chain(directory).collect();
        // The log may be one of the caller's, as /dev/stderr. Later that is the pipe.
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let callers = [input.as_fd(), output.as_fd(), error.as_fd()];
        let callers = callers.iter().filter(|_| first);
        descriptors::keep_only(&callers.chain(&kept).copied().collect::<Vec<_>>());
        // Handlers of the same user can't trace it. Where the kernel can't, it runs all the same.
        let _ = process::forbid_dumping();
        // The C library reads the time zone once, which it can't do later.
        let _ = names::syslog_time(&mut [0; 16]);
        match &self.to {
            Destination::Syslog {
                tag,
                level,
                root,
                lines,
            } => {
                if capabilities::limit(Capabilities::NONE).is_err() {
                    // The relay must not run with more rights.
                    return;
                }
                descriptors::keep_only(&kept);
                let mut syslog = Syslog::new(root.as_ref(), tag, *level, *lines);
                confine(Process::SyslogRelay);
                relay(&self.output, Some(control), &mut syslog);
            }
            Destination::File {
                entry,
                writer,
                lines,
            } => {
                let opener = Opener::new(Arc::clone(entry), writer);
                if log_file::take_rights(writer).is_err() {
                    return;
                }
                let mut file = FileWriter::open(opener, *lines);
                kept.extend(file.descriptor());
                descriptors::keep_only(&kept);
                let answer = Answer {
                    to: None,
                    failure: file.failed().map(Failure::from),
                    made: file.made().map(FileId::numbers),
                };
                if first && tell(&control, &answer).is_err() {
                    // skd doesn't know that it was made.
                    if let Some(id) = file.made() {
                        let _ = entry.remove(id);
                    }
                    return;
                }
                if first && answer.failure.is_some() {
                    return;
                }
                log_file::confine_to(entry);
                relay(&self.output, Some(control), &mut file);
            }
        }
    }
}

/// Whether an error of receiving tells that the relay has ended. Another one, as for want of memory,
/// doesn't.
fn is_end(errno: Errno) -> bool {
    matches!(errno, Errno::ECONNRESET | Errno::EPIPE | Errno::ENOTCONN)
}

/// How long lines are gathered while they come fast. Each time that the relay is woken for one costs the
/// thread that has written it more than the line does.
const GATHERING: Duration = Duration::from_millis(2);

/// Writes all lines until the end of the pipe, and does what is asked for by `control`.
pub(super) fn relay(pipe: &File, mut control: Option<File>, to: &mut impl Output) {
    let mut lines = Lines::default();
    // When lines were read last, and whether more are likely to come soon.
    let (mut read_at, mut gathers) = (None::<Instant>, false);
    loop {
        if let (true, Some(control)) = (gathers, &control) {
            events::wait_readable([control.as_fd(); 1], Some(GATHERING));
        }
        // While a report is pending, it doesn't wait without a limit.
        let limit = to.has_lost().then_some(TIMEOUT);
        // What there isn't is replaced by the pipe, which is waited for in any case.
        let asked = control.as_ref().map_or(pipe.as_fd(), AsFd::as_fd);
        let [_, readable] = events::wait_readable([asked, pipe.as_fd()], limit);
        // Asked before each read, whatever the wait has seen: a request comes before the lines that
        // were written after it.
        match control.as_ref().map(receive) {
            Some(Ok(Some(request))) => {
                let told = answer(request, control.as_ref(), pipe, &mut lines, to);
                match told.map_err(|reason| reason.kind()) {
                    Ok(()) => {}
                    Err(io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                        control = None;
                    }
                    // skd waits for an answer. Instead it sees that this relay ends.
                    Err(_) => break,
                }
                continue;
            }
            // skd has ended. There are other writers, perhaps.
            Some(Err(_)) => control = None,
            Some(Ok(None)) | None => {}
        }
        if !readable {
            to.report_lost();
            continue;
        }
        let count = read(pipe, &mut lines, to);
        if count == Some(0) {
            break;
        }
        // What fills the buffer doesn't wait: nor may the pipe be full.
        let now = Instant::now();
        gathers = count.is_some_and(|count| count < Lines::LONGEST)
            && read_at.is_some_and(|before| now.duration_since(before) < 2 * GATHERING);
        read_at = Some(now);
    }
    lines.finish(|piece| to.deliver(piece));
    to.flush();
    to.report_lost();
}

/// Reads once, and writes the lines. Returns the number of bytes; 0 at the end.
fn read(mut pipe: &File, lines: &mut Lines, to: &mut impl Output) -> Option<usize> {
    match lines.read(&mut pipe, |piece| to.deliver(piece)) {
        Ok(count) => {
            to.flush();
            Some(count)
        }
        Err(reason) if reason.kind() == io::ErrorKind::Interrupted => None,
        Err(_) => Some(0),
    }
}

/// As much as a pipe may hold without a privilege (pipe(7), pipe-max-size), in bytes.
const FULL_PIPE: usize = 1 << 20;

/// Does what is asked for. The error is that of the answer.
fn answer(
    request: Request,
    control: Option<&File>,
    pipe: &File,
    lines: &mut Lines,
    to: &mut impl Output,
) -> io::Result<()> {
    let mut answer = Answer {
        to: Some(request as u8),
        ..Answer::default()
    };
    if request == Request::Empty {
        answer.failure = to.empty().err().map(Failure::from);
    } else {
        // Lines from before the request, and not more than a full pipe: writers may never rest.
        let mut count = 0;
        while count < FULL_PIPE && events::is_readable(pipe) {
            match read(pipe, lines, to) {
                Some(0) => break,
                read => count += read.unwrap_or(0),
            }
        }
    }
    if request == Request::Reopen {
        to.reopen();
    }
    control.map_or(Ok(()), |control| tell(control, &answer))
}

/// Returns the next request; none if there is none now. The error is skd's end.
fn receive(mut control: &File) -> io::Result<Option<Request>> {
    let mut message = [0; 1];
    match control.read(&mut message) {
        Ok(0) => Err(Errno::EPIPE.into()),
        Ok(_) => Ok([Request::Empty, Request::Reopen, Request::Flush]
            .into_iter()
            .find(|request| *request as u8 == message[0])),
        Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(reason) if reason.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(reason) => Err(reason),
    }
}

fn tell(control: &File, answer: &Answer) -> io::Result<()> {
    let message = serde_json::to_vec(answer)?;
    send(control.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relay to which this process says what the relay's process would.
    fn relay_and_process() -> (Relay, File) {
        let to = Destination::Syslog {
            tag: "tag".into(),
            level: Level::DEFAULT,
            root: None,
            lines: LogLines::Text,
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (ours, its) = pair.unwrap();
        let mut relay = Relay::new(to).unwrap();
        relay.control = Some(ours.into());
        (relay, its.into())
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets of packets")]
    fn an_answer_on_its_way_outlives_a_restart_that_is_not_needed() {
        let (mut relay, process) = relay_and_process();
        assert!(!relay.has_ended());
        let answer = Answer {
            to: Some(Request::Reopen as u8),
            ..Answer::default()
        };
        tell(&process, &answer).unwrap();
        assert!(!relay.restart().unwrap());
        // Even of a process that has ended since.
        drop(process);
        assert!(!relay.restart().unwrap());
        assert_eq!(relay.listen(), Said::Reopened);
        assert!(relay.has_ended());
        assert_eq!(relay.listen(), Said::Ended);
    }
}
