//! Connections that are leaving: all has been said on them, and their clients are heard out, so
//! that it arrives.
//!
//! A connection that is closed while something waits to be read, or to which something comes
//! after that, is reset, and a reset takes away what the client hasn't got yet (RFC 1122,
//! 4.2.2.13; on a unix socket, which loses nothing, the client sees an error instead of the end).
//! So it is half-closed, which tells the client that this was all, and whatever it still
//! sends is thrown away until it closes too, or its time is over.
//!
//! Nothing here waits, and nobody holds a thread: what is read at a time is bounded, and
//! so is how many are leaving.

use std::collections::TryReserveError;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use socket2::SockRef;

use super::Handlers;
use super::token::Token;
use crate::report::{self, Event, Trouble, Watched};
use crate::sys::events::{Interest, Poller};
use crate::sys::signals::has_group;
use crate::sys::sockets::{Heard, close_at_once, hear_out, tell};

/// How many may be leaving in one thread: enough for the round trips of its clients, even
/// of slow ones, at thousands of connections a second, and yet nothing that a flood of clients
/// who never close could make much of.
const MOST: usize = 1_024;

/// The part of the limit of open files that all of them may take, at most: the other threads' and
/// the main thread's, who may have as many again.
const SHARE: u64 = 4;

/// How much is read of one connection at a time: what a client that sends for ever can hold its
/// thread with, before others have their turn.
const MOUTHFUL: usize = 128 * 1024;

/// How many connections may be leaving in each of so many acceptors, under this limit of open
/// files. The main thread may have as many as all of them: in a drain it sees all ends.
fn most_each(acceptors: usize, files: u64) -> usize {
    let share = files / SHARE / 2 / acceptors.max(1) as u64;
    usize::try_from(share).unwrap_or(MOST).clamp(1, MOST)
}

/// How many may be leaving in all threads together.
pub fn most(acceptors: usize, files: u64) -> usize {
    2 * acceptors * most_each(acceptors, files)
}

/// A handler's connection, kept until its end.
#[derive(Debug)]
pub(in crate::serve) struct KeptConnection {
    connection: OwnedFd,
    /// How long its client is heard out then.
    time: Duration,
}

impl KeptConnection {
    pub(in crate::serve) fn new(connection: impl Into<OwnedFd>, time: Duration) -> Self {
        Self {
            connection: connection.into(),
            time,
        }
    }

    /// The handler has ended, which led this process group: the connection leaves, in this thread.
    pub(in crate::serve) fn part(self, handlers: &Handlers, thread: usize, leader: Pid) {
        if has_group(leader) {
            // Whoever the handler has left behind may go on with it.
            close_at_once(&self.connection);
        } else {
            let until = Instant::now() + self.time;
            let poller = &handlers.pollers[thread];
            handlers
                .lingering
                .leave(thread, poller, self.connection, until);
        }
    }

    /// The connection, and how long its input is drained after the handler's end.
    pub(in crate::serve) fn parts(&self) -> (&OwnedFd, Duration) {
        (&self.connection, self.time)
    }
}

/// All that are leaving, in one part for each thread, in whose epoll set they are. A thread
/// shares the lock of its part with the main thread alone, who takes it when the thread has ended
/// or is parked.
#[derive(Debug)]
pub(in crate::serve) struct Lingering {
    /// None where no connection ever leaves in this way.
    parts: Box<[Mutex<Part>]>,
}

impl Lingering {
    /// Where no connection leaves in this way, which then costs nothing.
    pub(in crate::serve) fn never() -> Self {
        Self {
            parts: Box::new([]),
        }
    }

    /// An empty table for so many acceptors and the main thread, under this limit of open files.
    /// No other memory is taken later.
    pub(in crate::serve) fn new(acceptors: usize, files: u64) -> Result<Self, TryReserveError> {
        let each = most_each(acceptors, files);
        let of_main = each * acceptors.max(1);
        let mosts = std::iter::repeat_n(each, acceptors).chain([of_main]);
        let parts = mosts.map(|most| Part::new(most).map(Mutex::new));
        Ok(Self {
            parts: parts.collect::<Result<_, _>>()?,
        })
    }

