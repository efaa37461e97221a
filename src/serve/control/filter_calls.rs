//! The thread that decides about system calls that filters ask about: it logs them and has them made, or
//! kills the process.
//!
//! Each handler of a service with such a filter sends its filter's listener here before it executes its
//! program. A listener is closed when the last process with its filter has ended. A call whose listener
//! is gone, or never came for want of descriptors, fails with ENOSYS.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::config::ServiceId;
use crate::error::Error;
use crate::report::{self, Event, FilteredCall, Limiter, throttle};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::events::{Interest, Poller, has_input, no_events};
use crate::sys::seccomp::{Action, Asked, Listener, Rules, call_name, receive_listener};
use crate::sys::thread::Thread;

/// How often a call of a service is logged; calls that kill are rarer.
const LOGGED: Duration = Duration::from_secs(60);
const KILLED: Duration = Duration::from_secs(1);

/// All calls with higher numbers share a line of the log.
const MOST: u32 = 1023;

/// How long to wait after epoll has failed, on which nothing must spin.
const PAUSE: Duration = Duration::from_millis(100);

/// The key of the socket by which listeners arrive.
const SOCKET: u64 = u64::MAX;

/// What becomes of the calls that a filter asks about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::serve) struct Fates {
    /// Whether those that aren't among the exceptions kill.
    kills: bool,
    exceptions: Vec<u32>,
}

impl Fates {
    pub(in crate::serve) fn of(rules: &Rules) -> Self {
        let kills = rules.others == Action::Kill;
        let other = if kills { Action::Log } else { Action::Kill };
        let numbers = rules.calls.keys().copied();
        Self {
            kills,
            // Only calls with one verdict for all arguments kill.
            exceptions: numbers
                .filter(|number| rules.action(*number, &[0; 6]) == other)
                .collect(),
        }
    }

    fn kills(&self, number: u32) -> bool {
        self.kills != self.exceptions.contains(&number)
    }
}

/// The listeners of a service's handlers whose filters are the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedListeners {
    fates: Fates,
    listeners: Vec<i32>,
}

/// The thread, as the main thread has it.
#[derive(Debug)]
pub(in crate::serve) struct FilterCalls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    poller: Poller,
    socket: Option<OwnedFd>,
    state: Mutex<State>,
    unparked: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_parked: bool,
    /// Of each service, by its id.
    fates: Vec<Arc<Fates>>,
    listeners: HashMap<u64, Entry>,
    next: u64,
    /// By service and call. There are at most as many calls as [`MOST`].
    limiters: HashMap<(usize, u32), Limiter>,
}

#[derive(Debug)]
struct Entry {
    service: ServiceId,
    fates: Arc<Fates>,
    listener: Listener,
}

