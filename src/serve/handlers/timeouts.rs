//! How long a handler may run, and its connection be idle. Whoever is late is told to end, and
//! killed if that doesn't help.
//!
//! Each handler with a limit has a [`Watch`] in the same part of the table, due at some time. The
//! thread that started it looks at those that are; when the acceptors have left, the main
//! thread. Whether a connection is idle is asked of the kernel, for that one alone and not before
//! it can be: skd has no copy of it.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::super::service::{TimeLimits, cannot_ask};
use super::Handlers;
use super::table::Handler;
use crate::error::Error;
use crate::net::{BoundAddress, Listener};
use crate::report::{self, Event, Late, Trouble};
use crate::sys::diagnosis::{Diagnosis, SocketId};
use crate::sys::signals::{Signal, signal_group};

/// Those limits, and what is needed to hold handlers to them.
#[derive(Debug)]
pub(in crate::serve) struct Timeouts {
    limits: TimeLimits,
    /// Where there is a limit of being idle. A lock for a question, which takes the kernel some
    /// microseconds; and it has a lock of its own.
    diagnosis: Option<Mutex<Diagnosis>>,
}

/// When the kernel is asked again that couldn't answer.
const PAUSE: Duration = Duration::from_secs(1);

/// How many handlers are looked at before connections and ends are again.
const ROW: usize = 64;

impl Timeouts {
    /// For a service with these stream listeners, and these on which skd receives datagrams; if
    /// there is anything to hold their handlers to. Whether the kernel will tell is known now.
    pub(in crate::serve) fn new(
        mut limits: TimeLimits,
        listeners: &[Listener],
        datagrams: &[Listener],
    ) -> Result<Option<Self>, Error> {
        if !datagrams.is_empty() && !listeners.iter().any(is_tcp) {
            // Of datagrams it is skd that knows.
            limits.idle = None;
        }
        if limits.idle.or(limits.timeout).is_none() {
            return Ok(None);
        }
        if listeners.is_empty() && datagrams.is_empty() {
            let text = "--timeout and --idle-timeout are for connections that skd accepts, and \
                        no socket here has such";
            return Err(Error::Start(text.into()));
        }
        let diagnosis = limits.idle.map(|_| diagnosis(listeners)).transpose()?;
        Ok(Some(Self {
            limits,
            diagnosis: diagnosis.map(Mutex::new),
        }))
    }

    /// For the handlers that a service without listeners has left.
    pub(in crate::serve) fn without_listeners(limits: TimeLimits) -> Self {
        // Where the kernel can't be asked, no handler is idle.
        let diagnosis = limits.idle.and_then(|_| Diagnosis::new().ok());
        Self {
            limits,
            diagnosis: diagnosis.map(Mutex::new),
        }
    }

    /// What a connection will be known by, if it is to be watched. One that can't be known any
    /// more was reset by its client, which its handler will hear.
    pub(in crate::serve) fn identify(
        &self,
        listener: &Listener,
        connection: impl AsFd,
    ) -> Option<SocketId> {
        if self.diagnosis.is_none() || !is_tcp(listener) {
            return None;
        }
        SocketId::of(connection).ok()
    }

    /// The watch of a handler that has just started.
    pub(in crate::serve) fn watch(&self, started: Instant, socket: Option<SocketId>) -> Watch {
        let idle = socket.zip(self.limits.idle).map(|(socket, limit)| Idle {
            socket,
            look_at: started + limit.into(),
        });
        Watch {
            end_at: self.limits.timeout.map(|limit| started + limit.into()),
            idle,
            kill_at: None,
        }
    }

    fn ask(&self, socket: &SocketId) -> Result<Option<Duration>, Errno> {
        let diagnosis = self.diagnosis.as_ref().ok_or(Errno::ENOENT)?;
        let mut diagnosis = diagnosis.lock().unwrap_or_else(PoisonError::into_inner);
        diagnosis.quiet_time(socket)
    }
}

fn is_tcp(listener: &Listener) -> bool {
    matches!(listener.bound_address(), BoundAddress::Inet(_))
}

