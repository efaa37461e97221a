//! The control channel, as skd-tls sees it: commands come with descriptors, and reports wait here while skd
//! doesn't read them.

use std::collections::VecDeque;
use std::io::Stdin;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use skd::sys::{descriptors, events, packets};
use skd_tls_protocol::{Command, Report, VERSION};
use std::os::fd::AsRawFd;

/// The longest command. Settings come in a file.
const LONGEST: usize = 4096;

/// How many reports wait at most, before those that can be left out are.
const MANY: usize = 1000;

/// The channel: standard input.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Stdin,
    waiting: VecDeque<Vec<u8>>,
    is_closed: bool,
}

/// What is on the channel.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A command, and what came beside it.
    Command(Command, packets::Received),
    /// A packet that isn't understood: why.
    Unknown(String),
    /// Nothing now.
    Nothing,
    /// skd has ended, or has closed its end.
    End,
}

impl Channel {
    /// Takes standard input. The error is a sentence.
    pub(crate) fn take() -> Result<Self, String> {
        let socket = std::io::stdin();
        if !is_channel(socket.as_fd()) {
            return Err(
                "standard input is no channel of skd's: skd starts this program by itself, for --tls"
                    .to_owned(),
            );
        }
        descriptors::set_blocking(&socket, false)
            .map_err(|errno| format!("can't use the channel to skd: {}", errno.desc()))?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
            is_closed: false,
        })
    }

    /// Receives a packet, if there is one.
    pub(crate) fn receive(&mut self) -> Incoming {
        let mut buffer = [0; LONGEST];
        let (length, descriptors) = match packets::receive(&self.socket, &mut buffer) {
            Ok((0, _)) => {
                self.is_closed = true;
                return Incoming::End;
            }
            Ok(received) => received,
            Err(Errno::EAGAIN) => return Incoming::Nothing,
            Err(Errno::EMSGSIZE) => {
                return Incoming::Unknown(
                    "it is too long, or its descriptors are more than the limit of open files allows"
                        .to_owned(),
                );
            }
            Err(_) => {
                self.is_closed = true;
                return Incoming::End;
            }
        };
        match serde_json::from_slice(&buffer[..length]) {
            Ok(Command::Start { version, .. }) if version != VERSION => {
                Incoming::Unknown(other_version(version.into()))
            }
            Ok(command) => Incoming::Command(command, descriptors),
            Err(error) => Incoming::Unknown(match version_in(&buffer[..length]) {
                Some(version) if version != u64::from(VERSION) => other_version(version),
                _ => error.to_string(),
            }),
        }
    }

    /// Waits until there is a packet. Returns whether there is one in this time.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        events::wait_readable([self.socket.as_fd()], Some(limit)) == [true]
    }

    /// Sends a report, now or when skd reads again.
    pub(crate) fn report(&mut self, report: &Report) {
        // A report is plain data, which always is JSON.
        let Ok(packet) = serde_json::to_vec(report) else {
            return;
        };
        self.waiting.push_back(packet);
        self.flush();
    }

    /// Sends what waits, as far as skd reads it.
    pub(crate) fn flush(&mut self) {
        while let Some(packet) = self.waiting.front() {
            if self.is_closed {
                self.waiting.clear();
                return;
            }
            match packets::send(&self.socket, [packet, b""], [None, None]) {
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => return,
                // Sent, or it never will be: a list of names that is too long for a packet, or skd is gone.
                // The end is seen by the next read.
                _ => drop(self.waiting.pop_front()),
            }
        }
    }

    /// Sends what waits, and waits for that.
    pub(crate) fn flush_within(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            self.flush();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.waiting.is_empty() || left.is_zero() {
                return;
            }
            events::wait_writable(self.socket.as_fd(), left);
        }
    }

    /// Whether reports wait that skd hasn't read.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether so many wait that those of less weight are left out.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= MANY
    }

    /// Whether skd's end is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes both descriptors of a packet, or none.
pub(crate) fn both(received: packets::Received) -> Option<(OwnedFd, OwnedFd)> {
    let [first, second] = received;
    first.zip(second)
}

fn is_channel(socket: BorrowedFd<'_>) -> bool {
    let family = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    let is_unix = family.is_ok_and(|name| name.family() == Some(AddressFamily::Unix));
    is_unix && getsockopt(&socket, sockopt::SockType) == Ok(SockType::SeqPacket)
}

/// The version in a first packet of another version.
fn version_in(packet: &[u8]) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_slice(packet).ok()?;
    value.get("version")?.as_u64()
}

fn other_version(version: u64) -> String {
    format!(
        "skd speaks version {version} of the protocol, and skd-tls {} version {VERSION}: both have to be of \
         the same release",
        env!("CARGO_PKG_VERSION")
    )
}