impl FilterCalls {
    /// Starts the thread with what the handlers of an earlier binary have.
    pub(in crate::serve) fn start(
        socket: Option<OwnedFd>,
        fates: Vec<Arc<Fates>>,
        restored: Vec<(ServiceId, SavedListeners)>,
    ) -> Result<Self, Error> {
        let failed = |errno| Error::start("no thread for --seccomp", errno);
        let poller = Poller::new().map_err(failed)?;
        if let Some(socket) = &socket {
            let added = poller.add(socket, Interest::Readable, SOCKET);
            added.map_err(failed)?;
        }
        let mut state = State {
            fates,
            ..State::default()
        };
        for (service, saved) in restored {
            let fates = Arc::new(saved.fates);
            for number in saved.listeners {
                let listener = descriptors::claim(number).map_err(failed)?.into();
                state.add(&poller, service, Arc::clone(&fates), listener);
            }
        }
        let shared = Arc::new(Shared {
            poller,
            socket,
            state: Mutex::new(state),
            unparked: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        Thread::start(c"system-calls".into(), 128 * 1024, move || own.run()).map_err(failed)?;
        Ok(Self { shared })
    }

    /// Has calls wait, until [`Self::unpark`] or until the next binary decides about them. All listeners
    /// that handlers have sent are there then, if none is being started.
    pub(in crate::serve) fn park(&self) {
        let mut state = self.shared.lock();
        state.is_parked = true;
        self.shared.take_listeners(&mut state);
    }

    /// Goes on.
    pub(in crate::serve) fn unpark(&self) {
        self.shared.lock().is_parked = false;
        self.shared.unparked.notify_all();
    }

    /// How many listeners there are.
    pub(in crate::serve) fn count(&self) -> usize {
        self.shared.lock().listeners.len()
    }

    /// Writes down the listeners of a service's handlers, for the next binary.
    pub(in crate::serve) fn save(
        &self,
        service: ServiceId,
        to: &mut SavedDescriptors,
    ) -> io::Result<Vec<SavedListeners>> {
        let state = self.shared.lock();
        let mut all: Vec<SavedListeners> = Vec::new();
        for entry in state.listeners.values() {
            if entry.service != service {
                continue;
            }
            let number = to.pass(&entry.listener)?;
            match all.iter_mut().find(|it| it.fates == *entry.fates) {
                Some(saved) => saved.listeners.push(number),
                None => all.push(SavedListeners {
                    fates: (*entry.fates).clone(),
                    listeners: vec![number],
                }),
            }
        }
        Ok(all)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        report::register_thread();
        let mut buffer = no_events();
        loop {
            let Ok(keys) = self.poller.wait(&mut buffer, None) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let mut state = self.lock();
            while state.is_parked {
                let waited = self.unparked.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
            for key in keys {
                match key {
                    SOCKET => self.take_listeners(&mut state),
                    key => state.answer(&self.poller, key),
                }
            }
        }
    }

    /// Takes what children have sent.
    fn take_listeners(&self, state: &mut State) {
        let Some(socket) = &self.socket else { return };
        loop {
            match receive_listener(socket) {
                Ok((number, Some(listener))) => {
                    let service = ServiceId::new(number as usize);
                    let fates = state.fates.get(service.index()).cloned();
                    let fates = fates.unwrap_or_default();
                    state.add(&self.poller, service, fates, listener);
                }
                Ok((_, None)) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl State {
    fn add(&mut self, poller: &Poller, service: ServiceId, fates: Arc<Fates>, listener: Listener) {
        let key = self.next;
        self.next += 1;
        if poller.add(&listener, Interest::Readable, key).is_ok() {
            let entry = Entry {
                service,
                fates,
                listener,
            };
            self.listeners.insert(key, entry);
        }
    }

    /// Decides about one call, so that handlers have their turns.
    fn answer(&mut self, poller: &Poller, key: u64) {
        let Some(entry) = self.listeners.get(&key) else {
            return;
        };
        // Without, all processes with the filter have ended, and the next call would be waited for.
        let asked = match has_input(&entry.listener) {
            true => entry.listener.receive(),
            false => Err(Errno::ENOTCONN),
        };
        match asked {
            Ok(asked) => entry.decide(&asked, &mut self.limiters),
            // The thread was killed before its call was taken.
            Err(Errno::ENOENT | Errno::EINTR) => {}
            Err(_) => {
                let _ = poller.remove(&entry.listener);
                self.listeners.remove(&key);
            }
        }
    }
}

impl Entry {
    fn decide(&self, asked: &Asked, limiters: &mut HashMap<(usize, u32), Limiter>) {
        let kills = self.fates.kills(asked.number);
        // Before it is made: a handler that ends by it is then still there to be looked at.
        let key = (self.service.index(), asked.number.min(MOST));
        let limiter = limiters.entry(key).or_default();
        let interval = throttle(if kills { KILLED } else { LOGGED });
        if limiter.pass(throttle::now(), interval) {
            let [a, b, c, d, ..] = asked.arguments;
            let call = FilteredCall {
                pid: asked.thread.as_raw(),
                name: &call_name(asked.number.into()),
                arguments: [a, b, c, d],
            };
            report::event(match kills {
                true => Event::CallKilled(self.service, call),
                false => Event::CallLogged(self.service, call),
            });
        }
        match kills {
            true => self.listener.kill(asked),
            false => self.listener.let_go(asked),
        }
    }
}
