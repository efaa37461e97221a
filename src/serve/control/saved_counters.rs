//! Counters in the state of an upgrade: by the names of services, and the addresses of their listeners.
//!
//! What a service has counted stays with it. If it has lost a listener, what came there is kept for all
//! such listeners together. A service that has gone leaves nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::view::View;
use crate::config::{ListenerId, ServiceId};
use crate::net::ListenerAddress;
use crate::report::counters::{self, Restorer, SavedCounters, SavedCounts};

/// All counters.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedFigures {
    process: SavedCounters,
    /// By their names.
    services: BTreeMap<String, SavedService>,
}

/// The counters of the services with one name: a service that isn't configured any more on some
/// listeners serves their last clients under the same.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedService {
    own: Vec<SavedCounts>,
    listeners: Vec<(ListenerAddress, SavedCounts)>,
    /// Of listeners that it doesn't have any more.
    former: Vec<SavedCounts>,
}

impl SavedService {
    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.listeners.is_empty() && self.former.is_empty()
    }
}

/// Saves all counters.
pub(in crate::serve) fn save(view: &View) -> SavedFigures {
    let some = |counts: SavedCounts| Some(counts).filter(|counts| !counts.is_empty());
    let mut services: BTreeMap<String, SavedService> = BTreeMap::new();
    for (id, service) in view.services() {
        let mut saved = SavedService::default();
        saved.own.extend(some(counters::save_service(id)));
        for listener in view.listeners_of(id) {
            let counts = some(counters::save_listener(listener.id));
            saved
                .listeners
                .extend(counts.map(|counts| (listener.saved(), counts)));
        }
        let former = counters::save_listener(view.former(id));
        saved.former.extend(some(former));
        if !saved.is_empty() {
            let all = services.entry(service.name.to_string()).or_default();
            all.own.append(&mut saved.own);
            all.listeners.append(&mut saved.listeners);
            all.former.append(&mut saved.former);
        }
    }
    SavedFigures {
        process: counters::save(),
        services,
    }
}

/// Goes on with the counters of an earlier binary.
pub(in crate::serve) fn restore(view: &View, saved: &SavedFigures) {
    let to = Restorer::new(&saved.process);
    // Of several with the same name, the configured one comes first.
    let mut ids: HashMap<&str, ServiceId> = HashMap::new();
    // Of two listeners with the same address, each has its own.
    let mut listeners: HashMap<(ServiceId, ListenerAddress), VecDeque<ListenerId>> = HashMap::new();
    for (id, service) in view.services() {
        let first = *ids.entry(&service.name).or_insert(id);
        for listener in view.listeners_of(id) {
            let same = listeners.entry((first, listener.saved())).or_default();
            same.push_back(listener.id);
        }
    }
    for (name, saved) in &saved.services {
        let Some(id) = ids.get(name.as_str()).copied() else {
            continue;
        };
        saved.own.iter().for_each(|counts| to.service(id, counts));
        for counts in &saved.former {
            to.listener(view.former(id), counts);
        }
        for (address, counts) in &saved.listeners {
            let same = listeners.get_mut(&(id, address.clone()));
            let found = same.and_then(VecDeque::pop_front);
            to.listener(found.unwrap_or(view.former(id)), counts);
        }
    }
}
