//! The running daemon, as the main thread has it, and how all that can fail is made ready.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::acts::Acts;
use super::build::{Built, ServiceControl, Spawners};
use super::commands::Commands;
use super::drain::Drain;
use super::filter_calls::FilterCalls;
use super::origin::Origin;
use super::prepared::{Prepared, Resources};
use super::reload::Reload;
use super::saved_counters;
use super::socket::ControlSocket;
use super::status::Status;
use super::tls::TlsKeeper;
use super::upgrade::preflight::Preflight;
use super::view::View;
use crate::child::{Method, Pidfds, Spawner};
use crate::config::{BoundAddress, ListenerId, ServiceId, Style};
use crate::error::Error;
use crate::net::Listener;
use crate::report;
use crate::serve::admission::{Clock, Denials};
use crate::serve::handlers::linger::Lingering;
use crate::serve::handlers::orphans::Orphans;
use crate::serve::handlers::saved::{LeftOpen, RestoredHandler, SavedClock, SavedLingering};
use crate::serve::handlers::table::Table;
use crate::serve::handlers::timeouts::Timeouts;
use crate::serve::handlers::token::Token;
use crate::serve::handlers::{Births, Containment, Handlers};
use crate::serve::service::Service;
use crate::serve::tls::TlsLink;
use crate::serve::wait_mode::WaitSocket;
use crate::serve::worker::{Phase, Shared, Turns, datagram, stream};
use crate::setup::{Log, Senders};
use crate::sys::aside;
use crate::sys::events::{Interest, Poller, Waker};
use crate::sys::process;
use crate::sys::signals::{Signal, Signals};
use crate::sys::thread::Thread;

/// The signals that the main thread reads, besides CHLD at times.
pub(in crate::serve) const USED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The running daemon, as the main thread has it.
#[derive(Debug)]
pub struct Daemon {
    /// Of each service, by its id. Their files are removed, and dropped, while the sockets are
    /// still open.
    pub(in crate::serve) services: Vec<ServiceControl>,
    pub(in crate::serve) shared: Arc<Shared>,
    /// What clients of the control socket want, and the answers.
    pub(in crate::serve) commands: Arc<Commands>,
    /// What decides about system calls, where filters ask.
    pub(in crate::serve) filter_calls: Option<FilterCalls>,
    /// What they have begun and isn't over.
    pub(in crate::serve) acts: Acts,
    pub(in crate::serve) control: Option<ControlSocket>,
    /// What other threads may see.
    pub(in crate::serve) view: Arc<View>,
    /// The stream workers, and after them the datagram workers of each service.
    pub(in crate::serve) workers: Vec<Thread>,
    pub(in crate::serve) stream_workers: usize,
    pub(in crate::serve) signals: Signals,
    /// The processes whose signals are obeyed.
    pub(in crate::serve) senders: Senders,
    /// The wait-mode listeners of all services.
    pub(in crate::serve) wait_sockets: Vec<WaitSocket>,
    pub(in crate::serve) spawner: Spawner,
    pub(in crate::serve) method: Method,
    pub(in crate::serve) log: Log,
    pub(in crate::serve) status: Status,
    /// What an earlier binary has left, until it is entered.
    pub(in crate::serve) handlers: Vec<RestoredHandler>,
    pub(in crate::serve) lingering: Vec<SavedLingering>,
    pub(in crate::serve) left_open: LeftOpen,
    /// For each wait-mode listener, whether a handler that is restored has it.
    pub(in crate::serve) taken: Vec<bool>,
    /// Listeners that are closed before anything is served.
    pub(in crate::serve) closed: Vec<Listener>,
    /// Rules that are being read.
    pub(in crate::serve) reload: Reload,
    /// Whether HUP came during a preflight: files are read once more after it.
    pub(in crate::serve) reload_again: bool,
    /// A new binary that is tried, or the same with new files.
    pub(in crate::serve) preflight: Option<Preflight>,
    /// What serves TLS, if a service has that, or had it.
    pub(in crate::serve) tls: Option<TlsKeeper>,
    /// The services with TLS, by their names.
    pub(in crate::serve) tls_services: BTreeMap<String, ServiceId>,
    /// The end, once it has begun and handlers are waited for.
    pub(in crate::serve) drain: Option<Drain>,
    /// Whether a service may have so many handlers and no more.
    pub(in crate::serve) has_totals: bool,
    /// Whether there are always children without a watched pidfd: strangers, or all.
    pub(in crate::serve) always_sweeps: bool,
    /// The orphans of handlers that were told to end.
    pub(in crate::serve) orphans: Orphans,
    /// Whether CHLD is listened to.
    pub(in crate::serve) sweeping: bool,
    pub(in crate::serve) sweep_at: Option<Instant>,
    pub(in crate::serve) relay_at: Option<Instant>,
    /// How many reloads wait for the relay to open the log again.
    pub(in crate::serve) reopening: u32,
    /// With the pid file, the last thing to go: a program that waits for its removal finds
    /// nothing else left.
    pub(in crate::serve) origin: Origin,
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::start(what, errno)
}

