//! The sockets of a supervised program: open for as long as skd lives, and watched when the
//! program is to be started by a client, or to be stopped when it has none.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::config::{Supervise, UnixAddress};
use crate::error::Error;
use crate::net::{BoundAddress, Listener};
use crate::report::{self, Event, Trouble};
use crate::setup::{Manager, notify};
use crate::sys::descriptors::set_blocking;
use crate::sys::diagnosis::Diagnosis;
use crate::sys::events::{Interest, Poller, is_readable};

/// Those sockets.
#[derive(Debug)]
pub struct Sockets<'a> {
    listeners: &'a [Listener],
    manager: Option<Manager>,
    /// When the service manager is to hear that skd lives, or what it hasn't taken yet.
    tell_at: Option<Instant>,
    /// Ready when a client waits at one of them; for a program that is started then.
    demand: Option<Poller>,
    idleness: Option<Idleness>,
}

impl<'a> Sockets<'a> {
    /// These, which listen; for a program that is run as `supervise` says.
    pub fn new(
        listeners: &'a [Listener],
        supervise: Supervise,
        manager: Option<Manager>,
    ) -> Result<Self, Error> {
        let demand = supervise
            .on_demand
            .then(|| watch(listeners, Interest::Readable));
        let idleness = supervise
            .idle_exit
            .map(|span| Idleness::new(listeners, span.into()));
        Ok(Self {
            listeners,
            manager,
            tell_at: None,
            demand: demand.transpose()?,
            idleness: idleness.transpose()?,
        })
    }

    /// Tells the service manager that the program has them, or will have them at once.
    pub(in crate::serve) fn ready(&mut self) {
        if let Some(manager) = &mut self.manager {
            manager.ready("the sockets are open");
            self.tell_at = Some(Instant::now());
        }
    }

    /// Tells it that all ends.
    pub(in crate::serve) fn stopping(&mut self) {
        if let Some(manager) = &mut self.manager {
            manager.stopping(None);
            self.tell_at = Some(Instant::now());
        }
    }

    /// When to call [`Self::keep_told`].
    pub(in crate::serve) fn tell_at(&self) -> Option<Instant> {
        self.tell_at
    }

    /// Tells it that skd lives, if its watchdog is to hear that, and what it hasn't taken yet:
    /// the program can do neither, for it knows nothing of it.
    pub(in crate::serve) fn keep_told(&mut self) {
        let now = Instant::now();
        let Some(manager) = &mut self.manager else {
            return;
        };
        if self.tell_at.is_none_or(|due| now < due) {
            return;
        }
        let owed = (!manager.settle()).then_some(notify::PAUSE);
        let watchdog = manager.watchdog();
        let alive = watchdog.map(|time| notify::watchdog_pause(time, manager.alive()));
        let pause = owed.into_iter().chain(alive).min();
        self.tell_at = pause.map(|pause| now + pause);
    }

    pub(in crate::serve) fn listeners(&self) -> &'a [Listener] {
        self.listeners
    }

    /// What becomes readable when a client comes, if that is waited for.
    pub(in crate::serve) fn demand(&self) -> Option<BorrowedFd<'_>> {
        self.demand.as_ref().map(AsFd::as_fd)
    }

    /// Whether a client is there for a program that isn't.
    pub(in crate::serve) fn client_waits(&self) -> bool {
        self.demand.as_ref().is_some_and(is_readable)
    }

    /// Makes the sockets ready for the program's next run.
    pub(in crate::serve) fn prepare(&mut self) -> Result<(), Error> {
        for listener in self.listeners {
            // As programs expect it; an earlier run may have left it otherwise.
            set_blocking(listener, true).map_err(|errno| {
                Error::start(format!("{listener} can't be made blocking"), errno)
            })?;
        }
        if let Some(idleness) = &mut self.idleness {
            idleness.begin();
        }
        Ok(())
    }

    /// When to look whether the program has clients.
    pub(in crate::serve) fn look_at(&self) -> Option<Instant> {
        self.idleness.as_ref().map(|idleness| idleness.next)
    }

    /// Looks whether the program has clients; gives how long it has had none, if that is long
    /// enough for it to be stopped.
    pub(in crate::serve) fn idle(&mut self) -> Option<Duration> {
        let listeners = self.listeners;
        let idleness = self.idleness.as_mut()?;
        idleness.is_over(listeners).then_some(idleness.span)
    }
}

