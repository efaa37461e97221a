//! Syslog as the output of the relay: a datagram to /dev/log for each line, in the format of
//! syslog(3) (RFC 3164).
//!
//! It doesn't use syslog(3), which blocks forever if /dev/log isn't read, and doesn't count lost
//! lines.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::fchdir;

use super::lines::{self, Lines, Output, Piece, TIMEOUT};
use crate::config::{Count, Level, LogLines};
use crate::report;
use crate::sys::root::Root;
use crate::sys::{events, names};

/// Where syslog listens.
const PATH: &str = "/dev/log";

/// Returns why syslog can't be reached now.
pub(super) fn unreachable() -> Option<Errno> {
    connect(Path::new(PATH)).err()
}

/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// The connection to syslog.
pub(super) struct Syslog<'a> {
    /// The root directory in which the path begins.
    root: Option<&'a Root>,
    path: &'a Path,
    tag: &'a [u8],
    level: Level,
    /// How it writes its own lines.
    lines: LogLines,
    socket: Option<UnixDatagram>,
    message: Vec<u8>,
    /// Whether the last line was dropped. Then the next one is tried only once.
    stuck: bool,
    lost: u64,
}

impl<'a> Syslog<'a> {
    /// With a root directory, the path is found there, and the working directory changes.
    pub(super) fn new(
        root: Option<&'a Root>,
        tag: &'a OsStr,
        level: Level,
        lines: LogLines,
    ) -> Self {
        Self {
            root,
            path: Path::new(PATH),
            tag: tag.as_bytes(),
            level,
            lines,
            socket: None,
            message: Vec::with_capacity(Lines::LONGEST + 256),
            stuck: false,
            lost: 0,
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

    fn connect(&self) -> Result<UnixDatagram, Errno> {
        let Some(root) = self.root else {
            return connect(self.path);
        };
        // At /dev there may be a link to a path in the root directory of the start.
        let (directory, name) = root.find(self.path)?;
        fchdir(&directory)?;
        connect(Path::new(&name))
    }

    fn try_send(&mut self) -> Result<(), Errno> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => self.socket.insert(self.connect()?),
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

impl Output for Syslog<'_> {
    fn deliver(&mut self, piece: Piece<'_>) {
        self.report_lost();
        self.compose(piece);
        if !self.send() {
            self.lost += 1;
        }
    }

    fn report_lost(&mut self) {
        if self.lost > 0 {
            let count = Count(self.lost, "line was", "lines were");
            let note = report::lines_lost(
                self.lines,
                self.lost,
                format_args!("{count} lost here: syslog didn't read"),
            );
            self.compose(Piece::whole(note.as_bytes()));
            if self.send() {
                self.lost = 0;
            }
        }
    }

    fn has_lost(&self) -> bool {
        self.lost > 0
    }
}

fn connect(path: &Path) -> Result<UnixDatagram, Errno> {
    let errno = |reason: io::Error| reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let socket = UnixDatagram::unbound().map_err(errno)?;
    socket.connect(path).map_err(errno)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::super::relay::relay;
    use super::*;
    use crate::sys::pipe::pipe;

    const LONGEST: usize = Lines::LONGEST;

    const LEVEL: Level = Level {
        facility: 3,
        severity: 6,
    };

    fn syslog_at(path: &Path) -> Syslog<'_> {
        let mut syslog = Syslog::new(None, OsStr::new("tag"), LEVEL, LogLines::Text);
        syslog.path = path;
        syslog
    }

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
        relay(&output, None, &mut syslog_at(&path));
        connect(&path).unwrap().send(b"end").unwrap();
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
        let mut syslog = syslog_at(&path);
        for _ in 0..1000 {
            syslog.deliver(Piece::whole(b"lost"));
        }
        assert_eq!(syslog.lost, 1000);
        let server = UnixDatagram::bind(&path).unwrap();
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
