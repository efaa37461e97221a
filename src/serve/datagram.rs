//! Datagram sockets in the manner of inetd's "wait": the first datagram starts a handler
//! on the listening socket itself, and nothing more is looked at until it ends.
//!
//! A handler that leaves its datagram unread must not make a storm. A datagram is known
//! by the time at which the kernel received it, so two equal ones are two. Starts for the
//! same one are spaced by a delay that doubles, and after a few of them it is read away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;

use super::Shared;
use super::handlers::{Handler, Work};
use super::key::Key;
use crate::child::{Plan, SpawnError, Spawned, Spawner};
use crate::net::{Listener, Peer};
use crate::report::{self, Cause, Event};
use crate::sys::descriptors;
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller};
use crate::sys::sockets::{self, Datagram};

/// The delay before a second start for the same datagram, and the longest one.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// How many starts a datagram gets.
const STARTS: u32 = 8;

/// How long a shortage, or a socket that fails, is waited out.
const PAUSE: Duration = Duration::from_millis(100);

/// A datagram listener and what has become of its last datagram.
#[derive(Debug)]
pub(super) struct Datagrams {
    listener: Listener,
    plan: Arc<Plan>,
    environment: Environment,
    /// Its place among the datagram listeners.
    index: usize,
    /// The datagram for which a handler was started last, and how often that was.
    last: Option<(Option<TimeSpec>, u32)>,
    /// Since when no handler has the socket.
    free_since: Instant,
    /// When the socket is to be looked at again, if not when something arrives.
    due: Option<Instant>,
}

impl Datagrams {
    pub(super) fn new(listener: Listener, plan: Arc<Plan>, index: usize) -> Self {
        Self {
            environment: plan.environment(),
            listener,
            plan,
            index,
            last: None,
            free_since: Instant::now(),
            due: None,
        }
    }

    pub(super) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Waits for the first datagram; not if a handler has the socket already.
    pub(super) fn watch(&self, poller: &Poller, lent: bool) -> Result<(), Errno> {
        let interest = if lent {
            Interest::Paused
        } else {
            Interest::ReadableOnce
        };
        poller.add(&self.listener, interest, self.key())
    }

    fn key(&self) -> u64 {
        Key::Datagrams(self.index).into()
    }

    /// When to call [`Self::look`] without anything having arrived.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The handler has ended: the socket is skd's again.
    pub(super) fn returned(&mut self, shared: &Shared) {
        self.free_since = Instant::now();
        self.note_times(true);
        self.rearm(shared);
    }

    /// Looks at the socket: something has arrived, or it is time to try again.
    pub(super) fn look(&mut self, shared: &Shared, spawner: &mut Spawner) {
        self.due = None;
        let datagram = match sockets::peek_datagram(&self.listener) {
            Ok(Some(datagram)) => datagram,
            Ok(None) if sockets::is_shut_down(&self.listener) => {
                self.trouble(
                    Cause::Receive,
                    "a handler has shut the socket down; restart skd",
                );
                return self.pause(LONGEST_DELAY);
            }
            Ok(None) => return self.rearm(shared),
            Err(errno) => {
                self.trouble(Cause::Receive, errno.desc());
                return self.pause(PAUSE);
            }
        };
        let known = self.last.filter(|(last, _)| *last == datagram.received);
        let starts = known.map_or(0, |(_, starts)| starts);
        if starts == STARTS {
            return self.discard(shared);
        }
        if starts > 0 {
            let due = self.free_since + delay(starts);
            if Instant::now() < due {
                self.due = Some(due);
                return;
            }
        }
        let peer = self.listener.sender(datagram.sender);
        if known.is_none() {
            report::event(Event::Received(&peer));
        }
        self.last = Some((datagram.received, starts));
        match self.start(shared, spawner, peer) {
            Ok(()) => self.last = Some((datagram.received, starts + 1)),
            Err(why @ SpawnError::Shortage(_)) => {
                report::event(Event::Trouble(Cause::Spawn, &why.explain(&self.plan)));
                self.note_times(true);
                self.pause(PAUSE);
            }
            Err(why @ SpawnError::Failed(..)) => {
                report::event(Event::Trouble(Cause::Exec, &why.explain(&self.plan)));
                self.last = Some((datagram.received, starts + 1));
                self.returned(shared);
            }
        }
    }

    /// Starts a handler on the listening socket itself.
    fn start(
        &mut self,
        shared: &Shared,
        spawner: &mut Spawner,
        peer: Peer,
    ) -> Result<(), SpawnError> {
        let thread = shared.main_index();
        let room = shared.handlers.reserve(thread, 1);
        room.map_err(|_| SpawnError::Shortage(Errno::ENOMEM))?;
        // An earlier handler may have left it non-blocking.
        descriptors::make_blocking(&self.listener).map_err(SpawnError::Shortage)?;
        spawner.hold(&self.listener).map_err(SpawnError::Shortage)?;
        // On, it would take room from the handler's own control data.
        self.note_times(false);
        self.environment.clear();
        for variable in self.listener.variables() {
            self.environment.line(variable);
        }
        peer.variables(|name, value| self.environment.set(name, value));
        let spawned = spawner.spawn(&self.plan, &mut self.environment);
        spawner.release();
        let Spawned { pid, pidfd } = spawned?;
        let handler = Handler {
            pid,
            pidfd,
            work: Work::Datagrams(self.index),
            peer,
            started: Instant::now(),
        };
        shared.enter(thread, handler);
        Ok(())
    }

    /// Reads the first datagram away and says whose it was.
    fn discard(&mut self, shared: &Shared) {
        self.last = None;
        match sockets::discard_datagram(&self.listener) {
            Ok(Some(Datagram { sender, length, .. })) => {
                let peer = self.listener.sender(sender);
                report::event(Event::ReadAway {
                    peer: &peer,
                    length,
                    listener: &self.listener,
                    program: &self.plan.name(),
                    starts: STARTS,
                });
                self.rearm(shared);
            }
            Ok(None) => self.rearm(shared),
            Err(errno) => {
                self.trouble(Cause::Receive, errno.desc());
                self.pause(PAUSE);
            }
        }
    }

    /// Waits for the next datagram, or for the same one again.
    fn rearm(&mut self, shared: &Shared) {
        let listener = &self.listener;
        let key = self.key();
        let poller = shared.main_poller();
        if let Err(errno) = poller.change(listener, Interest::ReadableOnce, key) {
            self.trouble(Cause::Watch, errno.desc());
            self.pause(PAUSE);
        }
    }

    fn pause(&mut self, pause: Duration) {
        self.due = Some(Instant::now() + pause);
    }

    fn note_times(&self, on: bool) {
        if let Err(errno) = sockets::set_receive_time(&self.listener, on) {
            self.trouble(Cause::Receive, errno.desc());
        }
    }

    fn trouble(&self, cause: Cause, why: &str) {
        let text = format_args!("receiving on {}: {why}", self.listener);
        report::event(Event::Trouble(cause, &text));
    }
}

/// The delay before the next start for the same datagram, after so many.
fn delay(starts: u32) -> Duration {
    FIRST_DELAY
        .saturating_mul(1 << (starts - 1).min(16))
        .min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_second() {
        let delays: Vec<u128> = [1, 2, 3, 7, 8, 9, 40]
            .map(|starts| delay(starts).as_millis())
            .to_vec();
        assert_eq!(delays, [10, 20, 40, 640, 1000, 1000, 1000]);
    }
}
