//! The control socket: requests and answers in JSON, a line each (crate `skd_control`).
//!
//! One thread serves all its clients, and nothing else: what a client does or doesn't do holds up
//! other clients of the socket at most. It answers asks by itself, from what all threads share, and
//! hands acts to the main thread. Whatever it keeps for clients is bounded.
//!
//! | file | |
//! | --- | --- |
//! | `request` | reading a line, and what is wrong with it |
//! | `bound` | the socket before it is served |
//! | `permissions` | who may ask and act |
//! | `filter` | which events a client watches |
//! | `client` | one client: its buffers, and how its connection is watched |
//! | `dispatch` | where requests go |
//! | `server` | all clients: one turn of the thread |
//! | `saved` | what an upgrade and a reload keep |

pub(in crate::serve::control) mod bound;
mod client;
mod dispatch;
mod filter;
mod permissions;
pub(super) mod request;
pub(in crate::serve::control) mod saved;
mod server;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use skd_control::Request;

use super::commands::{Commands, ReplyTo};
use super::view::View;
use crate::error::Error;
use crate::net::{Listener, Serving, SocketFile};
use crate::serve::handlers::saved::LeftOpen;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::events::{Poller, Waker, no_events};
use crate::sys::thread::Thread;

use bound::BoundControl;
use dispatch::Backend;
use permissions::Permissions;
use saved::SavedClient;
use saved::SavedControl;
use server::Server;

/// The stack of the thread. JSON is read to a depth of 128.
const STACK: usize = 512 * 1024;

/// How long the end of skd waits for an answer that is being made.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// How often the main thread looks whether a turn is over.
const MOMENT: Duration = Duration::from_micros(200);

/// How long to wait after epoll has failed, on which nothing must spin.
const PAUSE: Duration = Duration::from_millis(100);

/// What the control thread and the main thread share.
#[derive(Debug)]
struct Shared {
    /// Locked for each turn of the control thread.
    server: Mutex<Server>,
    /// Tells the control thread that it isn't parked any more.
    unparked: Condvar,
    /// Whether the main thread waits for the lock, which may not go to the thread that waits longest.
    is_wanted: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks what is locked for a turn of the thread, unless that takes longer.
    fn lock_within(&self, limit: Duration) -> Option<MutexGuard<'_, Server>> {
        let deadline = Instant::now() + limit;
        self.is_wanted.store(true, Ordering::SeqCst);
        let found = loop {
            match self.server.try_lock() {
                Ok(guard) => break Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => break None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(MOMENT),
            }
        };
        self.is_wanted.store(false, Ordering::SeqCst);
        found
    }

    /// Locks it for a turn of the thread, after the main thread.
    fn lock_for_turn(&self) -> MutexGuard<'_, Server> {
        while self.is_wanted.load(Ordering::SeqCst) {
            std::thread::sleep(MOMENT);
        }
        let mut turn = self.lock();
        while turn.is_parked && !turn.has_ended {
            let waited = self.unparked.wait(turn);
            turn = waited.unwrap_or_else(PoisonError::into_inner);
        }
        turn
    }
}

/// The control socket, as the main thread has it.
#[derive(Debug)]
pub(in crate::serve) struct ControlSocket {
    /// Dropped, and removed, while the socket is open.
    file: Option<SocketFile>,
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    permissions: Permissions,
    /// How many clients there are.
    count: Arc<AtomicUsize>,
    /// What an earlier binary has left, until [`Self::begin`].
    left: Vec<SavedClient>,
}

