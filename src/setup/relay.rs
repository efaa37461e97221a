//! The relay to syslog: a process that reads lines from a pipe, which is standard error of skd and
//! all handlers, and sends each to /dev/log in the format of syslog(3) (RFC 3164).
//!
//! It doesn't use syslog(3), which blocks forever if /dev/log isn't read, and doesn't count lost
//! lines. The relay is forked twice, so that its parent is init. It ignores the signals that end
//! skd, and ends when the last writer has closed the pipe and all lines are sent.

use std::ffi::OsString;
use std::fs::File;
use std::io;
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
use crate::sys::pipe::pipe;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::signals::{self, Signal};
use crate::sys::{events, names};

/// The pipe to the relay process, and what is needed to start the process again.
#[derive(Debug)]
pub(super) struct Relay {
    tag: OsString,
    level: Level,
    /// The read end, which skd keeps open too: lines written while no relay runs wait for the next
    /// one, and SIGPIPE kills no handler.
    output: File,
    input: Option<File>,
    /// A pipe whose write end only the relay process has. It is at end of file when the relay has
    /// ended.
    life: Option<File>,
    started: Instant,
    /// The original /dev, through which `log` can be reached after chroot(2).
    devices: Option<OwnedFd>,
}

/// The relay as it is saved for the next binary. The relay process keeps running.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedRelay {
    output: i32,
    life: Option<i32>,
    devices: Option<i32>,
}

impl Relay {
    /// Saves the relay for the next binary.
    pub(super) fn save(&self, to: &mut SavedDescriptors) -> Result<SavedRelay, Errno> {
        let mut pass = |fd: Option<BorrowedFd<'_>>| fd.map(|fd| to.pass(fd)).transpose();
        Ok(SavedRelay {
            life: pass(self.end())?,
            devices: pass(self.devices.as_ref().map(AsFd::as_fd))?,
            output: to.pass(&self.output)?,
        })
    }

    /// Restores the relay of the previous binary.
    pub(super) fn restore(tag: OsString, level: Level, saved: &SavedRelay) -> Result<Self, Errno> {
        let claim = |number: Option<i32>| number.map(descriptors::claim).transpose();
        Ok(Self {
            tag,
            level,
            output: descriptors::claim(saved.output)?.into(),
            input: None,
            life: claim(saved.life)?.map(File::from),
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

    /// Returns how skd writes its own lines to it.
    pub(super) fn sink(&self) -> Sink {
        self.input.as_ref().map_or(Sink::Plain, Sink::to)
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

    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.life.as_ref().map(AsFd::as_fd)
    }

    /// Starts the process if it isn't running, as `identity` if skd isn't that user yet. Returns
    /// whether it was started.
    pub(super) fn start(&mut self, identity: Option<&Identity>) -> io::Result<bool> {
        self.started = Instant::now();
        // Two relays would each get parts of lines.
        let is_running = |end| events::wait_readable([end], Some(Duration::ZERO)) == [false];
        if self.end().is_some_and(is_running) {
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

    fn run(&self, identity: Option<&Identity>, held: &File) {
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
        if identity.is_some_and(|identity| privileges::drop_to(identity).is_err()) {
            // The relay must not run with more rights.
            return;
        }
        let mut syslog = Syslog::new(name, self.tag.as_bytes(), self.level);
        relay(&self.output, &mut syslog);
    }
}

/// Sends all lines until the end of the pipe.
fn relay(pipe: &File, syslog: &mut Syslog<'_>) {
    let mut lines = Lines::default();
    loop {
        if syslog.lost > 0 {
            // A report is pending, so don't wait without a limit.
            let [readable] = events::wait_readable([pipe.as_fd()], Some(TIMEOUT));
            if !readable {
                syslog.report_lost();
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
    syslog.report_lost();
}

/// How long to wait for a syslog that doesn't read, before lines are dropped.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(20);

struct Syslog<'a> {
    path: &'a str,
    tag: &'a [u8],
    level: Level,
    socket: Option<UnixDatagram>,
    message: Vec<u8>,
    /// Whether the last line was dropped. Then the next one is tried only once.
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
        self.report_lost();
        self.compose(piece);
        if !self.send() {
            self.lost += 1;
        }
    }

    /// Reports how many lines were dropped, as soon as syslog reads again.
    fn report_lost(&mut self) {
        if self.lost > 0 {
            let lines = if self.lost == 1 {
                "line was"
            } else {
                "lines were"
            };
            let note = format!("skd: {} {lines} lost here: syslog didn't read", self.lost);
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

    /// Sends the message. Waits for a syslog that is slow or restarting, but not if the last line
    /// was dropped.
    fn send(&mut self) -> bool {
        let deadline = Instant::now() + TIMEOUT;
        let mut has_space = false;
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
                // Wait for space, unless it was just reported.
                Err(Errno::EAGAIN) if !has_space && self.socket.is_some() => {
                    has_space = self
                        .socket
                        .as_ref()
                        .is_some_and(|socket| events::wait_writable(socket.as_fd(), PAUSE));
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    has_space = false;
                    std::thread::sleep(PAUSE);
                }
                Err(_) => {
                    // The socket was closed. The next try connects again.
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
    fn a_syslog_that_does_not_read_loses_lines_without_delay_and_gets_their_number() {
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
        assert_eq!(next(), "skd: 1000 lines were lost here: syslog didn't read");
        assert_eq!(next(), "kept");
    }
}
