//! Draining: no new client is served, and every handler ends, by itself, told, or killed.
//!
//! The workers accept the clients that have come already, and end. From then on the main thread
//! sees the ends of their handlers too, by watching what they watched. Each service has its own
//! time for this, and the daemon ends when all have used it.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::config::{KILL_AFTER, ServiceId};
use crate::net::Listener;
use crate::report::{self, Event, Overdue, Told, Trouble, Watched};
use crate::serve::handlers::reap;
use crate::serve::handlers::token::Token;
use crate::serve::service::DrainTimeouts;
use crate::serve::worker::{Phase, Shared};
use crate::sys::events::{Interest, no_events};
use crate::sys::signals::Signal;

/// How long accepting the last clients may take, none of which can delay it.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long the kernel may take to end what was killed. A process that hangs in a dead file
/// server, or is held by a debugger, takes for ever.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// How often handlers are looked at whose ends can't be told.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a daemon that drains has got to.
#[derive(Debug)]
pub(in crate::serve) struct Drain {
    /// Until when workers serve the clients that have come, and end.
    closing: Option<Instant>,
    /// The services whose handlers are waited for.
    services: Vec<ServiceDrain>,
    /// Whether there are handlers of other services.
    has_others: bool,
    /// Whether the ends of all handlers are told.
    watched: bool,
    /// Whether no prestarted handler is left.
    retired: bool,
}

/// Where a service that drains has got to.
#[derive(Debug)]
struct ServiceDrain {
    id: ServiceId,
    step: Step,
    /// When the step is over, if nothing ends it before. Unset if handlers may take all the time.
    due: Option<Instant>,
    timeouts: Option<DrainTimeouts>,
}

/// How long the handlers of a service are waited for.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) enum WaitTime {
    /// Not at all.
    None,
    Within(DrainTimeouts),
    /// Until they end by themselves.
    Endless,
}

impl WaitTime {
    /// That of a drain that is asked for.
    pub(in crate::serve) fn of(timeouts: Option<DrainTimeouts>) -> Self {
        timeouts.map_or(Self::None, Self::Within)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waiting,
    Told,
    Killed,
    /// Nothing of it is waited for any more; this is what skd would exit with.
    Over(u8),
}

impl Step {
    /// What skd exits with once all handlers have ended.
    fn status(self) -> u8 {
        match self {
            Self::Waiting => 0,
            Self::Told => 3,
            Self::Killed => 4,
            Self::Over(status) => status,
        }
    }
}

impl Drain {
    /// Begins. A client that comes from now on is refused.
    pub(in crate::serve) fn begin(
        shared: &Shared,
        wait_times: impl Iterator<Item = WaitTime>,
    ) -> Self {
        let now = Instant::now();
        for listener in shared.listeners().filter(|it| !it.is_closed()) {
            // It would tell the main thread that it has been shut down.
            let _ = shared.handlers.main_poller().remove(listener);
            listener.refuse();
        }
        shared.drains.store(true, Ordering::SeqCst);
        shared.enter_phase(Phase::Closing);
        let mut services = Vec::new();
        let mut count = 0;
        for (index, wait_time) in wait_times.enumerate() {
            count += 1;
            let timeouts = match wait_time {
                WaitTime::None => continue,
                WaitTime::Within(timeouts) => Some(timeouts),
                WaitTime::Endless => None,
            };
            services.push(ServiceDrain {
                id: ServiceId::new(index),
                step: Step::Waiting,
                due: timeouts.map(|timeouts| now + timeouts.drain.into()),
                timeouts,
            });
        }
        Self {
            closing: Some(now + LAST_CALL),
            services,
            has_others: count > 1,
            watched: false,
            retired: false,
        }
    }

    /// Limits how long handlers are waited for, if that wasn't limited: a drain is asked for, and
    /// skd was ending by itself. Returns whether this was so.
    pub(in crate::serve) fn limit(&mut self, wait_times: impl Iterator<Item = WaitTime>) -> bool {
        let now = Instant::now();
        let is_endless = |service: &ServiceDrain| service.timeouts.is_none();
        let endless = !self.services.is_empty() && self.services.iter().all(is_endless);
        if endless {
            for (service, wait_time) in self.services.iter_mut().zip(wait_times) {
                match wait_time {
                    WaitTime::Within(timeouts) => {
                        service.timeouts = Some(timeouts);
                        service.due = Some(now + timeouts.drain.into());
                    }
                    WaitTime::None => service.step = Step::Over(service.step.status()),
                    WaitTime::Endless => {}
                }
            }
        }
        endless
    }

