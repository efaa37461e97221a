//! Lingering close: the answer of a handler that has ended arrives at the client.
//!
//! A connection that is closed while input waits in it, or to which input arrives later, is reset.
//! A reset takes away what the client hasn't received yet (RFC 1122, 4.2.2.13). On a unix socket,
//! which loses nothing, the client sees an error instead of the end. So the connection is
//! half-closed, which tells the client the end, and its input is drained until the client closes
//! it too, or its time is over.
//!
//! Nothing here waits: what is read at a time is bounded, and so is the number of lingering
//! connections. Each is closed aside: see [`crate::sys::aside`].
//!
//! By default a connection lingers only if input is unread at its handler's end, and nothing touches
//! it at first: a process that the handler has left behind, in a session of its own, may use it. No
//! system call says whether there is one, so its traces are looked for: see [`Traffic`].
//!
//! Of a unix connection no input is drained. With it descriptors could arrive, which a handler has
//! allowed, and reading would close them here. The connection is kept until its client has closed it
//! and no input is unread, or until its time is over.

use std::collections::TryReserveError;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;
use socket2::{Domain, SockRef};

use super::slab::Slab;
use super::token::Token;
use crate::config::ServiceId;
use crate::report::{self, Event, Trouble, Watched};
use crate::sys::aside::Aside;
use crate::sys::events::{Interest, Poller};
use crate::sys::signals::has_group;
use crate::sys::sockets::{
    Drained, drain_input, is_shut_down, lingers_at_close, peek_bytes, refuses_descriptors,
    resets_at_close, tell, unread, unsent,
};
use crate::sys::traffic::Traffic;

/// How many connections may linger in one thread. It is enough for the round trips of slow clients
/// at thousands of connections a second, and no help to a flood of clients that never close.
const MOST: usize = 1_024;

/// The same where no option asks for it: fewer take less memory.
const FEW: usize = 128;

/// All lingering connections take at most one in so many of the files that may be open: half for
/// the workers, and half for the main thread.
const SHARE: u64 = 4;

/// How much is read of one connection at a time, before other connections have their turn.
const BATCH: usize = 128 * 1024;

/// Returns how many connections may linger in each of so many workers, under this limit of open
/// files. In the main thread as many may linger as in all workers: in a drain it sees all ends.
fn most_each(workers: usize, files: u64, most: usize) -> usize {
    let share = files / SHARE / 2 / workers.max(1) as u64;
    usize::try_from(share).unwrap_or(most).clamp(1, most)
}

/// Returns how many connections may linger in all threads together.
pub fn most(workers: usize, files: u64) -> usize {
    2 * workers * most_each(workers, files, MOST)
}

/// How long a unix connection with unread input is kept when its client seems to be done: it has
/// sent its end, and has read all or closed.
const LAST: Duration = Duration::from_secs(1);

/// How long a process that a handler has left behind has to read or write, before its connection is
/// taken for unused. Daemons do so within milliseconds, and on a busy machine within tens of them.
/// For so long clients that wait for the end of an answer wait in vain.
const GRACE: Duration = Duration::from_millis(200);

/// A connection that was or will be a handler's.
#[derive(Debug)]
pub(in crate::serve) struct Connection {
    fd: Aside,
    unix: bool,
}

impl Connection {
    /// A connection of a unix socket or of TCP.
    pub(in crate::serve) fn new(fd: impl Into<Aside>, unix: bool) -> Self {
        let fd = fd.into();
        Self { fd, unix }
    }

    /// The same, found out by a system call.
    pub(super) fn found(fd: OwnedFd) -> Self {
        let domain = SockRef::from(&fd).domain();
        Self::new(fd, domain.is_ok_and(|domain| domain == Domain::UNIX))
    }

    /// Drains input, as far as that is done at all. Returns whether the connection is over.
    fn drain(&self) -> bool {
        match self.unix {
            false => drain_input(&self.fd, BATCH) == Drained::End,
            true => is_shut_down(&self.fd) && unread(&self.fd) == 0,
        }
    }

    /// Whether its client has nothing left to do but to read the end.
    fn is_nearly_over(&self) -> bool {
        self.unix && is_shut_down(&self.fd) && unsent(&self.fd) == 0
    }