    /// Half-closes a connection on which all has been said, and hears its client out until then
    /// at the latest. If too many are leaving already, the one that has the least time left is
    /// closed.
    pub(in crate::serve) fn leave(
        &self,
        thread: usize,
        poller: &Poller,
        connection: OwnedFd,
        until: Instant,
    ) {
        // What the handler wanted to be reset is reset; and no close waits. Then what has come:
        // many a client has said all, and even closed.
        if close_at_once(&connection)
            || hear_out(&connection, MOUTHFUL) == Heard::End
            || SockRef::from(&connection)
                .shutdown(Shutdown::Write)
                .is_err()
            || hear_out(&connection, MOUTHFUL) == Heard::End
        {
            return;
        }
        let Some(mut part) = self.part(thread) else {
            return;
        };
        let index = part.make_room(poller);
        let key = Token::Lingering(index).into();
        if let Err(errno) = poller.add(&connection, Interest::Readable, key) {
            report::event(Event::Trouble(Trouble::NotWatched {
                service: None,
                what: Watched::Lingering,
                errno,
            }));
            return;
        }
        part.insert(index, Entry { connection, until });
    }

    /// Tells a client who is refused this, as far as the connection takes it without waiting, and
    /// has it leave.
    pub(in crate::serve) fn tell(
        &self,
        thread: usize,
        poller: &Poller,
        connection: OwnedFd,
        text: &[u8],
        until: Instant,
    ) {
        // A connection that is new takes thousands of bytes. If it doesn't, it has gone.
        if tell(&connection, text).is_ok() {
            self.leave(thread, poller, connection, until);
        }
    }

    /// Something has come from the client with this index, or its end has.
    pub(in crate::serve) fn hear(&self, thread: usize, poller: &Poller, index: usize) {
        let Some(mut part) = self.part(thread) else {
            return;
        };
        // If it is another by now, that does no harm.
        let entry = part.entries.get(index).and_then(Option::as_ref);
        if entry.is_some_and(|entry| hear_out(&entry.connection, MOUTHFUL) == Heard::End) {
            part.close(index, poller);
        }
    }

    /// When to call [`Self::on_time`] for this thread, should nothing happen before; or somewhat
    /// earlier.
    pub(in crate::serve) fn due(&self, thread: usize) -> Option<Instant> {
        self.part(thread).and_then(|part| part.due)
    }

    /// Closes those whose time is over.
    pub(in crate::serve) fn on_time(&self, thread: usize, poller: &Poller) {
        let Some(mut part) = self.part(thread) else {
            return;
        };
        if let Some(due) = part.due {
            let now = Instant::now();
            if due <= now {
                part.close_due(poller, now);
            }
        }
    }

    /// How many there are.
    pub(in crate::serve) fn len(&self) -> usize {
        let parts = (0..self.parts.len()).filter_map(|thread| self.part(thread));
        parts.map(|part| part.live()).sum()
    }

    /// Looks at all of them: each connection, and until when it may stay.
    pub(in crate::serve) fn each(&self, mut look: impl FnMut(&OwnedFd, Instant)) {
        for part in (0..self.parts.len()).filter_map(|thread| self.part(thread)) {
            for entry in part.entries.iter().flatten() {
                look(&entry.connection, entry.until);
            }
        }
    }

