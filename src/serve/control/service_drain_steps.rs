//! Services that an administrator drains: no new client is served, and the end of all handlers is
//! waited for.
//!
//! Handlers end in the threads that have started them. While a service drains, a thread that frees
//! the last used slot of any service wakes the main thread; and so does a worker that has no client
//! of the service in hand any more. The main thread then looks whether a handler is left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use skd_control::{Answer, FailureKind};

use super::acts::{SavedServiceDrain, ServiceDrain};
use super::commands::{ReplyTo, done_with, failed};
use super::daemon::Daemon;
use crate::config::{Count, ServiceId};
use crate::report::Told;
use crate::serve::availability::Availability;
use crate::serve::handlers::saved::SavedClock;

/// How often handlers are told to end that a pending client has got after the others were.
const PAUSE: Duration = Duration::from_secs(1);

impl Daemon {
    /// Drains a service. Of several times after which handlers are told to end, the first counts.
    pub(super) fn drain_service(
        &mut self,
        service: ServiceId,
        timeout: Option<Duration>,
        reply_to: ReplyTo,
    ) {
        let now = Instant::now();
        let due = timeout.and_then(|timeout| now.checked_add(timeout));
        let drains = &mut self.acts.drains;
        let mut drain = drains.remove(service).unwrap_or_else(|| ServiceDrain {
            service,
            due: None,
            told: 0,
            waiting: Vec::new(),
        });
        drain.due = drain.due.into_iter().chain(due).min();
        drain.waiting.push(reply_to);
        drains.0.push(drain);
        self.want_ends();
        self.set_availability(service, Availability::Draining);
        self.advance_service_drains(now);
    }

    /// Tells handlers to end that are overdue, and answers for the services that are drained.
    pub(super) fn advance_service_drains(&mut self, now: Instant) {
        if self.acts.drains.0.is_empty() {
            return;
        }
        for mut drain in std::mem::take(&mut self.acts.drains.0) {
            if drain.due.is_some_and(|due| due <= now) {
                let service = drain.service;
                drain.told += self.terminate(Told::Drain, |handler| {
                    handler.service == service && handler.told.is_none()
                });
                drain.due = Some(now + PAUSE);
            }
            match self.is_drained(drain.service) {
                false => self.acts.drains.0.push(drain),
                true => self.answer_drained(drain),
            }
        }
        self.want_ends();
    }

    /// Ends the drain of a service, if it has one, for this reason.
    pub(super) fn end_service_drain(&mut self, service: ServiceId, why: &str) {
        if let Some(drain) = self.acts.drains.remove(service) {
            let text = format!("{} {why}", self.services[service.index()].name);
            self.answer_all(drain.waiting, &failed(FailureKind::Failed, text));
        }
        self.want_ends();
    }

    /// Answers those that wait for drains, since skd ends.
    pub(super) fn end_service_drains(&mut self) {
        for drain in std::mem::take(&mut self.acts.drains.0) {
            self.answer_all(drain.waiting, &failed(FailureKind::Busy, "skd ends"));
        }
        self.want_ends();
    }

    /// Goes on with a drain that an earlier binary has begun.
    pub(super) fn restore_service_drain(&mut self, saved: SavedServiceDrain, clock: &SavedClock) {
        let service = self.service_called(&saved.service);
        let Some(service) = service.filter(|it| self.is_draining(*it)) else {
            let text = format!("{} isn't configured any more", saved.service);
            return self.answer_all(saved.waiting, &failed(FailureKind::Failed, text));
        };
        self.acts.drains.0.push(ServiceDrain {
            service,
            due: saved.due.map(|due| clock.restore(due)),
            told: saved.told,
            waiting: saved.waiting,
        });
        self.want_ends();
    }

    fn is_draining(&self, service: ServiceId) -> bool {
        let served = self.shared.services.get(service.index());
        served.is_some_and(|it| it.availability.get() == Availability::Draining)
    }

    fn answer_drained(&self, drain: ServiceDrain) {
        let name = &self.services[drain.service.index()].name;
        let mut text = format!("{name} is drained: it has no handler, and new clients wait");
        if drain.told > 0 {
            let count = Count(drain.told, "handler was", "handlers were");
            text += &format!("; {count} told to end");
        }
        self.answer_all(drain.waiting, &done_with(drain.told, text));
    }

    fn answer_all(&self, waiting: Vec<ReplyTo>, answer: &Answer) {
        for reply_to in waiting {
            self.commands.answer(reply_to, answer.clone());
        }
    }

    /// Returns whether a service that drains has no handler, and no worker will start one.
    fn is_drained(&self, service: ServiceId) -> bool {
        let control = &self.services[service.index()];
        let Some(served) = self.shared.services.get(service.index()) else {
            return true;
        };
        let streams = match served.listeners.is_empty() {
            true => 0,
            false => self.stream_workers,
        };
        let workers = streams + control.datagram_workers;
        // Those that are done have ended with their listeners, or will.
        let idle = served.is_done() || served.idle_workers.load(Ordering::SeqCst) >= workers;
        idle && served.slots.used() == 0 && self.live_handlers(service) == 0
    }

    /// Returns how many handlers of a service live. All handlers are looked at.
    fn live_handlers(&self, service: ServiceId) -> usize {
        let mut live = 0;
        self.shared.handlers.table.each(|handler, _| {
            live += usize::from(handler.service == service);
        });
        live
    }

    /// Has threads wake this one at the end of a last handler, if a service drains.
    fn want_ends(&self) {
        let wanted = !self.acts.drains.0.is_empty();
        self.shared
            .handlers
            .ends_wanted
            .store(wanted, Ordering::SeqCst);
    }
}