    /// Closes it without a half-close: a process that has left the handler's group, or to which the
    /// handler has passed the connection, may still use it.
    ///
    /// It is closed here, and so at once, if that can neither wait nor close passed descriptors. The
    /// answer may change until the close: some microseconds remain, as where it isn't kept at all.
    fn close(self) {
        let is_plain = match self.unix {
            false => !lingers_at_close(&self),
            true => refuses_descriptors(&self) && peek_bytes(&self, &mut [0]) == Err(Errno::EAGAIN),
        };
        if is_plain {
            drop(self.fd.into_inner());
        }
    }

    /// Sends the end, and drains input before and after. Returns whether the connection lingers then: a
    /// reset that the handler wanted is sent, and many clients have sent all by now, and even closed.
    fn half_close(&self) -> bool {
        !resets_at_close(self) && !self.drain() && shut_down(self) && !self.drain()
    }

    fn interest(&self) -> Interest {
        match self.unix {
            false => Interest::Readable,
            // Its input stays unread.
            true => Interest::ReadableEdge,
        }
    }
}

/// Sends the end. Returns whether the connection still is one.
fn shut_down(connection: &Connection) -> bool {
    SockRef::from(connection).shutdown(Shutdown::Write).is_ok()
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A handler's connection, kept until the handler ends.
#[derive(Debug)]
pub(in crate::serve) struct KeptConnection {
    connection: Connection,
    /// How long input is drained then.
    time: Duration,
    /// Whether that is so only if input is unread.
    if_unread: bool,
}

impl KeptConnection {
    pub(in crate::serve) fn new(connection: Connection, time: Duration, if_unread: bool) -> Self {
        Self {
            connection,
            time,
            if_unread,
        }
    }

    /// Whether it is kept only in case input is unread.
    pub(super) fn is_by_default(&self) -> bool {
        self.if_unread
    }

    /// Closes it before the handler's end. From now on its client sees the end when the handler closes
    /// it.
    pub(super) fn let_go(self) {
        self.connection.close();
    }

    /// Begins the lingering close in this thread, after the end of the handler that led this
    /// process group.
    pub(super) fn release(
        self,
        to: &Lingering,
        (thread, poller): (usize, &Poller),
        (leader, service): (Pid, ServiceId),
    ) {
        // Processes that the handler has left behind may still use the connection.
        if has_group(leader) {
            return;
        }
        if !self.if_unread {
            let until = Instant::now() + self.time;
            return to.add(thread, poller, self.connection, until);
        }
        let is_unread = unread(&self.connection) > 0;
        to.note(service, is_unread);
        if is_unread {
            to.watch(thread, poller, self.connection, self.time);
        } else {
            // The client waits for the end, which it sees if no other process has the connection.
            self.connection.close();
        }
    }

    /// The connection, and how long its input is drained after the handler's end.
    pub(super) fn parts(&self) -> (&Connection, Duration, bool) {
        (&self.connection, self.time, self.if_unread)
    }
}

/// All lingering connections, in one part for each thread, in whose epoll set they are. Only the
/// main thread ever takes the lock of another thread's part: when that has ended or is parked.
#[derive(Debug)]
pub(in crate::serve) struct Lingering {
    /// Empty where no connection ever lingers.
    parts: Box<[Mutex<Part>]>,
    /// For each service, how many connections in a row had no unread input at their handler's end,
    /// as far as they were looked at.
    quiet: Box<[AtomicU32]>,
}

/// How long a connection is kept by default. A handler may close its own before it ends: the client
/// sees that so late, and [`CALM`] later, at most.
pub(super) const KEPT: Duration = Duration::from_secs(5);

/// The least time between two looks for connections that were kept for so long.
pub(super) const CALM: Duration = Duration::from_secs(1);

/// After so many connections without unread input in a row, few are kept any more by default.
const QUIET: u32 = 256;

/// One in so many is kept then: should one have unread input, all are kept again.
const SAMPLE: u32 = 32;

impl Lingering {
    /// A table for a daemon whose connections never linger, which costs nothing.
    pub(in crate::serve) fn never() -> Self {
        Self {
            parts: Box::new([]),
            quiet: Box::new([]),
        }
    }

    /// An empty table for so many workers and the main thread, under this limit of open files, for many
    /// connections or few. No other memory is taken later.
    pub(in crate::serve) fn new(
        workers: usize,
        services: usize,
        (files, many): (u64, bool),
    ) -> Result<Self, TryReserveError> {
        let each = most_each(workers, files, if many { MOST } else { FEW });
        let of_main = each * workers.max(1);
        let mosts = std::iter::repeat_n(each, workers).chain([of_main]);
        let parts = mosts.map(|most| Part::new(most).map(Mutex::new));
        Ok(Self {
            parts: parts.collect::<Result<_, _>>()?,
            quiet: (0..services).map(|_| AtomicU32::new(0)).collect(),
        })
    }

    /// Whether the next connection of this service is to be kept, where that depends on what its
    /// handlers leave unread. Two relaxed accesses of memory: what another thread counts meanwhile may
    /// be lost.
    pub(super) fn is_worth_it(&self, service: ServiceId) -> bool {
        let Some(quiet) = self.quiet.get(service.index()) else {
            return false;
        };
        let count = quiet.load(Ordering::Relaxed);
        if count < QUIET {
            return true;
        }
        quiet.store(QUIET + (count + 1 - QUIET) % SAMPLE, Ordering::Relaxed);
        count == QUIET
    }

    /// Notes whether a connection had unread input at its handler's end.
    fn note(&self, service: ServiceId, is_unread: bool) {
        if let Some(quiet) = self.quiet.get(service.index()) {
            let count = quiet.load(Ordering::Relaxed);
            if is_unread {
                quiet.store(0, Ordering::Relaxed);
            } else if count < QUIET {
                quiet.store(count + 1, Ordering::Relaxed);
            }
        }
    }

    /// Half-closes a connection on which all has been sent, and drains its input until the client
    /// closes it, or until `until`. If too many connections linger already, the one with the least
    /// time left is closed.
    pub(in crate::serve) fn add(
        &self,
        thread: usize,
        poller: &Poller,
        connection: Connection,
        until: Instant,
    ) {
        if connection.half_close() {
            if let Some(mut part) = self.part(thread) {
                part.make_room(poller);
                part.add(poller, connection, until);
            }
        }
    }

    /// Begins the lingering close of a connection with unread input for so long, unless another process
    /// uses the connection within the [`GRACE`].
    fn watch(&self, thread: usize, poller: &Poller, connection: Connection, time: Duration) {
        if resets_at_close(&connection) {
            return;
        }
        let traffic = Traffic::of(&connection);
        if traffic.is_without_output() {
            // There is no answer to lose, and a process that was left behind has all the time it needs.
            return connection.fd.close_promptly();
        }
        if let Some(mut part) = self.part(thread) {
            part.make_room(poller);
            part.insert(Entry {
                connection,
                until: Instant::now() + GRACE,
                watched: Some((traffic, time)),
            });
        }
    }

    /// Sends a message to a rejected client, as far as the connection takes it without waiting, and
    /// begins the lingering close.
    pub(in crate::serve) fn add_with_message(
        &self,
        thread: usize,
        poller: &Poller,
        connection: Connection,
        message: &[u8],
        until: Instant,
    ) {
        // A new connection takes thousands of bytes. A connection that doesn't is over.
        if tell(&connection, message).is_ok() {
            self.add(thread, poller, connection, until);
        }
    }

    /// Drains the input of the connection with this index, and closes it at the end.
    pub(in crate::serve) fn drain_input(&self, thread: usize, poller: &Poller, index: usize) {
        let Some(mut part) = self.part(thread) else {
            return;
        };
        // If it is another connection by now, that does no harm.
        let Some(entry) = part.connections.get_mut(index) else {
            return;
        };
        if entry.watched.is_some() {
            return;
        }
        if entry.connection.drain() {
            part.close(index, poller);
        } else if entry.connection.is_nearly_over() {
            let until = entry.until.min(Instant::now() + LAST);
            entry.until = until;
            part.due = part.due.min(Some(until));
        }
    }

    /// Returns when something is overdue in this thread, or a somewhat earlier time.
    pub(in crate::serve) fn due(&self, thread: usize) -> Option<Instant> {
        let part = self.part(thread)?;
        part.due.into_iter().chain(part.kept_until).min()
    }

    /// Notes that a handler of this thread has a connection that is kept by default until then.
    pub(super) fn note_kept(&self, thread: usize, until: Instant) {
        if let Some(mut part) = self.part(thread) {
            part.kept_until = Some(part.kept_until.map_or(until, |other| other.min(until)));
        }
    }

    /// Closes the lingering connections whose time is over, and half-closes those that no process has
    /// used in the grace. Returns the time if connections may have
    /// been kept by default for long enough: then it is forgotten that they are.
    pub(super) fn close_overdue(&self, thread: usize, poller: &Poller) -> Option<Instant> {
        let mut part = self.part(thread)?;
        part.due.or(part.kept_until)?;
        let now = Instant::now();
        if part.due.is_some_and(|due| due <= now) {
            part.close_overdue(poller, now);
        }
        part.kept_until.take_if(|until| *until <= now).map(|_| now)
    }

    /// Returns the number of lingering connections.
    pub(in crate::serve) fn len(&self) -> usize {
        let parts = (0..self.parts.len()).filter_map(|thread| self.part(thread));
        parts.map(|part| part.connections.len()).sum()
    }

    /// Calls `look` for each lingering connection, with the time at which it is closed.
    pub(in crate::serve) fn each(&self, mut look: impl FnMut(&Connection, Instant)) {
        for part in (0..self.parts.len()).filter_map(|thread| self.part(thread)) {
            for (_, entry) in part.connections.iter() {
                look(&entry.connection, entry.end());
            }
        }
    }

    fn part(&self, thread: usize) -> Option<MutexGuard<'_, Part>> {
        let part = self.parts.get(thread)?;
        Some(part.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The lingering connections of one thread.
#[derive(Debug)]
struct Part {
    connections: Slab<Entry>,
    most: usize,
    /// Not later than the first connection is due.
    due: Option<Instant>,
    /// The same for connections of handlers, which are kept by default.
    kept_until: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    /// When it is closed, or the end of the grace.
    until: Instant,
    /// In the grace, in which it is in no epoll set: what had passed at its beginning, and for how long
    /// the connection lingers afterwards.
    watched: Option<(Traffic, Duration)>,
}

impl Entry {
    /// When it is closed, whatever the client does.
    fn end(&self) -> Instant {
        let lingers = self.watched.as_ref().map(|(_, time)| *time);
        self.until + lingers.unwrap_or_default()
    }
}

impl Part {
    fn new(most: usize) -> Result<Self, TryReserveError> {
        Ok(Self {
            connections: Slab::with_capacity(most)?,
            most,
            due: None,
            kept_until: None,
        })
    }

    /// Closes a connection if there are as many as there may be.
    fn make_room(&mut self, poller: &Poller) {
        if self.connections.len() == self.most {
            let connections = self.connections.iter();
            let first = connections.min_by_key(|(_, entry)| entry.end());
            if let Some((index, _)) = first {
                self.close(index, poller);
            }
        }
    }

    /// Adds a connection that has been half-closed.
    fn add(&mut self, poller: &Poller, connection: Connection, mut until: Instant) {
        if connection.is_nearly_over() {
            until = until.min(Instant::now() + LAST);
        }
        let token = Token::Lingering(self.connections.next_index()).into();
        if let Err(errno) = poller.add(&connection, connection.interest(), token) {
            report::event(Event::Trouble(Trouble::NotWatched {
                service: None,
                what: Watched::Lingering,
                errno,
            }));
            return;
        }
        self.insert(Entry {
            connection,
            until,
            watched: None,
        });
    }

    fn insert(&mut self, entry: Entry) {
        let until = entry.until;
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
        self.connections.insert(entry);
    }

    fn close(&mut self, index: usize, poller: &Poller) {
        if let Some(entry) = self.connections.remove(index) {
            // Before it is closed: a process that was left behind may have it too, or a newborn
            // child, and its registration would live on.
            if entry.watched.is_none() {
                let _ = poller.remove(&entry.connection);
            }
            if self.connections.len() == 0 {
                self.due = None;
            }
        }
    }

    fn close_overdue(&mut self, poller: &Poller, now: Instant) {
        for index in 0..self.connections.end() {
            match self.connections.get(index) {
                Some(entry) if entry.until <= now => {}
                _ => continue,
            }
            let watched = self.connections.get_mut(index);
            match watched.and_then(|entry| entry.watched.take()) {
                None => self.close(index, poller),
                Some((traffic, time)) => {
                    if let Some(Entry { connection, .. }) = self.connections.remove(index) {
                        // Else it is the other process's now.
                        if !Traffic::of(&connection).shows_use_since(&traffic)
                            && connection.half_close()
                        {
                            self.add(poller, connection, now + time);
                        }
                    }
                }
            }
        }
        let connections = self.connections.iter();
        self.due = connections.map(|(_, entry)| entry.until).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    const FAR: Duration = Duration::from_secs(1_000);

    struct Thread {
        poller: Poller,
        lingering: Lingering,
    }

    impl Thread {
        fn new() -> Self {
            Self::with(u64::MAX)
        }

        fn with(files: u64) -> Self {
            let poller = Poller::new().unwrap();
            let lingering = Lingering::new(1, 1, (files, true)).unwrap();
            Self { poller, lingering }
        }

        fn add(&self, connection: impl Into<OwnedFd>, time: Duration) {
            let until = Instant::now() + time;
            let connection = Connection::found(connection.into());
            self.lingering.add(0, &self.poller, connection, until);
        }

        /// Drains input until so many connections are left.
        fn drain_until(&self, count: usize) {
            while self.lingering.len() > count {
                let mut events = crate::sys::events::no_events();
                for key in self.poller.wait(&mut events, Some(FAR)).unwrap() {
                    let Token::Lingering(index) = Token::from(key) else {
                        panic!("{key}")
                    };
                    self.lingering.drain_input(0, &self.poller, index);
                }
            }
        }
    }

    fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(FAR)).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn read_all(client: &mut impl Read) -> (usize, io::Result<()>) {
        let mut read = Vec::new();
        let result = client.read_to_end(&mut read).map(drop);
        (read.len(), result)
    }

    /// Writes until nothing more is taken.
    fn stuff(stream: &TcpStream) -> usize {
        stream.set_nonblocking(true).unwrap();
        let mut written = 0;
        loop {
            match (&mut &*stream).write(&[7; 65_536]) {
                Ok(length) => written += length,
                Err(reason) if reason.kind() == ErrorKind::WouldBlock => break,
                Err(reason) => panic!("{reason}"),
            }
        }
        stream.set_nonblocking(false).unwrap();
        written
    }

    #[test]
    fn the_connection_of_a_client_that_has_closed_is_closed_at_once() {
        let thread = Thread::new();
        let (mut client, server) = tcp();
        client.write_all(b"unread").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // Its bytes and its end may take a moment.
        while server.peek(&mut [0; 8]).unwrap() < 6 {}
        thread.add(server, FAR);
        thread.drain_until(0);
        let (read, result) = read_all(&mut client);
        assert_eq!((read, result.is_ok()), (0, true));
        assert_eq!(thread.lingering.due(0), None);
    }

    #[test]
    fn an_answer_arrives_though_its_client_goes_on_sending() {
        let thread = Thread::new();
        let (mut client, mut server) = tcp();
        server.write_all(&[7; 300_000]).unwrap();
        let unread = stuff(&client);
        assert!(unread > BATCH * 2, "{unread}");
        thread.add(server, FAR);
        assert_eq!(thread.lingering.len(), 1);
        let reader = std::thread::spawn(move || {
            client.write_all(&[7; 1_000_000]).unwrap();
            let (read, result) = read_all(&mut client);
            // Even now.
            client.write_all(b"more").unwrap();
            (read, result.is_ok())
        });
        thread.drain_until(0);
        assert_eq!(reader.join().unwrap(), (300_000, true));
    }

    #[test]
    fn a_message_arrives() {
        let thread = Thread::new();
        let (mut client, server) = tcp();
        stuff(&client);
        let until = Instant::now() + FAR;
        let server = Connection::found(server.into());
        thread
            .lingering
            .add_with_message(0, &thread.poller, server, b"too many\n", until);
        let mut message = String::new();
        let reader = std::thread::spawn(move || {
            client.read_to_string(&mut message).unwrap();
            message
        });
        thread.drain_until(0);
        assert_eq!(reader.join().unwrap(), "too many\n");
    }

    #[test]
    fn no_connection_lingers_for_longer_than_its_time() {
        let thread = Thread::new();
        let (mut early, one) = tcp();
        let (_late, other) = tcp();
        let before = Instant::now();
        thread.add(other, FAR);
        thread.add(one, Duration::ZERO);
        assert!(thread.lingering.due(0).unwrap() <= Instant::now());
        let _ = thread.lingering.close_overdue(0, &thread.poller);
        assert_eq!(thread.lingering.len(), 1);
        assert!(thread.lingering.due(0).unwrap() >= before + FAR);
        assert!(read_all(&mut early).1.is_ok());
        // It is closed, and not only for writing.
        let closed = loop {
            if let Err(reason) = early.write(b"x") {
                break reason;
            }
        };
        assert!(matches!(
            closed.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ));
    }

    #[test]
    fn a_connection_that_another_process_uses_is_left_to_it() {
        for used in [true, false] {
            let thread = Thread::new();
            let (mut client, server) = tcp();
            client.write_all(b"unread").unwrap();
            while unread(&server) < 6 {}
            let mut other = server.try_clone().unwrap();
            other.write_all(b"answer").unwrap();
            let connection = Connection::found(server.into());
            thread.lingering.watch(0, &thread.poller, connection, FAR);
            assert_eq!(thread.lingering.len(), 1);
            other.write_all(if used { b"more" } else { b"" }).unwrap();
            // It isn't watched by epoll, so only its time ends the wait.
            while let Some(rest) = thread.lingering.due(0) {
                let rest = rest.saturating_duration_since(Instant::now());
                if rest > GRACE {
                    break;
                }
                let mut events = crate::sys::events::no_events();
                let mut tokens = thread.poller.wait(&mut events, Some(rest)).unwrap();
                assert!(tokens.next().is_none());
                thread.lingering.close_overdue(0, &thread.poller);
            }
            assert_eq!(thread.lingering.len(), usize::from(!used));
            assert_eq!(unread(&other), if used { 6 } else { 0 });
            assert_eq!(other.write(b"x").is_ok(), used);
        }
    }

    #[test]
    fn of_too_many_connections_the_one_with_the_least_time_is_closed() {
        // A quarter of these files, half of that for the stream worker.
        let thread = Thread::with(16);
        assert_eq!(most(1, 16), 4);
        let (pairs, servers): (Vec<_>, Vec<_>) = (0..3).map(|_| tcp()).unzip();
        let mut servers = servers.into_iter();
        for time in [FAR, FAR / 2, FAR] {
            thread.add(servers.next().unwrap(), time);
        }
        assert_eq!(thread.lingering.len(), 2);
        let mut gone = &pairs[1];
        while gone.write(b"x").is_ok() {}
        for mut stays in [&pairs[0], &pairs[2]] {
            assert!(stays.write(b"x").is_ok());
        }
        drop(pairs);
        thread.drain_until(0);
        assert_eq!((most(16, 1), most(3, u64::MAX)), (32, 6 * MOST));
    }

    #[test]
    fn connections_are_kept_by_default_where_input_stays_unread() {
        let Thread { lingering, .. } = Thread::new();
        let service = ServiceId::new(0);
        for _ in 0..2 {
            for _ in 0..QUIET {
                assert!(lingering.is_worth_it(service));
                lingering.note(service, false);
            }
            let kept = |_: &u32| {
                let kept = lingering.is_worth_it(service);
                if kept {
                    lingering.note(service, false);
                }
                kept
            };
            assert_eq!((0..10 * SAMPLE).filter(kept).count(), 10);
            lingering.note(service, true);
        }
    }

    #[test]
    fn a_client_that_sends_for_ever_holds_up_no_thread() {
        let (client, server) = tcp();
        assert!(stuff(&client) > BATCH);
        assert_eq!(drain_input(&server, BATCH), Drained::Some);
        while drain_input(&server, BATCH) != Drained::All {}
        drop(client);
        while drain_input(&server, BATCH) == Drained::All {}
        assert_eq!(drain_input(&server, BATCH), Drained::End);
    }

    #[test]
    fn no_close_waits_whatever_the_handler_has_set() {
        let thread = Thread::new();
        let (_client, server) = tcp();
        stuff(&server);
        SockRef::from(&server).set_linger(Some(FAR)).unwrap();
        thread.add(server, Duration::ZERO);
        let _ = thread.lingering.close_overdue(0, &thread.poller);
        assert_eq!(thread.lingering.len(), 0);
    }

    #[test]
    fn a_reset_that_the_handler_wanted_is_sent() {
        let thread = Thread::new();
        let (mut client, server) = tcp();
        SockRef::from(&server)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        thread.add(server, FAR);
        let reason = read_all(&mut client).1.unwrap_err();
        assert_eq!(reason.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_unix_client_sees_the_end_and_no_error() {
        let thread = Thread::new();
        for lingers in [true, false] {
            let (mut client, mut server) = UnixStream::pair().unwrap();
            client.write_all(b"unread").unwrap();
            server.write_all(b"answer").unwrap();
            if lingers {
                thread.add(server, FAR);
            } else {
                drop(server);
            }
            let (read, result) = read_all(&mut client);
            // Nothing is lost either way.
            assert_eq!((read, result.is_ok()), (6, lingers));
            drop(client);
            // Its input stays unread.
            if lingers {
                assert_eq!(thread.lingering.len(), 1);
                assert!(thread.lingering.due(0).unwrap() <= Instant::now() + FAR);
            }
        }
    }
}
