//! Counters in the state of an upgrade. They are numbers without names; the names are there once, so
//! that a binary with other counters finds those that it knows.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use skd_control::Attempts;

use super::layout::{listener_names, process_names, service_names};
use super::{attempts, listener, own, process, service};
use crate::config::{ListenerId, ServiceId};
use crate::report::event::Attempt;

/// The counters of a service, of a listener or of the process; nothing if all are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SavedCounts(Vec<u64>);

/// The names of all counters, and the counters of the process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SavedCounters {
    service_names: Vec<String>,
    listener_names: Vec<String>,
    process_names: Vec<String>,
    process: SavedCounts,
    reloads: Attempts,
    upgrades: Attempts,
}

impl SavedCounts {
    fn new(counts: &[u64]) -> Self {
        let any = counts.iter().any(|count| *count > 0);
        Self(if any { counts.to_vec() } else { Vec::new() })
    }

    /// Returns whether all are zero.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Saves the counters of the process.
pub fn save() -> SavedCounters {
    SavedCounters {
        service_names: service_names(),
        listener_names: listener_names(),
        process_names: process_names(),
        process: SavedCounts::new(&process().0),
        reloads: attempts::of(Attempt::Reload),
        upgrades: attempts::of(Attempt::Upgrade),
    }
}

/// Saves the counters of a service.
pub fn save_service(id: ServiceId) -> SavedCounts {
    SavedCounts::new(&service(id).0)
}

/// Saves the counters of a listener.
pub fn save_listener(id: ListenerId) -> SavedCounts {
    SavedCounts::new(&listener(id).0)
}

/// Adds saved counters to those of this process.
#[derive(Debug)]
pub struct Restorer {
    services: Positions,
    listeners: Positions,
}

/// Where each saved counter is in this process, if there is such a counter.
#[derive(Debug)]
struct Positions(Vec<Option<usize>>);

impl Positions {
    fn new(saved: &[String], own: Vec<String>) -> Self {
        let own = own.into_iter().enumerate();
        let own: HashMap<_, _> = own.map(|(at, name)| (name, at)).collect();
        Self(saved.iter().map(|name| own.get(name).copied()).collect())
    }

    fn each(&self, counts: &SavedCounts, mut add: impl FnMut(usize, u64)) {
        for (at, count) in self.0.iter().zip(&counts.0) {
            if let Some(at) = at.filter(|_| *count > 0) {
                add(at, *count);
            }
        }
    }
}

impl Restorer {
    /// Restores the counters of the process, and makes ready for those of services and listeners.
    pub fn new(saved: &SavedCounters) -> Self {
        attempts::restore(Attempt::Reload, &saved.reloads);
        attempts::restore(Attempt::Upgrade, &saved.upgrades);
        let process = Positions::new(&saved.process_names, process_names());
        process.each(&saved.process, |at, count| own().add_to_process(at, count));
        Self {
            services: Positions::new(&saved.service_names, service_names()),
            listeners: Positions::new(&saved.listener_names, listener_names()),
        }
    }

    /// Restores counters of a service.
    pub fn service(&self, id: ServiceId, counts: &SavedCounts) {
        let add = |at, count| own().add_to_service(id, at, count);
        self.services.each(counts, add);
    }

    /// Restores counters of a listener.
    pub fn listener(&self, id: ListenerId, counts: &SavedCounts) {
        let add = |at, count| own().add_to_listener(id, at, count);
        self.listeners.each(counts, add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{self, Event, Start, Way};

    /// What another skd has saved, with counters of its own.
    fn saved() -> SavedCounters {
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        SavedCounters {
            service_names: names(&["of another skd", "started/pool", "ended/success"]),
            listener_names: names(&["rejected/rate", "accepted", "more of it"]),
            process_names: names(&["events-lost"]),
            process: SavedCounts(vec![2]),
            ..SavedCounters::default()
        }
    }

    #[test]
    fn counters_are_found_by_their_names() {
        report::set_test_services();
        let (id, at) = (ServiceId::new(7), ListenerId::new(7));
        let lost = process().events_lost();
        let restorer = Restorer::new(&saved());
        assert!(process().events_lost() >= lost + 2);
        restorer.service(id, &SavedCounts(vec![9, 4, 3]));
        restorer.listener(at, &SavedCounts(vec![6, 5, 1]));
        restorer.listener(at, &SavedCounts::default());
        assert_eq!(service(id).started(Way::Pool), 4);
        assert_eq!(service(id).started(Way::Exec), 0);
        assert_eq!(listener(at).accepted(), 5);
        let start = Start {
            pid: 1,
            way: Way::Pool,
            latency: None,
        };
        report::event(Event::HandlerStarted(id, start));
        assert_eq!(service(id).started(Way::Pool), 5);
        // And again, by all of today's names.
        let counts = save_service(id);
        let text = serde_json::to_string(&(save(), &counts)).unwrap();
        let (saved, counts): (SavedCounters, SavedCounts) = serde_json::from_str(&text).unwrap();
        Restorer::new(&saved).service(id, &counts);
        assert_eq!(service(id).started(Way::Pool), 10);
        assert!(save_listener(ListenerId::new(6)).is_empty());
    }
}
