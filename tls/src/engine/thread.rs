//! A thread, and what all threads share.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};

use super::Outgoing;
use super::buffers::Scratches;
use super::connection::{Connection, Ended, Outcome, Role, Truncated, Turn};
use super::figures::Figures;
use super::handshake::Fault;
use super::link::Link;
use super::requests::{self, Found};
use super::services::Table;
use super::slab::{Key, Slab};
use super::socket::{Kind, Socket};
use super::timers::Timers;
use super::tls::Tls;
use crate::load::Services;

/// How many connections a thread takes at a time. Few, since each is a handshake: other threads shall have their
/// share of a burst.
const BATCH: usize = 4;

/// How long a thread takes no connections if descriptors are used up.
const PAUSE: Duration = Duration::from_millis(100);

/// How many descriptors aren't for connections: epoll sets, channels, and files that are loaded.
const RESERVE: u64 = 64;

/// The numbers of what isn't a connection in an epoll set. No key has them.
const REQUESTS: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// What all threads share.
pub(super) struct Shared {
    requests: Option<OwnedFd>,
    services: Mutex<Arc<Table>>,
    pub(super) figures: Figures,
    truncated: Box<dyn Fn(Truncated) + Send + Sync>,
    inboxes: Box<[Inbox]>,
    next_inbox: AtomicUsize,
    /// How many threads still take connections.
    taking: AtomicUsize,
    /// How many connections there are.
    live: AtomicUsize,
    /// How many there may be, with two descriptors each.
    most: usize,
    /// The limit of open files at the start.
    files: u64,
}

/// What a thread is told by others.
struct Inbox {
    wake: EventFd,
    orders: Mutex<Orders>,
}

