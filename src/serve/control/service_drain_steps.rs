//! Services that an administrator drains: no new client is served, and the end of all handlers is
//! waited for. Before, a drain may be announced for a time: the service serves as ever, and says that
//! it is about to stop, so that a load balancer has time to learn it.
//!
//! Handlers end in the threads that have started them. While a service drains, a thread that frees
//! the last used slot of any service wakes the main thread; and so does a worker that has no client
//! of the service in hand any more. The main thread then looks whether a handler is left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use skd_control::FailureKind;

use super::acts::{DrainWait, SavedDrainWait, SavedServiceDrain, ServiceDrain};
use super::commands::{ReplyTo, done_with, failed};
use super::daemon::Daemon;
use crate::config::{Count, ServiceId};
use crate::report::Told;
use crate::serve::availability::Availability;
use crate::serve::handlers::saved::SavedClock;

/// How often handlers are told to end that a pending client has got after the others were.
const PAUSE: Duration = Duration::from_secs(1);

impl Daemon {
    /// Drains services, after they have announced it for a time. Of several times at which a drain
    /// begins, or handlers are told to end, the first counts.
    pub(super) fn drain_services(
        &mut self,
        services: Vec<ServiceId>,
        announced: Option<Duration>,
        timeout: Option<Duration>,
        reply_to: ReplyTo,
    ) {
        let now = Instant::now();
        let begins = announced.and_then(|announced| now.checked_add(announced));
        let begins = begins.filter(|begins| *begins > now);
        let due = timeout.and_then(|timeout| begins.unwrap_or(now).checked_add(timeout));
        for &service in &services {
            let earlier = self.acts.drains.remove(service);
            // What takes no new clients has none to lose by beginning at once.
            let serves = self.is(service, Availability::Serving);
            let begins = begins.filter(|_| serves).map(|begins| {
                let earlier = earlier.as_ref().and_then(|it| it.begins);
                earlier.into_iter().chain([begins]).min().unwrap_or(begins)
            });
            let earlier_due = earlier.as_ref().and_then(|it| it.due);
            self.acts.drains.drains.push(ServiceDrain {
                service,
                begins,
                due: earlier_due.into_iter().chain(due).min(),
                told: earlier.map_or(0, |it| it.told),
            });
            match begins {
                Some(_) => self.set_lame_duck(service, true),
                None => self.begin_service_drain(service),
            }
        }
        self.acts.drains.waits.push(DrainWait {
            reply_to,
            left: services.clone(),
            services,
            told: 0,
        });
        self.want_ends();
        self.advance_service_drains(now);
    }

    /// Has a service take no new clients any more.
    fn begin_service_drain(&mut self, service: ServiceId) {
        // First, so that no handler ends unheard after it was looked for.
        self.shared
            .handlers
            .ends_wanted
            .store(true, Ordering::SeqCst);
        self.set_availability(service, Availability::Draining);
        // Last: in between, it must not seem to serve as ever.
        self.set_lame_duck(service, false);
    }

    /// Begins what was announced, tells handlers to end that are overdue, and answers for the services
    /// that are drained.
    pub(super) fn advance_service_drains(&mut self, now: Instant) {
        if self.acts.drains.drains.is_empty() {
            return;
        }
        for mut drain in std::mem::take(&mut self.acts.drains.drains) {
            let service = drain.service;
            if drain.begins.is_some_and(|begins| begins <= now) {
                drain.begins = None;
                self.begin_service_drain(service);
            }
            if drain.begins.is_some() {
                self.acts.drains.drains.push(drain);
                continue;
            }
            if drain.due.is_some_and(|due| due <= now) {
                drain.told += self.terminate(Told::Drain, |handler| {
                    handler.service == service && handler.told.is_none()
                });
                drain.due = Some(now + PAUSE);
            }
            match self.is_drained(service) {
                false => self.acts.drains.drains.push(drain),
                true => self.answer_drained(&drain),
            }
        }
        self.want_ends();
    }

    /// Ends the drain of a service, if it has one, for this reason.
    pub(super) fn end_service_drain(&mut self, service: ServiceId, why: &str) {
        if self.acts.drains.remove(service).is_some() {
            self.set_lame_duck(service, false);
            let text = format!("{} {why}", self.services[service.index()].name);
            for wait in self.acts.drains.take_waits(service) {
                let answer = failed(FailureKind::Failed, &*text);
                self.commands.answer(wait.reply_to, answer);
            }
        }
        self.want_ends();
    }

