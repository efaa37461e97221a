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
use crate::child::{Plan, SpawnError, Spawner};
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
    key: u64,
    /// The datagram for which a handler was started last, and how often that was.
    last: Option<(TimeSpec, u32)>,
    /// Since when no handler has the socket.
    free_since: Instant,
    /// When the socket is to be looked at again, if not when something arrives.
    due: Option<Instant>,
}

impl Datagrams {
    pub(super) fn new(listener: Listener, plan: Arc<Plan>) -> Self {
        Self {
            environment: plan.environment(),
            listener,
            plan,
            key: 0,
            last: None,
            free_since: Instant::now(),
            due: None,
        }
    }

    pub(super) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Waits for the first datagram, which the main poller tells under this key.
    pub(super) fn watch(&mut self, poller: &Poller, key: u64) -> Result<(), Errno> {
        self.key = key;
        sockets::set_receive_time(&self.listener, true)?;
        poller.add(&self.listener, Interest::ReadableOnce, key)
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

    /// Looks at the socket: something has arrived, or it is time to try again. `index` is
    /// this listener's own.
    pub(super) fn look(&mut self, shared: &Shared, spawner: &mut Spawner, index: usize) {
        self.due = None;
        let datagram = match sockets::peek_datagram(&self.listener) {
            Ok(Some(datagram)) => datagram,
            Ok(None) => return self.rearm(shared),
            Err(errno) => {
                self.trouble(Cause::Receive, errno.desc());
                return self.pause(PAUSE);
            }
        };
        let Some(received) = datagram.received else {
            // Every datagram has a time, so this is the end of file of a socket that a
            // handler has shut down: nothing will ever arrive.
            self.trouble(
                Cause::Receive,
                "a handler has shut the socket down; restart skd",
            );
            return self.pause(LONGEST_DELAY);
        };
        let starts = match self.last {
            Some((last, starts)) if last == received => starts,
            _ => 0,
        };
        if starts == STARTS {
            self.discard();
            return self.rearm(shared);
        }
        if starts > 0 {
            let due = self.free_since + delay(starts);
            if Instant::now() < due {
                self.due = Some(due);
                return;
            }
        }
        let peer = self.listener.sender(datagram.sender);
        if starts == 0 {
            report::event(Event::Received(&peer));
        }
        match self.start(shared, spawner, index, peer) {
            Ok(()) => self.last = Some((received, starts + 1)),
            Err(why @ SpawnError::Shortage(_)) => {
                report::event(Event::Trouble(Cause::Spawn, &why.explain(&self.plan)));
                self.note_times(true);
                self.pause(PAUSE);
            }
            Err(why @ SpawnError::Failed(..)) => {
                report::event(Event::Trouble(Cause::Exec, &why.explain(&self.plan)));
                self.last = Some((received, starts + 1));
                self.returned(shared);
            }
        }
    }

    /// Starts a handler on the listening socket itself.
    fn start(
        &mut self,
        shared: &Shared,
        spawner: &mut Spawner,
        index: usize,
        peer: Peer,
    ) -> Result<(), SpawnError> {
        let short = |reason: std::io::Error| {
            SpawnError::Shortage(reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        };
        spawner.hold(&self.listener).map_err(short)?;
        // An earlier handler may have left it non-blocking.
        descriptors::make_blocking(&self.listener).map_err(SpawnError::Shortage)?;
        // On, it would take room from the handler's own control data.
        self.note_times(false);
        self.environment.clear();
        for line in self.listener.variables() {
            self.environment.line(line);
        }
        peer.variables(|name, value| self.environment.set(name, value));
        let starting = shared.main_starting();
        starting.begin();
        let spawned = spawner.spawn(&self.plan, &mut self.environment);
        let result = spawned.map(|spawned| {
            let handler = Handler {
                pid: spawned.pid,
                pidfd: spawned.pidfd,
                work: Work::Datagrams(index),
                peer,
                started: Instant::now(),
            };
            shared.enter(shared.main_index(), handler);
        });
        starting.end();
        spawner.release();
        result
    }

    /// Reads the first datagram away and says whose it was.
    fn discard(&mut self) {
        let Ok(Some(Datagram { sender, length, .. })) = sockets::discard_datagram(&self.listener)
        else {
            return;
        };
        self.last = None;
        let peer = self.listener.sender(sender);
        let text = format_args!(
            "'{}' was started {STARTS} times on {} and left a {peer} unread, {length} bytes; it \
             was read away",
            self.plan.name(),
            self.listener
        );
        report::event(Event::Trouble(Cause::Unread, &text));
    }

    /// Waits for the next datagram, or for the same one again.
    fn rearm(&mut self, shared: &Shared) {
        let listener = &self.listener;
        if let Err(errno) = shared
            .poller
            .change(listener, Interest::ReadableOnce, self.key)
        {
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
