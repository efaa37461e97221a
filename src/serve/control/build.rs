//! From prepared services to what threads share and what the main thread has of each.

use std::sync::Arc;

use nix::errno::Errno;

use super::prepared::{Prepared, RemovedService, RestoredService};
use crate::child::{Method, Plan, Pool, Spawner};
use crate::config::{DatagramMode, Mode, ServiceId};
use crate::error::Error;
use crate::net::{Listener, Serving, SocketFile};
use crate::serve::admission::{Slots, When};
use crate::serve::handlers::saved::{RestoredHandler, SavedHandler};
use crate::serve::handlers::timeouts::Timeouts;
use crate::serve::service::{DrainTimeouts, Parts, Service, TimeLimits};
use crate::serve::wait_mode::WaitSocket;
use crate::serve::worker::datagram::SavedExchange;
use crate::serve::worker::saved::SavedPending;
use crate::setup::RuleFiles;
use crate::sys::descriptors::{self, Reserved};
use crate::sys::events::Waker;

/// What the main thread alone has of a service. A service that isn't configured any more has an
/// entry too, after all others, as long as handlers may be left of it.
#[derive(Debug)]
pub(in crate::serve) struct ServiceControl {
    pub(in crate::serve) name: String,
    /// The files of its sockets.
    pub(in crate::serve) files: Vec<SocketFile>,
    /// Where its rules are read again.
    pub(in crate::serve) rule_files: Option<Arc<RuleFiles>>,
    pub(in crate::serve) slots: Arc<Slots>,
    pub(in crate::serve) limits: Option<TimeLimits>,
    /// How long its handlers are waited for at the end, if they are.
    pub(in crate::serve) drain: Option<DrainTimeouts>,
    pub(in crate::serve) datagram_workers: usize,
    /// What waits for its threads to be restored.
    pub(in crate::serve) pending: Vec<SavedPending>,
    pub(in crate::serve) exchanges: Vec<SavedExchange>,
}

/// A spawner for each thread that starts handlers, as long as reserved descriptors are left.
pub(in crate::serve) struct Spawners {
    pub(in crate::serve) method: Method,
    pub(in crate::serve) reserved: Reserved,
}

impl Spawners {
    pub(in crate::serve) fn next(&mut self) -> Result<Spawner, Error> {
        let slot = self.reserved.slot();
        let slot = slot.ok_or_else(|| Error::Start("too many threads".into()))?;
        Spawner::new(self.method, slot)
            .map_err(|reason| Error::start("a thread can't start handlers", reason))
    }
}

/// All services, as far as they have been built.
#[derive(Default)]
pub(in crate::serve) struct Built {
    /// Dropped first: files are removed while their sockets are open.
    pub(in crate::serve) controls: Vec<ServiceControl>,
    pub(in crate::serve) services: Vec<Service>,
    pub(in crate::serve) timeouts: Vec<Option<Timeouts>>,
    pub(in crate::serve) wait_sockets: Vec<WaitSocket>,
    /// The handlers of all services that an earlier binary has left.
    pub(in crate::serve) handlers: Vec<RestoredHandler>,
}

/// The listeners of a service, by what is done with them.
#[derive(Default)]
struct Listeners {
    /// skd accepts.
    streams: Vec<Listener>,
    /// skd receives.
    datagrams: Vec<Listener>,
    /// A handler gets the listener itself.
    wait: Vec<Listener>,
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::start(what, errno)
}

impl Listeners {
    fn of(service: &mut Prepared) -> Result<Self, Error> {
        let mut all = Self::default();
        for mut listener in std::mem::take(&mut service.listeners) {
            let serving = match listener.style().has_connections() {
                true if service.config.mode != Mode::Wait => Serving::Accept,
                false if service.config.datagrams != DatagramMode::Wait => Serving::Receive,
                _ => Serving::WaitMode,
            };
            listener
                .refuse_descriptors(serving)
                .map_err(failed("no descriptor to close a listener"))?;
            match serving {
                Serving::Accept => {
                    listener
                        .clear_linger()
                        .map_err(failed("a listener's linger time can't be cleared"))?;
                    // Of several threads that are woken, one gets the connection. An inherited
                    // socket may block.
                    descriptors::set_blocking(&listener, false)
                        .map_err(failed("a listener can't be made non-blocking"))?;
                    all.streams.push(listener);
                }
                Serving::Receive => {
                    let per_peer = service.config.datagrams == DatagramMode::PerPeer;
                    listener.prepare_to_receive(per_peer)?;
                    all.datagrams.push(listener);
                }
                Serving::WaitMode => all.wait.push(listener),
            }
        }
        Ok(all)
    }
}

