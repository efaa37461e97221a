//! Telling handlers to end for an administrator, and killing those that don't.

use std::collections::HashMap;
use std::time::Instant;

use super::acts::SavedKill;
use super::daemon::Daemon;
use crate::report::{self, Client, Event, Told};
use crate::serve::handlers::saved::SavedClock;
use crate::serve::handlers::table::Handler;
use crate::sys::signals::Signal;

impl Daemon {
    /// Tells the handlers that `which` selects to end. They are killed if they haven't ended after
    /// `--kill-after`. Returns how many there are.
    pub(super) fn terminate(&mut self, why: Told, which: impl Fn(&Handler) -> bool) -> u64 {
        let mut told = Vec::new();
        let table = &self.shared.handlers.table;
        table.signal(Signal::SIGTERM, why, |handler| {
            let selected = which(handler);
            if selected {
                told.push(((handler.pid, handler.started), handler.service));
            }
            selected
        });
        let now = Instant::now();
        let count = told.len() as u64;
        for (handler, service) in told {
            let kill_after = self.services[service.index()].kill_after;
            self.acts.kills.add(handler, now + kill_after.into());
        }
        count
    }

    /// Kills the handlers that have not ended in time.
    pub(super) fn kill_overdue(&mut self, now: Instant) {
        if self.acts.kills.due().is_none_or(|due| now < due) {
            return;
        }
        let overdue = self.acts.kills.take_due(now);
        let mut killed = Vec::new();
        let table = &self.shared.handlers.table;
        table.signal(Signal::SIGKILL, Told::Killed, |handler| {
            let selected = overdue.contains(&(handler.pid, handler.started));
            if selected {
                let at = (handler.service, handler.listener);
                killed.push((at, handler.peer, handler.pid.as_raw()));
            }
            selected
        });
        for ((service, listener), peer, pid) in killed {
            let client = Client {
                service,
                listener,
                peer: &peer,
            };
            report::event(Event::KillingHandler(client, pid));
        }
    }

    /// Saves which handlers were told to end, and when they are killed.
    pub(super) fn save_kills(&self, clock: &SavedClock) -> Vec<SavedKill> {
        let kills = &self.acts.kills;
        let mut saved = Vec::new();
        if kills.due().is_some() {
            self.shared.handlers.table.each(|handler, _| {
                saved.extend(kills.save((handler.pid, handler.started), clock));
            });
        }
        saved
    }

    /// Goes on with handlers that an earlier binary has told to end.
    pub(super) fn restore_kills(&mut self, saved: Vec<SavedKill>, clock: &SavedClock) {
        if saved.is_empty() {
            return;
        }
        let saved: HashMap<i32, u64> = saved.into_iter().map(|it| (it.pid, it.at)).collect();
        let kills = &mut self.acts.kills;
        self.shared.handlers.table.each(|handler, _| {
            if let Some(at) = saved.get(&handler.pid.as_raw()) {
                kills.add((handler.pid, handler.started), clock.restore(*at));
            }
        });
    }
}
