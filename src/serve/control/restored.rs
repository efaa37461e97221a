//! The last step of an upgrade: handlers, connections and exchanges that an earlier binary has left
//! enter the tables of this one.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::daemon::Daemon;
use crate::child::Cgroups;
use crate::config::ServiceId;
use crate::report::{self, Event, Trouble, Watched};
use crate::serve::handlers::saved::{FindCgroup, LeftOpen};

impl Daemon {
    /// Keeps the descriptors that an earlier binary has left until [`Self::run`]. There is no way
    /// back any more.
    pub fn keep_descriptors(&mut self, originals: Vec<OwnedFd>) {
        self.left_open = LeftOpen::new(originals);
    }

    /// Goes on with what an earlier binary has left: for good, for its handlers will be reaped.
    pub(in crate::serve) fn enter_restored(&mut self) {
        let mut left_open = std::mem::take(&mut self.left_open);
        let shared = &self.shared;
        // Before sources have handlers again.
        for (index, service) in self.services.iter_mut().enumerate() {
            if let Some(rates) = service.rates.take() {
                shared.restore_rates(ServiceId::new(index), &rates);
            }
        }
        let groups = self.origin.groups.as_ref();
        let removed = RefCell::new(HashMap::new());
        let find = groups.map(|groups| {
            |name: &str, number| {
                let sources = shared.services.iter().map(|it| it.source.cgroups.as_ref());
                let known = sources.flatten().find(|cgroups| cgroups.name() == name);
                if let Some(cgroups) = known {
                    return cgroups.find(number).ok();
                }
                let mut removed = removed.borrow_mut();
                let cgroups = match removed.get(name) {
                    Some(cgroups) => Arc::clone(cgroups),
                    None => {
                        let opened = (groups.open(name).ok()?, name);
                        let cgroups = Cgroups::of_removed(groups.copy().ok()?, opened);
                        removed.insert(name.to_owned(), Arc::clone(&cgroups));
                        cgroups
                    }
                };
                cgroups.find(number).ok()
            }
        });
        let find = find.as_ref().map(|find| find as &FindCgroup<'_>);
        for handler in std::mem::take(&mut self.handlers) {
            let index = handler.service.index();
            let policy = shared
                .services
                .get(index)
                .and_then(|it| it.policy.as_deref());
            let slots = &self.services[index].slots;
            let handlers = &shared.handlers;
            handlers.restore(handler, slots, policy, self.method, &mut left_open, find);
        }
        if let Some(groups) = groups {
            // What the earlier binary has kept for handlers to come, and services that are gone.
            let services = shared.services.iter();
            let services = services.filter_map(|it| it.source.cgroups.as_deref());
            groups.remove_empty(&services.map(Cgroups::name).collect::<Vec<_>>());
        }
        let lingering = std::mem::take(&mut self.lingering);
        shared.handlers.restore_lingering(lingering, &mut left_open);
        // With their listeners, which may be another service's by now.
        let mut owners = HashMap::new();
        for service in &shared.services {
            for listener in service.listeners.iter().chain(&service.datagrams) {
                owners.insert(listener.address(), service.id);
            }
        }
        let (mut pending, mut exchanges) = (BTreeMap::new(), BTreeMap::new());
        for service in &mut self.services {
            for saved in std::mem::take(&mut service.pending) {
                let owner = owners.get(&saved.listener).copied();
                pending.entry(owner).or_insert_with(Vec::new).push(saved);
            }
            for saved in std::mem::take(&mut service.exchanges) {
                let owner = owners.get(&saved.listener).copied();
                exchanges.entry(owner).or_insert_with(Vec::new).push(saved);
            }
        }
        for (owner, pending) in pending {
            let (workers, method) = (self.stream_workers, self.method);
            match owner {
                Some(owner) => {
                    shared.restore_pending(owner, pending, workers, method, &mut left_open);
                }
                None => shared.kill_gates(pending, method),
            }
        }
        for (owner, exchanges) in exchanges {
            if let Some(owner) = owner {
                shared.restore_exchanges(owner, exchanges, &mut left_open);
            }
        }
        for (index, service) in self.services.iter_mut().enumerate() {
            if let Some(saved) = service.pool.take() {
                let pool = shared
                    .services
                    .get(index)
                    .and_then(|it| it.source.pool.as_deref());
                match pool {
                    Some(pool) => pool.restore(saved, |number| left_open.take(number)),
                    None => saved.end(),
                }
            }
        }
        let begun = self.control.as_mut().map(|it| it.begin(&mut left_open));
        if let Some(Err(errno)) = begun {
            report::event(Event::Trouble(Trouble::NotWatched {
                service: None,
                what: Watched::Control,
                errno,
            }));
        }
        self.restore_acts();
    }
}