fn diagnosis(listeners: &[Listener]) -> Result<Diagnosis, Error> {
    let mut diagnosis = Diagnosis::new().map_err(cannot_ask)?;
    let mut watched = listeners
        .iter()
        .filter(|listener| is_tcp(listener))
        .peekable();
    if watched.peek().is_none() {
        let text = "--idle-timeout needs a TCP listener: of unix sockets the kernel doesn't say \
                    since when they are idle";
        return Err(Error::Start(text.into()));
    }
    for listener in watched {
        if !diagnosis.knows_tcp(listener).map_err(cannot_ask)? {
            let text = format!(
                "--idle-timeout: {listener} belongs to another network namespace, so that the \
                 kernel doesn't tell skd of its connections"
            );
            return Err(Error::Start(text));
        }
    }
    Ok(diagnosis)
}

/// What a handler is held to.
#[derive(Debug)]
pub(in crate::serve) struct Watch {
    /// When it will have run for as long as it may.
    end_at: Option<Instant>,
    idle: Option<Idle>,
    /// When it is killed: it was told to end.
    kill_at: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    socket: SocketId,
    /// When the connection may have been idle for too long: not before.
    look_at: Instant,
}

/// What is to be done about a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Act {
    /// It is told to end.
    Tell(Late),
    /// It is killed.
    Kill,
    /// Nothing now: the kernel doesn't say whether its connection is idle.
    Unknown(Errno),
}

impl Watch {
    /// When there is something to be done; `None` if nothing ever will be.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        let look_at = self.idle.as_ref().map(|idle| idle.look_at);
        let late = self.end_at.into_iter().chain(look_at).min();
        self.kill_at.or(late)
    }

    /// Says what is to be done now, and goes on to what is next. `ask` says for how long a
    /// connection has been idle, and `None` for one that nobody has any more.
    fn step(
        &mut self,
        limits: &TimeLimits,
        started: Instant,
        now: Instant,
        ask: impl FnOnce(&SocketId) -> Result<Option<Duration>, Errno>,
    ) -> Option<Act> {
        if let Some(kill_at) = self.kill_at {
            if now < kill_at {
                return None;
            }
            // If that doesn't help, nothing does.
            self.kill_at = None;
            return Some(Act::Kill);
        }
        if let Some(limit) = limits.timeout
            && self.end_at.is_some_and(|end_at| end_at <= now)
        {
            return Some(self.tell(limits, now, Late::Running(limit)));
        }
        let idle = self.idle.as_mut().filter(|idle| idle.look_at <= now)?;
        let Some(limit) = limits.idle else {
            self.idle = None;
            return None;
        };
        match ask(&idle.socket) {
            Ok(Some(quiet)) => {
                // A connection that has waited long for its handler wasn't idle.
                let last = now
                    .checked_sub(quiet)
                    .map_or(started, |last| last.max(started));
                idle.look_at = last + limit.into();
                (idle.look_at <= now).then(|| self.tell(limits, now, Late::Idle(limit)))
            }
            // Whatever the handler does by now, it has no client that could be idle.
            Ok(None) => {
                self.idle = None;
                None
            }
            Err(errno) => {
                idle.look_at = now + PAUSE;
                Some(Act::Unknown(errno))
            }
        }
    }

    fn tell(&mut self, limits: &TimeLimits, now: Instant, late: Late) -> Act {
        self.end_at = None;
        self.idle = None;
        self.kill_at = Some(now + limits.kill_after.into());
        Act::Tell(late)
    }
}

impl Handlers {
    /// How long a thread may wait that looks after this part of the table, and would wait for
    /// `limit`.
    pub(in crate::serve) fn until_due(
        &self,
        part: usize,
        limit: Option<Duration>,
    ) -> Option<Duration> {
        let due = self.table.next_due(part);
        let until = due.map(|due| due.saturating_duration_since(Instant::now()));
        limit.into_iter().chain(until).min()
    }

