//! What the control thread does: one turn after the other, in none of which it waits.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use skd_control::{Answer, Failure, FailureKind, Request};
use socket2::Socket;

use super::client::{Client, Gone, Line, State, Watch};
use super::dispatch::Backend;
use super::filter::{Filter, check_events};
use super::permissions::{Access, Permissions};
use super::request;
use crate::config::Peer;
use crate::net::Listener;
use crate::report::counters;
use crate::serve::control::commands::ReplyTo;
use crate::sys::events::{Interest, Poller};

/// How many clients there are at most.
pub(super) const MOST_CLIENTS: usize = 64;

/// How many of them may be clients that only ask: the others are left to clients that act.
const MOST_READERS: usize = 48;

/// How many bytes of answers may wait to be read before another request is answered: of all clients
/// that may act, and of all that only ask. What these don't read doesn't hold up the others.
const MOST_OUTPUT: usize = 32 * 1024 * 1024;

/// How many clients are accepted in one turn.
const ACCEPTED_AT_ONCE: usize = 16;

/// After which time no further request is answered in a turn: the main thread may wait for its end.
const TURN: Duration = Duration::from_millis(50);

/// How long nothing is accepted after accept(2) has failed: most likely, descriptors are short.
const PAUSE: Duration = Duration::from_millis(250);

/// The key of the waker among watched descriptors.
const WAKER: u64 = 0;
/// The key of the listener.
const LISTENER: u64 = 1;
/// The key of the first client. Others have the numbers after it.
const FIRST_CLIENT: u64 = 2;

/// The clients, and what answers them.
#[derive(Debug)]
pub(super) struct Server {
    listener: Arc<Listener>,
    poller: Arc<Poller>,
    permissions: Permissions,
    pub(super) backend: Backend,
    pub(super) clients: Vec<Client>,
    /// How many they are, for others to see.
    pub(super) count: Arc<AtomicUsize>,
    /// The number of the next client.
    pub(super) next: u64,
    /// When clients are accepted again, after a failure.
    accepts_at: Option<Instant>,
    /// Whether its thread does nothing until this is false again.
    pub(super) is_parked: bool,
    /// Whether its thread is to end.
    pub(super) has_ended: bool,
}

impl Server {
    pub(super) fn new(
        (listener, poller): (Arc<Listener>, Arc<Poller>),
        permissions: Permissions,
        backend: Backend,
    ) -> Self {
        Self {
            listener,
            poller,
            permissions,
            backend,
            clients: Vec::new(),
            count: Arc::default(),
            next: FIRST_CLIENT,
            accepts_at: None,
            is_parked: true,
            has_ended: false,
        }
    }

    /// Watches what wakes its thread.
    pub(super) fn watch(&self) -> Result<(), Errno> {
        self.poller
            .add(self.backend.waker(), Interest::Readable, WAKER)
    }

    /// Begins to accept. The thread was parked until now: what is answered before is for clients of an
    /// earlier binary, which are added first.
    pub(super) fn begin(&mut self) -> Result<(), Errno> {
        self.is_parked = false;
        self.poller
            .add(&*self.listener, Interest::Readable, LISTENER)
    }

    /// Acts on what has happened, and on what is due. Returns when the next turn is due at the latest.
    pub(super) fn turn(&mut self, keys: &[u64], now: Instant) -> Option<Instant> {
        if keys.contains(&WAKER) {
            self.backend.waker().clear();
        }
        for key in keys.iter().filter(|key| **key >= FIRST_CLIENT) {
            self.look_at(*key, now);
        }
        self.take_replies(now);
        self.send_events(now);
        self.serve_each(now);
        self.close_late(now);
        let resumes = self.accepts_at.is_some_and(|due| due <= now);
        if keys.contains(&LISTENER) || resumes {
            self.accept(now);
        }
        self.settle(now);
        self.count.store(self.clients.len(), Ordering::Relaxed);
        let watches = self.clients.iter().any(|it| it.state.watch.is_some());
        self.backend.watch(watches);
        self.due(now)
    }