    fn part(&self, thread: usize) -> Option<MutexGuard<'_, Part>> {
        let part = self.parts.get(thread)?;
        Some(part.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Entries that keep their index for life.
#[derive(Debug)]
struct Part {
    /// As many as there have ever been at once.
    entries: Vec<Option<Entry>>,
    /// Those that are empty.
    free: Vec<usize>,
    most: usize,
    /// Not later than the first is due.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    connection: OwnedFd,
    until: Instant,
}

impl Part {
    fn new(most: usize) -> Result<Self, TryReserveError> {
        let (mut entries, mut free) = (Vec::new(), Vec::new());
        entries.try_reserve_exact(most)?;
        free.try_reserve_exact(most)?;
        Ok(Self {
            entries,
            free,
            most,
            due: None,
        })
    }

    fn live(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The index of an empty entry, if need be of one that is closed for it.
    fn make_room(&mut self, poller: &Poller) -> usize {
        if self.free.is_empty() && self.entries.len() == self.most {
            let entries = self.entries.iter().enumerate();
            let first = entries.min_by_key(|(_, entry)| entry.as_ref().map(|entry| entry.until));
            if let Some((index, _)) = first {
                self.close(index, poller);
            }
        }
        self.free.last().copied().unwrap_or(self.entries.len())
    }

    fn insert(&mut self, index: usize, entry: Entry) {
        let until = entry.until;
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
        match self.entries.get_mut(index) {
            Some(empty) => {
                self.free.pop();
                *empty = Some(entry);
            }
            None => self.entries.push(Some(entry)),
        }
    }

    fn close(&mut self, index: usize, poller: &Poller) {
        if let Some(entry) = self.entries.get_mut(index).and_then(Option::take) {
            // Before it is closed: a process that was left behind may have it too, or a newborn
            // child, and its registration would live on.
            let _ = poller.remove(&entry.connection);
            self.free.push(index);
            if self.live() == 0 {
                self.due = None;
            }
        }
    }

    fn close_due(&mut self, poller: &Poller, now: Instant) {
        for index in 0..self.entries.len() {
            let entry = self.entries[index].as_ref();
            if entry.is_some_and(|entry| entry.until <= now) {
                self.close(index, poller);
            }
        }
        let entries = self.entries.iter().flatten();
        self.due = entries.map(|entry| entry.until).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    const FAR: Duration = Duration::from_secs(1_000);

    struct PendingQueue {
        poller: Poller,
        leaving: Lingering,
    }

    impl PendingQueue {
        fn new() -> Self {
            Self::with(u64::MAX)
        }

        fn with(files: u64) -> Self {
            let poller = Poller::new().unwrap();
            let leaving = Lingering::new(1, files).unwrap();
            Self { poller, leaving }
        }

        fn leave(&self, connection: impl Into<OwnedFd>, time: Duration) {
            let until = Instant::now() + time;
            self.leaving
                .leave(0, &self.poller, connection.into(), until);
        }

        /// Hears what there is to hear until so many are left.
        fn until_left(&self, count: usize) {
            while self.leaving.len() > count {
                let mut room = crate::sys::events::no_events();
                for key in self.poller.wait(&mut room, Some(FAR)).unwrap() {
                    let Token::Lingering(index) = Token::from(key) else {
                        panic!("{key}")
                    };
                    self.leaving.hear(0, &self.poller, index);
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
    fn a_client_that_has_closed_is_let_go_at_once() {
        let room = PendingQueue::new();
        let (mut client, server) = tcp();
        client.write_all(b"unread").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // Its bytes and its end may take a moment.
        while server.peek(&mut [0; 8]).unwrap() < 6 {}
        room.leave(server, FAR);
        room.until_left(0);
        let (read, result) = read_all(&mut client);
        assert_eq!((read, result.is_ok()), (0, true));
        assert_eq!(room.leaving.due(0), None);
    }

    #[test]
    fn an_answer_arrives_though_its_client_goes_on_sending() {
        let room = PendingQueue::new();
        let (mut client, mut server) = tcp();
        server.write_all(&[7; 300_000]).unwrap();
        let unread = stuff(&client);
        assert!(unread > MOUTHFUL * 2, "{unread}");
        room.leave(server, FAR);
        assert_eq!(room.leaving.len(), 1);
        let reader = std::thread::spawn(move || {
            client.write_all(&[7; 1_000_000]).unwrap();
            let (read, result) = read_all(&mut client);
            // Even now.
            client.write_all(b"more").unwrap();
            (read, result.is_ok())
        });
        room.until_left(0);
        assert_eq!(reader.join().unwrap(), (300_000, true));
    }

    #[test]
    fn what_is_told_arrives() {
        let room = PendingQueue::new();
        let (mut client, server) = tcp();
        stuff(&client);
        let until = Instant::now() + FAR;
        let server = OwnedFd::from(server);
        room.leaving
            .tell(0, &room.poller, server, b"too many\n", until);
        let mut told = String::new();
        let reader = std::thread::spawn(move || {
            client.read_to_string(&mut told).unwrap();
            told
        });
        room.until_left(0);
        assert_eq!(reader.join().unwrap(), "too many\n");
    }

    #[test]
    fn nobody_is_heard_for_longer_than_its_time() {
        let room = PendingQueue::new();
        let (mut early, one) = tcp();
        let (_late, other) = tcp();
        let before = Instant::now();
        room.leave(other, FAR);
        room.leave(one, Duration::ZERO);
        assert!(room.leaving.due(0).unwrap() <= Instant::now());
        room.leaving.on_time(0, &room.poller);
        assert_eq!(room.leaving.len(), 1);
        assert!(room.leaving.due(0).unwrap() >= before + FAR);
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
    fn where_there_are_too_many_the_one_with_the_least_time_goes() {
        // A quarter of these files, half of that for the acceptor.
        let room = PendingQueue::with(16);
        assert_eq!(most(1, 16), 4);
        let (pairs, servers): (Vec<_>, Vec<_>) = (0..3).map(|_| tcp()).unzip();
        let mut servers = servers.into_iter();
        for time in [FAR, FAR / 2, FAR] {
            room.leave(servers.next().unwrap(), time);
        }
        assert_eq!(room.leaving.len(), 2);
        let mut gone = &pairs[1];
        while gone.write(b"x").is_ok() {}
        for mut stays in [&pairs[0], &pairs[2]] {
            assert!(stays.write(b"x").is_ok());
        }
        drop(pairs);
        room.until_left(0);
        assert_eq!((most(16, 1), most(3, u64::MAX)), (32, 6 * MOST));
    }

    #[test]
    fn one_that_sends_for_ever_holds_nobody() {
        let (client, server) = tcp();
        assert!(stuff(&client) > MOUTHFUL);
        assert_eq!(hear_out(&server, MOUTHFUL), Heard::Some);
        while hear_out(&server, MOUTHFUL) != Heard::All {}
        drop(client);
        while hear_out(&server, MOUTHFUL) == Heard::All {}
        assert_eq!(hear_out(&server, MOUTHFUL), Heard::End);
    }

    #[test]
    fn no_close_waits_whatever_the_handler_has_asked_for() {
        let room = PendingQueue::new();
        let (_client, server) = tcp();
        stuff(&server);
        SockRef::from(&server).set_linger(Some(FAR)).unwrap();
        room.leave(server, Duration::ZERO);
        room.leaving.on_time(0, &room.poller);
        assert_eq!(room.leaving.len(), 0);
    }

    #[test]
    fn what_is_to_be_reset_is_reset() {
        let room = PendingQueue::new();
        let (mut client, server) = tcp();
        SockRef::from(&server)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        room.leave(server, FAR);
        let reason = read_all(&mut client).1.unwrap_err();
        assert_eq!(reason.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_unix_client_sees_the_end_and_no_error() {
        let room = PendingQueue::new();
        for leaves in [true, false] {
            let (mut client, mut server) = UnixStream::pair().unwrap();
            client.write_all(b"unread").unwrap();
            server.write_all(b"answer").unwrap();
            if leaves {
                room.leave(server, FAR);
            } else {
                drop(server);
            }
            let (read, result) = read_all(&mut client);
            // Nothing is lost either way.
            assert_eq!((read, result.is_ok()), (6, leaves));
            drop(client);
            room.until_left(0);
        }
    }
}