    /// Does what is due for handlers of this part of the table; not all at once, if there is
    /// much.
    pub(in crate::serve) fn look_at_timeouts(&self, part: usize) {
        for _ in 0..ROW {
            let act = |watch: &mut Watch, handler: &Handler| {
                let timeouts = self.timeouts.get(handler.service.index());
                let Some(timeouts) = timeouts.and_then(Option::as_ref) else {
                    *watch = Watch::none();
                    return None;
                };
                // The time is taken for each: a question takes some.
                let now = Instant::now();
                let ask = |socket: &SocketId| timeouts.ask(socket);
                let act = watch.step(&timeouts.limits, handler.started, now, ask);
                // Under the lock, so that it isn't reaped, and its number nobody else's.
                match act {
                    Some(Act::Tell(_)) => signal_group(handler.pid, Signal::SIGTERM),
                    Some(Act::Kill) => signal_group(handler.pid, Signal::SIGKILL),
                    Some(Act::Unknown(_)) | None => {}
                }
                act.map(|act| (act, handler.service, handler.pid.as_raw(), handler.peer))
            };
            match self.table.when_due(part, act) {
                None => return,
                Some(None) => {}
                Some(Some((Act::Tell(late), service, pid, peer))) => {
                    report::event(Event::Late(service, &peer, pid, late));
                }
                Some(Some((Act::Kill, service, pid, peer))) => {
                    report::event(Event::KillingHandler(service, &peer, pid));
                }
                Some(Some((Act::Unknown(errno), service, ..))) => {
                    report::event(Event::Trouble(Trouble::IdleTimeout(service, errno)));
                }
            }
        }
    }
}

/// A watch for another image of this process; times are milliseconds of the clock that only goes
/// on.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedWatch {
    end_at: Option<u64>,
    idle: Option<(SocketId, u64)>,
    kill_at: Option<u64>,
}

impl Watch {
    /// One that has nothing to do.
    fn none() -> Self {
        Self {
            end_at: None,
            idle: None,
            kill_at: None,
        }
    }

    /// What goes to another image; `time` tells it the time.
    pub(in crate::serve) fn save(&self, time: impl Fn(Instant) -> u64) -> SavedWatch {
        SavedWatch {
            end_at: self.end_at.map(&time),
            idle: self
                .idle
                .as_ref()
                .map(|idle| (idle.socket.clone(), time(idle.look_at))),
            kill_at: self.kill_at.map(&time),
        }
    }

