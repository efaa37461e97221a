//! The relay to syslog: a process that reads lines from a pipe, standard error of skd and
//! of every handler, and sends each to /dev/log (RFC 3164, as syslog(3) does).
//!
//! It is our own and not syslog(3), which blocks for good on a stuck /dev/log and counts
//! nothing. It is forked twice, so that it is nobody's child but init's, and deaf to the
//! signals that end skd: it ends when the last writer has closed the pipe, having sent
//! everything.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stderr, fchdir, setsid};
use serde::{Deserialize, Serialize};

use super::lines::{self, Lines, Piece};
use super::privileges;
use crate::config::{Identity, Level};
use crate::report::Sink;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::signals::{self, Signal};
use crate::sys::{events, names};

/// The relay as skd sees it.
#[derive(Debug)]
pub(super) struct Relay {
    tag: OsString,
    level: Level,
    /// Kept open here too: what was written while no relay ran waits for the next one, and
    /// no handler is killed by SIGPIPE.
    output: PipeReader,
    input: Option<PipeWriter>,
    /// Held by the relay alone: its other end is at end of file when the relay has ended.
    life: Option<PipeReader>,
    started: Instant,
    /// /dev as it was before chroot(2), from where `log` can be reached for ever.
    devices: Option<OwnedFd>,
}

/// The same for another image of this process; the relay's own process goes on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedRelay {
    output: i32,
    life: Option<i32>,
    devices: Option<i32>,
}

impl Relay {
    /// Lets the next image of this process have it.
    pub(super) fn save(&self, to: &mut SavedDescriptors) -> Result<SavedRelay, Errno> {
        let mut pass = |fd: Option<BorrowedFd<'_>>| fd.map(|fd| to.pass(fd)).transpose();
        Ok(SavedRelay {
            life: pass(self.end())?,
            devices: pass(self.devices.as_ref().map(AsFd::as_fd))?,
            output: to.pass(&self.output)?,
        })
    }

    /// What an earlier image had.
    pub(super) fn restore(tag: OsString, level: Level, saved: &SavedRelay) -> Result<Self, Errno> {
        let claim = |number: Option<i32>| number.map(descriptors::claim).transpose();
        Ok(Self {
            tag,
            level,
            output: descriptors::claim(saved.output)?.into(),
            input: None,
            life: claim(saved.life)?.map(PipeReader::from),
            started: Instant::now(),
            devices: claim(saved.devices)?,
        })
    }

    pub(super) fn new(tag: OsString, level: Level) -> io::Result<Self> {
        let (output, input) = pipe()?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self {
            tag,
            level,
            output,
            input: Some(input),
            life: None,
            started: Instant::now(),
            devices: open("/dev", flags, Mode::empty()).ok(),
        })
    }

    /// How to write lines of our own to it.
    pub(super) fn sink(&self) -> Sink {
        self.input.as_ref().map_or(Sink::Plain, Sink::to)
    }

    /// Makes the pipe standard error, and only that: it ends with the last of those who have
    /// it as such.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        match self.input.take() {
            Some(input) => Ok(dup2_stderr(input)?),
            None => Ok(()),
        }
    }

    /// When it was started last, or was to be.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.life.as_ref().map(AsFd::as_fd)
    }

    /// Starts the process, as `identity` if skd hasn't become that already; says whether it had
    /// to be.
    pub(super) fn start(&mut self, identity: Option<&Identity>) -> io::Result<bool> {
        self.started = Instant::now();
        // One that nobody could watch needs no second beside it: both would take lines to pieces.
        if let Some(end) = self.end()
            && events::wait_readable([end], Some(Duration::ZERO)) == [false]
        {
            return Ok(false);
        }
        let (life, held) = pipe()?;
        match process::fork()? {
            Fork::Parent(child) => {
                let end = process::wait(Target::Process(child), Wait::UNTIL_END)?;
                if !matches!(end, Some((_, Change::Ended(Ended::Exited(0))))) {
                    return Err(Errno::EAGAIN.into());
                }
                self.life = Some(life);
                Ok(true)
            }
            Fork::Child => match process::fork() {
                Ok(Fork::Child) => {
                    self.run(identity, &held);
                    process::exit_now(0)
                }
                Ok(Fork::Parent(_)) => process::exit_now(0),
                Err(_) => process::exit_now(1),
            },
        }
    }

    fn run(&self, identity: Option<&Identity>, held: &PipeWriter) {
        let _ = setsid();
        signals::ignore(&[
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGPIPE,
        ]);
        let name = match &self.devices {
            Some(devices) if fchdir(devices).is_ok() => "log",
            _ => "/dev/log",
        };
        descriptors::keep_only(&[self.output.as_fd(), held.as_fd()]);
        if let Some(identity) = identity
            && privileges::drop_to(identity).is_err()
        {
            // Never with more rights than asked for.
            return;
        }
        let mut syslog = Syslog::new(name, self.tag.as_bytes(), self.level);
        relay(&self.output, &mut syslog);
    }
}

