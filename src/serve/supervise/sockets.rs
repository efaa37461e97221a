//! The sockets of a supervised program: open for as long as skd lives, and watched when the
//! program is to be started by a client, or to be stopped when it has none.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::idleness::{Idleness, watch};
use crate::config::Supervise;
use crate::error::Error;
use crate::net::Listener;
use crate::setup::{Manager, notify};
use crate::sys::descriptors::set_blocking;
use crate::sys::events::{Interest, Poller, is_readable};

/// The sockets of a supervised program.
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

    /// Tells the service manager that all ends.
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

    /// Returns whether a client waits for a program that doesn't run.
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