    /// Answers those that wait for drains, since skd ends.
    pub(super) fn end_service_drains(&mut self) {
        for drain in std::mem::take(&mut self.acts.drains.drains) {
            self.set_lame_duck(drain.service, false);
        }
        for wait in std::mem::take(&mut self.acts.drains.waits) {
            let answer = failed(FailureKind::Busy, "skd ends");
            self.commands.answer(wait.reply_to, answer);
        }
        self.want_ends();
    }

    /// Goes on with drains that an earlier binary has begun or announced.
    pub(super) fn restore_service_drains(
        &mut self,
        drains: Vec<SavedServiceDrain>,
        waits: Vec<SavedDrainWait>,
        clock: &SavedClock,
    ) {
        for saved in drains {
            let Some(service) = self.service_called(&saved.service) else {
                continue;
            };
            let wanted = match saved.begins {
                Some(_) => Availability::Serving,
                None => Availability::Draining,
            };
            // What is about to be closed serves its last clients: they mustn't wait.
            let is_configured = self.services[service.index()].retiring.is_none();
            let goes_on = is_configured && self.is(service, wanted);
            self.set_lame_duck(service, goes_on && saved.begins.is_some());
            if !goes_on {
                continue;
            }
            self.acts.drains.drains.push(ServiceDrain {
                service,
                begins: saved.begins.map(|at| clock.restore(at)),
                due: saved.due.map(|due| clock.restore(due)),
                told: saved.told,
            });
        }
        for wait in waits {
            self.restore_drain_wait(wait);
        }
        self.want_ends();
    }

    fn restore_drain_wait(&mut self, saved: SavedDrainWait) {
        let drains = &self.acts.drains.drains;
        let is_left = |id: &ServiceId| drains.iter().any(|drain| drain.service == *id);
        let mut left = Vec::new();
        for name in &saved.left {
            let Some(service) = self.service_called(name).filter(is_left) else {
                let text = format!("{name} isn't configured any more");
                let answer = failed(FailureKind::Failed, text);
                return self.commands.answer(saved.reply_to, answer);
            };
            left.push(service);
        }
        let named = saved.services.iter();
        self.acts.drains.waits.push(DrainWait {
            reply_to: saved.reply_to,
            services: named.filter_map(|it| self.service_called(it)).collect(),
            left,
            told: saved.told,
        });
    }

    fn is(&self, service: ServiceId, availability: Availability) -> bool {
        let served = self.shared.services.get(service.index());
        served.is_some_and(|it| it.availability.get() == availability)
    }

    fn set_lame_duck(&self, service: ServiceId, is_lame_duck: bool) {
        if let Some(service) = self.view.services.get(service.index()) {
            service.is_lame_duck.store(is_lame_duck, Ordering::SeqCst);
        }
    }

    /// Answers those that have waited for this service, unless they wait for others too.
    fn answer_drained(&mut self, drain: &ServiceDrain) {
        for mut wait in self.acts.drains.take_waits(drain.service) {
            wait.left.retain(|service| *service != drain.service);
            wait.told += drain.told;
            if wait.left.is_empty() {
                let answer = done_with(wait.told, self.drained(&wait));
                self.commands.answer(wait.reply_to, answer);
            } else {
                self.acts.drains.waits.push(wait);
            }
        }
    }

    /// Says that all services are drained that were waited for.
    fn drained(&self, wait: &DrainWait) -> String {
        let name = |service: &ServiceId| &*self.services[service.index()].name;
        let names: Vec<&str> = wait.services.iter().map(name).collect();
        let names = names.join(", ");
        let mut text = match wait.services.len() {
            1 => format!("{names} is drained: it has no handler, and new clients wait"),
            _ => format!("{names} are drained: they have no handlers, and new clients wait"),
        };
        if wait.told > 0 {
            let count = Count(wait.told, "handler was", "handlers were");
            text += &format!("; {count} told to end");
        }
        text
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
        let wanted = self.acts.drains.have_begun();
        self.shared
            .handlers
            .ends_wanted
            .store(wanted, Ordering::SeqCst);
    }
}
