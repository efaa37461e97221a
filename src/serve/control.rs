//! The main thread: signals, the ends of handlers, datagrams, and whatever is due.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::admit::Places;
use super::datagram::Datagrams;
use super::handlers::{self, Handlers, Work};
use super::reap::{self, After};
use super::{Resources, Served, Service, Shared, Starting, stream};
use crate::child::{Pidfds, Spawner};
use crate::config::Style;
use crate::error::Error;
use crate::net::SocketFile;
use crate::report::{self, Cause, Event};
use crate::setup::Log;
use crate::sys::descriptors::Reserved;
use crate::sys::events::{Interest, Poller, Waker, no_events};
use crate::sys::signals::{Signal, Signals};

/// Keys of the main poller, below those of handlers.
mod key {
    pub(super) const SIGNALS: u64 = 0;
    pub(super) const WAKER: u64 = 1;
    pub(super) const RELAY: u64 = 2;
    /// A stream listener with waiting clients: service and listener.
    pub(super) const WAITING: u64 = 1 << 24;
    pub(super) const DATAGRAMS: u64 = 2 << 24;
    pub(super) const INDEX: u64 = (1 << 24) - 1;
}

const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
const USED: [Signal; 6] = [
    ENDING[0],
    ENDING[1],
    ENDING[2],
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The least time between two starts of the relay to syslog.
const RELAY_PAUSE: Duration = Duration::from_secs(1);

/// The main thread's own part.
#[derive(Debug)]
pub struct Daemon {
    /// Removed, and dropped, while their sockets are still open.
    files: Vec<SocketFile>,
    shared: Arc<Shared>,
    signals: Signals,
    datagrams: Vec<Datagrams>,
    spawner: Spawner,
    /// Occupied for as long as the daemon runs.
    _reserved: Reserved,
    log: Log,
    hangup_ends: bool,
    /// Whether CHLD is listened to, since not all children have watched pidfds.
    sweeping: bool,
    sweep_at: Option<Instant>,
    relay_at: Option<Instant>,
    relay_started: Instant,
}

impl Daemon {
    /// Makes ready all that can fail, and starts the acceptor threads.
    pub fn start(services: Vec<Service>, mut resources: Resources) -> Result<Self, Error> {
        let threads = resources.threads;
        let failed = |what| move |errno: Errno| Error::start(what, errno);
        let wakers: Arc<[Waker]> = (0..threads)
            .map(|_| Waker::new())
            .collect::<Result<_, _>>()
            .map_err(failed("no descriptor to wake a thread"))?;
        let poller = Poller::new().map_err(failed("no epoll descriptor"))?;

        let mut files = Vec::new();
        let mut datagrams = Vec::new();
        let mut served = Vec::new();
        for service in services {
            let plan = Arc::new(service.plan);
            let mut streams = Vec::new();
            for mut listener in service.listeners {
                report::event(Event::Listening(&listener));
                files.extend(listener.take_file());
                match listener.style() {
                    Style::Stream => streams.push(listener),
                    Style::Datagram => datagrams.push(Datagrams::new(listener, Arc::clone(&plan))),
                }
            }
            served.push(Served {
                plan,
                listeners: streams,
                places: Places::new(service.max_clients, Arc::clone(&wakers)),
                full: AtomicBool::new(false),
            });
        }
        let shared = Arc::new(Shared {
            services: served,
            handlers: Handlers::new(threads + 1),
            poller,
            main: Waker::new().map_err(failed("no descriptor to wake the main thread"))?,
            stopping: AtomicBool::new(false),
            blind: AtomicBool::new(false),
            starting: (0..=threads).map(|_| Starting::default()).collect(),
            wakers,
            parked: (Mutex::new(0), Condvar::new()),
        });

        let mut spawners = Vec::new();
        for _ in 0..=threads {
            let slot = resources.reserved.slot();
            let slot = slot.ok_or_else(|| Error::Start("too many threads".into()))?;
            let spawner = Spawner::new(resources.method, slot)
                .map_err(|reason| Error::start("a thread can't start handlers", reason))?;
            spawners.push(spawner);
        }
        // The last one is the main thread's.
        let Some(spawner) = spawners.pop() else {
            return Err(Error::Start("no thread to start handlers".into()));
        };
        let signals = Signals::new(&USED).map_err(failed("no descriptor for signals"))?;
        let mut daemon = Self {
            shared,
            signals,
            datagrams,
            spawner,
            _reserved: resources.reserved,
            files,
            log: resources.log,
            hangup_ends: resources.hangup_ends,
            sweeping: false,
            sweep_at: None,
            relay_at: None,
            relay_started: Instant::now(),
        };
        daemon
            .watch()
            .map_err(failed("a descriptor can't be watched"))?;
        if resources.adopts || resources.method.pidfds == Pidfds::None {
            daemon.start_sweeping();
        }
        for (index, spawner) in spawners.into_iter().enumerate() {
            stream::start(index, Arc::clone(&daemon.shared), spawner)
                .map_err(|reason| Error::start("no thread to accept connections", reason))?;
        }
        Ok(daemon)
    }

    fn watch(&mut self) -> Result<(), Errno> {
        let poller = &self.shared.poller;
        poller.add(&self.signals, Interest::Readable, key::SIGNALS)?;
        poller.add(&self.shared.main, Interest::Readable, key::WAKER)?;
        if let Some(relay) = self.log.relay_end() {
            poller.add(relay, Interest::Readable, key::RELAY)?;
        }
        for (index, datagrams) in self.datagrams.iter_mut().enumerate() {
            datagrams.watch(poller, key::DATAGRAMS + index as u64)?;
        }
        for (service, served) in self.shared.services.iter().enumerate() {
            for (index, listener) in served.listeners.iter().enumerate() {
                let key = key::WAITING + ((service as u64) << 12) + index as u64;
                poller.add(listener, Interest::Paused, key)?;
            }
        }
        Ok(())
    }

    /// Serves until a signal ends it.
    pub fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut room = no_events();
        loop {
            let limit = self.next_time();
            let events = match shared.poller.wait(&mut room, limit) {
                Ok(events) => events,
                Err(errno) => {
                    // Nothing that an epoll descriptor in order can say; don't spin on it.
                    let text = format_args!("the main thread can't wait: {}", errno.desc());
                    report::event(Event::Trouble(Cause::Watch, &text));
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            for event in events {
                match event {
                    handlers::FIRST_KEY.. => {
                        let after = reap::reap(&shared, event);
                        self.after(after);
                    }
                    key::SIGNALS => {
                        while let Some(signal) = self.signals.next() {
                            if self.signal(signal) {
                                return self.stop();
                            }
                        }
                    }
                    key::WAKER => self.woken(),
                    key::RELAY => self.relay_ended(),
                    key::DATAGRAMS.. => {
                        let index = (event & key::INDEX) as usize;
                        self.datagrams[index].look(&shared, &mut self.spawner, index);
                    }
                    _ => self.clients_wait(event & key::INDEX),
                }
            }
            self.on_time(Instant::now());
        }
    }

    fn after(&mut self, after: After) {
        if let After::Listener(index) = after {
            self.datagrams[index].returned(&self.shared);
        }
    }

    /// How long until something is due.
    fn next_time(&self) -> Option<Duration> {
        let datagrams = self.datagrams.iter().filter_map(Datagrams::due);
        datagrams
            .chain(self.sweep_at)
            .chain(self.relay_at)
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()))
    }

    fn on_time(&mut self, now: Instant) {
        for index in 0..self.datagrams.len() {
            if self.datagrams[index].due().is_some_and(|due| due <= now) {
                self.datagrams[index].look(&self.shared, &mut self.spawner, index);
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
    }

    fn sweep(&mut self, now: Instant) {
        let shared = Arc::clone(&self.shared);
        if reap::sweep(&shared, |after| self.after(after)) {
            self.sweep_at = Some(now + reap::PAUSE);
        }
    }

    fn start_sweeping(&mut self) {
        if !self.sweeping {
            let mut used = USED.to_vec();
            used.push(Signal::SIGCHLD);
            self.sweeping = self.signals.set(&used).is_ok();
            self.sweep_at = Some(Instant::now());
        }
    }

    /// Acts on a signal; says whether skd ends.
    fn signal(&mut self, signal: Signal) -> bool {
        let handlers = &self.shared.handlers;
        match signal {
            Signal::SIGTERM => {}
            Signal::SIGINT | Signal::SIGQUIT => {
                self.park();
                self.shared.handlers.signal(Signal::SIGTERM, |_| true);
            }
            Signal::SIGHUP => match self.log.reopen() {
                Ok(true) => return false,
                Ok(false) if self.hangup_ends => {}
                Ok(false) => return false,
                Err(text) => {
                    report::event(Event::Trouble(Cause::Log, &text));
                    return false;
                }
            },
            Signal::SIGCHLD => {
                // At most ten times a second where a stranger can wait; but places wait for
                // a handler without a pidfd.
                let pause = if self.shared.blind.load(Ordering::SeqCst) {
                    Duration::ZERO
                } else {
                    reap::PAUSE
                };
                let due = Instant::now() + pause;
                self.sweep_at = Some(self.sweep_at.map_or(due, |earlier| earlier.min(due)));
                return false;
            }
            _ => return false,
        }
        // These hold the listening socket itself.
        handlers.signal(Signal::SIGTERM, |handler| {
            matches!(handler.work, Work::Datagrams(_))
        });
        true
    }

    fn woken(&mut self) {
        self.shared.main.clear();
        if self.shared.blind.load(Ordering::SeqCst) {
            self.start_sweeping();
            // The handler may have ended before anybody listened.
            self.sweep_at = Some(Instant::now());
        }
        for (service, served) in self.shared.services.iter().enumerate() {
            if served.full.swap(false, Ordering::SeqCst) {
                for (index, listener) in served.listeners.iter().enumerate() {
                    let key = key::WAITING + ((service as u64) << 12) + index as u64;
                    let _ = self
                        .shared
                        .poller
                        .change(listener, Interest::ReadableOnce, key);
                }
            }
        }
    }

    /// A client is in the backlog of a service that was found full.
    fn clients_wait(&self, key: u64) {
        if let Some(served) = self.shared.services.get((key >> 12) as usize)
            && served.places.full()
            && let Some(limit) = served.places.limit()
        {
            report::event(Event::Full(limit));
        }
    }

    fn relay_ended(&mut self) {
        if let Some(relay) = self.log.relay_end() {
            let _ = self.shared.poller.remove(relay);
        }
        let pause = RELAY_PAUSE.saturating_sub(self.relay_started.elapsed());
        self.relay_at = Some(Instant::now() + pause);
    }

    fn restart_relay(&mut self) {
        self.relay_started = Instant::now();
        match self.log.restart_relay() {
            Ok(()) => {
                let text = "the relay to syslog had ended and was started again";
                report::event(Event::Trouble(Cause::Log, &text));
                if let Some(relay) = self.log.relay_end() {
                    let _ = self
                        .shared
                        .poller
                        .add(relay, Interest::Readable, key::RELAY);
                }
            }
            Err(_) => self.relay_at = Some(self.relay_started + RELAY_PAUSE),
        }
    }

    /// Ends: whoever is being served stays served.
    fn stop(mut self) {
        self.park();
        self.files.clear();
        for listener in self
            .shared
            .services
            .iter()
            .flat_map(|served| &served.listeners)
        {
            report::event(Event::ClosedListener(listener));
        }
        for datagrams in &self.datagrams {
            report::event(Event::ClosedListener(datagrams.listener()));
        }
    }

    /// Stops the acceptor threads, each when the connection that it has accepted has its
    /// handler. One that is held up by a handler's preparation isn't waited for long.
    fn park(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for waker in &*self.shared.wakers {
            waker.wake();
        }
        let (parked, change) = &self.shared.parked;
        let parked = parked.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.shared.wakers.len();
        let _ = change.wait_timeout_while(parked, Duration::from_secs(1), |count| *count < all);
    }
}