fn watch(listeners: &[Listener], interest: Interest) -> Result<Poller, Error> {
    let watched = || {
        let poller = Poller::new()?;
        for listener in listeners {
            poller.add(listener, interest, 0)?;
        }
        Ok(poller)
    };
    watched().map_err(|errno: Errno| Error::start("the sockets can't be watched", errno))
}

/// Whether a program has been without clients. skd doesn't see them: of those that are being
/// served the kernel knows, and of those that came and went between two looks, the sockets
/// themselves.
#[derive(Debug)]
struct Idleness {
    span: Duration,
    /// Ready if a client has come since the last look.
    comers: Poller,
    diagnosis: Diagnosis,
    since: Instant,
    next: Instant,
}

/// Into how many parts the time is divided, and the least that one has.
const LOOKS: u32 = 4;
const LEAST: Duration = Duration::from_millis(10);

impl Idleness {
    /// For sockets of which the kernel says whether they have clients.
    fn new(listeners: &[Listener], span: Duration) -> Result<Self, Error> {
        let unknown = |listener: &Listener, why: &str| {
            let text = format!("--idle-exit: {listener} {why}");
            Err(Error::Start(text))
        };
        let mut diagnosis = Diagnosis::new().map_err(|errno| {
            Error::start(
                "--idle-exit: the kernel can't be asked for connections",
                errno,
            )
        })?;
        for listener in listeners {
            if !listener.style().has_connections() {
                return unknown(
                    listener,
                    "has no connections, so that it is never known to be idle",
                );
            }
            let known = match listener.bound_address() {
                BoundAddress::Inet(_) => diagnosis.knows_tcp(listener),
                BoundAddress::Unix(_) => diagnosis.unix_backlog(listener).map(|_| true),
            };
            if known != Ok(true) {
                return unknown(listener, "is none whose connections the kernel tells here");
            }
        }
        Ok(Self {
            span,
            comers: watch(listeners, Interest::ReadableEdge)?,
            diagnosis,
            since: Instant::now(),
            next: Instant::now(),
        })
    }

    fn begin(&mut self) {
        self.since = Instant::now();
        self.next = self.since + self.pause();
    }

    fn pause(&self) -> Duration {
        (self.span / LOOKS).max(LEAST)
    }

    fn is_over(&mut self, listeners: &[Listener]) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + self.pause();
        let came = self.comers.take_ready();
        let has = self.has_clients(listeners).unwrap_or_else(|errno| {
            report::event(Event::Trouble(Trouble::IdleExit(errno)));
            true
        });
        if came || has || listeners.iter().any(is_readable) {
            self.since = now;
            return false;
        }
        now.duration_since(self.since) >= self.span
    }

    fn has_clients(&mut self, listeners: &[Listener]) -> Result<bool, Errno> {
        let addresses = || listeners.iter().map(Listener::bound_address);
        let mut found = false;
        if addresses().any(|address| matches!(address, BoundAddress::Inet(_))) {
            self.diagnosis.tcp_connections(|local| {
                found |= addresses().any(|address| match address {
                    BoundAddress::Inet(bound) => {
                        let any = bound.ip().is_unspecified();
                        bound.port() == local.port() && (any || bound.ip() == local.ip())
                    }
                    BoundAddress::Unix(_) => false,
                });
            })?;
        }
        if !found && addresses().any(|address| matches!(address, BoundAddress::Unix(_))) {
            self.diagnosis.unix_connections(|name| {
                found |= addresses().any(|address| match address {
                    BoundAddress::Unix(own) => is_at(own, name),
                    BoundAddress::Inet(_) => false,
                });
            })?;
        }
        Ok(found)
    }
}

/// Whether a name as in `sun_path` is this address.
fn is_at(address: &UnixAddress, name: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    match address {
        UnixAddress::Path(path) => {
            name.strip_suffix(b"\0").unwrap_or(name) == path.as_os_str().as_bytes()
        }
        UnixAddress::Abstract(bytes) => name.strip_prefix(b"\0") == Some(bytes),
    }
}
