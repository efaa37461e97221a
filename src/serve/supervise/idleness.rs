//! Whether a supervised program has been without clients.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::config::{BoundAddress, UnixAddress};
use crate::error::Error;
use crate::net::Listener;
use crate::report::{self, Event, Trouble};
use crate::sys::diagnosis::Diagnosis;
use crate::sys::events::{Interest, Poller, is_readable};

/// An epoll set of all these.
pub(in crate::serve) fn watch(listeners: &[Listener], interest: Interest) -> Result<Poller, Error> {
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
pub(in crate::serve) struct Idleness {
    pub(in crate::serve) span: Duration,
    /// Ready if a client has come since the last look.
    comers: Poller,
    diagnosis: Diagnosis,
    /// Since when there has been no client, as far as is known.
    since: Instant,
    /// When to look again.
    pub(in crate::serve) next: Instant,
}

/// Into how many parts the time is divided, and the least that one has.
const LOOKS: u32 = 4;
const LEAST: Duration = Duration::from_millis(10);

impl Idleness {
    /// For sockets of which the kernel says whether they have clients.
    pub(in crate::serve) fn new(listeners: &[Listener], span: Duration) -> Result<Self, Error> {
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

    pub(in crate::serve) fn begin(&mut self) {
        self.since = Instant::now();
        self.next = self.since + self.pause();
    }

    fn pause(&self) -> Duration {
        (self.span / LOOKS).max(LEAST)
    }

    pub(in crate::serve) fn is_over(&mut self, listeners: &[Listener]) -> bool {
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
