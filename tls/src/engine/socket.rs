//! A socket in an edge-triggered epoll set: what is known of it, so that no system call is made for nothing.
//!
//! `O_NONBLOCK` isn't set, but each call says that it doesn't wait. So a socket that others have too stays as
//! they know it, and two calls for each connection are saved.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};

use super::aside;
use crate::sys::{self, ClosedBy};

/// A stream socket.
#[derive(Debug)]
pub(super) struct Socket {
    /// Closed by another thread if there may be descriptors in it that the peer has sent along.
    fd: ClosedBy,
    kind: Kind,
    /// Whether a call may find bytes, or the end.
    is_readable: bool,
    /// Whether a call may find room.
    is_writable: bool,
    /// Whether the end of what the peer sends has arrived, or an error: more isn't to come.
    has_end: bool,
    /// Whether the peer has closed it in both directions.
    is_gone: bool,
    /// Whether the epoll set tells when there is room.
    tells_room: bool,
    /// Whether the peer was told that this was all.
    was_ended: bool,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A connection with a peer that speaks TLS.
    Tls,
    /// A plain side.
    Plain,
}

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The end.
    End,
    /// An error.
    Broken(Errno),
}

/// How much was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of it.
    All,
    /// Not all of it: there is no more room.
    Some,
    /// Nothing can be sent anymore.
    Broken,
}

impl Socket {
    /// A socket that has just been made. `is_tcp` is whether it is known to be no unix socket.
    pub(super) fn new(fd: OwnedFd, kind: Kind, is_tcp: bool) -> Self {
        Self {
            fd: ClosedBy::new(fd, (!is_tcp).then_some(close as fn(_))),
            kind,
            is_readable: false,
            is_writable: true,
            has_end: false,
            is_gone: false,
            tells_room: kind == Kind::Tls,
            was_ended: false,
        }
    }

    /// What the epoll set is to tell. TCP tells that there is room only if there was none; a unix socket tells it
    /// whenever its peer reads, for which a thread would wake each time.
    pub(super) fn events(&self) -> EpollFlags {
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        match self.tells_room {
            true => events | EpollFlags::EPOLLOUT,
            false => events,
        }
    }

    /// Takes what the epoll set has told.
    pub(super) fn tell(&mut self, events: EpollFlags) {
        let has = |flags| events.intersects(flags);
        let over = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        self.has_end |= has(EpollFlags::EPOLLRDHUP | over);
        self.is_gone |= has(EpollFlags::EPOLLHUP);
        self.is_readable |= has(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | over);
        self.is_writable |= has(EpollFlags::EPOLLOUT | over);
    }

    /// Returns whether what the epoll set is to tell about room has changed.
    pub(super) fn changes_events(&mut self) -> bool {
        if self.kind == Kind::Tls || self.tells_room != self.is_writable {
            return false;
        }
        self.tells_room = !self.is_writable;
        true
    }

    pub(super) fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Whether the peer has closed it in both directions.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Whether the end of what the peer sends has arrived: it may be read after what was sent before it.
    pub(super) fn has_end(&self) -> bool {
        self.has_end
    }

    /// Receives what is there.
    pub(super) fn receive(&mut self, to: &mut [u8]) -> Received {
        if !self.is_readable {
            return Received::Nothing;
        }
        loop {
            let received = match self.fd.to.is_some() {
                true => sys::receive_bytes(&self.fd, to, aside::close),
                false => recv(self.fd.as_fd().as_raw_fd(), to, MsgFlags::MSG_DONTWAIT),
            };
            return match received {
                Ok(0) => {
                    // Nothing is in it, and nothing will be.
                    self.fd.to = None;
                    Received::End
                }
                Ok(length) => {
                    // Less than what was asked for is all, with TCP. A unix socket also stops at descriptors.
                    if length < to.len() && self.kind == Kind::Tls && !self.has_end {
                        self.is_readable = false;
                    }
                    Received::Bytes(length)
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => {
                    self.is_readable = false;
                    Received::Nothing
                }
                Err(errno) => Received::Broken(errno),
            };
        }
    }

    /// Sends bytes, as far as there is room, and leaves the rest of them.
    pub(super) fn send(&mut self, bytes: &mut &[u8]) -> Sent {
        while !bytes.is_empty() {
            if !self.is_writable {
                return Sent::Some;
            }
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.fd.as_fd().as_raw_fd(), bytes, flags) {
                Ok(length) => {
                    // Less than all is all that there was room for.
                    self.is_writable = length >= bytes.len();
                    *bytes = bytes.get(length..).unwrap_or_default();
                }
                Err(Errno::EINTR) => {}
                // Memory of the kernel is short: there is no event when there is some again, but a peer that
                // reads causes one.
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => self.is_writable = false,
                Err(_) => return Sent::Broken,
            }
        }
        Sent::All
    }

    /// Tells the peer that this was all.
    pub(super) fn end(&mut self) {
        self.was_ended = true;
        // A failure means that there is no peer anymore, which is found out by reading.
        let _ = shutdown(self.fd.as_fd().as_raw_fd(), Shutdown::Write);
    }

    /// Whether the peer was told so.
    pub(super) fn was_ended(&self) -> bool {
        self.was_ended
    }

    /// Has what the peer sends be refused.
    pub(super) fn refuse(&self) {
        let _ = shutdown(self.fd.as_fd().as_raw_fd(), Shutdown::Read);
    }
}

/// Closes a socket in which there may be descriptors.
fn close(fd: OwnedFd) {
    // Nothing is added from here on; and without descriptors in it, the last close doesn't wait.
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    if recv(fd.as_raw_fd(), &mut [0], flags) != Ok(0) {
        aside::close([fd]);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
