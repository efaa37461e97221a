//! The main thread: signals, sockets that are lent and the ends of their handlers, children
//! that nobody else sees to, and whatever is due.

pub(in crate::serve) mod drain;
mod reload;
mod status;
pub mod upgrade;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::admission::{Clock, Policy, RulesHandle, Slots, When};
use super::handlers::linger::Lingering;
use super::handlers::reap::{self, After};
use super::handlers::table::{Table, Work};
use super::handlers::timeouts::Timeouts;
use super::handlers::token::Token;
use super::handlers::{Births, Handlers};
use super::service::{Prepared, Service};
use super::wait_mode::WaitSocket;
use super::worker::datagram::{self, SavedExchange};
use super::worker::{Phase, Shared, Turns, stream};
use crate::child::{Method, Pidfds, Pool, Spawner};
use crate::config::{DatagramMode, ServiceId, Span, Style};
use crate::error::Error;
use crate::net::{Listener, SocketFile};
use crate::report::{self, Event, Trouble, Watched};
use crate::setup::{Log, Manager, RuleFiles};
use crate::sys::descriptors::{self, Reserved};
use crate::sys::events::{Interest, Poller, Waker, is_readable, no_events};
use crate::sys::process;
use crate::sys::signals::{Signal, Signals};
use crate::sys::thread::Thread;

use drain::{Drain, DrainTimeouts};
use status::Status;
use upgrade::preflight::Preflight;
use upgrade::{Origin, Saved, SavedHandler, SavedLingering, SavedPending};

/// What else the running daemon needs.
#[derive(Debug)]
pub struct Resources {
    /// How children are made here.
    pub method: Method,
    /// How many threads accept connections.
    pub threads: usize,
    /// How many receive datagrams.
    pub datagram_workers: usize,
    /// The reserved descriptors, of which each thread that starts handlers needs one.
    pub reserved: Reserved,
    /// The log, to be opened again and to be kept going.
    pub log: Log,
    /// The service manager, to be told how things are.
    pub manager: Option<Manager>,
    /// What else is known from the start.
    pub origin: Origin,
    /// What an earlier image has left.
    pub saved: Saved,
    /// How long handlers are waited for at the end, if they are.
    pub drain_timeouts: Option<DrainTimeouts>,
}

/// How long a sender of datagrams may be silent, where it isn't said.
const PEER_IDLE: Span = Span::seconds(60);

const USED: [Signal; 6] = [
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
    /// Removed, and dropped, while their sockets are still open.
    pub(in crate::serve) files: Vec<SocketFile>,
    pub(in crate::serve) shared: Arc<Shared>,
    /// Those that receive datagrams too, which are the last.
    pub(in crate::serve) acceptors: Vec<Thread>,
    pub(in crate::serve) datagram_workers: usize,
    signals: Signals,
    pub(in crate::serve) lent: Vec<WaitSocket>,
    pub(in crate::serve) spawner: Spawner,
    pub(in crate::serve) method: Method,
    pub(in crate::serve) log: Log,
    pub(in crate::serve) status: Status,
    /// Where each service's rules are read again.
    pub(in crate::serve) rule_files: Vec<Option<RuleFiles>>,
    /// The handlers of an earlier image, until they are entered.
    pub(in crate::serve) saved: Vec<SavedHandler>,
    /// The same of its connections that were leaving.
    pub(in crate::serve) handed_leaving: Vec<SavedLingering>,
    /// And of those who waited to be let through.
    pub(in crate::serve) handed_visitors: Vec<SavedPending>,
    /// And of its exchanges of datagrams.
    pub(in crate::serve) handed_exchanges: Vec<SavedExchange>,
    /// Its descriptors, by their numbers, until then.
    pub(in crate::serve) handed_connections: BTreeMap<i32, OwnedFd>,
    /// A new image that is tried.
    pub(in crate::serve) preflight: Option<Preflight>,
    /// How long handlers are waited for at the end, if they are.
    drain_timeouts: Option<DrainTimeouts>,
    /// The end, once it has begun and handlers are waited for.
    pub(in crate::serve) drain: Option<Drain>,
    /// Whether there are always children without a watched pidfd: strangers, or all.
    always_sweeps: bool,
    /// Whether CHLD is listened to.
    sweeping: bool,
    sweep_at: Option<Instant>,
    relay_at: Option<Instant>,
    /// With the pid file, the last thing to go, so that whoever waits for it finds nothing else
    /// left.
    pub(in crate::serve) origin: Origin,
}