    /// What has come from another image.
    pub(in crate::serve) fn restore(saved: SavedWatch, time: impl Fn(u64) -> Instant) -> Self {
        Self {
            end_at: saved.end_at.map(&time),
            idle: saved.idle.map(|(socket, look_at)| Idle {
                socket,
                look_at: time(look_at),
            }),
            kill_at: saved.kill_at.map(&time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream};

    fn connection() -> (TcpStream, TcpStream, SocketId) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let id = SocketId::of(&server).unwrap();
        (client, server, id)
    }

    fn timeouts(timeout: Option<u64>, idle: Option<u64>, kill_after: u64) -> Timeouts {
        let limits = TimeLimits {
            timeout: timeout.map(Span::seconds),
            idle: idle.map(Span::seconds),
            kill_after: Span::seconds(kill_after),
        };
        let diagnosis = None;
        Timeouts { limits, diagnosis }
    }

    /// All that is done about a handler that never ends, and when: looked at whenever something
    /// is due, and a little later. `bytes` are the times at which one goes over its connection.
    fn life(
        timeouts: &Timeouts,
        socket: Option<SocketId>,
        bytes: &[u64],
        late: u64,
    ) -> Vec<(u64, Act)> {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut watch = timeouts.watch(begin, socket);
        let mut acts = Vec::new();
        let mut looks = 0;
        while let Some(due) = watch.due() {
            let now = (due - begin).as_millis() as u64 + late;
            let ask = |_: &SocketId| {
                let last = bytes.iter().filter(|byte| **byte <= now).max();
                // What was before its time is none of it.
                let quiet = last.map_or(now + 1_000_000, |last| now - last);
                Ok(Some(Duration::from_millis(quiet)))
            };
            let act = watch.step(&timeouts.limits, begin, at(now), ask);
            acts.extend(act.map(|act| (now, act)));
            // Each look is for a byte, or the last; then come TERM and KILL.
            looks += 1;
            assert!(looks <= bytes.len() + 4, "{looks}");
        }
        acts
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "sockets")]
        fn the_first_limit_that_is_reached_ends_a_handler_and_never_sooner(
            timeout in proptest::option::of(1..60_u64),
            idle in proptest::option::of(1..30_u64),
            kill_after in 0..10_u64,
            mut bytes in proptest::collection::vec(0..80_000_u64, 0..20),
            late in 0..500_u64,
        ) {
            let timeouts = timeouts(timeout, idle, kill_after);
            let (_client, _server, id) = connection();
            let socket = idle.map(|_| id);
            bytes.sort_unstable();
            let acts = life(&timeouts, socket, &bytes, late);
            // The same, by going through all bytes.
            let mut quiet_from = 0;
            let end_of_idle = idle.map(|idle| {
                for byte in &bytes {
                    // Seen if it comes before the look that is for its absence.
                    if *byte > quiet_from + idle * 1_000 + late {
                        break;
                    }
                    quiet_from = *byte;
                }
                quiet_from + idle * 1_000
            });
            let first = timeout.map(|limit| limit * 1_000).into_iter().chain(end_of_idle).min();
            match first {
                None => prop_assert_eq!(acts, []),
                Some(first) => {
                    let [(told, Act::Tell(_)), (killed, Act::Kill)] = acts[..] else {
                        panic!("{acts:?}");
                    };
                    // A look that comes late may find idle what a later byte would have saved.
                    prop_assert!(told <= first + late, "{} {}", told, first);
                    let last = bytes.iter().copied().filter(|byte| *byte <= told).max();
                    let quiet = told - last.unwrap_or_default();
                    let reached = timeout.is_some_and(|limit| told >= limit * 1_000)
                        || idle.is_some_and(|limit| quiet >= limit * 1_000);
                    prop_assert!(reached, "{} {}", told, quiet);
                    prop_assert_eq!(killed, told + kill_after * 1_000 + late);
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_connection_that_is_over_is_not_asked_for_again_and_a_failure_is() {
        let timeouts = timeouts(None, Some(10), 0);
        let (_client, _server, id) = connection();
        let begin = Instant::now();
        let mut watch = timeouts.watch(begin, Some(id));
        let due = watch.due().unwrap();
        assert_eq!(due, begin + Duration::from_secs(10));
        let step = |watch: &mut Watch, now, answer| {
            watch.step(&timeouts.limits, begin, now, |_: &SocketId| answer)
        };
        let act = step(&mut watch, due, Err(Errno::ENOBUFS));
        assert_eq!(act, Some(Act::Unknown(Errno::ENOBUFS)));
        let due = watch.due().unwrap();
        assert_eq!(due, begin + Duration::from_secs(10) + PAUSE);
        assert_eq!(step(&mut watch, due, Ok(None)), None);
        assert_eq!(watch.due(), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn another_image_goes_on_where_one_left_off() {
        let timeouts = timeouts(Some(3600), Some(60), 5);
        let (_client, _server, id) = connection();
        let begin = Instant::now();
        let mut watch = timeouts.watch(begin, Some(id));
        let out = |time: Instant| 1_000 + (time - begin).as_millis() as u64;
        let back = |time: u64| begin + Duration::from_millis(time - 1_000);
        for _ in 0..3 {
            let text = serde_json::to_vec(&watch.save(out)).unwrap();
            let saved = serde_json::from_slice(&text).unwrap();
            let restored = Watch::restore(saved, back);
            assert_eq!(format!("{watch:?}"), format!("{restored:?}"));
            let Some(due) = watch.due() else { return };
            let quiet = Ok(Some(Duration::from_secs(60)));
            watch = restored;
            watch.step(&timeouts.limits, begin, due, |_: &SocketId| quiet);
        }
        panic!("{watch:?}");
    }
}
