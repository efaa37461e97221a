//! The log file: how the relay opens it, and writes lines with their time to it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::confine::{Process, confine};
use super::lines::{self, Lines, Output, Piece, TIMEOUT};
use crate::config::{Count, Daemon, LogLines, Service};
use crate::report::{self, Time};
use crate::sys::capabilities::{self, Capabilities, Capability};
use crate::sys::channel::{Receiver, Sender, channel};
use crate::sys::directory::{Entry, FileId};
use crate::sys::events;
use crate::sys::process;
use crate::sys::root::Root;
use crate::sys::thread::Thread;
use crate::sys::trusted::{Purpose, Refusal};

/// The users of handlers, as far as they concern the log file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Writer {
    /// The user of skd.
    Same,
    /// A user that may have rights to the file that skd's hasn't.
    User {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    /// The users of clients, none of which owns the log.
    Clients,
}

impl Writer {
    /// The first user of a service counts, or that of skd itself.
    pub(super) fn of(daemon: &Daemon, services: &[Service]) -> Self {
        let users = services.iter().filter_map(|it| it.identity.as_ref());
        let mut users = daemon.identity.iter().chain(users);
        match users.next() {
            Some(identity) => Self::User {
                uid: identity.uid.as_raw(),
                gid: identity.gid.as_raw(),
                groups: identity.groups.iter().map(|group| group.as_raw()).collect(),
            },
            None if services.iter().any(|it| it.as_peer) => Self::Clients,
            None => Self::Same,
        }
    }

    /// Makes the calling thread access files as this user, without any capability. The error is
    /// also that there is no such user.
    fn become_it(&self) -> Result<(), Errno> {
        let Self::User { uid, gid, groups } = self else {
            return Err(Errno::EPERM);
        };
        process::access_files_as(Uid::from_raw(*uid), Gid::from_raw(*gid), groups)?;
        capabilities::limit(Capabilities::NONE)
    }
}

/// Takes the rights to files with which the calling thread opens the log first.
///
/// Where handlers have other users, it keeps no capability, so that skd's paths are no way into
/// other users' files. Otherwise handlers have all rights anyway, and root may keep its log where
/// it likes.
pub(super) fn take_rights(writer: &Writer) -> Result<(), Errno> {
    match writer {
        Writer::User { .. } | Writer::Clients => capabilities::limit(Capabilities::NONE),
        Writer::Same => capabilities::limit(Capabilities::NONE.with(Capability::Access)),
    }
}

/// Confines the calling thread to writing lines and opening this log again. Through a symbolic link
/// that can be a file anywhere.
pub(super) fn confine_to(entry: &Entry) {
    let root = match entry.id() {
        Ok(id) if id.is_link() => Root::open().ok(),
        _ => None,
    };
    let directory = root.as_ref().map_or(entry.as_fd(), AsFd::as_fd);
    confine(Process::FileRelay(&[directory]));
}

/// Returns the error of opening the file, as far as it can be predicted without opening or
/// creating anything.
pub(super) fn check(entry: Entry, writer: &Writer) -> Result<(), Refusal> {
    let entry = Arc::new(entry);
    let (first, user) = (writer.clone(), writer.clone());
    check_as(&entry, move || take_rights(&first))
        .or_else(|why| check_as(&entry, move || user.become_it()).map_err(|_| why))
}

/// Checks in a thread of its own, which takes the rights.
fn check_as(
    entry: &Arc<Entry>,
    rights: impl FnOnce() -> Result<(), Errno> + Send + 'static,
) -> Result<(), Refusal> {
    let entry = Arc::clone(entry);
    let (sender, receiver) = channel();
    Thread::start(CString::from(c"log-check"), STACK, move || {
        let checked = rights().map_err(Refusal::from);
        // The receiver waits.
        sender.send(checked.and_then(|()| entry.check(&Purpose::LOG)));
    })?;
    receiver.receive().unwrap_or(Err(Errno::EAGAIN.into()))
}

/// A file and whether it was made.
type Opened = Result<(File, bool), Refusal>;