impl Daemon {
    /// Makes ready all that can fail, acceptor threads too, but nothing is served yet.
    pub fn new(services: Vec<Prepared>, mut resources: Resources) -> Result<Self, Error> {
        report::set_services(services.len());
        let acceptors = resources.threads;
        let threads = acceptors + resources.datagram_workers;
        let failed = |what| move |errno: Errno| Error::start(what, errno);
        let wakers: Arc<[Waker]> = (0..threads)
            .map(|_| Waker::new())
            .collect::<Result<_, _>>()
            .map_err(failed("no descriptor to wake a thread"))?;

        let earlier = resources.saved.earlier();
        let restored = resources.saved.restored;
        let mut files = resources.saved.socket_files;
        let mut lent = Vec::new();
        let mut served = Vec::new();
        let mut rule_files = Vec::new();
        let mut all_timeouts = Vec::new();
        let mut spawner = || {
            let slot = resources.reserved.slot();
            let slot = slot.ok_or_else(|| Error::Start("too many threads".into()))?;
            Spawner::new(resources.method, slot)
                .map_err(|reason| Error::start("a thread can't start handlers", reason))
        };
        for service in services {
            let plan = Arc::new(service.plan);
            let mut streams = Vec::new();
            let mut datagrams = Vec::new();
            for mut listener in service.listeners {
                files.extend(listener.take_file());
                if listener.style().has_connections() && !service.wait {
                    // Of several threads that are woken, one gets the connection. What was
                    // handed over may block.
                    descriptors::set_blocking(&listener, false)
                        .map_err(failed("a listener can't be made non-blocking"))?;
                    streams.push(listener);
                } else if listener.style() == Style::Datagram
                    && service.datagrams != DatagramMode::Wait
                {
                    listener.prepare_to_receive(service.datagrams == DatagramMode::PerPeer)?;
                    datagrams.push(listener);
                } else {
                    let one = WaitSocket::new(
                        listener,
                        ServiceId::new(served.len()),
                        Arc::clone(&plan),
                        lent.len(),
                    );
                    lent.push(one.map_err(failed("a listener can't be watched"))?);
                }
            }
            let peer_idle = service.admission.idle_timeout.unwrap_or(PEER_IDLE);
            let policy = Policy::new(service.admission, !datagrams.is_empty(), &wakers);
            let when = policy.as_ref().map_or(When::Before, Policy::slots_when);
            let limits = service.limits;
            let timeouts = limits.map(|limits| Timeouts::new(limits, &streams, &datagrams));
            let (rules, files) = service.rules.unzip();
            rule_files.push(files);
            let pool_variables = Listener::common_variables(&streams);
            let pool = service.prestart.map(|prestart| {
                let plan = Arc::clone(&plan);
                let id = ServiceId::new(served.len());
                Pool::start(id, prestart, plan, pool_variables.clone(), spawner()?)
            });
            all_timeouts.push(timeouts.transpose()?.flatten());
            served.push(Service {
                id: ServiceId::new(served.len()),
                name: service.name,
                plan,
                pool: pool.transpose()?,
                pool_variables,
                listeners: streams,
                datagrams,
                datagram_mode: service.datagrams,
                min_source_port: service.min_source_port,
                peer_idle: peer_idle.into(),
                slots: Slots::new(service.max_clients, when, Arc::clone(&wakers)),
                policy,
                rules: rules.map(RulesHandle::new),
                linger: service.linger.map(Into::into),
                asks_backlog: AtomicBool::new(false),
            });
        }
        let timed = all_timeouts.iter().any(Option::is_some);
        let tells = |served: &Service| served.policy.as_ref().is_some_and(Policy::tells);
        let leaves = |served: &Service| served.linger.is_some() || tells(served);
        let lingering = if served.iter().any(leaves) {
            let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
            Lingering::new(threads, files).map_err(|reason| {
                Error::Start(format!("no memory for connections that leave: {reason}"))
            })?
        } else {
            Lingering::never()
        };
        let traces = served.iter().any(|service| service.pool.is_some());
        let shared = Arc::new(Shared {
            services: served.into(),
            handlers: Handlers {
                table: Table::new(threads + 1, earlier, timed),
                lingering,
                pollers: (0..=threads)
                    .map(|_| Poller::new())
                    .collect::<Result<_, _>>()
                    .map_err(failed("no epoll descriptor"))?,
                births: (0..threads).map(|_| Births::default()).collect(),
                timeouts: all_timeouts.into(),
                main: Waker::new().map_err(failed("no descriptor to wake the main thread"))?,
                count_wanted: AtomicBool::new(false),
                traces,
            },
            answers: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            answer_wanted: AtomicBool::new(false),
            wakers,
            clock: Clock::new(Instant::now()),
            pending: (0..threads).map(|_| Mutex::default()).collect(),
            parked_exchanges: Mutex::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
            parked: AtomicUsize::new(0),
            drains: AtomicBool::new(false),
            exchanges: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            turns: Turns::new(threads),
        });

        let limit = limit(&shared).map(|limit| limit + lent.len());
        let status = Status::new(resources.manager, limit);

        // Dropped before the sockets if something fails below.
        let files = files;
        let main_spawner = spawner()?;
        let mut threads = Vec::new();
        for index in 0..acceptors {
            let acceptor = stream::start(index, Arc::clone(&shared), spawner()?)
                .map_err(|reason| Error::start("no thread to accept connections", reason))?;
            threads.push(acceptor);
        }
        let with = |served: &Service| !served.datagrams.is_empty();
        let service = shared.services.iter().position(with).unwrap_or_default();
        let service = ServiceId::new(service);
        for index in acceptors..shared.handlers.main_index() {
            let passer = datagram::start(index, service, Arc::clone(&shared), spawner()?)
                .map_err(|reason| Error::start("no thread to receive datagrams", reason))?;
            threads.push(passer);
        }
        let mut daemon = Self {
            files,
            shared,
            acceptors: threads,
            datagram_workers: resources.datagram_workers,
            signals: Signals::new(&USED).map_err(failed("no descriptor for signals"))?,
            lent,
            spawner: main_spawner,
            method: resources.method,
            log: resources.log,
            status,
            rule_files,
            origin: resources.origin,
            saved: resources.saved.handlers,
            handed_leaving: resources.saved.leaving,
            handed_visitors: resources.saved.visitors,
            handed_exchanges: resources.saved.exchanges,
            handed_connections: BTreeMap::new(),
            preflight: None,
            drain_timeouts: resources.drain_timeouts,
            drain: None,
            always_sweeps: process::adopts_orphans() || resources.method.pidfds == Pidfds::None,
            sweeping: false,
            sweep_at: None,
            relay_at: None,
        };
        daemon.reserve_handlers(&daemon.saved)?;
        if !restored {
            for lent in &daemon.lent {
                lent.prepare()
                    .map_err(failed("a datagram socket can't tell when it received"))?;
            }
        }
        daemon
            .watch()
            .map_err(failed("a descriptor can't be watched"))?;
        daemon.choose_to_sweep();
        // What was opened above is out of the way of those that come and go from now on.
        drop(resources.reserved);
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

    fn watch(&self) -> Result<(), Errno> {
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
        for (index, lent) in self.lent.iter().enumerate() {
            let mut saved = self.saved.iter();
            let taken = saved.any(|handler| handler.lent() == Some(index));
            lent.watch(poller, taken)?;
        }
        for (service, served) in self.shared.services.iter().enumerate() {
            for (index, listener) in served.listeners.iter().enumerate() {
                poller.add(listener, Interest::Paused, stream_key(service, index))?;
            }
        }
        Ok(())
    }

    /// Serves until a signal ends it; gives the status to leave with.
    pub fn run(mut self) -> u8 {
        self.files.iter_mut().for_each(SocketFile::own);
        if let Some(pidfile) = &mut self.origin.pidfile {
            pidfile.own();
        }
        self.enter_handlers();
        self.each_listener(|listener| report::event(Event::Listening(listener.listener_name())));
        // Not in a trial, which doesn't come here.
        self.shared.pools().for_each(Pool::refill);
        self.shared.enter_phase(Phase::Serving);
        self.status.ready(&self.shared);
        let mut room = no_events();
        loop {
            let limit = self.next_time();
            let events = match self.shared.handlers.main_poller().wait(&mut room, limit) {
                Ok(events) => events,
                Err(errno) => {
                    // Nothing that an epoll descriptor in order can say; don't spin on it.
                    report::event(Event::Trouble(Trouble::NotWatched {
                        service: None,
                        what: Watched::Main,
                        errno,
                    }));
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            for event in events {
                match Token::from(event) {
                    Token::Handler { thread, index } => {
                        let main = self.shared.handlers.main_index();
                        let after = reap::reap(&self.shared.handlers, main, (thread, index), None);
                        self.after(after);
                    }
                    Token::WaitMode { index, .. } => {
                        // Draining, there is none any more.
                        if let Some(lent) = self.lent.get_mut(index) {
                            lent.look(&self.shared.handlers, &mut self.spawner);
                        }
                    }
                    Token::Signals => {
                        while let Some(signal) = self.signals.next() {
                            if self.signal(signal) {
                                self.stop();
                                return 0;
                            }
                        }
                    }
                    Token::Waker => self.woken(),
                    Token::Relay => self.relay_ended(),
                    Token::Preflight => self.look_at_preflight(),
                    Token::Listener { service, listener } => {
                        self.client_waits(service.index(), listener);
                    }
                    Token::Worker(thread) => drain::look(&self.shared, thread),
                    // Of an acceptor's own set.
                    Token::PendingConnection { .. } | Token::Exchange { .. } => {}
                    Token::Lingering(index) => {
                        let (main, poller) = (
                            self.shared.handlers.main_index(),
                            self.shared.handlers.main_poller(),
                        );
                        self.shared
                            .handlers
                            .lingering
                            .drain_input(main, poller, index);
                    }
                }
            }
            self.on_time(Instant::now());
            let drain = self.drain.as_mut();
            if let Some(status) = drain.and_then(|drain| drain.advance(&self.shared)) {
                // The acceptors may have something to say yet: who was refused at the last.
                self.park();
                self.shared.retire_pools();
                return status;
            }
        }
    }

    fn after(&mut self, after: After) {
        match after {
            After::Done => {}
            // As above.
            After::Listener(index) => {
                if let Some(lent) = self.lent.get_mut(index) {
                    lent.returned(&self.shared.handlers);
                }
            }
            After::Stranger(pid, ended) => self.end_preflight(pid, ended),
        }
    }

    /// How long until something is due.
    fn next_time(&self) -> Option<Duration> {
        let lent = self.lent.iter().filter_map(WaitSocket::due);
        lent.chain(self.sweep_at)
            .chain(self.relay_at)
            .chain(self.preflight.as_ref().map(|preflight| preflight.due))
            .chain(self.status.due())
            .chain(
                self.drain
                    .as_ref()
                    .and_then(|drain| drain.due(&self.shared)),
            )
            .chain(
                self.parting()
                    .filter_map(|thread| self.shared.handlers.lingering.due(thread)),
            )
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// The threads whose leaving connections the main thread sees to: in a drain, those of the
    /// acceptors, who have ended or will.
    fn parting(&self) -> std::ops::RangeInclusive<usize> {
        let main = self.shared.handlers.main_index();
        let first = if self.drain.is_some() { 0 } else { main };
        first..=main
    }

    fn on_time(&mut self, now: Instant) {
        for thread in self.parting() {
            let poller = &self.shared.handlers.pollers[thread];
            self.shared.handlers.lingering.close_overdue(thread, poller);
        }
        self.status.look(&self.shared, now);
        for lent in &mut self.lent {
            if lent.due().is_some_and(|due| due <= now) {
                lent.look(&self.shared.handlers, &mut self.spawner);
            }
        }
        if self.sweep_at.is_some_and(|due| due <= now) {
            self.sweep_at = None;
            self.sweep(now);
        }
        if self.relay_at.is_some_and(|due| due <= now) {
            self.relay_at = None;
            self.restart_relay();
        }
        if self
            .preflight
            .as_ref()
            .is_some_and(|preflight| preflight.due <= now)
        {
            self.look_at_preflight();
        }
    }

    fn sweep(&mut self, now: Instant) {
        let shared = Arc::clone(&self.shared);
        if reap::sweep(&shared.handlers, |after| self.after(after)) {
            self.sweep_at = Some(now + reap::PAUSE);
        }
        self.choose_to_sweep();
    }

    /// Listens to CHLD just if there are children whose end nothing else tells.
    fn choose_to_sweep(&mut self) {
        let wanted = self.always_sweeps || self.has_unwatched();
        if wanted == self.sweeping {
            return;
        }
        let mut signals = USED.to_vec();
        if wanted {
            signals.push(Signal::SIGCHLD);
            // One may have ended before anybody listened.
            self.sweep_at = Some(Instant::now());
        }
        if self.signals.set(&signals).is_ok() {
            self.sweeping = wanted;
        }
    }

    fn has_unwatched(&self) -> bool {
        self.shared.handlers.table.has_unwatched()
    }

    /// Acts on a signal; says whether skd ends at once.
    fn signal(&mut self, signal: Signal) -> bool {
        let at_once = matches!(signal, Signal::SIGINT | Signal::SIGQUIT);
        match signal {
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => {}
            Signal::SIGHUP => {
                self.status.reloading();
                let reopened = self.log.reopen();
                // What is wrong with them belongs into the new log.
                let reread = self.read_rules() | self.renew_pools();
                self.status.ready(&self.shared);
                match reopened {
                    // A terminal that is closed may well say so twice: no reason to hurry.
                    Ok(false) if self.origin.hangup_ends && !reread && self.drain.is_none() => {}
                    Ok(_) => return false,
                    Err(errno) => {
                        report::event(Event::Trouble(Trouble::LogNotReopened(errno)));
                        return false;
                    }
                }
            }
            Signal::SIGCHLD => {
                // At most ten times a second for strangers, who can wait; but a place may
                // depend on a handler.
                let pause = if self.has_unwatched() {
                    Duration::ZERO
                } else {
                    reap::PAUSE
                };
                let due = Instant::now() + pause;
                self.sweep_at = Some(self.sweep_at.map_or(due, |earlier| earlier.min(due)));
                return false;
            }
            Signal::SIGUSR2 => {
                self.begin_upgrade();
                return false;
            }
            _ => return false,
        }
        self.status
            .stopping(&self.shared, self.drain_timeouts.is_some());
        if let Some(drain_timeouts) = self.drain_timeouts {
            self.drain(drain_timeouts, at_once);
            return false;
        }
        if at_once {
            self.park();
        }
        // Those of lent listeners hold the listening socket itself.
        self.shared
            .handlers
            .table
            .signal(Signal::SIGTERM, |handler| {
                at_once || matches!(handler.work, Work::WaitMode(_))
            });
        true
    }

    /// Begins to drain, or goes on to its next step.
    fn drain(&mut self, drain_timeouts: DrainTimeouts, at_once: bool) {
        // It has the listeners, which are to be closed for everybody.
        self.abandon_preflight();
        let shared = &self.shared;
        let begun = self.drain.is_some();
        let drain = self.drain.get_or_insert_with(|| {
            self.files.clear();
            for lent in self.lent.drain(..) {
                // A handler may have the socket too, and it would be told of still.
                let _ = shared.handlers.main_poller().remove(lent.listener());
                report::event(Event::ClosedListener(lent.listener().listener_name()));
            }
            Drain::begin(shared, drain_timeouts)
        });
        if begun || at_once {
            drain.skip(shared);
        }
    }

    fn woken(&mut self) {
        self.shared.handlers.main.clear();
        if self.has_unwatched() {
            self.choose_to_sweep();
            self.sweep_at = Some(Instant::now());
        }
        for (service, served) in self.shared.services.iter().enumerate() {
            if served.asks_backlog.swap(false, Ordering::SeqCst) {
                for (index, listener) in served.listeners.iter().enumerate() {
                    let key = stream_key(service, index);
                    let poller = self.shared.handlers.main_poller();
                    let _ = poller.change(listener, Interest::ReadableOnce, key);
                }
            }
        }
    }

    /// A client has come to a listener whose service was found full, or its rate used up.
    fn client_waits(&self, service: usize, listener: usize) {
        let served = &self.shared.services[service];
        let listener = &served.listeners[listener];
        let used_up = || {
            let bucket = served.policy.as_ref().and_then(Policy::gate);
            let now = self.shared.clock.read(Instant::now());
            bucket.is_some_and(|bucket| bucket.next(now) > now)
        };
        let event = match served.slots.full() {
            Some(limit) => Event::Full(served.id, limit),
            None if used_up() => Event::Fast(served.id),
            None => return,
        };
        // It may have been taken meanwhile, into the last place; the next acceptor who finds
        // the service full asks again.
        if is_readable(listener) {
            report::event(event);
        }
    }

    fn relay_ended(&mut self) {
        if let Some(relay) = self.log.relay_end() {
            let _ = self.shared.handlers.main_poller().remove(relay);
        }
        self.relay_at = Some(self.log.relay_due());
    }

    fn restart_relay(&mut self) {
        self.log.restart_relay();
        let watched = self.log.relay_end().is_some_and(|relay| {
            let key = Token::Relay.into();
            let poller = self.shared.handlers.main_poller();
            poller.add(relay, Interest::Readable, key).is_ok()
        });
        if !watched {
            self.relay_at = Some(self.log.relay_due());
        }
    }

    /// Ends: whoever is being served stays served.
    fn stop(mut self) {
        self.abandon_preflight();
        self.park();
        self.files.clear();
        self.each_listener(|listener| {
            report::event(Event::ClosedListener(listener.listener_name()))
        });
        // If one is left, what stands ready sees skd's end.
        self.shared.retire_pools();
    }

    /// Has what stands ready started anew, from what PROG is now and with the log that was opened;
    /// says whether there is anything of that kind. Draining, there is nobody to need it.
    fn renew_pools(&self) -> bool {
        if self.drain.is_none() {
            self.shared.pools().for_each(Pool::renew);
        }
        self.shared.pools().next().is_some()
    }

    fn each_listener(&self, tell: impl Fn(&Listener)) {
        self.shared.listeners().for_each(&tell);
        self.shared.datagrams().for_each(&tell);
        self.lent.iter().map(WaitSocket::listener).for_each(&tell);
    }

    /// Stops the acceptor threads, each when the connection that it has accepted has its
    /// handler. One that is held up by a handler's preparation isn't waited for long.
    fn park(&self) {
        self.shared.enter_phase(Phase::Stopping);
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.acceptors.iter().all(Thread::is_finished) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn stream_key(service: usize, listener: usize) -> u64 {
    let service = ServiceId::new(service);
    Token::Listener { service, listener }.into()
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
