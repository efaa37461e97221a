//! Live handlers and lingering connections in the state of an upgrade.

use std::collections::{HashMap, TryReserveError};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::context::Handlers;
use super::left::Left;
use super::linger::{Connection, KeptConnection};
use super::table::{Handler, Work};
use super::timeouts::{SavedWatch, Watch};
use crate::child::{Cgroup, Method};
use crate::config::{ListenerId, Peer, ServiceId};
use crate::net::ListenerAddress;
use crate::report::Told;
use crate::serve::admission::{Policy, Slots};
use crate::sys::aside::Aside;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::process::{Ended, Usage};

/// Stands for the wait-mode listener of a handler that outlives it.
const NO_LISTENER: usize = usize::MAX;

/// A live handler. It stays a child of the process that becomes the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedHandler {
    pid: i32,
    work: SavedWork,
    /// The listener that its client has come to, if it was there.
    #[serde(default)]
    listener: Option<ListenerAddress>,
    peer: Peer,
    #[serde(default)]
    has_tls: bool,
    started: u64,
    watch: Option<SavedWatch>,
    /// Why it was told to end, if it was.
    #[serde(default)]
    told: Option<Told>,
    /// Its connection, if that is kept for a lingering close.
    kept: Option<SavedKept>,
    /// Its control group: a number in the group with this name.
    #[serde(default)]
    cgroup: Option<(u32, String)>,
    #[serde(default)]
    is_init: bool,
    /// How it has ended, if it has left processes behind.
    #[serde(default)]
    left: Option<SavedLeft>,
}

/// What is known of a handler that has ended and has left processes behind.
#[derive(Debug, Serialize, Deserialize)]
struct SavedLeft {
    status: Option<u8>,
    signal: Option<i32>,
    user: Duration,
    system: Duration,
    max_rss: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedWork {
    Connection,
    Datagrams,
    /// With its listener, if that is still there.
    WaitMode(Option<ListenerAddress>),
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedKept {
    connection: i32,
    /// How long input is drained after the handler's end, in milliseconds.
    linger: u64,
    /// Whether that is so only if input is unread.
    if_unread: bool,
}

/// A lingering connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLingering {
    connection: i32,
    until: u64,
}

/// A handler to be restored, with what it is matched to in this process.
#[derive(Debug)]
pub(in crate::serve) struct RestoredHandler {
    pub(in crate::serve) saved: SavedHandler,
    pub(in crate::serve) service: ServiceId,
    /// The index of the wait-mode listener that it has.
    pub(in crate::serve) wait_socket: Option<usize>,
    /// The listener that its client has come to, if that is there.
    pub(in crate::serve) listener: ListenerId,
}

impl SavedHandler {
    /// Whether it has a control group of its own.
    pub(in crate::serve) fn has_cgroup(&self) -> bool {
        self.cgroup.is_some()
    }

    /// Returns the address of the wait-mode listener that it has.
    pub(in crate::serve) fn wait_address(&self) -> Option<&ListenerAddress> {
        match &self.work {
            SavedWork::WaitMode(address) => address.as_ref(),
            SavedWork::Connection | SavedWork::Datagrams => None,
        }
    }

    /// Returns the address of the listener that its client has come to.
    pub(in crate::serve) fn listener(&self) -> Option<&ListenerAddress> {
        self.listener.as_ref()
    }

    /// Returns whether it has a slot.
    pub(in crate::serve) fn has_slot(&self) -> bool {
        !matches!(self.work, SavedWork::WaitMode(_))
    }

    /// Returns whether its connection is kept for a lingering close.
    pub(in crate::serve) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }
}

/// Times in the state of an upgrade: milliseconds of the monotonic clock, since no other process
/// understands an [`Instant`].
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct SavedClock {
    now: Instant,
    /// The same on the monotonic clock.
    clock: Duration,
}

impl SavedClock {
    pub(in crate::serve) fn new() -> Self {
        let clock = || clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
        let read = |_| {
            let (before, clock, now) = (Instant::now(), clock(), Instant::now());
            (now - before, now, clock)
        };
        // A thread may lose its CPU between two looks at the clock: the closest ones count.
        let closest = (0..4).map(read).min();
        let (_, now, clock) = closest.unwrap_or_else(|| read(0));
        Self { now, clock }
    }

    /// Converts a time, past or to come. It is rounded down: no handler has run for less long than
    /// it has.
    pub(in crate::serve) fn save(&self, time: Instant) -> u64 {
        let to_come = time.saturating_duration_since(self.now);
        let ago = self.now.saturating_duration_since(time);
        milliseconds((self.clock + to_come).saturating_sub(ago))
    }