impl ControlSocket {
    /// Starts the thread, which waits until [`Self::begin`]. The waker is its own.
    pub(in crate::serve) fn start(
        (bound, waker): (BoundControl, Arc<Waker>),
        view: &Arc<View>,
        commands: &Arc<Commands>,
    ) -> Result<Self, Error> {
        let failed = |what: &'static str| move |errno: Errno| Error::start(what, errno);
        let mut listener = bound.listener;
        descriptors::set_blocking(&listener, false)
            .map_err(failed("the control socket can't be made non-blocking"))?;
        let no_descriptor = failed("no descriptor for the control socket");
        listener
            .refuse_descriptors(Serving::Accept)
            .map_err(no_descriptor)?;
        let file = listener.take_file();
        let listener = Arc::new(listener);
        let poller = Arc::new(Poller::new().map_err(no_descriptor)?);
        let backend = Backend::new(Arc::clone(view), Arc::clone(commands), Arc::clone(&waker));
        let of = (Arc::clone(&listener), Arc::clone(&poller));
        let mut server = Server::new(of, bound.permissions.clone(), backend);
        server.next = bound.next.unwrap_or(server.next);
        server
            .watch()
            .map_err(failed("the control socket can't be watched"))?;
        let count = Arc::clone(&server.count);
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            unparked: Condvar::new(),
            is_wanted: AtomicBool::new(false),
        });
        let work = {
            let shared = Arc::clone(&shared);
            move || serve(&shared, &poller)
        };
        Thread::start(c"control".into(), STACK, work)
            .map_err(failed("no thread for the control socket"))?;
        Ok(Self {
            file,
            listener,
            shared,
            waker,
            permissions: bound.permissions,
            count,
            left: bound.clients,
        })
    }

    /// Takes the file from another binary of this process, for good.
    pub(in crate::serve) fn take_possession(&mut self) {
        self.file.iter_mut().for_each(SocketFile::own);
    }

    /// Begins to serve, clients of an earlier binary first.
    pub(in crate::serve) fn begin(&mut self, left_open: &mut LeftOpen) -> Result<(), Errno> {
        let mut server = self.shared.lock();
        for mut saved in std::mem::take(&mut self.left) {
            let Some(socket) = left_open.take(saved.socket) else {
                continue;
            };
            let (connection, access) = (saved.connection, saved.access);
            let unsent = saved.unsent.take();
            let state = saved.restore();
            if let (Some(request), Some(id)) = (unsent, state.awaits) {
                server.backend.command(request, ReplyTo { connection, id });
            }
            server.add(connection, socket.into(), access, state);
        }
        let begun = server.begin();
        drop(server);
        self.shared.unparked.notify_all();
        self.waker.wake();
        begun
    }

    /// Has the thread do nothing until [`Self::unpark`]. Returns whether it does so: an answer that is
    /// being made may take longer than the time.
    pub(in crate::serve) fn park(&self, limit: Duration) -> bool {
        let parked = self.shared.lock_within(limit);
        parked.is_some_and(|mut server| {
            server.is_parked = true;
            true
        })
    }

    /// Has the thread go on.
    pub(in crate::serve) fn unpark(&self) {
        self.shared.lock().is_parked = false;
        self.shared.unparked.notify_all();
    }

    /// Saves the socket for the next binary, and its clients if `connections` says so. Then its thread
    /// is parked.
    pub(in crate::serve) fn save(
        &self,
        connections: bool,
        to: &mut SavedDescriptors,
    ) -> io::Result<SavedControl> {
        let file = self.file.as_ref().map(|file| file.save(to)).transpose()?;
        let mut saved = SavedControl {
            listener: self.listener.save(to)?,
            file,
            permissions: self.permissions.clone(),
            next: 0,
            clients: Vec::new(),
        };
        // Locked by a turn of the thread, perhaps a long one, unless it is parked.
        if connections {
            let mut server = self.shared.lock();
            saved.next = server.next;
            // What the main thread has answered is not for the next binary to answer.
            server.take_replies(Instant::now());
            let unsent = server.backend.unsent();
            let request_of = |connection: u64| -> Option<Request> {
                let mut unsent = unsent.iter();
                let found = unsent.find(|(to, _)| to.connection == connection);
                found.map(|(_, request)| request.clone())
            };
            for client in &server.clients {
                let request = request_of(client.connection);
                saved.clients.extend(SavedClient::save(client, request, to));
            }
        }
        Ok(saved)
    }

    /// How many descriptors of clients there are.
    pub(in crate::serve) fn count_clients(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Removes the file, and closes the connections of all clients.
    pub(in crate::serve) fn end(&mut self) {
        self.file = None;
        if let Some(mut server) = self.shared.lock_within(LAST_ANSWER) {
            server.write_last(Instant::now());
            server.has_ended = true;
            server.clients = Vec::new();
        }
        self.waker.wake();
    }
}

/// The loop of the thread.
fn serve(shared: &Shared, poller: &Poller) {
    let mut buffer = no_events();
    let mut keys = Vec::with_capacity(buffer.len());
    let mut due: Option<Instant> = None;
    loop {
        let limit = due.map(|due| due.saturating_duration_since(Instant::now()));
        keys.clear();
        match poller.wait(&mut buffer, limit) {
            Ok(events) => keys.extend(events),
            // Nothing that an epoll descriptor in order can say.
            Err(_) => std::thread::sleep(PAUSE),
        }
        let mut turn = shared.lock_for_turn();
        if turn.has_ended {
            return;
        }
        due = turn.turn(&keys, Instant::now());
    }
}