impl Daemon {
    /// Makes ready all that can fail, worker threads too, but nothing is served yet.
    pub fn new(mut services: Vec<Prepared>, resources: Resources) -> Result<Self, Error> {
        let mut listeners = 0;
        for listener in services.iter_mut().flat_map(|it| &mut it.listeners) {
            listener.set_id(ListenerId::new(listeners));
            listeners += 1;
        }
        let names = services.iter().map(|service| service.config.name.as_str());
        let removed = resources.restored.removed.iter().map(|it| it.name.as_str());
        let names: Vec<_> = names.chain(removed).collect();
        let named = services.iter().enumerate().flat_map(|(index, service)| {
            let own = service.listeners.iter();
            own.map(move |it| (ServiceId::new(index), it.listener_name()))
        });
        report::set_services(&names, &named.collect::<Vec<_>>());
        let stream_workers = resources.stream_workers;
        let datagram_workers = services.iter().map(|service| service.datagram_workers);
        let workers = stream_workers + datagram_workers.sum::<usize>();
        let wakers: Arc<[Waker]> = (0..workers)
            .map(|_| Waker::new())
            .collect::<Result<_, _>>()
            .map_err(failed("no descriptor to wake a thread"))?;
        let method = resources.method;
        let identities = services.iter().map(|it| it.config.identity.as_ref());
        let senders = Senders::new(resources.origin.starter, identities);
        let mut spawners = Spawners {
            method,
            reserved: resources.reserved,
        };
        let has_totals = services.iter().any(|it| it.config.max_total.is_some());
        let stay = services.iter().filter_map(|it| it.restored.as_ref());
        let removed = resources.restored.removed.iter().map(|it| &it.restored);
        let pending = stay.chain(removed).flat_map(|it| &it.pending);
        let (theirs, own) = match resources.filter_socket {
            Some(socket) => (Some(socket.theirs), Some(socket.own)),
            None => (None, None),
        };
        let mut built = Built::default();
        built.filter_socket = theirs;
        built.pending_at = pending.map(|it| it.listener.clone()).collect();
        for service in services {
            built.add(service, (&wakers, stream_workers), &mut spawners)?;
        }
        for removed in resources.restored.removed {
            built.add_removed(removed, &wakers);
        }
        built.match_handlers();
        let lingering = resources.restored.lingering;
        let earlier = resources.restored.served;
        let taken = built.taken();
        let Built {
            services,
            controls,
            timeouts,
            containments,
            wait_sockets,
            handlers,
            fates,
            filter_listeners,
            ..
        } = built;
        let asks = own.is_some() || !filter_listeners.is_empty();
        let filter_calls = asks.then(|| FilterCalls::start(own, fates, filter_listeners));
        let filter_calls = filter_calls.transpose()?;
        let lingers = !lingering.is_empty() || handlers.iter().any(|it| it.saved.is_kept());
        let earlier = earlier.saturating_sub(handlers.len() as u64);
        let timeouts = timeouts.into();
        let own_udp = own_udp(&services, &wait_sockets);
        let link = resources.tls.as_ref().map(TlsKeeper::link).transpose()?;
        let shared = Arc::new(share(
            (services, own_udp, link.flatten()),
            (timeouts, containments.into()),
            (wakers, stream_workers),
            lingers,
            earlier,
        )?);
        let limit = limit(&shared).map(|limit| limit + wait_sockets.len());
        let status = Status::new(resources.manager, limit);

        // Dropped before the sockets if something fails below.
        let controls = controls;
        let spawner = spawners.next()?;
        let with_tls = shared.services.iter().filter_map(|service| {
            let tls = service.tls.as_ref()?;
            Some((tls.name.clone(), service.id))
        });
        // Of two with the same name, the first is the configured one.
        let tls_services = with_tls.rev().collect();
        let began = SavedClock::new().restore_or_now(resources.restored.began);
        let seen = controls.iter().map(|control| {
            let (name, slots) = (Arc::clone(&control.name), Arc::clone(&control.slots));
            (name, slots, control.retiring.is_some())
        });
        let view = View::new(Arc::clone(&shared), seen, &wait_sockets, listeners, began);
        if let Some(figures) = &resources.restored.figures {
            saved_counters::restore(&view, figures);
        }
        // Before the control socket answers: a load balancer must not hear in between that all is well.
        for drain in &resources.restored.acts.drains {
            if let (Some(_), Some(service)) = (drain.begins, view.named(&drain.service)) {
                service.is_lame_duck.store(true, Ordering::SeqCst);
            }
        }
        let view = Arc::new(view);
        let workers = start_workers(&shared, stream_workers, &controls, &mut spawners)?;
        let waker = || Waker::new().map_err(failed("no descriptor for the control socket"));
        let with_waker = |bound| waker().map(|waker| (bound, Arc::new(waker)));
        let control = resources.control.map(with_waker).transpose()?;
        let waker = control.as_ref().map(|(_, waker)| Arc::clone(waker));
        let commands = Arc::new(Commands::new(waker));
        let control = control.map(|bound| ControlSocket::start(bound, &view, &commands));
        let mut daemon = Self {
            services: controls,
            view,
            shared,
            commands,
            filter_calls,
            control: control.transpose()?,
            acts: Acts {
                saved: resources.restored.acts,
                ..Acts::default()
            },
            workers,
            stream_workers,
            signals: Signals::new(&USED).map_err(failed("no descriptor for signals"))?,
            senders,
            wait_sockets,
            spawner,
            method,
            log: resources.log,
            status,
            handlers,
            lingering,
            left_open: LeftOpen::default(),
            reload: Reload::of_earlier(resources.restored.reloads),
            reload_again: false,
            taken: Vec::new(),
            closed: resources.restored.closed,
            preflight: None,
            tls: resources.tls,
            tls_services,
            drain: None,
            has_totals,
            always_sweeps: process::adopts_orphans() || method.pidfds == Pidfds::None,
            orphans: Orphans::default(),
            sweeping: false,
            sweep_at: None,
            relay_at: None,
            reopening: 0,
            origin: resources.origin,
        };
        let reserved = daemon.shared.handlers.reserve_restored(&daemon.handlers);
        reserved.map_err(|reason| Error::Start(format!("no memory for handlers: {reason}")))?;
        daemon
            .watch(&taken)
            .map_err(failed("a descriptor can't be watched"))?;
        daemon.taken = taken;
        daemon.choose_to_sweep();
        // What was opened above is out of the way of those that come and go from now on.
        drop(spawners);
        Ok(daemon)
    }

