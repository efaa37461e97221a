//! The loop of the main thread: signals, wait-mode listeners, children that no worker sees to, and
//! whatever is due.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, getsid};

use super::daemon::Daemon;
use super::drain;
use super::socket::ControlSocket;
use super::tls::TlsKeeper;
use crate::child::Pool;
use crate::config::ServiceId;
use crate::net::SocketFile;
use crate::report::{self, Event, Trouble, Watched};
use crate::serve::admission::Policy;
use crate::serve::handlers::orphans;
use crate::serve::handlers::reap::{self, After};
use crate::serve::handlers::token::Token;
use crate::serve::wait_mode::WaitSocket;
use crate::serve::worker::Phase;
use crate::setup::Said;
use crate::sys::events::{Interest, is_readable, no_events};

impl Daemon {
    /// Takes the files of sockets and the pid file from another binary of this process, for good, and
    /// has what isn't configured any more refuse clients.
    pub fn take_possession(&mut self) {
        let files = self.services.iter_mut().flat_map(|it| &mut it.files);
        files.for_each(SocketFile::own);
        // The sockets of services that aren't configured any more are about to be closed.
        let removed = self.services.iter_mut().skip(self.shared.services.len());
        removed.for_each(|service| service.files.clear());
        for service in &mut self.services {
            let mut files = std::mem::take(&mut service.retired_files);
            files.iter_mut().for_each(SocketFile::own);
        }
        for mut listener in self.closed.drain(..) {
            if let Some(mut file) = listener.take_file() {
                file.own();
            }
            report::event(Event::ClosedListener(listener.listener_name()));
        }
        self.control
            .iter_mut()
            .for_each(ControlSocket::take_possession);
        drain::begin_retiring(&self.shared);
        self.tls.iter_mut().for_each(TlsKeeper::take_possession);
        if let Some(pidfile) = &mut self.origin.pidfile {
            pidfile.own();
        }
    }

    /// Serves until a signal ends it. Returns the exit status.
    pub fn run(mut self) -> u8 {
        self.take_possession();
        self.enter_restored();
        self.each_listener(|listener| {
            if !listener.is_retiring() {
                report::event(Event::Listening(listener.listener_name()));
            }
        });
        self.retire_wait_sockets();
        // Not in a preflight, which doesn't come here.
        self.shared.pools().for_each(Pool::refill);
        self.shared.enter_phase(Phase::Serving);
        self.read_if_asked();
        // As restored.
        if self.has_totals {
            self.close_spent();
        }
        let mut buffer = no_events();
        loop {
            let limit = self.next_time();
            let events = match self.shared.handlers.main_poller().wait(&mut buffer, limit) {
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
                if self.act(Token::from(event)) {
                    self.stop();
                    return 0;
                }
            }
            self.on_time(Instant::now());
            if self.has_totals {
                self.close_spent();
            }
            let drain = self.drain.as_mut();
            if let Some(status) = drain.and_then(|drain| drain.advance(&self.shared)) {
                // The workers may have something to say yet: which clients were refused last.
                self.stop_workers();
                self.shared.retire_pools();
                self.stop_tls();
                self.control.iter_mut().for_each(ControlSocket::end);
                self.log.finish();
                return status;
            }
        }
    }

    /// Acts on one event. Returns whether skd ends at once.
    fn act(&mut self, token: Token) -> bool {
        let main = self.shared.handlers.main_index();
        match token {
            Token::Handler { thread, index } => {
                let after = reap::reap(&self.shared.handlers, main, (thread, index), None);
                self.after(after);
            }
            Token::WaitMode { index, .. } => {
                // Draining, there is none any more.
                self.look_at_wait_socket(index);
            }
            Token::Signals => {
                while let Some(arrived) = self.signals.next() {
                    if self.signal(arrived) {
                        return true;
                    }
                }
            }
            Token::Waker => self.woken(),
            Token::Relay => match self.log.listen() {
                Said::Nothing => {}
                Said::Reopened => self.reopened(1),
                Said::Ended => self.relay_ended(),
            },
            Token::Preflight => self.look_at_preflight(),
            Token::Tls => self.look_at_tls(Instant::now()),
            Token::Listener { service, listener } => self.client_waits(service, listener),
            Token::Worker(thread) => drain::look(&self.shared, thread),
            // Of a worker's own set.
            Token::PendingConnection { .. } | Token::Exchange { .. } => {}
            Token::Lingering(index) => {
                let poller = self.shared.handlers.main_poller();
                self.shared
                    .handlers
                    .lingering
                    .drain_input(main, poller, index);
            }
        }
        false
    }