#[derive(Default)]
struct Orders {
    outgoing: Vec<Outgoing>,
    /// Whether the thread has ended: it takes nothing.
    is_closed: bool,
    retire: bool,
    stop: Option<Instant>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("live", &self.live)
            .field("taking", &self.taking)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        requests: Option<OwnedFd>,
        threads: usize,
        truncated: Box<dyn Fn(Truncated) + Send + Sync>,
    ) -> io::Result<Self> {
        let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let for_threads = 2 * (threads as u64 + 1) * BATCH as u64;
        let most = files.saturating_sub(RESERVE + for_threads) / 2;
        let inboxes = (0..threads)
            .map(|_| {
                let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
                Ok(Inbox {
                    wake: EventFd::from_flags(flags)?,
                    orders: Mutex::default(),
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            requests,
            services: Mutex::default(),
            figures: Figures::default(),
            truncated,
            inboxes,
            next_inbox: AtomicUsize::new(0),
            taking: AtomicUsize::new(threads),
            live: AtomicUsize::new(0),
            most: usize::try_from(most).unwrap_or(usize::MAX).max(1),
            files,
        })
    }

    /// Ends the process if another process of its user has lowered its limit of open files (prlimit(2)). It would
    /// serve nobody anymore, and may not raise it again; skd starts it with the limit that it had.
    fn end_if_limited(&self) {
        let Ok((files, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return;
        };
        if files < self.files {
            let why = format!(
                "skd-tls: another process of its user has lowered its limit of open files from {} to {files}; it ends, \
                 to be started again; give it a user of its own (useradd --system skd-tls)\n",
                self.files
            );
            let _ = io::stderr().write_all(why.as_bytes());
            std::process::abort();
        }
    }

    pub(super) fn replace(&self, services: &Services) {
        let table = Arc::new(Table::new(services, &self.figures));
        let mut current = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        *current = table;
    }

    fn services(&self) -> Arc<Table> {
        let current = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    pub(super) fn pass(&self, outgoing: Outgoing) {
        self.live.fetch_add(1, AcqRel);
        let index = self.next_inbox.fetch_add(1, Relaxed) % self.inboxes.len();
        let mut outgoing = Some(outgoing);
        self.inboxes[index].order(|orders| {
            if !orders.is_closed {
                orders.outgoing.extend(outgoing.take());
            }
        });
        if let Some(outgoing) = outgoing {
            self.turn_away(outgoing);
        }
    }

    /// No thread takes it.
    fn turn_away(&self, outgoing: Outgoing) {
        (outgoing.ended)(Ended::NotTaken);
        self.live.fetch_sub(1, AcqRel);
    }

    pub(super) fn retire(&self, stop: Option<Instant>) {
        for inbox in &self.inboxes {
            inbox.order(|orders| {
                orders.retire = true;
                // A later order doesn't take an earlier deadline away.
                orders.stop = orders.stop.into_iter().chain(stop).min();
            });
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.taking.load(Acquire) == 0 && self.live.load(Acquire) == 0
    }
}

impl Inbox {
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        // It fails only if it has been told 2^64 times already.
        let _ = self.wake.write(1);
    }
}

/// A thread.
pub(super) struct Thread {
    shared: Arc<Shared>,
    index: usize,
    epoll: Epoll,
    connections: Slab<Connection>,
    /// Connections that have something to do.
    queue: VecDeque<Key>,
    timers: Timers,
    scratches: Scratches,
    now: Instant,
    taking: Taking,
    stop: Option<Instant>,
}

/// Whether a thread takes connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taking {
    Yes,
    /// Not before this time.
    Paused(Instant),
    Never,
}

impl Thread {
    pub(super) fn new(shared: Arc<Shared>, index: usize) -> io::Result<Self> {
        let thread = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            connections: Slab::default(),
            queue: VecDeque::new(),
            timers: Timers::default(),
            scratches: Scratches::new(),
            now: Instant::now(),
            taking: Taking::Yes,
            stop: None,
            shared,
            index,
        };
        let wake = EpollEvent::new(EpollFlags::EPOLLIN, WAKE);
        thread.epoll.add(&thread.shared.inboxes[index].wake, wake)?;
        thread.watch_requests()?;
        Ok(thread)
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Has one thread wake for a connection, the next in turn of those that wait.
    fn watch_requests(&self) -> nix::Result<()> {
        let Some(requests) = &self.shared.requests else {
            return Ok(());
        };
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        self.epoll.add(requests, EpollEvent::new(flags, REQUESTS))
    }

    fn ignore_requests(&self) {
        if let Some(requests) = &self.shared.requests {
            // It isn't there if it couldn't be watched again.
            let _ = self.epoll.delete(requests);
        }
    }

    /// Serves connections until there are none, and will be none.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); 256];
        while self.taking != Taking::Never || self.connections.len() > 0 {
            let timeout = self.timeout();
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                // The set itself can't be waited for, so nothing is served. skd starts the process again.
                Err(_) => std::process::abort(),
            };
            self.now = Instant::now();
            let (mut has_requests, mut is_told) = (false, false);
            for event in &events[..count] {
                match event.data() {
                    REQUESTS => has_requests = true,
                    WAKE => is_told = true,
                    number => {
                        let (key, is_plain) = Key::of(number);
                        if let Some(connection) = self.connections.get(key) {
                            connection.tell(is_plain, event.events());
                            enqueue(&mut self.queue, connection, key);
                        }
                    }
                }
            }
            self.expire();
            for _ in 0..self.queue.len() {
                if let Some(key) = self.queue.pop_front() {
                    self.serve(key);
                }
            }
            if has_requests && self.taking == Taking::Yes {
                self.take_requests();
            }
            // Not before: the kernel has woken this thread for a request, and no other one. If this thread retired
            // without having taken it, it would wait until the next one comes.
            if is_told {
                self.obey();
            }
        }
        let mut left = Vec::new();
        self.shared.inboxes[self.index].order(|orders| {
            orders.is_closed = true;
            left = std::mem::take(&mut orders.outgoing);
        });
        for outgoing in left {
            self.shared.turn_away(outgoing);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if !self.queue.is_empty() {
            return EpollTimeout::ZERO;
        }
        let paused = match self.taking {
            Taking::Paused(until) => Some(until.saturating_duration_since(self.now)),
            Taking::Yes | Taking::Never => None,
        };
        let times = [self.timers.wait(self.now), paused];
        match times.into_iter().flatten().min() {
            None => EpollTimeout::NONE,
            // Longer than i32::MAX milliseconds: it is asked again then.
            Some(time) => EpollTimeout::try_from(time).unwrap_or(EpollTimeout::MAX),
        }
    }

    /// Does what it is told by others.
    fn obey(&mut self) {
        let shared = Arc::clone(&self.shared);
        let inbox = &shared.inboxes[self.index];
        // It is empty if this was called for an event that is no more.
        let _ = inbox.wake.read();
        let mut orders = inbox.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let outgoing = std::mem::take(&mut orders.outgoing);
        let (retire, stop) = (orders.retire, orders.stop);
        drop(orders);
        for outgoing in outgoing {
            self.take_outgoing(outgoing);
        }
        if retire {
            self.retire();
        }
        if stop.is_some() && stop != self.stop {
            self.stop = stop;
            for key in self.connections.keys() {
                if let Some(connection) = self.connections.get(key) {
                    connection.finish();
                    enqueue(&mut self.queue, connection, key);
                }
            }
        }
    }

    fn retire(&mut self) {
        if self.taking != Taking::Never {
            self.ignore_requests();
            self.taking = Taking::Never;
            self.shared.taking.fetch_sub(1, AcqRel);
        }
    }

    /// Looks at connections whose deadline may be over.
    fn expire(&mut self) {
        if let Taking::Paused(until) = self.taking {
            if until <= self.now {
                self.resume();
            }
        }
        while let Some(key) = self.timers.next(self.now) {
            let Some(connection) = self.connections.get(key) else {
                continue;
            };
            connection.noted = None;
            let is_stopped = self.stop.is_some_and(|stop| stop <= self.now);
            if is_stopped {
                self.remove(key);
                continue;
            }
            if connection.deadline().is_some_and(|at| at <= self.now) {
                connection.expire(&mut Turn {
                    scratches: &mut self.scratches,
                    now: self.now,
                    truncated: &self.shared.truncated,
                });
            }
            enqueue(&mut self.queue, connection, key);
        }
    }

    /// Lets a connection have its turn.
    fn serve(&mut self, key: Key) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        connection.is_queued = false;
        let outcome = connection.turn(&mut Turn {
            scratches: &mut self.scratches,
            now: self.now,
            truncated: &self.shared.truncated,
        });
        match outcome {
            Outcome::Over => return self.remove(key),
            Outcome::Turn => enqueue(&mut self.queue, connection, key),
            Outcome::Waits => {}
        }
        if let Some((plain, events)) = connection.changed_plain() {
            let event = EpollEvent::new(events, key.number(true));
            if self.epoll.modify(plain, &mut event.clone()).is_err() {
                // Memory is short. Without the event it could wait forever.
                return self.remove(key);
            }
        }
        let deadline = connection.deadline().into_iter().chain(self.stop).min();
        if let Some(at) = deadline {
            if connection.noted.is_none_or(|noted| at < noted) {
                connection.noted = Some(at);
                self.timers.note(at, key);
                let (live, connections) = (self.connections.len(), &mut self.connections);
                self.timers
                    .forget(live, |key| connections.get(key).is_some());
            }
        }
    }

    fn remove(&mut self, key: Key) {
        if self.connections.remove(key).is_some() {
            self.shared.live.fetch_sub(1, AcqRel);
        }
    }

    /// Takes some of the connections in the request channel.
    fn take_requests(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Some(requests) = &shared.requests else {
            return;
        };
        let services = shared.services();
        for _ in 0..BATCH {
            if shared.live.load(Relaxed) >= shared.most {
                return self.pause();
            }
            match requests::receive(requests.as_fd(), &services, self.now) {
                Found::Connection(connection) => {
                    shared.live.fetch_add(1, AcqRel);
                    self.add(connection);
                }
                Found::Refused => {}
                Found::Nothing => break,
                Found::NoNumbers => {
                    shared.end_if_limited();
                    return self.pause();
                }
                Found::End => return self.retire(),
            }
        }
        if shared.inboxes.len() > 1 {
            // To the end of the line: otherwise the kernel wakes the same thread again and again while it has
            // time, and connections that live long are all in one thread.
            self.ignore_requests();
            self.resume();
        }
    }

    /// Takes nothing for a while, and makes room.
    fn pause(&mut self) {
        for key in self.connections.keys() {
            if self.connections.get(key).is_some_and(|it| it.lingers()) {
                self.remove(key);
            }
        }
        self.ignore_requests();
        self.taking = Taking::Paused(self.now + PAUSE);
    }

    fn resume(&mut self) {
        self.taking = match self.watch_requests() {
            Ok(()) => Taking::Yes,
            // Memory is short, or watches are.
            Err(_) => Taking::Paused(self.now + PAUSE),
        };
    }

    fn take_outgoing(&mut self, outgoing: Outgoing) {
        let tls = match Tls::client(outgoing.config, outgoing.name) {
            Ok(tls) => tls,
            Err(error) => {
                self.shared.live.fetch_sub(1, AcqRel);
                return (outgoing.ended)(Ended::NoSession(Fault::Refused(error)));
            }
        };
        let plain = Socket::new(outgoing.plain, Kind::Plain, false);
        let link = Link::new(requests::peer(outgoing.tcp), plain, tls);
        let role = Role::Client {
            within: outgoing.within,
            end: Ended::Complete,
            ended: outgoing.ended,
        };
        let connection = Connection::new(link, role, outgoing.idle, self.now);
        self.add(Box::new(connection));
    }

    /// Adds a connection, which is counted already.
    fn add(&mut self, connection: Box<Connection>) {
        let Ok(key) = self.connections.insert(connection) else {
            self.shared.live.fetch_sub(1, AcqRel);
            return;
        };
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if self.stop.is_some() {
            connection.finish();
        }
        let sockets = connection.sockets().into_iter().flatten();
        let is_watched = sockets
            .zip([false, true])
            .all(|((socket, events), is_plain)| {
                let event = EpollEvent::new(events, key.number(is_plain));
                self.epoll.add(socket, event).is_ok()
            });
        if !is_watched {
            // No socket, or memory is short: skd finds the end.
            return self.remove(key);
        }
        enqueue(&mut self.queue, connection, key);
    }
}

/// Has a connection wait for its turn, once.
fn enqueue(queue: &mut VecDeque<Key>, connection: &mut Connection, key: Key) {
    if !std::mem::replace(&mut connection.is_queued, true) {
        queue.push_back(key);
    }
}