    /// Converts it back.
    pub(in crate::serve) fn restore(&self, saved: u64) -> Instant {
        let time = Duration::from_millis(saved);
        let to_come = time.saturating_sub(self.clock);
        let ago = self.clock.saturating_sub(time);
        self.now.checked_sub(ago).unwrap_or(self.now) + to_come
    }

    /// The same. A time that an older skd hasn't saved is now.
    pub(in crate::serve) fn restore_or_now(&self, saved: Option<u64>) -> Instant {
        saved.map_or(self.now, |saved| self.restore(saved))
    }
}

/// The number of milliseconds in a time.
pub(in crate::serve) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Finds the control group with a number in the group with a name.
pub(in crate::serve) type FindCgroup<'a> = dyn Fn(&str, u32) -> Option<Cgroup> + 'a;

impl SavedLeft {
    fn save(left: &Left) -> Self {
        let (status, signal) = match left.ended {
            Ended::Exited(status) => (Some(status), None),
            Ended::Killed(signal) => (None, Some(signal)),
        };
        Self {
            status,
            signal,
            user: left.usage.user,
            system: left.usage.system,
            max_rss: left.usage.max_rss,
        }
    }

    fn restore(self) -> Box<Left> {
        Box::new(Left {
            ended: match self.signal {
                Some(signal) => Ended::Killed(signal),
                None => Ended::Exited(self.status.unwrap_or_default()),
            },
            usage: Usage {
                user: self.user,
                system: self.system,
                max_rss: self.max_rss,
            },
            is_watched: false,
            is_killed: false,
        })
    }
}

/// The descriptors that an earlier binary has left open, by their numbers.
#[derive(Debug, Default)]
pub(in crate::serve) struct LeftOpen(HashMap<i32, OwnedFd>);

impl LeftOpen {
    pub(in crate::serve) fn new(descriptors: Vec<OwnedFd>) -> Self {
        let descriptors = descriptors.into_iter();
        Self(descriptors.map(|fd| (fd.as_raw_fd(), fd)).collect())
    }

    /// Takes one out, under its own number: copies of all would take twice as many.
    pub(in crate::serve) fn take(&mut self, number: i32) -> Option<OwnedFd> {
        let descriptor = self.0.remove(&number)?;
        // No handler may get it; and what fails here is closed.
        descriptors::set_close_on_exec(&descriptor, true).ok()?;
        Some(descriptor)
    }
}

impl Drop for LeftOpen {
    fn drop(&mut self) {
        // What a connection that nothing goes on with may hold is unknown.
        let left = std::mem::take(&mut self.0);
        left.into_values().map(Aside::from).for_each(drop);
    }
}

impl Handlers {
    /// Saves the handlers of a service. Their kept connections are passed on if `connections` says
    /// so: a client of a preflight would wait for its copy, too, to be closed. `address` returns the
    /// address of a listener, `wait_address` that of a wait-mode listener if it is open.
    pub(in crate::serve) fn save(
        &self,
        service: ServiceId,
        connections: bool,
        address: impl Fn(ListenerId) -> Option<ListenerAddress>,
        wait_address: impl Fn(usize) -> Option<ListenerAddress>,
        to: &mut SavedDescriptors,
    ) -> Vec<SavedHandler> {
        let mut saved = Vec::new();
        let clock = SavedClock::new();
        self.table.each(|handler, watch| {
            if handler.service != service {
                return;
            }
            let kept = handler.kept.as_ref().filter(|_| connections);
            saved.push(SavedHandler {
                pid: handler.pid.as_raw(),
                work: match &handler.work {
                    Work::Connection(_) => SavedWork::Connection,
                    Work::Datagrams(_) => SavedWork::Datagrams,
                    Work::WaitMode(index, _) => SavedWork::WaitMode(wait_address(*index)),
                },
                listener: address(handler.listener),
                peer: handler.peer,
                has_tls: handler.has_tls,
                started: clock.save(handler.started),
                watch: watch.map(|watch| watch.save(|time| clock.save(time))),
                told: handler.told,
                is_init: handler.is_init,
                kept: kept.and_then(|kept| {
                    let (connection, linger, if_unread) = kept.parts();
                    Some(SavedKept {
                        // A descriptor that can't be passed on is closed at the exec.
                        connection: to.pass(connection).ok()?,
                        linger: milliseconds(linger),
                        if_unread,
                    })
                }),
                cgroup: handler.cgroup.as_ref().and_then(|cgroup| {
                    let (number, name) = cgroup.id()?;
                    Some((number, name.into()))
                }),
                left: handler.left.as_deref().map(SavedLeft::save),
            });
        });
        saved
    }

    /// Reserves entries for handlers that will be restored.
    pub(in crate::serve) fn reserve_restored(
        &self,
        handlers: &[RestoredHandler],
    ) -> Result<(), TryReserveError> {
        for thread in 0..=self.main_index() {
            let its = |handler: &&RestoredHandler| self.thread_for(&handler.saved) == thread;
            let count = handlers.iter().filter(its).count();
            self.table.reserve(thread, count)?;
        }
        Ok(())
    }

