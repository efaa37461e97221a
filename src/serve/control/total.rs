//! The end of a service that may have a total of handlers (`--max-total`): it closes its listeners as
//! soon as the last one has begun, those of datagrams as soon as the last answer is sent. skd ends when
//! all services have.

use std::sync::atomic::Ordering;

use super::daemon::Daemon;
use super::drain::{WaitTime, close_listener};
use crate::child::Pool;
use crate::serve::service::Service;

impl Daemon {
    /// Closes the services that have had all their handlers. If none is left, begins to wait for the
    /// last handlers. Their own time limits apply, but not that of a drain that is asked for.
    pub(in crate::serve) fn close_spent(&mut self) {
        let mut closed = false;
        for service in &self.shared.services {
            if service.is_done() {
                self.close_datagrams(service);
                continue;
            }
            if !service.slots.are_spent() {
                continue;
            }
            closed = true;
            // Removed while the sockets are open.
            self.services[service.id.index()].files.clear();
            for listener in &service.listeners {
                let _ = self.shared.handlers.main_poller().remove(listener);
                if self.preflight.is_some() {
                    // It has the socket, too.
                    listener.refuse();
                }
                close_listener(&self.shared, listener);
            }
            let wait_sockets = self.wait_sockets.iter_mut();
            wait_sockets
                .filter(|socket| socket.service() == service.id)
                .for_each(|socket| socket.close(&self.shared.handlers));
            // No worker is handing a connection to one: all that were to have one have a handler.
            service
                .source
                .pool
                .as_deref()
                .into_iter()
                .for_each(Pool::retire);
            service.set_done();
            self.close_datagrams(service);
        }
        // A service that isn't configured any more is drained in any case.
        let services = self.shared.services.iter().zip(&self.services);
        let mut configured = services.filter(|(_, control)| control.retiring.is_none());
        let all = configured.all(|(service, _)| service.is_done());
        if self.drain.is_some() || !all {
            if closed {
                // They drop the connections that wait.
                self.shared.wakers.iter().for_each(|waker| waker.wake());
            }
            return;
        }
        self.status.stopping(&self.shared, true);
        let endless = vec![WaitTime::Endless; self.services.len()];
        self.begin_drain(endless);
    }

    /// Closes the listeners of datagrams of a service that is done, once no answer is sent from them.
    fn close_datagrams(&self, service: &Service) {
        let workers = self.services[service.id.index()].datagram_workers;
        if service.done_workers.load(Ordering::SeqCst) == workers {
            let open = service.datagrams.iter().filter(|it| !it.is_closed());
            open.for_each(|listener| close_listener(&self.shared, listener));
        }
    }
}
