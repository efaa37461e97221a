//! Waiting for several things at once: epoll(7), poll(2) and eventfd(2).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Readable, for as long as it is.
    Readable,
    /// Readable, waking one of several waiters and not all (`EPOLLEXCLUSIVE`, Linux 4.5).
    ReadableOne,
    /// Readable, told once until watched again (`EPOLLONESHOT`).
    ReadableOnce,
    /// Known, but not looked at until watched again.
    Paused,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Self::Readable => EpollFlags::EPOLLIN,
            Self::ReadableOne => EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE,
            Self::ReadableOnce => EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT,
            // What a one-shot registration becomes by itself once it has fired. An error would
            // be told, once.
            Self::Paused => EpollFlags::EPOLLONESHOT,
        }
    }
}

/// A set of watched descriptors, each with a number of the caller's to know it by.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

/// Room for what one wait brings.
pub type Events = [EpollEvent; 64];

/// Room for what one wait brings, empty.
pub fn no_events() -> Events {
    [EpollEvent::empty(); 64]
}

impl Poller {
    /// An empty set.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        })
    }

    /// Starts to watch a descriptor.
    pub fn add(&self, fd: impl AsFd, interest: Interest, key: u64) -> Result<(), Errno> {
        self.epoll.add(fd, EpollEvent::new(interest.flags(), key))
    }

    /// Changes how a descriptor is watched.
    pub fn change(&self, fd: impl AsFd, interest: Interest, key: u64) -> Result<(), Errno> {
        let mut event = EpollEvent::new(interest.flags(), key);
        self.epoll.modify(fd, &mut event)
    }

    /// Stops watching a descriptor. Closing it wouldn't be enough: see [`super::child`].
    pub fn remove(&self, fd: impl AsFd) -> Result<(), Errno> {
        self.epoll.delete(fd)
    }

    /// Waits, at most so long, and gives the keys of what is ready: none after the time or
    /// a signal.
    pub fn wait<'room>(
        &self,
        room: &'room mut Events,
        limit: Option<Duration>,
    ) -> Result<impl Iterator<Item = u64> + use<'room>, Errno> {
        let count = match self.epoll.wait(room, epoll_timeout(limit)) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        Ok(room[..count].iter().map(EpollEvent::data))
    }
}

/// Milliseconds, rounded up so that a wait never ends before its time and then spins.
fn milliseconds(limit: Duration) -> i32 {
    let rounded = limit.as_nanos().div_ceil(1_000_000);
    i32::try_from(rounded).unwrap_or(i32::MAX)
}

fn epoll_timeout(limit: Option<Duration>) -> EpollTimeout {
    limit.map_or(EpollTimeout::NONE, |limit| {
        EpollTimeout::try_from(milliseconds(limit)).unwrap_or(EpollTimeout::NONE)
    })
}

/// Waits, at most so long, until one of these is readable or has failed, and says for
/// each whether it has (poll(2)). For few descriptors, watched once.
pub fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    limit: Option<Duration>,
) -> [bool; N] {
    poll(fds, PollFlags::POLLIN, limit)
}

/// Says whether a write of up to `PIPE_BUF` bytes would go through now.
pub fn is_writable(fd: BorrowedFd<'_>) -> bool {
    wait_writable(fd, Duration::ZERO)
}

/// Waits, at most so long, until a write would go through.
pub fn wait_writable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    poll([fd], PollFlags::POLLOUT, Some(limit))[0]
}

fn poll<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    flags: PollFlags,
    limit: Option<Duration>,
) -> [bool; N] {
    let mut fds = fds.map(|fd| PollFd::new(fd, flags));
    let timeout = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(milliseconds(limit)).unwrap_or(PollTimeout::MAX)
    });
    match nix::poll::poll(&mut fds, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return [false; N],
        Err(_) => {
            // Memory is short. Whoever waits in a loop must not spin on that.
            std::thread::sleep(Duration::from_millis(100));
            return [false; N];
        }
    }
    fds.map(|fd| fd.any().unwrap_or(false))
}

/// Wakes a thread that waits (eventfd(2)).
#[derive(Debug)]
pub struct Waker {
    event: EventFd,
}

impl Waker {
    /// A waker that nobody has used.
    pub fn new() -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            event: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Wakes whoever waits, or the next one to wait. Never blocks: a counter already full
    /// wakes as well.
    pub fn wake(&self) {
        let _ = self.event.write(1);
    }

    /// Forgets that anybody was woken.
    pub fn clear(&self) {
        let _ = self.event.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