    /// Enters a handler of an earlier binary, which will be reaped. Its entry is reserved.
    pub(in crate::serve) fn restore(
        &self,
        handler: RestoredHandler,
        slots: &Arc<Slots>,
        policy: Option<&Policy>,
        method: Method,
        left_open: &mut LeftOpen,
        cgroups: Option<&FindCgroup<'_>>,
    ) {
        let RestoredHandler {
            saved,
            service,
            wait_socket,
            listener,
        } = handler;
        let thread = self.thread_for(&saved);
        let clock = SavedClock::new();
        let pid = Pid::from_raw(saved.pid);
        let work = match saved.work {
            SavedWork::Connection => Work::Connection(slots.occupy()),
            SavedWork::Datagrams => Work::Datagrams(slots.occupy()),
            SavedWork::WaitMode(_) => {
                let life = slots.live_in_wait_mode();
                Work::WaitMode(wait_socket.unwrap_or(NO_LISTENER), life)
            }
        };
        let source_slot = match work {
            Work::WaitMode(..) => None,
            _ => policy.and_then(|policy| policy.occupy(&saved.peer)),
        };
        let kept = saved.kept.and_then(|kept| {
            let connection = left_open.take(kept.connection)?;
            let linger = Duration::from_millis(kept.linger);
            let connection = Connection::found(connection);
            Some(KeptConnection::new(connection, linger, kept.if_unread))
        });
        let watch = saved.watch;
        let watch = watch.map(|watch| Watch::restore(watch, |time| clock.restore(time)));
        let had_cgroup = saved.cgroup.is_some();
        let cgroup = saved.cgroup.zip(cgroups);
        let cgroup = cgroup.and_then(|((number, name), find)| find(&name, number));
        // A group that is gone was empty.
        let is_init = saved.is_init || (had_cgroup && cgroup.is_none());
        let left = saved.left.map(SavedLeft::restore);
        let handler = Handler {
            service,
            listener,
            pid,
            // A child that wasn't reaped: its id can't be another's.
            pidfd: left.is_none().then(|| method.pidfd_of(pid)).flatten(),
            work,
            source_slot,
            peer: saved.peer,
            has_tls: saved.has_tls,
            started: clock.restore(saved.started),
            told: saved.told,
            kept,
            cgroup,
            is_init,
            left,
        };
        self.enter(thread, handler, watch);
    }

    /// Returns how many connections are kept for handlers, or linger.
    pub(in crate::serve) fn count_connections(&self) -> usize {
        let mut count = 0;
        self.table
            .each(|handler, _| count += usize::from(handler.kept.is_some()));
        self.lingering.each(|_, _| count += 1);
        count
    }

    /// Saves all lingering connections.
    pub(in crate::serve) fn save_lingering(
        &self,
        to: &mut SavedDescriptors,
    ) -> Vec<SavedLingering> {
        let mut saved = Vec::new();
        let clock = SavedClock::new();
        self.lingering.each(|connection, until| {
            if let Ok(connection) = to.pass(connection) {
                saved.push(SavedLingering {
                    connection,
                    until: clock.save(until),
                });
            }
        });
        saved
    }

    /// Lets connections linger on, in all threads alike.
    pub(in crate::serve) fn restore_lingering(
        &self,
        saved: Vec<SavedLingering>,
        left_open: &mut LeftOpen,
    ) {
        let clock = SavedClock::new();
        for (saved, thread) in saved.into_iter().zip((0..self.pollers.len()).cycle()) {
            if let Some(connection) = left_open.take(saved.connection) {
                let (poller, until) = (&self.pollers[thread], clock.restore(saved.until));
                let connection = Connection::found(connection);
                self.lingering.add(thread, poller, connection, until);
            }
        }
    }

    /// The part of the table for a handler that no thread of this process has started.
    fn thread_for(&self, handler: &SavedHandler) -> usize {
        match handler.work {
            SavedWork::Connection | SavedWork::Datagrams if self.main_index() > 0 => {
                handler.pid.unsigned_abs() as usize % self.main_index()
            }
            _ => self.main_index(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_time_is_restored_rounded_down() {
        let clock = SavedClock::new();
        let other = SavedClock::new();
        for offset in [0, 1, 999, 1_000, 5_000_000] {
            let offset = Duration::from_micros(offset);
            for time in [clock.now + offset, clock.now - offset] {
                let restored = clock.restore(clock.save(time));
                assert!(restored <= time && time - restored < Duration::from_millis(1));
                assert!(other.restore(clock.save(time)) < time + Duration::from_millis(1));
            }
        }
    }
}
