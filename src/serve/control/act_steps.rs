//! What commands have begun: going on with it, saving it for the next binary, and restoring it.

use std::time::Instant;

use super::acts::{Awaited, SavedActs, SavedDenial};
use super::daemon::Daemon;
use super::upgrade::words::Purpose;
use crate::config::ServiceId;
use crate::serve::handlers::saved::SavedClock;

impl Daemon {
    /// Saves what is not over yet, for the next binary that is executed for this purpose.
    pub(super) fn save_acts(&self, purpose: Purpose) -> SavedActs {
        let clock = SavedClock::new();
        let name = |service: ServiceId| self.services[service.index()].name.to_string();
        let denials = self.shared.denials.list().into_iter();
        let awaited_for = |purpose: Purpose| {
            let awaited = self.acts.awaited.filter(|it| it.purpose == purpose);
            awaited.map(|it| it.reply_to)
        };
        SavedActs {
            awaited: awaited_for(purpose),
            awaited_rules: match purpose {
                Purpose::Upgrade => awaited_for(Purpose::Reload),
                Purpose::Reload => None,
            },
            drains: self.acts.drains.save(&clock, name),
            drain_waits: self.acts.drains.save_waits(name),
            kills: self.save_kills(&clock),
            denials: denials
                .map(|((clients, service), until)| SavedDenial {
                    clients,
                    service: service.map(name),
                    until: clock.save(until),
                })
                .collect(),
        }
    }

    /// Goes on with what an earlier binary has left. Its handlers are entered, and its clients of the
    /// control socket are there again.
    pub(super) fn restore_acts(&mut self) {
        let clock = SavedClock::new();
        let saved = std::mem::take(&mut self.acts.saved);
        if let (Some(reply_to), Some(answer)) = (saved.awaited, self.acts.conclusion.take()) {
            self.commands.answer(reply_to, answer);
        }
        let awaited = saved.awaited_rules.map(|reply_to| Awaited {
            purpose: Purpose::Reload,
            reply_to,
        });
        self.acts.awaited = awaited;
        self.count_unavailable();
        for denial in saved.denials {
            let service = denial.service.map(|name| self.service_called(&name));
            // A service that is gone needs none.
            if let Some(Some(_)) | None = service {
                let until = clock.restore(denial.until);
                let denied = (denial.clients, service.flatten());
                self.shared.denials.deny(denied, until);
            }
        }
        self.restore_service_drains(saved.drains, saved.drain_waits, &clock);
        self.restore_kills(saved.kills, &clock);
    }

    /// Returns when something of this is due.
    pub(super) fn acts_due(&self) -> Option<Instant> {
        let drains = self.acts.drains.due();
        let kills = self.acts.kills.due();
        let due = [drains, kills, self.shared.denials.due()];
        due.into_iter().flatten().min()
    }

    /// Goes on with what is due, and looks whether services are drained.
    pub(super) fn advance_acts(&mut self, now: Instant) {
        if self.shared.denials.due().is_some_and(|due| due <= now) {
            self.shared.denials.expire(now);
        }
        self.kill_overdue(now);
        self.advance_service_drains(now);
    }
}
