//! From prepared services to what threads share and what the main thread has of each.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::filter_calls::{Fates, SavedListeners};
use super::prepared::{Prepared, RemovedService, RestoredService};
use crate::child::{Filters, Jail, Method, Pool, SavedPool, Source, Spawner};
use crate::config::{DatagramMode, KILL_AFTER, ListenerId, Mode, ServiceId, ServiceText, Span};
use crate::error::Error;
use crate::net::{Listener, ListenerAddress, Serving, SocketFile};
use crate::serve::admission::{SavedRates, Slots, When};
use crate::serve::availability::Availability;
use crate::serve::handlers::Containment;
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
    pub(in crate::serve) name: Arc<str>,
    /// The files of its sockets.
    pub(in crate::serve) files: Vec<SocketFile>,
    /// The files of sockets that are about to be closed.
    pub(in crate::serve) retired_files: Vec<SocketFile>,
    /// How it was written, if it isn't configured any more and serves its last clients.
    pub(in crate::serve) retiring: Option<Arc<ServiceText>>,
    /// Where its rules are read again.
    pub(in crate::serve) rule_files: Option<Arc<RuleFiles>>,
    pub(in crate::serve) slots: Arc<Slots>,
    pub(in crate::serve) limits: Option<TimeLimits>,
    /// How long a handler may run after it was told to end.
    pub(in crate::serve) kill_after: Span,
    /// How long its handlers are waited for at the end, if they are.
    pub(in crate::serve) drain: Option<DrainTimeouts>,
    pub(in crate::serve) datagram_workers: usize,
    /// What waits for its threads to be restored.
    pub(in crate::serve) pending: Vec<SavedPending>,
    pub(in crate::serve) exchanges: Vec<SavedExchange>,
    pub(in crate::serve) rates: Option<SavedRates>,
    /// The prestarted handlers that an earlier binary has left.
    pub(in crate::serve) pool: Option<SavedPool>,
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
    pub(in crate::serve) containments: Vec<Option<Containment>>,
    pub(in crate::serve) wait_sockets: Vec<WaitSocket>,
    /// The handlers of all services that an earlier binary has left.
    pub(in crate::serve) handlers: Vec<RestoredHandler>,
    /// The listeners of pending connections that an earlier binary has left, whichever service had them.
    pub(in crate::serve) pending_at: HashSet<ListenerAddress>,
    /// The socket for the listeners of filters, as children have it.
    pub(in crate::serve) filter_socket: Option<Arc<OwnedFd>>,
    pub(in crate::serve) filters: Filters,
    /// What becomes of the calls that the filter of each service asks about.
    pub(in crate::serve) fates: Vec<Arc<Fates>>,
    /// The listeners that an earlier binary has left.
    pub(in crate::serve) filter_listeners: Vec<(ServiceId, SavedListeners)>,
    /// The same, until it is known which wait-mode listeners they have.
    saved_handlers: Vec<(ServiceId, Vec<SavedHandler>)>,
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
        all.streams.shrink_to_fit();
        all.datagrams.shrink_to_fit();
        Ok(all)
    }
}

impl Built {
    /// Adds a configured service. All of these come before those that were removed.
    pub(in crate::serve) fn add(
        &mut self,
        mut service: Prepared,
        (wakers, stream_workers): (&Arc<[Waker]>, usize),
        spawners: &mut Spawners,
    ) -> Result<(), Error> {
        let id = ServiceId::new(self.controls.len());
        let (mut files, mut retired_files) = (Vec::new(), Vec::new());
        for listener in &mut service.listeners {
            let of = match listener.is_retiring() {
                true => &mut retired_files,
                false => &mut files,
            };
            of.extend(listener.take_file());
        }
        let Listeners {
            streams,
            datagrams,
            wait,
        } = Listeners::of(&mut service)?;
        let Prepared {
            config,
            plan,
            jail,
            cgroups,
            gate,
            rules,
            datagram_workers,
            restored,
            retiring,
            ..
        } = service;
        let mut plan = plan;
        if let Some(socket) = &self.filter_socket {
            plan.listen_to_filter(socket, id.index() as u32);
        }
        // Of a sandbox too, whose plan isn't this one.
        let filter = self.filters.of(&config.isolation, true)?;
        let filter = filter.map(|filter| Fates::of(filter.rules()));
        self.fates.push(filter.unwrap_or_default().into());
        let plan = Arc::new(plan);
        let is_new = restored.is_none();
        let restored = restored.unwrap_or_default();
        files.extend(restored.files);
        let listeners = restored.filter_listeners.into_iter();
        self.filter_listeners.extend(listeners.map(|it| (id, it)));
        let live = restored.handlers.iter().filter(|it| it.has_slot());
        let ended = restored.total.saturating_sub(live.count() as u64);
        let earlier = (restored.is_done, ended);

        let limits = TimeLimits::of(&config);
        let timeouts = limits.map(|limits| Timeouts::new(limits, &streams, &datagrams));
        self.timeouts.push(timeouts.transpose()?.flatten());
        let pool_variables = match config.prestart {
            Some(_) => Listener::common_variables(&streams),
            None => Vec::new(),
        };
        let pool = config.prestart.map(|prestart| {
            let plan = (Arc::clone(&plan), jail.clone(), cgroups.clone());
            let spawner = spawners.next()?;
            Pool::start(
                id,
                prestart,
                plan,
                pool_variables.clone(),
                spawner,
                stream_workers,
            )
        });
        let (rules, rule_files) = rules.unzip();
        let (name, drain) = (config.name.as_str().into(), DrainTimeouts::of(&config));
        let kill_after = config.kill_after.unwrap_or(KILL_AFTER);
        let is_contained = config.isolation.is_contained();
        // Handlers that an earlier binary has started in groups still are, whatever is configured now.
        let is_left_contained = restored.handlers.iter().any(SavedHandler::has_cgroup);
        let any_contained = is_contained || is_left_contained;
        self.containments.push(any_contained.then(|| Containment {
            kill_after: kill_after.into(),
            by_process_group: is_contained
                && cgroups.is_none()
                && !jail.as_deref().is_some_and(Jail::is_init),
        }));
        let source = Source {
            plan,
            pool: pool.transpose()?,
            pool_variables,
            jail,
            cgroups,
        };
        let parts = Parts {
            source: Arc::new(source),
            gate,
            has_pending: self.has_pending(&streams),
            listeners: streams,
            datagrams,
            rules,
            earlier,
            // What is about to be closed serves its last clients.
            availability: match retiring {
                Some(_) => Availability::Serving,
                None => restored.availability,
            },
        };
        let service = Service::new(id, config, parts, wakers);
        self.add_wait_sockets(&service, wait, is_new)?;
        self.saved_handlers.push((id, restored.handlers));
        self.controls.push(ServiceControl {
            name,
            files,
            retired_files,
            retiring,
            rule_files: rule_files.flatten().map(Arc::new),
            slots: Arc::clone(&service.slots),
            limits,
            kill_after,
            drain,
            datagram_workers,
            pending: restored.pending,
            exchanges: restored.exchanges,
            rates: restored.rates,
            pool: restored.pool,
        });
        self.services.push(service);
        Ok(())
    }