    /// Answers a request of each client, as far as that is done in time; first of those that may act.
    fn serve_each(&mut self, now: Instant) {
        let mut capacity = self.capacity();
        for access in [Access::Act, Access::Ask] {
            for index in 0..self.clients.len() {
                if now.elapsed() > TURN {
                    // The others are the first of the next turn.
                    return self.clients.rotate_left(index);
                }
                let client = &self.clients[index];
                if client.access == access && capacity.lets(client) {
                    self.serve(index, now);
                    capacity.take(&self.clients[index]);
                }
            }
        }
    }

    /// Adds a client.
    pub(super) fn add(&mut self, connection: u64, socket: Socket, access: Access, state: State) {
        let client = Client::new(connection, socket, access, state);
        let watched = self
            .poller
            .add(&client.socket, client.interest, client.connection);
        if watched.is_ok() {
            self.clients.push(client);
        }
    }

    /// Writes down the answers that the main thread has given.
    pub(super) fn take_replies(&mut self, now: Instant) {
        for (ReplyTo { connection, id }, answer) in self.backend.take_replies() {
            let mut clients = self.clients.iter_mut();
            if let Some(client) = clients.find(|it| it.connection == connection) {
                client.state.awaits = None;
                client.answer(id, answer, now);
            }
        }
    }

    /// Writes what the main thread has answered at the end, as far as it is taken at once.
    pub(super) fn write_last(&mut self, now: Instant) {
        self.take_replies(now);
        for client in &mut self.clients {
            let _ = client.write(now);
        }
    }

    fn send_events(&mut self, now: Instant) {
        let (events, lost) = self.backend.take_events();
        for event in events {
            let lost = self.clients.iter_mut().map(|it| it.event(&event, now));
            let lost = lost.sum();
            if lost > 0 {
                counters::count_lost_events(lost);
            }
        }
        let watches = self.clients.iter_mut();
        let watches = watches.filter_map(|it| it.state.watch.as_mut());
        // Those that it would not have got, too: which they were isn't known.
        watches.for_each(|watch| watch.lost += lost);
    }