    /// Makes the log standard error, when all that the caller should see has been said; and
    /// leaves the caller's terminal, in the background.
    pub fn take_log(&mut self) -> Result<(), Error> {
        self.log.leave_terminal(true)?;
        self.log.take_over()?;
        self.log.empty()?;
        self.log.keep();
        Ok(())
    }

    /// Removes the files of all sockets, but those that another binary still owns.
    pub fn remove_files(&mut self) {
        self.services.iter_mut().for_each(|service| {
            service.files.clear();
            service.retired_files.clear();
        });
    }

    fn watch(&mut self, taken: &[bool]) -> Result<(), Errno> {
        let poller = self.shared.handlers.main_poller();
        poller.add(&self.signals, Interest::Readable, Token::Signals.into())?;
        poller.add(
            &self.shared.handlers.main,
            Interest::Readable,
            Token::Waker.into(),
        )?;
        if let Some(relay) = self.log.relay_end() {
            poller.add(relay, Interest::Readable, Token::Relay.into())?;
        }
        if let Some(tls) = &mut self.tls {
            tls.watch(poller);
        }
        for (socket, taken) in self.wait_sockets.iter_mut().zip(taken) {
            socket.watch(poller, *taken)?;
        }
        Ok(())
    }

    /// Listens to CHLD always if there are children whose end nothing else tells. Otherwise until a
    /// look at all children is due: else each handler's end would wake this thread.
    pub(in crate::serve) fn choose_to_sweep(&mut self) {
        let often = self.always_sweeps || self.has_unwatched();
        let wanted = often || self.sweep_at.is_none();
        if wanted == self.sweeping {
            return;
        }
        let mut signals = USED.to_vec();
        if wanted {
            signals.push(Signal::SIGCHLD);
            // A child may have ended before anything listened.
            self.sweep_at = often.then(Instant::now);
        }
        if self.signals.set(&signals).is_ok() {
            self.sweeping = wanted;
        }
    }

    pub(in crate::serve) fn has_unwatched(&self) -> bool {
        let handlers = &self.shared.handlers;
        handlers.table.has_unwatched() || handlers.gates.has_killed()
    }