    fn after(&mut self, after: After) {
        match after {
            After::Done | After::Freed(_) => {}
            // As above.
            After::Listener(index) => {
                let socket = self.wait_sockets.get_mut(index);
                if let Some(socket) = socket.filter(|it| !it.listener().is_closed()) {
                    socket.returned(&self.shared.handlers);
                }
            }
            After::Stranger(pid, ended) => self.end_preflight(pid, ended),
        }
    }

    fn look_at_wait_socket(&mut self, index: usize) {
        if let Some(socket) = self.wait_sockets.get_mut(index) {
            socket.look(&self.shared.handlers, &mut self.spawner);
            let listener = socket.listener();
            if listener.is_retiring() && socket.due().is_none() {
                // Nothing has come, or a handler has it now and serves what has.
                drain::close_listener(&self.shared, listener);
            }
        }
    }

    /// Closes the wait-mode listeners that aren't configured any more: at once, unless something has
    /// arrived, for which a handler is started yet.
    fn retire_wait_sockets(&mut self) {
        for socket in &self.wait_sockets {
            let listener = socket.listener();
            let taken = self.taken.get(socket.index()) == Some(&true);
            if listener.is_retiring() && (taken || !is_readable(listener)) {
                drain::close_listener(&self.shared, listener);
            }
        }
        self.taken = Vec::new();
    }

