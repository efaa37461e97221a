//! The last step of an upgrade: handlers, connections and exchanges that an earlier binary has left
//! enter the tables of this one.

use std::os::fd::OwnedFd;

use super::daemon::Daemon;
use crate::config::ServiceId;
use crate::serve::handlers::saved::LeftOpen;

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
        for handler in std::mem::take(&mut self.handlers) {
            let index = handler.service.index();
            let policy = shared.services.get(index).and_then(|it| it.policy.as_ref());
            let slots = &self.services[index].slots;
            let handlers = &shared.handlers;
            handlers.restore(handler, slots, policy, self.method, &mut left_open);
        }
        let lingering = std::mem::take(&mut self.lingering);
        shared.handlers.restore_lingering(lingering, &mut left_open);
        for (index, service) in self.services.iter_mut().enumerate() {
            let id = ServiceId::new(index);
            let pending = std::mem::take(&mut service.pending);
            shared.restore_pending(id, pending, self.stream_workers, &mut left_open);
            let exchanges = std::mem::take(&mut service.exchanges);
            shared.restore_exchanges(id, exchanges, &mut left_open);
        }
    }
}