/// Reads lines to the end of the pipe.
fn relay(pipe: &PipeReader, syslog: &mut Syslog<'_>) {
    let mut lines = Lines::default();
    loop {
        if syslog.lost > 0 {
            // With something to say there is no waiting for good.
            let [readable] = events::wait_readable([pipe.as_fd()], Some(PATIENCE));
            if !readable {
                syslog.confess();
                continue;
            }
        }
        match lines.read(pipe, |piece| syslog.deliver(piece)) {
            Ok(0) => break,
            Ok(_) => {}
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    lines.finish(|piece| syslog.deliver(piece));
    syslog.confess();
}

/// How long a syslog that takes nothing is waited for, before lines are dropped.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is tried meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

struct Syslog<'a> {
    path: &'a str,
    tag: &'a [u8],
    level: Level,
    socket: Option<UnixDatagram>,
    message: Vec<u8>,
    /// Whether the last line was dropped: then the next is tried once and not waited for.
    stuck: bool,
    lost: u64,
}

impl<'a> Syslog<'a> {
    fn new(path: &'a str, tag: &'a [u8], level: Level) -> Self {
        Self {
            path,
            tag,
            level,
            socket: None,
            message: Vec::with_capacity(Lines::LONGEST + 256),
            stuck: false,
            lost: 0,
        }
    }

    fn deliver(&mut self, piece: Piece<'_>) {
        self.confess();
        self.compose(piece);
        if !self.send() {
            self.lost += 1;
        }
    }

    /// Says how many lines were dropped, as soon as it can.
    fn confess(&mut self) {
        if self.lost > 0 {
            let note = format!("skd: {} lines were lost here: syslog took none", self.lost);
            self.compose(Piece::whole(note.as_bytes()));
            if self.send() {
                self.lost = 0;
            }
        }
    }

    fn compose(&mut self, piece: Piece<'_>) {
        let mut buffer = [0; 16];
        let time = names::syslog_time(&mut buffer);
        lines::compose(&mut self.message, self.level, time, self.tag, piece);
    }

    /// Sends the message; waits for a syslog that is slow or being restarted, but not for
    /// one that was found stuck.
    fn send(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut has_room = false;
        loop {
            match self.try_send() {
                Ok(()) => {
                    self.stuck = false;
                    return true;
                }
                Err(Errno::EINTR) => {}
                Err(_) if self.stuck || Instant::now() >= deadline => {
                    self.stuck = true;
                    return false;
                }
                // Waited for, unless it has just been said to be there.
                Err(Errno::EAGAIN) if !has_room && self.socket.is_some() => {
                    has_room = self
                        .socket
                        .as_ref()
                        .is_some_and(|socket| events::wait_writable(socket.as_fd(), PAUSE));
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    has_room = false;
                    std::thread::sleep(PAUSE);
                }
                Err(_) => {
                    // Its socket is gone; the next try connects anew.
                    self.socket = None;
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn try_send(&mut self) -> Result<(), Errno> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => self.socket.insert(connect(self.path)?),
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(socket.as_raw_fd(), &self.message, flags) {
            Ok(_) => Ok(()),
            Err(errno @ (Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR)) => Err(errno),
            Err(errno) => {
                self.socket = None;
                Err(errno)
            }
        }
    }
}

fn connect(path: &str) -> Result<UnixDatagram, Errno> {
    let errno = |reason: io::Error| reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let socket = UnixDatagram::unbound().map_err(errno)?;
    socket.connect(path).map_err(errno)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = Lines::LONGEST;

    const LEVEL: Level = Level {
        facility: 3,
        severity: 6,
    };

    /// What arrives at syslog when `lines` go through the relay.
    fn relayed(lines: &[u8]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let server = UnixDatagram::bind(&path).unwrap();
        let (output, mut input) = pipe().unwrap();
        let lines = lines.to_vec();
        let writer = std::thread::spawn(move || {
            io::Write::write_all(&mut input, &lines).unwrap();
        });
        let reader = std::thread::spawn(move || {
            let mut messages = Vec::new();
            let mut buffer = [0; 2 * LONGEST];
            loop {
                let length = server.recv(&mut buffer).unwrap();
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if message == "end" {
                    return messages;
                }
                messages.push(message);
            }
        });
        let path = path.to_str().unwrap();
        relay(&output, &mut Syslog::new(path, b"tag", LEVEL));
        connect(path).unwrap().send(b"end").unwrap();
        writer.join().unwrap();
        reader.join().unwrap()
    }

    fn text(message: &str) -> &str {
        message.split_once(" tag: ").unwrap().1
    }

    #[test]
    #[cfg_attr(miri, ignore = "unix datagram sockets")]
    fn lines_arrive_with_priority_time_and_tag_and_the_last_one_without_a_newline() {
        let messages = relayed(b"one\n\ntwo\nthree");
        let texts: Vec<&str> = messages.iter().map(|message| text(message)).collect();
        assert_eq!(texts, ["one", "two", "three"]);
        assert!(messages[0].starts_with("<30>"), "{messages:?}");
        let time = &messages[0]["<30>".len()..messages[0].find(" tag").unwrap()];
        assert_eq!(time.len(), "Nov 22 09:05:00".len(), "{time}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "unix datagram sockets")]
    fn long_lines_are_split_and_marked_and_every_line_of_many_arrives() {
        let long = "x".repeat(2 * LONGEST + 5);
        let mut lines = format!("{long}\nshort\n");
        for number in 0..500 {
            lines += &format!("{number}\n");
        }
        let messages = relayed(lines.as_bytes());
        let texts: Vec<&str> = messages.iter().map(|message| text(message)).collect();
        assert_eq!(texts[0], &long[..LONGEST]);
        assert_eq!(texts[1], format!("[continued] {}", &long[..LONGEST]));
        assert_eq!(texts[2], "[continued] xxxxx");
        assert_eq!(texts[3], "short");
        assert_eq!(texts.len(), 504);
        assert_eq!(texts[503], "499");
    }

    #[test]
    #[cfg_attr(miri, ignore = "unix datagram sockets")]
    fn a_syslog_that_takes_nothing_costs_lines_and_not_time_and_is_told_how_many() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let path = path.to_str().unwrap();
        let mut syslog = Syslog::new(path, b"tag", LEVEL);
        for _ in 0..1000 {
            syslog.deliver(Piece::whole(b"lost"));
        }
        assert_eq!(syslog.lost, 1000);
        let server = UnixDatagram::bind(path).unwrap();
        syslog.deliver(Piece::whole(b"kept"));
        let mut buffer = [0; 256];
        let mut next = || {
            let length = server.recv(&mut buffer).unwrap();
            text(std::str::from_utf8(&buffer[..length]).unwrap()).to_owned()
        };
        assert_eq!(next(), "skd: 1000 lines were lost here: syslog took none");
        assert_eq!(next(), "kept");
    }
}