    pub(in crate::serve) fn each_listener(&self, tell: impl Fn(&Listener)) {
        let wait_sockets = self.wait_sockets.iter();
        let accepted = self.shared.listeners().chain(self.shared.datagrams());
        let all = accepted.chain(wait_sockets.map(WaitSocket::listener));
        all.filter(|listener| !listener.is_closed()).for_each(tell);
    }
}

/// The bound addresses of all UDP sockets.
fn own_udp(services: &[Service], wait_sockets: &[WaitSocket]) -> Box<[SocketAddr]> {
    let received = services.iter().flat_map(|service| &service.datagrams);
    let all = received.chain(wait_sockets.iter().map(WaitSocket::listener));
    let udp = all.filter(|listener| listener.style() == Style::Datagram);
    udp.filter_map(|listener| match listener.bound_address() {
        BoundAddress::Inet(address) => Some(*address),
        BoundAddress::Unix(_) => None,
    })
    .collect()
}

/// What each service has, or hasn't.
type OfEach<T> = Box<[Option<T>]>;

/// What all threads share, of which the first so many accept. `lingers` says whether connections of
/// an earlier binary linger.
fn share(
    (services, own_udp, tls): (Vec<Service>, Box<[SocketAddr]>, Option<TlsLink>),
    (timeouts, containments): (OfEach<Timeouts>, OfEach<Containment>),
    (wakers, stream_workers): (Arc<[Waker]>, usize),
    lingers: bool,
    earlier: u64,
) -> Result<Shared, Error> {
    let threads = wakers.len();
    let timed = timeouts.iter().any(Option::is_some) || containments.iter().any(Option::is_some);
    let lingering = if lingers || services.iter().any(Service::lingers) {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let many = lingers || services.iter().any(Service::lingers_much);
        Lingering::new(threads, services.len(), (files, many)).map_err(|reason| {
            Error::Start(format!("no memory for lingering connections: {reason}"))
        })?
    } else {
        Lingering::never()
    };
    if lingers || services.iter().any(Service::closes_aside) {
        aside::start().map_err(failed("no thread that closes connections"))?;
    }
    let traces = services.iter().any(|service| service.source.pool.is_some());
    Ok(Shared {
        tls,
        services: services.into(),
        handlers: Handlers {
            table: Table::new(threads + 1, earlier, timed),
            lingering,
            pollers: (0..=threads)
                .map(|_| Poller::new())
                .collect::<Result<_, _>>()
                .map_err(failed("no epoll descriptor"))?,
            births: (0..threads).map(|_| Births::default()).collect(),
            timeouts,
            gates: Arc::default(),
            containments,
            main: Waker::new().map_err(failed("no descriptor to wake the main thread"))?,
            count_wanted: AtomicBool::new(false),
            ends_wanted: AtomicBool::new(false),
            traces,
        },
        answers: (0..threads).map(|_| AtomicBool::new(false)).collect(),
        answer_wanted: AtomicBool::new(false),
        wakers,
        clock: Clock::new(Instant::now()),
        pending: (0..threads).map(|_| Mutex::default()).collect(),
        own_udp,
        parked_exchanges: Mutex::default(),
        phase: AtomicU8::new(Phase::Starting as u8),
        parked: AtomicUsize::new(0),
        has_drained: AtomicBool::new(false),
        denials: Denials::default(),
        unavailable: AtomicUsize::new(0),
        drains: AtomicBool::new(false),
        exchanges: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        turns: Turns::new(stream_workers),
    })
}

/// Starts all workers, which wait until all are there.
fn start_workers(
    shared: &Arc<Shared>,
    stream_workers: usize,
    controls: &[ServiceControl],
    spawners: &mut Spawners,
) -> Result<Vec<Thread>, Error> {
    let mut workers = Vec::new();
    for index in 0..stream_workers {
        let stream_worker = stream::start(index, Arc::clone(shared), spawners.next()?)
            .map_err(failed("no thread to accept connections"))?;
        workers.push(stream_worker);
    }
    for (service, control) in controls.iter().enumerate() {
        let service = ServiceId::new(service);
        for _ in 0..control.datagram_workers {
            let index = workers.len();
            let worker = datagram::start(index, service, Arc::clone(shared), spawners.next()?)
                .map_err(failed("no thread to receive datagrams"))?;
            workers.push(worker);
        }
    }
    Ok(workers)
}

/// The largest number of handlers that workers may have at once, if there are workers and that is
/// limited.
fn limit(shared: &Shared) -> Option<usize> {
    let mut services = shared
        .services
        .iter()
        .filter(|service| service.takes_slots())
        .peekable();
    services.peek()?;
    services.map(|service| service.slots.limit()).sum()
}
