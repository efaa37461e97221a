//! What any thread may see of the daemon without the main thread.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::child::Pool;
use crate::config::{BoundAddress, ListenerId, ServiceId, Style};
use crate::net::{Listener, ListenerAddress};
use crate::serve::admission::Slots;
use crate::serve::service::Service;
use crate::serve::wait_mode::WaitSocket;
use crate::serve::worker::Shared;

/// What any thread may see of the daemon. It stays as it is as long as the process, but for atomics.
#[derive(Debug)]
pub(in crate::serve) struct View {
    pub(in crate::serve) shared: Arc<Shared>,
    /// Of each service, by its id. Those that were removed come last.
    pub(in crate::serve) services: Box<[ServiceView]>,
    /// Where each listener is, by its id.
    listeners: Box<[Location]>,
    /// Those in wait mode, which the main thread has.
    wait_mode: Box<[WaitModeListener]>,
    /// When skd was started, before any upgrade.
    pub(in crate::serve) began: Instant,
}

/// What any thread may see of a service.
#[derive(Debug)]
pub(in crate::serve) struct ServiceView {
    pub(in crate::serve) name: Arc<str>,
    pub(in crate::serve) slots: Arc<Slots>,
    /// Whether it isn't configured any more.
    pub(in crate::serve) is_removed: bool,
    /// Whether its drain is announced, and hasn't begun. Workers needn't know: they serve as before.
    pub(in crate::serve) is_lame_duck: AtomicBool,
    /// The ids of its listeners.
    listeners: Range<u32>,
}

/// A listener as any thread may see it.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct ListenerView<'a> {
    pub(in crate::serve) id: ListenerId,
    style: Style,
    address: &'a BoundAddress,
}

#[derive(Clone, Copy, Debug)]
enum Location {
    Stream(ServiceId, u32),
    Datagram(ServiceId, u32),
    /// The index in the list of those.
    WaitMode(u32),
    /// It is closed already.
    None,
}

#[derive(Debug)]
struct WaitModeListener {
    style: Style,
    address: BoundAddress,
}

impl View {
    /// The view of these services, each with its name, its slots, and whether it is retiring, after so
    /// many listeners got their ids.
    pub(super) fn new(
        shared: Arc<Shared>,
        services: impl ExactSizeIterator<Item = (Arc<str>, Arc<Slots>, bool)>,
        wait_sockets: &[WaitSocket],
        listeners: usize,
        began: Instant,
    ) -> Self {
        let mut locations = vec![Location::None; listeners];
        let mut note = |listener: &Listener, location| {
            if let Some(at) = locations.get_mut(listener.id().index()) {
                *at = location;
            }
        };
        for service in &shared.services {
            for (listener, index) in service.listeners.iter().zip(0..) {
                note(listener, Location::Stream(service.id, index));
            }
            for (listener, index) in service.datagrams.iter().zip(0..) {
                note(listener, Location::Datagram(service.id, index));
            }
        }
        for (socket, index) in wait_sockets.iter().zip(0..) {
            note(socket.listener(), Location::WaitMode(index));
        }
        // Those of a service have ids in a row.
        let mut ids = vec![(0, 0); services.len()];
        for (location, id) in locations.iter().zip(0..) {
            let service = match *location {
                Location::Stream(service, _) | Location::Datagram(service, _) => service,
                Location::WaitMode(at) => wait_sockets[at as usize].service(),
                Location::None => continue,
            };
            let (first, count) = &mut ids[service.index()];
            *first = if *count == 0 { id } else { *first };
            *count += 1;
        }
        let services = services.zip(ids).enumerate();
        let services = services.map(|(index, ((name, slots, retires), (first, count)))| {
            let is_configured = index < shared.services.len() && !retires;
            ServiceView {
                name,
                slots,
                is_removed: !is_configured,
                is_lame_duck: AtomicBool::new(false),
                listeners: first..first + count,
            }
        });
        let wait_mode = wait_sockets.iter().map(|socket| WaitModeListener {
            style: socket.listener().style(),
            address: socket.listener().bound_address().clone(),
        });
        Self {
            services: services.collect(),
            wait_mode: wait_mode.collect(),
            listeners: locations.into(),
            shared,
            began,
        }
    }

    /// Returns the service with this id as workers have it; none if only handlers are left of it.
    pub(in crate::serve) fn served(&self, id: ServiceId) -> Option<&Service> {
        self.shared.services.get(id.index())
    }

    /// Returns the services with their ids.
    pub(in crate::serve) fn services(&self) -> impl Iterator<Item = (ServiceId, &ServiceView)> {
        let services = self.services.iter().enumerate();
        services.map(|(index, service)| (ServiceId::new(index), service))
    }

    /// Returns the service with this name, the configured one if there was another.
    pub(in crate::serve) fn named(&self, name: &str) -> Option<&ServiceView> {
        self.services.iter().find(|service| *service.name == *name)
    }

    /// Returns the pool of a service, if it has one.
    pub(in crate::serve) fn pool(&self, id: ServiceId) -> Option<&Pool> {
        self.served(id)?.source.pool.as_deref()
    }

    /// Returns the listener with this id, open or closed.
    pub(in crate::serve) fn listener(&self, id: ListenerId) -> Option<ListenerView<'_>> {
        let socket = match *self.listeners.get(id.index())? {
            Location::Stream(service, at) => self.served(service)?.listeners.get(at as usize),
            Location::Datagram(service, at) => self.served(service)?.datagrams.get(at as usize),
            Location::WaitMode(at) => {
                let it = self.wait_mode.get(at as usize)?;
                return Some(ListenerView {
                    id,
                    style: it.style,
                    address: &it.address,
                });
            }
            Location::None => return None,
        };
        let socket = socket?;
        Some(ListenerView {
            id,
            style: socket.style(),
            address: socket.bound_address(),
        })
    }

    /// Returns the listeners of a service, in the order of the configuration.
    pub(in crate::serve) fn listeners_of(
        &self,
        service: ServiceId,
    ) -> impl Iterator<Item = ListenerView<'_>> {
        let service = self.services.get(service.index());
        let ids = service.map_or(0..0, |service| service.listeners.clone());
        ids.filter_map(|id| self.listener(ListenerId::new(id as usize)))
    }

    /// Returns the id of the counters of what came to listeners that a service doesn't have any more.
    pub(in crate::serve) fn former(&self, service: ServiceId) -> ListenerId {
        ListenerId::new(self.listeners.len() + service.index())
    }
}

impl ListenerView<'_> {
    /// Returns its kind: `tcp`, `udp`, `unix`, `unix-seqpacket`, `unix-datagram`.
    pub(in crate::serve) fn kind(self) -> &'static str {
        match (self.style, self.address) {
            (Style::Datagram, BoundAddress::Inet(_)) => "udp",
            (_, BoundAddress::Inet(_)) => "tcp",
            (Style::Stream, BoundAddress::Unix(_)) => "unix",
            (Style::Seqpacket, BoundAddress::Unix(_)) => "unix-seqpacket",
            (Style::Datagram, BoundAddress::Unix(_)) => "unix-datagram",
        }
    }

    /// Returns its address as messages have it.
    pub(in crate::serve) fn address(self) -> String {
        self.address.to_string()
    }

    /// Returns what another process knows it by.
    pub(in crate::serve) fn saved(self) -> ListenerAddress {
        ListenerAddress::new(self.style, self.address)
    }
}
