//! Waiting for several descriptors: epoll(7), poll(2) and eventfd(2).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// How a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Reported as long as it is readable.
    Readable,
    /// The same, but wakes one of several waiters, not all (`EPOLLEXCLUSIVE`, Linux 4.5).
    ReadableOne,
    /// Reported once when it is readable, until it is watched again (`EPOLLONESHOT`).
    ReadableOnce,
    /// Reported once each time that something arrives (`EPOLLET`).
    ReadableEdge,
    /// Reported when a file of the kernel has changed since it was read (`EPOLLPRI`).
    Priority,
    /// Reported as long as it is writable.
    Writable,
    /// Not reported until it is watched again.
    Paused,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Self::Readable => EpollFlags::EPOLLIN,
            Self::ReadableOne => EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE,
            Self::ReadableOnce => EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT,
            Self::ReadableEdge => EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            Self::Priority => EpollFlags::EPOLLPRI,
            Self::Writable => EpollFlags::EPOLLOUT,
            // What a one-shot registration becomes once it has fired. An error would be reported,
            // once.
            Self::Paused => EpollFlags::EPOLLONESHOT,
        }
    }
}

/// A set of watched descriptors, each with a key that the caller chooses.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

/// A buffer for the events of one wait.
pub type Events = [EpollEvent; 64];

/// An empty buffer for the events of one wait.
pub fn no_events() -> Events {
    [EpollEvent::empty(); 64]
}

impl Poller {
    /// Makes an empty set.
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

    /// Waits for events, at most for `limit`, and returns their keys: none after the limit, or
    /// after a signal.
    pub fn wait<'buffer>(
        &self,
        buffer: &'buffer mut Events,
        limit: Option<Duration>,
    ) -> Result<impl Iterator<Item = u64> + use<'buffer>, Errno> {
        let count = match self.epoll.wait(buffer, epoll_timeout(limit)) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        Ok(buffer[..count].iter().map(EpollEvent::data))
    }
}

impl Poller {
    /// Whether anything is ready. Events that are reported once are then lost. If that can't be
    /// found out, it returns true.
    pub fn take_ready(&self) -> bool {
        let mut buffer = no_events();
        let events = self.wait(&mut buffer, Some(Duration::ZERO));
        events.map_or(true, |mut events| events.next().is_some())
    }
}

/// The set is itself readable when anything in it is ready.
impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// Milliseconds, rounded up: a wait that ends too early would be repeated in a loop.
fn milliseconds(limit: Duration) -> i32 {
    let rounded = limit.as_nanos().div_ceil(1_000_000);
    i32::try_from(rounded).unwrap_or(i32::MAX)
}

fn epoll_timeout(limit: Option<Duration>) -> EpollTimeout {
    limit.map_or(EpollTimeout::NONE, |limit| {
        EpollTimeout::try_from(milliseconds(limit)).unwrap_or(EpollTimeout::NONE)
    })
}

/// Waits until one of these is readable or has failed, at most for `limit`, and returns for each
/// whether it is (poll(2)). For few descriptors, watched once.
pub fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    limit: Option<Duration>,
) -> [bool; N] {
    poll(fds, PollFlags::POLLIN, limit)
}

/// Whether a read or accept would succeed now.
pub fn is_readable(fd: impl AsFd) -> bool {
    wait_readable([fd.as_fd()], Some(Duration::ZERO)) == [true]
}

/// Whether there is input, and not only an end or a failure.
pub fn has_input(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let found = nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok();
    let events = fds[0].revents();
    found && events.is_some_and(|events| events.contains(PollFlags::POLLIN))
}

/// Whether a write of up to `PIPE_BUF` bytes would succeed now.
pub fn is_writable(fd: BorrowedFd<'_>) -> bool {
    wait_writable(fd, Duration::ZERO)
}

/// Waits until a write would succeed, at most for `limit`.
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
            // Memory is short. A caller that waits in a loop must not spin.
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
    /// Makes a waker.
    pub fn new() -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            event: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// Wakes the thread that waits, or the next one to wait. Never blocks: a full counter wakes
    /// too.
    pub fn wake(&self) {
        let _ = self.event.write(1);
    }

    /// Clears the wake-up.
    pub fn clear(&self) {
        let _ = self.event.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
