//! What all threads of the running daemon share, and the phases that the workers go through.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::datagram::parked_exchange::ParkedExchange;
use super::turns::Turns;
use crate::child::{Jail, Pool};
use crate::net::Listener;
use crate::serve::admission::{Clock, Denials, PendingConnection};
use crate::serve::handlers::Handlers;
use crate::serve::service::Service;
use crate::serve::tls::TlsLink;
use crate::sys::events::Waker;

/// What all threads of the running daemon share.
#[derive(Debug)]
pub(in crate::serve) struct Shared {
    pub(in crate::serve) services: Box<[Service]>,
    pub(in crate::serve) handlers: Handlers,
    /// Where connections are passed for TLS, if a service has that.
    pub(in crate::serve) tls: Option<TlsLink>,
    /// Of each worker.
    pub(in crate::serve) wakers: Arc<[Waker]>,
    /// For each worker, whether it has answered since it was asked for a sign of life.
    pub(in crate::serve) answers: Box<[AtomicBool]>,
    /// Whether an answer is to wake the main thread: it is overdue.
    pub(in crate::serve) answer_wanted: AtomicBool,
    pub(in crate::serve) phase: AtomicU8,
    /// The clock of rates.
    pub(in crate::serve) clock: Clock,
    /// For each worker, its pending connections while it is parked: the queue of another may be too
    /// small for them. Locked only to park or go on.
    pub(in crate::serve) pending: Box<[Mutex<Vec<PendingConnection>>]>,
    /// How many workers are parked.
    pub(in crate::serve) parked: AtomicUsize,
    /// Whether the last clients of a listener are served that isn't configured any more.
    pub(in crate::serve) has_drained: AtomicBool,
    /// The clients that are denied for a time.
    pub(in crate::serve) denials: Denials,
    /// How many services don't serve new clients because an administrator wants that.
    pub(in crate::serve) unavailable: AtomicUsize,
    /// Whether skd drains.
    pub(in crate::serve) drains: AtomicBool,
    /// The bound addresses of all UDP sockets, those of wait mode too.
    pub(in crate::serve) own_udp: Box<[SocketAddr]>,
    /// The exchanges of parked workers. Locked only to park or go on.
    pub(in crate::serve) parked_exchanges: Mutex<Vec<ParkedExchange>>,
    /// How many exchanges of datagrams are open: their handlers may still write answers.
    pub(in crate::serve) exchanges: AtomicUsize,
    /// How many workers have ended, after all else that they do.
    pub(in crate::serve) ended: AtomicUsize,
    /// Whose turn it is to accept clients, while workers wait out a shortage.
    pub(in crate::serve) turns: Turns,
}

/// What workers do: wait until all of them are there, serve, wait for an upgrade, serve the
/// clients that have come already, end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::serve) enum Phase {
    Starting,
    Serving,
    Parked,
    Closing,
    Stopping,
}

impl Shared {
    /// Has all workers go over to this phase, those that wait too.
    ///
    /// A wake-up can't fail: the only errno of a write to such a descriptor is EAGAIN, of a
    /// counter that is full, and that one wakes. Should a filter forbid it, workers look for
    /// [`Phase::Serving`] by themselves, and the main thread doesn't wait long for them to stop.
    pub(in crate::serve) fn enter_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
        for waker in &*self.wakers {
            waker.wake();
        }
    }

    pub(in crate::serve) fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::SeqCst) == phase as u8
    }

    /// Returns whether skd drains.
    pub(in crate::serve) fn is_draining(&self) -> bool {
        self.drains.load(Ordering::SeqCst)
    }

    pub(in crate::serve) fn workers_have_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst) == self.wakers.len()
    }

    /// The services that aren't done.
    fn open_services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| !service.is_done())
    }

    /// All stream listeners from which skd accepts.
    pub(in crate::serve) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.open_services().flat_map(|service| &service.listeners)
    }

    /// All listeners on which skd receives datagrams.
    pub(in crate::serve) fn datagrams(&self) -> impl Iterator<Item = &Listener> {
        self.services.iter().flat_map(|service| &service.datagrams)
    }

    /// Notes that no client waits at a listener. If it isn't configured any more, the main thread is
    /// woken to close it.
    pub(in crate::serve) fn note_no_client(&self, listener: &Listener) {
        if listener.is_retiring() && listener.note_drained() {
            self.wake_to_close();
        }
    }

    /// Has the main thread close what has no client left.
    pub(in crate::serve) fn wake_to_close(&self) {
        self.has_drained.store(true, Ordering::SeqCst);
        self.handlers.main.wake();
    }

    /// Notes whether a worker has a client of a draining service in hand, or may take one. `told` is
    /// what it has noted before. The main thread is woken, which waits for the last.
    pub(in crate::serve) fn note_idle(&self, service: &Service, told: &mut bool, idle: bool) {
        match (std::mem::replace(told, idle), idle) {
            (false, true) => {
                service.idle_workers.fetch_add(1, Ordering::SeqCst);
                self.handlers.main.wake();
            }
            (true, false) => drop(service.idle_workers.fetch_sub(1, Ordering::SeqCst)),
            (true, true) | (false, false) => {}
        }
    }

    /// The pool of each service that has one and isn't done.
    pub(in crate::serve) fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.open_services()
            .filter_map(|service| service.source.pool.as_deref())
    }

    /// The sandboxes of services.
    pub(in crate::serve) fn jails(&self) -> impl Iterator<Item = &Jail> {
        let services = self.services.iter();
        services.filter_map(|service| service.source.jail.as_deref())
    }

    /// Ends all prestarted handlers, if no worker is left that may just be handing a connection
    /// to one: killed in the midst of that, a handler would end as soon as it has begun. Returns
    /// whether that could be done.
    pub(in crate::serve) fn retire_pools(&self) -> bool {
        let ended = self.workers_have_ended();
        if ended {
            self.pools().for_each(Pool::retire);
        }
        ended
    }

    pub(in crate::serve) fn parked_exchanges(&self) -> MutexGuard<'_, Vec<ParkedExchange>> {
        let parked = self.parked_exchanges.lock();
        parked.unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::serve) fn pending(
        &self,
        thread: usize,
    ) -> MutexGuard<'_, Vec<PendingConnection>> {
        let pending = self.pending[thread].lock();
        pending.unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that this worker has been woken, for whatever reason: it lives.
    pub(in crate::serve) fn answer(&self, worker: usize) {
        self.answers[worker].store(true, Ordering::SeqCst);
        if self.answer_wanted.load(Ordering::SeqCst) {
            self.handlers.main.wake();
        }
    }
}