    /// Goes over to the next step without waiting any longer.
    pub(in crate::serve) fn skip(&mut self, shared: &Shared) {
        let now = Instant::now();
        if self.closing.is_some() {
            // A worker that holds a connection still makes its handler, which is then told like
            // others.
            shared.enter_phase(Phase::Stopping);
        }
        for service in &mut self.services {
            service.due = Some(now);
        }
    }

    /// When to call [`Self::advance`], should nothing happen before.
    pub(in crate::serve) fn due(&self, shared: &Shared) -> Option<Instant> {
        let late = parts(shared).filter_map(|part| shared.handlers.table.next_due(part));
        let late = late.chain(self.closing);
        if self.closing.is_some() {
            return late.min();
        }
        let look = (!self.watched).then(|| Instant::now() + PAUSE);
        let services = self.services.iter().filter(|service| !service.is_over());
        let services = services.filter_map(|service| service.due);
        late.chain(look).chain(services).min()
    }

    /// Goes on if it is time to. Returns the exit status when all is over.
    pub(in crate::serve) fn advance(&mut self, shared: &Shared) -> Option<u8> {
        // The workers have ended, or are about to.
        parts(shared).for_each(|part| shared.handlers.act_on_timeouts(part));
        let now = Instant::now();
        let closes = self.closing.take();
        if let Some(due) = closes {
            if now < due && !shared.workers_have_ended() {
                self.closing = Some(due);
                return None;
            }
            close(shared);
        }
        if closes.is_some() {
            for (service, alive) in self.services.iter().zip(self.alive(shared)) {
                let timeouts = service
                    .timeouts
                    .filter(|_| alive > 0 && !service.is_due(now));
                if let Some(timeouts) = timeouts {
                    report::event(Event::Draining(alive, timeouts.drain));
                }
            }
        }
        if !self.watched {
            self.watched = watch(shared);
        }
        // A worker that is late wakes the main thread when it ends.
        self.retired = self.retired || shared.retire_pools();
        let alive = self.alive(shared);
        // Input of handlers that have ended is drained, but that holds up nothing for longer than
        // the service's time. The same goes for what handlers have yet to say to their senders.
        let waits =
            shared.handlers.lingering.len() > 0 || shared.exchanges.load(Ordering::SeqCst) > 0;
        for (service, alive) in self.services.iter_mut().zip(alive) {
            service.advance(shared, alive, waits, now);
        }
        if !self.services.iter().all(ServiceDrain::is_over) {
            return None;
        }
        let statuses = self.services.iter().map(|service| service.step.status());
        Some(statuses.max().unwrap_or_default())
    }

