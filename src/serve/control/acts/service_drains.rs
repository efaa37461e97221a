//! The services that an administrator drains.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::config::ServiceId;
use crate::serve::control::commands::ReplyTo;
use crate::serve::handlers::saved::SavedClock;

/// The services that drain and are not drained yet.
#[derive(Debug, Default)]
pub(in crate::serve) struct ServiceDrains(pub(in crate::serve) Vec<ServiceDrain>);

/// A service that drains.
#[derive(Debug)]
pub(in crate::serve) struct ServiceDrain {
    pub(in crate::serve) service: ServiceId,
    /// When handlers that are left are told to end, if they are.
    pub(in crate::serve) due: Option<Instant>,
    /// How many were.
    pub(in crate::serve) told: u64,
    /// Who waits for the end.
    pub(in crate::serve) waiting: Vec<ReplyTo>,
}

/// The same in the state of an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedServiceDrain {
    pub(in crate::serve) service: String,
    pub(in crate::serve) due: Option<u64>,
    pub(in crate::serve) told: u64,
    pub(in crate::serve) waiting: Vec<ReplyTo>,
}

impl ServiceDrains {
    /// Returns when handlers are told to end.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        self.0.iter().filter_map(|drain| drain.due).min()
    }

    /// Saves them, with the names of their services.
    pub(in crate::serve) fn save(
        &self,
        clock: &SavedClock,
        name: impl Fn(ServiceId) -> String,
    ) -> Vec<SavedServiceDrain> {
        let save = |drain: &ServiceDrain| SavedServiceDrain {
            service: name(drain.service),
            due: drain.due.map(|due| clock.save(due)),
            told: drain.told,
            waiting: drain.waiting.clone(),
        };
        self.0.iter().map(save).collect()
    }

    /// Takes out the drain of a service, if it has one.
    pub(in crate::serve) fn remove(&mut self, service: ServiceId) -> Option<ServiceDrain> {
        let at = self.0.iter().position(|drain| drain.service == service)?;
        Some(self.0.swap_remove(at))
    }
}
