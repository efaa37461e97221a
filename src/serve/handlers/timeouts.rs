//! Timeouts of handlers: how long one may run, and its connection be idle. A handler that is late
//! gets TERM, and KILL if that doesn't help.
//!
//! Each handler with a timeout has a [`Watch`] in the same part of the table. The thread that
//! started the handler acts on it when it is due; once the workers have ended, the main thread
//! does. Whether a connection is idle is asked of the kernel, about that one alone and not before
//! it can be idle: skd has no copy of the connection.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::config::BoundAddress;
use crate::error::Error;
use crate::net::Listener;
use crate::report::Late;
use crate::serve::service::{TimeLimits, cannot_ask};
use crate::sys::diagnosis::{Diagnosis, SocketId};
use crate::sys::signals::Signal;

/// The timeouts of a service's handlers, and what is needed to enforce them.
#[derive(Debug)]
pub(in crate::serve) struct Timeouts {
    limits: TimeLimits,
    /// Where there is an idle timeout. The lock is held for one question, which takes the kernel
    /// some microseconds.
    diagnosis: Option<Mutex<Diagnosis>>,
}

/// How long after a question that the kernel couldn't answer it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

impl Timeouts {
    /// Returns the timeouts of a service that accepts from `listeners` and receives from
    /// `datagrams`, if it has any. Fails if the kernel can't tell when connections are idle.
    pub(in crate::serve) fn new(
        mut limits: TimeLimits,
        listeners: &[Listener],
        datagrams: &[Listener],
    ) -> Result<Option<Self>, Error> {
        if !datagrams.is_empty() && !listeners.iter().any(is_tcp) {
            // For datagrams skd itself knows.
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

    /// Returns what the kernel knows this connection by, if it has an idle timeout. A connection
    /// that the kernel doesn't know any more was reset by its client, and its handler finds out.
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

    /// Returns the watch of a handler that has just started.
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

    /// Does what is due for a handler, which `signal` reaches, and returns what that was.
    pub(super) fn act(
        &self,
        watch: &mut Watch,
        started: Instant,
        signal: impl FnOnce(Signal),
    ) -> Option<Act> {
        // The time is taken for each handler: a question takes some.
        let now = Instant::now();
        let ask = |socket: &SocketId| self.ask(socket);
        let act = watch.step(&self.limits, started, now, ask);
        match act {
            Some(Act::Terminate(_)) => signal(Signal::SIGTERM),
            Some(Act::Kill) => signal(Signal::SIGKILL),
            Some(Act::Unknown(_)) | None => {}
        }
        act
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

/// The timeouts of one handler.
#[derive(Debug)]
pub(in crate::serve) struct Watch {
    /// When it has run for as long as it may.
    end_at: Option<Instant>,
    idle: Option<Idle>,
    /// When it is killed: it has got TERM.
    kill_at: Option<Instant>,
}

#[derive(Debug)]
struct Idle {
    socket: SocketId,
    /// When the connection may have been idle for too long.
    look_at: Instant,
}

/// What was done about a handler that is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It gets TERM.
    Terminate(Late),
    /// It gets KILL.
    Kill,
    /// Nothing now: the kernel doesn't say whether its connection is idle.
    Unknown(Errno),
}

impl Watch {
    /// Returns when there is something to do, if there ever will be.
    pub(super) fn due(&self) -> Option<Instant> {
        let look_at = self.idle.as_ref().map(|idle| idle.look_at);
        let late = self.end_at.into_iter().chain(look_at).min();
        self.kill_at.or(late)
    }

    /// Returns what is to be done now, and goes on to what is next. `ask` returns how long a
    /// connection has been idle, and `None` for a connection that no process has any more.
    fn step(
        &mut self,
        limits: &TimeLimits,
        started: Instant,
        now: Instant,
        ask: impl FnOnce(&SocketId) -> Result<Option<Duration>, Errno>,
    ) -> Option<Act> {
        if self.kill_at.is_some() {
            return self.kill(now);
        }
        let reached = self.end_at.is_some_and(|end_at| end_at <= now);
        if let Some(limit) = limits.timeout.filter(|_| reached) {
            return Some(self.terminate(limits, now, Late::Running(limit)));
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
                (idle.look_at <= now).then(|| self.terminate(limits, now, Late::Idle(limit)))
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

    /// Returns whether the handler is to be killed now.
    pub(super) fn kill(&mut self, now: Instant) -> Option<Act> {
        // If KILL doesn't help, nothing does.
        self.kill_at.take_if(|kill_at| *kill_at <= now)?;
        Some(Act::Kill)
    }

    /// Has it killed again.
    pub(super) fn kill_again(&mut self, at: Instant) {
        self.kill_at = Some(at);
    }

    /// The same watch for what a handler has left behind, which was told to end: it is killed then, or
    /// when it would have been.
    pub(super) fn only_kill(self, kill_at: Instant) -> Self {
        Self {
            kill_at: Some(self.kill_at.map_or(kill_at, |before| before.min(kill_at))),
            ..Self::none()
        }
    }

    fn terminate(&mut self, limits: &TimeLimits, now: Instant, late: Late) -> Act {
        self.end_at = None;
        self.idle = None;
        self.kill_at = Some(now + limits.kill_after.into());
        Act::Terminate(late)
    }
}

/// A saved watch. Times are milliseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedWatch {
    end_at: Option<u64>,
    idle: Option<(SocketId, u64)>,
    kill_at: Option<u64>,
}

impl Watch {
    /// A watch without timeouts.
    pub(super) fn none() -> Self {
        Self {
            end_at: None,
            idle: None,
            kill_at: None,
        }
    }

    /// Saves the watch. `time` converts to the clock of the state.
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

    /// Restores a watch. `time` converts from the clock of the state.
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

    /// Returns all that is done about a handler that never ends, and when: it is looked at whenever
    /// something is due, and a little later. `bytes` are the times at which one goes over its
    /// connection.
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
                    let [(ended, Act::Terminate(_)), (killed, Act::Kill)] = acts[..] else {
                        panic!("{acts:?}");
                    };
                    // A look that comes late may find idle what a later byte would have saved.
                    prop_assert!(ended <= first + late, "{} {}", ended, first);
                    let last = bytes.iter().copied().filter(|byte| *byte <= ended).max();
                    let quiet = ended - last.unwrap_or_default();
                    let reached = timeout.is_some_and(|limit| ended >= limit * 1_000)
                        || idle.is_some_and(|limit| quiet >= limit * 1_000);
                    prop_assert!(reached, "{} {}", ended, quiet);
                    prop_assert_eq!(killed, ended + kill_after * 1_000 + late);
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
    fn a_restored_watch_goes_on_where_it_was_saved() {
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