    /// Adds a service of which handlers are left. Its connections that had none go with its listeners,
    /// to another service or away.
    pub(in crate::serve) fn add_removed(&mut self, removed: RemovedService, wakers: &Arc<[Waker]>) {
        let id = ServiceId::new(self.controls.len());
        let kill_after = removed.kill_after();
        let RestoredService {
            files,
            handlers,
            pending,
            exchanges,
            pool,
            filter_listeners,
            ..
        } = removed.restored;
        let listeners = filter_listeners.into_iter();
        self.filter_listeners.extend(listeners.map(|it| (id, it)));
        self.saved_handlers.push((id, handlers));
        // Whatever it was configured with, handlers with a group are.
        self.containments.push(Some(Containment {
            kill_after: kill_after.into(),
            by_process_group: false,
        }));
        self.timeouts
            .push(removed.limits.map(Timeouts::without_listeners));
        self.controls.push(ServiceControl {
            name: removed.name.into(),
            files,
            retired_files: Vec::new(),
            retiring: None,
            rule_files: None,
            slots: Slots::new(None, When::Before, Arc::clone(wakers)),
            limits: removed.limits,
            kill_after,
            drain: removed.drain,
            datagram_workers: 0,
            pending,
            exchanges,
            rates: None,
            pool,
        });
    }

    fn add_wait_sockets(
        &mut self,
        service: &Service,
        listeners: Vec<Listener>,
        is_new: bool,
    ) -> Result<(), Error> {
        for listener in listeners {
            let index = self.wait_sockets.len();
            let socket = WaitSocket::new(listener, service, index)
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

    /// Whether pending connections of an earlier binary go with these listeners.
    fn has_pending(&self, streams: &[Listener]) -> bool {
        let pending = &self.pending_at;
        !pending.is_empty() && streams.iter().any(|it| pending.contains(&it.address()))
    }

    /// Finds the wait-mode listeners of handlers, once all services are added: a listener may have
    /// gone from the service of its handler to another.
    pub(in crate::serve) fn match_handlers(&mut self) {
        // Of two sockets with the same address, each has its handler.
        let mut free: HashMap<_, VecDeque<usize>> = HashMap::new();
        for socket in &self.wait_sockets {
            let same = free.entry(socket.listener().address()).or_default();
            same.push_back(socket.index());
        }
        let ids = self.listener_ids();
        let all = std::mem::take(&mut self.saved_handlers).into_iter();
        let all = all.flat_map(|(service, handlers)| {
            handlers.into_iter().map(move |saved| (service, saved))
        });
        for (service, saved) in all {
            let wait_socket = saved
                .wait_address()
                .and_then(|address| free.get_mut(address)?.pop_front());
            let listener = saved.listener().and_then(|address| ids.get(address));
            self.handlers.push(RestoredHandler {
                listener: listener.copied().unwrap_or(ListenerId::NONE),
                saved,
                service,
                wait_socket,
            });
        }
    }

    /// Returns the ids of all listeners by their addresses.
    fn listener_ids(&self) -> HashMap<ListenerAddress, ListenerId> {
        let services = self.services.iter();
        let listeners = services.flat_map(|it| it.listeners.iter().chain(&it.datagrams));
        let wait_mode = self.wait_sockets.iter().map(WaitSocket::listener);
        let all = listeners.chain(wait_mode);
        all.map(|it| (it.address(), it.id())).collect()
    }

    /// Returns for each wait-mode listener whether a handler that is to be restored has it.
    pub(in crate::serve) fn taken(&self) -> Vec<bool> {
        let mut taken = vec![false; self.wait_sockets.len()];
        for index in self.handlers.iter().filter_map(|it| it.wait_socket) {
            taken[index] = true;
        }
        taken
    }
}