    /// Reads from a client or writes to it, whichever it was watched for.
    fn look_at(&mut self, key: u64, now: Instant) {
        let Some(index) = self.clients.iter().position(|it| it.connection == key) else {
            return;
        };
        let client = &mut self.clients[index];
        let found = match client.interest {
            Interest::Readable => client.read(now),
            Interest::Writable => client.write(now),
            // Nothing but the end of the connection is told then.
            _ => Err(Gone),
        };
        if found.is_err() {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        let client = self.clients.swap_remove(index);
        // Before it is closed: see `sys::child`.
        let _ = self.poller.remove(&client.socket);
        client.close();
    }

    fn capacity(&self) -> Capacity {
        let mut capacity = Capacity {
            act: MOST_OUTPUT,
            ask: MOST_OUTPUT,
        };
        self.clients.iter().for_each(|client| capacity.take(client));
        capacity
    }

    /// Answers one request of a client.
    fn serve(&mut self, index: usize, now: Instant) {
        let client = &mut self.clients[index];
        let line = match client.take_line(now) {
            Line::Request(line) => request::read(&line),
            Line::TooLong => {
                client.state.closes = true;
                Err((0, request::too_long()))
            }
            Line::Unfinished => Err((0, request::bad("the last request has no newline"))),
        };
        let line = match line {
            Ok(line) => line,
            Err((id, failure)) => return client.answer(id, Answer::Failed(failure), now),
        };
        let id = line.id;
        let to = ReplyTo {
            connection: client.connection,
            id,
        };
        let answer = match line.request {
            request if request.acts() && client.access != Access::Act => Err(not_permitted(
                "only root and the owner of the control socket may do that",
            )),
            request if request.acts() => {
                client.state.awaits = Some(id);
                self.backend.command(request, to);
                return;
            }
            Request::Events(filter) => {
                let known = self.backend.check_services(&filter.services);
                let known = known.and_then(|()| check_events(&filter.events));
                match known.and_then(|()| Filter::read(filter)) {
                    Ok(filter) => {
                        client.state.watch = Some(Watch {
                            id,
                            filter,
                            lost: 0,
                        });
                        return;
                    }
                    Err(failure) => Err(failure),
                }
            }
            request => self.backend.ask(&request),
        };
        client.answer(id, answer.unwrap_or_else(Answer::Failed), now);
    }

    fn accept(&mut self, now: Instant) {
        if self.accepts_at.take().is_some() {
            self.watch_listener(Interest::Readable);
        }
        for _ in 0..ACCEPTED_AT_ONCE {
            match self.listener.accept() {
                Ok((socket, peer)) => self.welcome(socket, &peer),
                Err(why) if why.kind() == ErrorKind::WouldBlock => return,
                Err(why) if is_of_one_client(&why) => {}
                Err(_) => {
                    // It would be told of again and again.
                    self.watch_listener(Interest::Paused);
                    self.accepts_at = Some(now + PAUSE);
                    return;
                }
            }
        }
    }

    fn watch_listener(&self, interest: Interest) {
        let _ = self.poller.change(&*self.listener, interest, LISTENER);
    }

    fn welcome(&mut self, socket: Socket, peer: &Peer) {
        let access = self.permissions.access(&socket, peer);
        let readers = self.clients.iter().filter(|it| it.access == Access::Ask);
        let readers = readers.count();
        let failure = match access {
            None => not_permitted("you may not use the control socket of this skd"),
            _ if self.clients.len() >= MOST_CLIENTS => busy(MOST_CLIENTS),
            Some(Access::Ask) if readers >= MOST_READERS => busy(MOST_READERS),
            Some(access) => {
                if socket.set_nonblocking(true).is_ok() {
                    let connection = self.next;
                    self.next += 1;
                    self.add(connection, socket, access, State::default());
                }
                return;
            }
        };
        let _ = socket.set_nonblocking(true);
        // Nothing was written before, so that it fits.
        let mut client = Client::new(0, socket, Access::Ask, State::default());
        let now = Instant::now();
        client.answer(0, Answer::Failed(failure), now);
        let _ = client.write(now);
        client.close();
    }

    /// Closes clients that are late.
    fn close_late(&mut self, now: Instant) {
        for index in (0..self.clients.len()).rev() {
            if self.clients[index].due().is_some_and(|due| due <= now) {
                self.remove(index);
            }
        }
    }

    /// Writes what there is to be read, closes clients that have got all, and watches the others for
    /// what they do next.
    fn settle(&mut self, now: Instant) {
        for index in (0..self.clients.len()).rev() {
            let client = &mut self.clients[index];
            // A client that was watched for writing has just been written to.
            let writes = !client.state.output.is_empty() && client.interest != Interest::Writable;
            let is_gone = writes && client.write(now).is_err();
            if is_gone || client.is_over() {
                self.remove(index);
                continue;
            }
            let wanted = client.wants();
            if wanted != client.interest {
                client.interest = wanted;
                let key = client.connection;
                if self.poller.change(&client.socket, wanted, key).is_err() {
                    self.remove(index);
                }
            }
        }
    }

    fn due(&self, now: Instant) -> Option<Instant> {
        let capacity = self.capacity();
        let serves = self.clients.iter().any(|client| capacity.lets(client));
        let clients = self.clients.iter().filter_map(Client::due);
        let all = clients.chain(self.accepts_at).chain(serves.then_some(now));
        all.min()
    }
}

/// How many bytes of answers may be added, for clients that may act and for those that only ask.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    act: usize,
    ask: usize,
}

impl Capacity {
    fn of(&mut self, client: &Client) -> &mut usize {
        match client.access {
            Access::Act => &mut self.act,
            Access::Ask => &mut self.ask,
        }
    }

    /// Returns whether a client has a request that may be answered now.
    fn lets(mut self, client: &Client) -> bool {
        *self.of(client) > 0 && client.has_line()
    }

    /// Takes what a client has yet to read.
    fn take(&mut self, client: &Client) {
        let capacity = self.of(client);
        *capacity = capacity.saturating_sub(client.state.output.len());
    }
}

fn not_permitted(message: &str) -> Failure {
    Failure {
        kind: FailureKind::NotPermitted,
        message: message.into(),
    }
}

fn busy(most: usize) -> Failure {
    Failure {
        kind: FailureKind::Busy,
        message: format!("the control socket has {most} such clients already; try again later"),
    }
}

/// Whether accept(2) has failed because of one client, so that another may be accepted.
fn is_of_one_client(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
    )
}