impl Built {
    /// Adds a configured service. All of these come before those that were removed.
    pub(in crate::serve) fn add(
        &mut self,
        mut service: Prepared,
        wakers: &Arc<[Waker]>,
        spawners: &mut Spawners,
    ) -> Result<(), Error> {
        let id = ServiceId::new(self.controls.len());
        let new_files = service.listeners.iter_mut().filter_map(Listener::take_file);
        let mut files: Vec<_> = new_files.collect();
        let Listeners {
            streams,
            datagrams,
            wait,
        } = Listeners::of(&mut service)?;
        let Prepared {
            config,
            plan,
            rules,
            datagram_workers,
            restored,
            ..
        } = service;
        let plan = Arc::new(plan);
        let is_new = restored.is_none();
        let restored = restored.unwrap_or_default();
        files.extend(restored.files);
        self.add_wait_sockets(id, wait, &plan, is_new)?;
        self.add_handlers(id, restored.handlers);

        let limits = TimeLimits::of(&config);
        let timeouts = limits.map(|limits| Timeouts::new(limits, &streams, &datagrams));
        self.timeouts.push(timeouts.transpose()?.flatten());
        let pool_variables = Listener::common_variables(&streams);
        let pool = config.prestart.map(|prestart| {
            let plan = Arc::clone(&plan);
            Pool::start(id, prestart, plan, pool_variables.clone(), spawners.next()?)
        });
        let (rules, rule_files) = rules.unzip();
        let (name, drain) = (config.name.clone(), DrainTimeouts::of(&config));
        let parts = Parts {
            plan,
            pool: pool.transpose()?,
            pool_variables,
            listeners: streams,
            datagrams,
            rules,
        };
        let service = Service::new(id, config, parts, wakers);
        self.controls.push(ServiceControl {
            name,
            files,
            rule_files: rule_files.map(Arc::new),
            slots: Arc::clone(&service.slots),
            limits,
            drain,
            datagram_workers,
            pending: restored.pending,
            exchanges: restored.exchanges,
        });
        self.services.push(service);
        Ok(())
    }

    /// Adds a service of which handlers are left. Its connections that had none are closed.
    pub(in crate::serve) fn add_removed(&mut self, removed: RemovedService, wakers: &Arc<[Waker]>) {
        let id = ServiceId::new(self.controls.len());
        let RestoredService {
            files, handlers, ..
        } = removed.restored;
        self.add_handlers(id, handlers);
        self.timeouts
            .push(removed.limits.map(Timeouts::without_listeners));
        self.controls.push(ServiceControl {
            name: removed.name,
            files,
            rule_files: None,
            slots: Slots::new(None, When::Before, Arc::clone(wakers)),
            limits: removed.limits,
            drain: removed.drain,
            datagram_workers: 0,
            pending: Vec::new(),
            exchanges: Vec::new(),
        });
    }

    fn add_wait_sockets(
        &mut self,
        service: ServiceId,
        listeners: Vec<Listener>,
        plan: &Arc<Plan>,
        is_new: bool,
    ) -> Result<(), Error> {
        for listener in listeners {
            let index = self.wait_sockets.len();
            let socket = WaitSocket::new(listener, service, Arc::clone(plan), index)
                .map_err(failed("a listener can't be watched"))?;
            if is_new {
                socket
                    .prepare()
                    .map_err(failed("a datagram socket can't tell when it received"))?;
            }
            self.wait_sockets.push(socket);
        }
        Ok(())
    }

    fn add_handlers(&mut self, service: ServiceId, handlers: Vec<SavedHandler>) {
        for saved in handlers {
            let wait_socket = saved.wait_address().and_then(|address| {
                // Of two sockets with the same address, each has its handler.
                self.wait_sockets.iter().position(|socket| {
                    socket.service() == service
                        && socket.listener().address() == *address
                        && !self.has_handler(socket.index())
                })
            });
            self.handlers.push(RestoredHandler {
                saved,
                service,
                wait_socket,
            });
        }
    }

    /// Returns whether a handler that is to be restored has the wait-mode listener with this index.
    pub(in crate::serve) fn has_handler(&self, wait_socket: usize) -> bool {
        let mut handlers = self.handlers.iter();
        handlers.any(|handler| handler.wait_socket == Some(wait_socket))
    }
}