    /// How many handlers of each service live, those too that are just being made: they are counted
    /// first, since they are entered before they stop being that.
    fn alive(&self, shared: &Shared) -> Vec<usize> {
        let births = shared.handlers.births.iter();
        let newborn = births.filter(|births| births.under_way()).count();
        let live = shared.handlers.table.counts().0;
        if live == 0 || !self.has_others {
            return vec![newborn + live; self.services.len()];
        }
        let mut alive = vec![newborn; self.services.len()];
        shared.handlers.table.each(|handler, _| {
            // In the order of their ids, and there may be thousands.
            let services = &self.services;
            let found = services.binary_search_by_key(&handler.service.index(), |it| it.id.index());
            if let Ok(index) = found {
                alive[index] += 1;
            }
        });
        alive
    }
}

impl ServiceDrain {
    fn is_over(&self) -> bool {
        matches!(self.step, Step::Over(_))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Goes on if it is time to, with so many handlers that live. `waits` says whether there is
    /// anything else to be waited for until the step is over.
    fn advance(&mut self, shared: &Shared, alive: usize, waits: bool, now: Instant) {
        let table = &shared.handlers.table;
        if alive == 0 && self.timeouts.is_none() {
            // Else a process that a handler has left behind could hold an exchange for ever.
            self.due.get_or_insert(now + LAST_WAIT);
        }
        if alive == 0 && (self.is_due(now) || !waits) {
            self.step = Step::Over(self.step.status());
        }
        if !self.is_due(now) {
            return;
        }
        let kill_after = self.timeouts.map_or(KILL_AFTER, |it| it.kill_after);
        match self.step {
            Step::Waiting => {
                report::event(Event::Overdue(alive, Overdue::Terminated));
                table.signal(Signal::SIGTERM, Told::Drain, |it| it.service == self.id);
                self.step = Step::Told;
                self.due = Some(now + kill_after.into());
            }
            Step::Told => {
                report::event(Event::Overdue(alive, Overdue::Killed));
                table.signal(Signal::SIGKILL, Told::Drain, |it| it.service == self.id);
                self.step = Step::Killed;
                self.due = Some(now + LAST_WAIT);
            }
            Step::Killed => {
                report::event(Event::Overdue(alive, Overdue::Abandoned));
                self.step = Step::Over(self.step.status());
            }
            Step::Over(_) => {}
        }
    }
}

/// The parts of the table of handlers that were the workers'.
fn parts(shared: &Shared) -> Range<usize> {
    0..shared.handlers.main_index()
}

/// Closes the listeners, though workers may still run.
fn close(shared: &Shared) {
    shared.enter_phase(Phase::Stopping);
    for listener in shared.listeners().filter(|it| !it.is_closed()) {
        close_listener(shared, listener);
    }
    // They stay open as long as an exchange may need them, though no new sender is served.
    for listener in shared.datagrams().filter(|it| !it.is_closed()) {
        report::event(Event::ClosedListener(listener.listener_name()));
    }
}

/// Closes a listener from which workers accept, though they may still run.
pub(in crate::serve) fn close_listener(shared: &Shared, listener: &Listener) {
    // Not by closing alone: others may have the socket, and it would be told of still.
    for poller in &shared.handlers.pollers[..] {
        let _ = poller.remove(listener);
    }
    report::event(Event::ClosedListener(listener.listener_name()));
    listener.close(&shared.handlers.main);
}

/// Has listeners refuse new clients that aren't configured any more. Their last clients are served
/// as in a drain, and then [`close_drained`] closes them.
pub(in crate::serve) fn begin_retiring(shared: &Shared) {
    for listener in shared.listeners().filter(|it| it.is_retiring()) {
        listener.refuse();
    }
}

/// Closes the listeners that aren't configured any more and have no client left.
pub(in crate::serve) fn close_drained(shared: &Shared) {
    if !shared.has_drained.swap(false, Ordering::SeqCst) {
        return;
    }
    let drained = |listener: &&Listener| listener.may_be_closed();
    for service in &shared.services {
        for listener in service.listeners.iter().filter(drained) {
            close_listener(shared, listener);
        }
        // Answers are sent from it.
        if service.last_exchanges.load(Ordering::SeqCst) == 0 {
            for listener in service.datagrams.iter().filter(drained) {
                close_listener(shared, listener);
            }
        }
    }
}

/// Watches what the workers watched. Says whether that could be done; if not, looks.
fn watch(shared: &Shared) -> bool {
    let main = shared.handlers.main_index();
    (0..main).fold(true, |watched, thread| {
        let key = Token::Worker(thread).into();
        let worker = &shared.handlers.pollers[thread];
        match shared
            .handlers
            .main_poller()
            .add(worker, Interest::Readable, key)
        {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => watched,
            Err(errno) => {
                report::event(Event::Trouble(Trouble::NotWatched {
                    service: None,
                    what: Watched::Handlers,
                    errno,
                }));
                look(shared, thread);
                false
            }
        }
    })
}

/// Acts on what a worker would have seen.
pub(in crate::serve) fn look(shared: &Shared, thread: usize) {
    let poller = &shared.handlers.pollers[thread];
    let mut buffer = no_events();
    let Ok(events) = poller.wait(&mut buffer, Some(Duration::ZERO)) else {
        return;
    };
    for event in events {
        match Token::from(event) {
            Token::Handler { thread, index } => {
                reap::reap(
                    &shared.handlers,
                    shared.handlers.main_index(),
                    (thread, index),
                    None,
                );
            }
            Token::Lingering(index) => shared.handlers.lingering.drain_input(thread, poller, index),
            Token::Waker => shared.wakers[thread].clear(),
            _ => {}
        }
    }
}