    /// How long until something is due.
    fn next_time(&self) -> Option<Duration> {
        let main = self.shared.handlers.main_index();
        let wait_sockets = self.wait_sockets.iter().filter_map(WaitSocket::due);
        let drain = self.drain.as_ref();
        let lingering = self
            .lingering_threads()
            .filter_map(|thread| self.shared.handlers.lingering.due(thread));
        wait_sockets
            .chain(self.sweep_at)
            .chain(self.relay_at)
            .chain(self.preflight.as_ref().map(|preflight| preflight.due))
            .chain(self.status.due())
            .chain(self.acts_due())
            .chain(self.tls_due())
            .chain(drain.and_then(|drain| drain.due(&self.shared)))
            .chain(lingering)
            .chain(self.shared.handlers.table.next_due(main))
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// The threads whose lingering connections the main thread sees to: in a drain, those of the
    /// workers too, which have ended or will.
    fn lingering_threads(&self) -> RangeInclusive<usize> {
        let main = self.shared.handlers.main_index();
        let first = if self.drain.is_some() { 0 } else { main };
        first..=main
    }

    fn on_time(&mut self, now: Instant) {
        for thread in self.lingering_threads() {
            self.shared.handlers.close_overdue(thread);
        }
        let main = self.shared.handlers.main_index();
        self.shared.handlers.act_on_timeouts(main);
        self.status.look(&self.shared, now);
        self.advance_acts(now);
        if self.tls_due().is_some_and(|due| due <= now) {
            self.look_at_tls(now);
        }
        for index in 0..self.wait_sockets.len() {
            let due = self.wait_sockets[index].due();
            if due.is_some_and(|due| due <= now) {
                self.look_at_wait_socket(index);
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
        let preflight = self.preflight.as_ref();
        if preflight.is_some_and(|preflight| preflight.due <= now) {
            self.look_at_preflight();
        }
    }

    fn sweep(&mut self, now: Instant) {
        let shared = Arc::clone(&self.shared);
        // What is found by looking at all children may hide those after it.
        self.look_at_tls(now);
        let tls = self.tls.as_ref().map_or(Vec::new(), TlsKeeper::pids);
        let is_seen_to = |pid| shared.pools().any(|pool| pool.may_have(pid)) || tls.contains(&pid);
        if reap::sweep(&shared.handlers, is_seen_to, |after| self.after(after)) {
            self.sweep_at = Some(now + reap::PAUSE);
        }
        self.end_orphans(now);
        self.choose_to_sweep();
    }

    /// Ends the orphans of handlers, where these are contained by that.
    fn end_orphans(&mut self, now: Instant) {
        let Some(kill_after) = self.shared.handlers.orphans_end_after() else {
            return;
        };
        let shared = &self.shared;
        let preflight = self.preflight.as_ref().map(|preflight| preflight.pid);
        let relay = self.log.relay_id();
        let tls = self.tls.as_ref();
        let is_own = |pid| {
            preflight == Some(pid)
                || relay == Some(pid.as_raw())
                || shared.pools().any(|pool| pool.may_have(pid))
                || shared.jails().any(|jail| jail.may_have(pid))
                || shared.handlers.gates.has(pid)
                || tls.is_some_and(|it| it.has(pid))
        };
        // Handlers have sessions of their own.
        let own = getsid(None).ok();
        let is_session = |session: Pid| {
            own == Some(session)
                || self.origin.sessions.contains(&session.as_raw())
                || shared.jails().any(|jail| jail.session() == session)
        };
        let handlers = &shared.handlers;
        let left = self.orphans.end(handlers, kill_after, is_own, is_session);
        let pause = match left {
            true => reap::PAUSE,
            false => orphans::PAUSE,
        };
        // With no handler there is none that could have any.
        if left || shared.handlers.table.counts().0 > 0 {
            let due = now + pause;
            self.sweep_at = Some(self.sweep_at.map_or(due, |at| at.min(due)));
        }
    }

    fn woken(&mut self) {
        self.shared.handlers.main.clear();
        self.look_at_reload();
        self.execute_commands();
        drain::close_drained(&self.shared);
        if self.has_unwatched() {
            self.choose_to_sweep();
            self.sweep_at = Some(Instant::now());
        }
        for served in &self.shared.services {
            let service = served.id;
            if served.asks_backlog.swap(false, Ordering::SeqCst) {
                for (listener, socket) in served.listeners.iter().enumerate() {
                    let key = Token::Listener { service, listener }.into();
                    let poller = self.shared.handlers.main_poller();
                    // Most listeners are never watched here. If it fails, a line is missing.
                    if poller.change(socket, Interest::ReadableOnce, key) == Err(Errno::ENOENT) {
                        let _ = poller.add(socket, Interest::ReadableOnce, key);
                    }
                }
            }
        }
    }

    /// A client has come to a listener whose service was found full, or its rate used up.
    fn client_waits(&self, service: ServiceId, listener: usize) {
        let served = &self.shared.services[service.index()];
        let listener = &served.listeners[listener];
        let used_up = || {
            let bucket = served.policy.as_deref().and_then(Policy::backlog_bucket);
            let now = self.shared.clock.read(Instant::now());
            bucket.is_some_and(|bucket| bucket.next(now) > now)
        };
        let event = match served.slots.full() {
            Some(limit) => Event::Full(served.id, limit),
            None if used_up() => Event::Fast(served.id),
            None => return,
        };
        // It may have been taken meanwhile, into the last slot; the next worker that finds the
        // service full asks again.
        if is_readable(listener) {
            report::event(event);
        }
    }

    /// The relay has opened the log again, as asked for by one HUP or by all.
    fn reopened(&mut self, requests: u32) {
        if self.reopening > 0 {
            self.reopening = self.reopening.saturating_sub(requests);
            self.ready_if_reloaded();
        }
    }

    fn relay_ended(&mut self) {
        // The next one opens it.
        self.reopened(u32::MAX);
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
}