/// A way to open the log file, at the start and later with the same rights.
///
/// Rights to files belong to threads. The thread of the relay has those of the ids that skd has,
/// without capabilities. A second thread has those of the handlers' user: both are there as long as
/// the relay is, which keeps no capability to change ids.
#[derive(Debug)]
pub(super) struct Opener {
    entry: Arc<Entry>,
    user: Option<UserThread>,
}

#[derive(Debug)]
struct UserThread {
    questions: Sender<()>,
    answers: Receiver<Opened>,
}

impl Opener {
    /// Makes the opener. Call it while the process may become the user; where it may not, there is
    /// no second try.
    pub(super) fn new(entry: Arc<Entry>, writer: &Writer) -> Self {
        let user = match writer {
            Writer::User { .. } => UserThread::start(&entry, writer),
            Writer::Same | Writer::Clients => None,
        };
        Self { entry, user }
    }

    fn open(&self) -> Opened {
        let opened = open(&self.entry);
        match (&opened, &self.user) {
            (Err(_), Some(user)) => user.open().or(opened),
            _ => opened,
        }
    }
}

/// The least stack for a few calls, in bytes.
const STACK: usize = 128 * 1024;

impl UserThread {
    fn start(entry: &Arc<Entry>, writer: &Writer) -> Option<Self> {
        let (questions, asked) = channel::<()>();
        let (answer, answers) = channel::<Opened>();
        let (confined, is_confined) = channel::<()>();
        let (entry, writer) = (Arc::clone(entry), writer.clone());
        let work = move || {
            // The thread ends where it can't become the user, and opens nothing.
            if writer.become_it().is_ok() {
                confine_to(&entry);
                confined.send(());
                while asked.receive().is_some() && answer.send(open(&entry)) {}
            }
        };
        Thread::start(CString::from(c"log-opener"), STACK, work).ok()?;
        // Until then it has descriptors of its own, which the relay would close with all others.
        is_confined.receive()?;
        Some(Self { questions, answers })
    }

    fn open(&self) -> Opened {
        let asked = self.questions.send(());
        let answer = asked.then(|| self.answers.receive()).flatten();
        answer.ok_or(Refusal::Failed(Errno::EACCES))?
    }
}

fn open(entry: &Entry) -> Opened {
    entry.open(&Purpose::LOG)
}

/// The log file as the relay writes it.
#[derive(Debug)]
pub(super) struct FileWriter {
    opener: Opener,
    /// None while it can't be opened.
    file: Result<File, Refusal>,
    /// Whether opening has made it.
    made: bool,
    tried: Instant,
    /// Lines that aren't written yet.
    text: Vec<u8>,
    /// The time of these lines.
    time: Option<Time>,
    lines: LogLines,
    /// Whether the last line was dropped after waiting for a reader. Then the next one is tried
    /// only once.
    stuck: bool,
    /// Whether the end of the file is a line without a newline.
    torn: bool,
    lost: u64,
    /// Why the last line was lost.
    reason: Errno,
}

impl FileWriter {
    /// Opens the file. A failure is tried again when lines come.
    pub(super) fn open(opener: Opener, lines: LogLines) -> Self {
        let opened = opener.open();
        let made = matches!(opened, Ok((_, true)));
        Self {
            opener,
            file: opened.map(|(file, _)| file),
            made,
            tried: Instant::now(),
            text: Vec::with_capacity(Lines::CAPACITY + 1024),
            time: None,
            lines,
            stuck: false,
            torn: false,
            lost: 0,
            reason: Errno::EIO,
        }
    }

    /// Why it couldn't be opened.
    pub(super) fn failed(&self) -> Option<&Refusal> {
        self.file.as_ref().err()
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().ok().map(AsFd::as_fd)
    }

    /// The file, if opening has made it.
    pub(super) fn made(&self) -> Option<FileId> {
        let file = self.file.as_ref().ok().filter(|_| self.made)?;
        FileId::of_open(file).ok()
    }

    fn append(&mut self, piece: Piece<'_>) {
        let time =
            (self.lines == LogLines::TimedText).then(|| *self.time.get_or_insert_with(Time::now));
        lines::append(&mut self.text, time, piece);
    }

