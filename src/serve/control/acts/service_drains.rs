//! The services that an administrator drains, and who waits for that.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::config::ServiceId;
use crate::serve::control::commands::ReplyTo;
use crate::serve::handlers::saved::SavedClock;

/// The services that drain and are not drained yet, and who waits for them.
#[derive(Debug, Default)]
pub(in crate::serve) struct ServiceDrains {
    pub(in crate::serve) drains: Vec<ServiceDrain>,
    pub(in crate::serve) waits: Vec<DrainWait>,
}

/// A service that drains, or will.
#[derive(Debug)]
pub(in crate::serve) struct ServiceDrain {
    pub(in crate::serve) service: ServiceId,
    /// When it begins, while it is announced: the service is a lame duck.
    pub(in crate::serve) begins: Option<Instant>,
    /// When handlers that are left are told to end, if they are.
    pub(in crate::serve) due: Option<Instant>,
    /// How many were.
    pub(in crate::serve) told: u64,
}

/// A client of the control socket that waits until several services are drained.
#[derive(Debug)]
pub(in crate::serve) struct DrainWait {
    pub(in crate::serve) reply_to: ReplyTo,
    /// All services that it has named.
    pub(in crate::serve) services: Vec<ServiceId>,
    /// Those that aren't drained yet.
    pub(in crate::serve) left: Vec<ServiceId>,
    /// How many handlers of the others were told to end.
    pub(in crate::serve) told: u64,
}

/// A [`ServiceDrain`] in the state of an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedServiceDrain {
    pub(in crate::serve) service: String,
    #[serde(default)]
    pub(in crate::serve) begins: Option<u64>,
    pub(in crate::serve) due: Option<u64>,
    pub(in crate::serve) told: u64,
}

/// A [`DrainWait`] in the state of an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedDrainWait {
    pub(in crate::serve) reply_to: ReplyTo,
    pub(in crate::serve) services: Vec<String>,
    pub(in crate::serve) left: Vec<String>,
    pub(in crate::serve) told: u64,
}

impl ServiceDrain {
    /// Returns when something of it is due.
    fn next(&self) -> Option<Instant> {
        self.begins.or(self.due)
    }
}

impl ServiceDrains {
    /// Returns when a drain begins, or handlers are told to end.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        self.drains.iter().filter_map(ServiceDrain::next).min()
    }

    /// Returns whether the ends of handlers matter.
    pub(in crate::serve) fn have_begun(&self) -> bool {
        self.drains.iter().any(|drain| drain.begins.is_none())
    }

    /// Saves the drains, with the names of their services.
    pub(in crate::serve) fn save(
        &self,
        clock: &SavedClock,
        name: impl Fn(ServiceId) -> String,
    ) -> Vec<SavedServiceDrain> {
        let save = |drain: &ServiceDrain| SavedServiceDrain {
            service: name(drain.service),
            begins: drain.begins.map(|at| clock.save(at)),
            due: drain.due.map(|due| clock.save(due)),
            told: drain.told,
        };
        self.drains.iter().map(save).collect()
    }

    /// Saves who waits, with the names of services.
    pub(in crate::serve) fn save_waits(
        &self,
        name: impl Fn(ServiceId) -> String,
    ) -> Vec<SavedDrainWait> {
        let names = |services: &[ServiceId]| services.iter().map(|it| name(*it)).collect();
        let save = |wait: &DrainWait| SavedDrainWait {
            reply_to: wait.reply_to,
            services: names(&wait.services),
            left: names(&wait.left),
            told: wait.told,
        };
        self.waits.iter().map(save).collect()
    }

    /// Takes out the drain of a service, if it has one.
    pub(in crate::serve) fn remove(&mut self, service: ServiceId) -> Option<ServiceDrain> {
        let at = self
            .drains
            .iter()
            .position(|drain| drain.service == service)?;
        Some(self.drains.swap_remove(at))
    }

    /// Takes out those that wait for a service.
    pub(in crate::serve) fn take_waits(&mut self, service: ServiceId) -> Vec<DrainWait> {
        let waits = std::mem::take(&mut self.waits);
        let (taken, others) = waits.into_iter().partition(|it| it.left.contains(&service));
        self.waits = others;
        taken
    }
}