    /// Writes all of `text`, or as much as the file takes.
    fn write(&mut self) {
        if self.file.is_err() && self.tried.elapsed() >= TIMEOUT {
            self.try_open();
        }
        let text = std::mem::take(&mut self.text);
        let written = match &self.file {
            Ok(file) => write_all(file, &text, &mut self.stuck),
            Err(why) => Err((0, why.errno())),
        };
        if let Err((length, errno)) = written {
            let (taken, rest) = text.split_at(length);
            let newlines = rest.iter().filter(|byte| **byte == b'\n').count();
            self.lost = self.lost.saturating_add(newlines as u64);
            self.reason = errno;
            if let Some(last) = taken.last() {
                self.torn = *last != b'\n';
            }
        } else {
            self.torn = false;
        }
        self.text = text;
        self.text.clear();
        self.time = None;
    }

    fn try_open(&mut self) {
        self.tried = Instant::now();
        self.file = self.opener.open().map(|(file, _)| file);
    }
}

impl Output for FileWriter {
    fn deliver(&mut self, piece: Piece<'_>) {
        self.append(piece);
    }

    fn flush(&mut self) {
        if self.text.is_empty() {
            return;
        }
        if self.lost > 0 {
            let lines = std::mem::take(&mut self.text);
            self.report_lost();
            self.text = lines;
            if self.lost > 0 {
                let newlines = self.text.iter().filter(|byte| **byte == b'\n').count();
                self.lost = self.lost.saturating_add(newlines as u64);
                self.text.clear();
                self.time = None;
                return;
            }
        }
        self.write();
    }

    fn has_lost(&self) -> bool {
        self.lost > 0
    }

    fn report_lost(&mut self) {
        if self.lost == 0 {
            return;
        }
        let lost = std::mem::take(&mut self.lost);
        let count = Count(lost, "line was", "lines were");
        let reason = self.reason.desc();
        let note = report::lines_lost(
            self.lines,
            lost,
            format_args!("{count} lost here: the log file took none: {reason}"),
        );
        if self.torn {
            self.text.push(b'\n');
        }
        self.append(Piece::whole(note.as_bytes()));
        self.write();
        if self.lost > 0 {
            // The report itself doesn't count.
            self.lost = lost;
        }
    }

    fn reopen(&mut self) {
        self.tried = Instant::now();
        match self.opener.open() {
            Ok((file, _)) => {
                let id = |file: &File| FileId::of_open(file).ok();
                let same = self.file.as_ref().is_ok_and(|old| id(old) == id(&file));
                self.torn &= same;
                self.stuck = false;
                self.file = Ok(file);
            }
            Err(why) => {
                let note = report::log_trouble(
                    self.lines,
                    format_args!("the log file can't be opened again: {why}; the old one is kept"),
                );
                self.append(Piece::whole(note.as_bytes()));
                self.flush();
            }
        }
    }

    fn empty(&mut self) -> Result<(), Errno> {
        let Ok(file) = &self.file else { return Ok(()) };
        if !FileId::of_open(file)?.is_file() {
            return Ok(());
        }
        let errno = |reason: io::Error| reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        file.set_len(0).map_err(errno)
    }
}

/// Writes without waiting for longer than [`TIMEOUT`]; not at all if it is `stuck`. The error tells
/// how much was written.
fn write_all(mut file: &File, text: &[u8], stuck: &mut bool) -> Result<(), (usize, Errno)> {
    let mut written = 0;
    while written < text.len() {
        match file.write(&text[written..]) {
            Ok(0) => return Err((written, Errno::ENOSPC)),
            Ok(length) => {
                written += length;
                *stuck = false;
            }
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
                if *stuck || !events::wait_writable(file.as_fd(), TIMEOUT) {
                    *stuck = true;
                    return Err((written, Errno::EAGAIN));
                }
            }
            Err(reason) => {
                let errno = reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                return Err((written, errno));
            }
        }
    }
    Ok(())
}
