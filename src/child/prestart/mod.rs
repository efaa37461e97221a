//! Handlers that are started ahead of their clients: a process that has done all that it does
//! before it looks at its client, and stands ready there.
//!
//! A thread of its own starts programs and parks them ([`park`]): ptrace(2) is the affair of one
//! thread. Acceptors give connections to what stands ready ([`hand_off`]), and where nothing
//! does, handlers are started as ever.

mod calls;
mod files;
mod hand_off;
mod park;

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::plan::Plan;
use super::spawn::{Spawned, Spawner};
use crate::config::{Prestart, ServiceId};
use crate::error::Error;
use crate::report::{self, Event, Trouble, Watched};
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller, Waker, no_events};
use crate::sys::process;
use crate::sys::thread::Thread;
use calls::Successor;
use files::Sources;
use hand_off::{Parked, Refusal};
use park::{Failure, Start};

/// How many stand ready at first, of more that may. Whenever none is left, it becomes twice as
/// many.
const FIRST: usize = 4;

/// How often at most it is looked whether the program is still the same.
const LOOK: Duration = Duration::from_secs(1);

/// How long nothing is started after something went wrong; twice as long each time, up to the
/// longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How many times as long as a start has taken nothing is started at most, where many clients found
/// none meanwhile.
const MOST_LEFT: u32 = 8;

/// How long a thread that comes to rest is waited for.
const RESTING: Duration = Duration::from_secs(5);

/// What wakes the thread, besides the end of a process, whose id it is.
const WAKER: u64 = 0;

/// What stands ready for the clients of a service. A thread of its own sees to it.
#[derive(Debug)]
pub struct Pool {
    service: ServiceId,
    prestart: Prestart,
    plan: Arc<Plan>,
    variables: Arc<[CString]>,
    state: Mutex<State>,
    /// Of the fork server, which answers one after the other: whoever has a connection for it locks
    /// this until it has an answer. Copies of one process can't be made at once anyway.
    template: Mutex<Option<Parked>>,
    /// Told when the thread rests.
    rested: Condvar,
    waker: Waker,
    poller: Poller,
    began: Instant,
    /// When the sources were last looked at, in milliseconds since then.
    looked: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Whether there is to be a stock.
    wanted: bool,
    /// Whether the thread has nothing, and starts nothing.
    rests: bool,
    /// Grows with each renewal: what was begun before one is thrown away.
    age: u64,
    /// Those of which each serves one connection, the oldest first.
    parked: VecDeque<Parked>,
    /// Those that are to end.
    discarded: Vec<Parked>,
    /// How many are to be parked, for now.
    target: usize,
    /// For how many connections there was none, since it was last looked.
    missed: u32,
    /// Whether the thread waits for one to be taken; else it looks by itself.
    idle: bool,
    /// Whether the template is to be replaced, and when it is.
    template: Due,
    /// Whether the program can't be parked, and whether it has been.
    unfit: bool,
    proven: bool,
    /// Whether it keeps what copies of it shouldn't share.
    careful: bool,
    /// When the next may be started, after something went wrong, and how long the pause was.
    pause: Option<(Instant, Duration)>,
    /// Until when the time is left to handlers that are started as ever.
    left_until: Option<Instant>,
    sources: Option<Arc<Sources>>,
}

/// When the template is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// As soon as possible: there is none.
    Now,
    /// When this one has become too old.
    At(Instant),
}

/// What the thread does next.
enum Task {
    Rest,
    End(Vec<Parked>),
    Start { age: u64, successor: Successor },
    Wait(Option<Duration>),
}

impl Pool {
    /// For handlers that are made by `plan` with these variables besides, each `NAME=VALUE`.
    /// Starts the thread, which starts nothing before [`Self::resume`].
    pub fn start(
        service: ServiceId,
        prestart: Prestart,
        plan: Arc<Plan>,
        variables: Vec<CString>,
        spawner: Spawner,
    ) -> Result<Arc<Self>, Error> {
        let failed = |errno| Error::start("nothing to keep a stock of handlers with", errno);
        let common = plan.variables().iter().cloned();
        let pool = Arc::new(Self {
            service,
            prestart,
            variables: common.chain(variables).collect(),
            plan,
            state: Mutex::new(State::new()),
            template: Mutex::new(None),
            rested: Condvar::new(),
            waker: Waker::new().map_err(failed)?,
            poller: Poller::new().map_err(failed)?,
            began: Instant::now(),
            looked: AtomicU64::new(0),
        });
        pool.poller
            .add(&pool.waker, Interest::Readable, WAKER)
            .map_err(failed)?;
        let keeper = Arc::clone(&pool);
        let name = CString::new("ahead").unwrap_or_default();
        Thread::start(name, 128 * 1024, move || keeper.keep(spawner)).map_err(failed)?;
        Ok(pool)
    }

    /// Begins to keep a stock.
    pub fn refill(&self) {
        self.state().wanted = true;
        self.waker.wake();
    }

    /// Ends and reaps all that stands ready, and starts nothing more until [`Self::resume`].
    ///
    /// What is about to be started when this is called is ended soon, and waited for; not for ever,
    /// should the kernel not let it go.
    pub fn retire(&self) {
        let mut state = self.state();
        state.wanted = false;
        state.rests = false;
        drop(state);
        self.renew();
        let state = self.state();
        let resting = self
            .rested
            .wait_timeout_while(state, RESTING, |state| !state.rests);
        drop(resting);
    }

    /// Has all that stands ready ended, and the same started anew, from what PROG is now.
    pub fn renew(&self) {
        // In this order, as everywhere.
        let mut template = lock(&self.template);
        self.state().renew(template.take());
        drop(template);
        self.waker.wake();
    }

    /// Gives a connection to one that stands ready, if one does.
    pub(super) fn hand_off(&self, connection: BorrowedFd<'_>) -> Option<Spawned> {
        if self.is_outdated() {
            self.renew();
            return None;
        }
        match self.prestart {
            Prestart::Warm(_) => self.give_to_one(connection),
            Prestart::ForkServer { .. } => self.give_to_copy(connection),
        }
    }

    /// Whether the program isn't what it was when it was started. Looked at once a second at most, by
    /// one thread: two system calls and some more for a script, and an atomic read
    /// for all other connections.
    fn is_outdated(&self) -> bool {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        if now.saturating_sub(looked) < LOOK.as_millis() as u64 {
            return false;
        }
        let next = self
            .looked
            .compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed);
        if next.is_err() {
            return false;
        }
        // Not looked at under the lock: a file may be far away.
        let sources = self.state().sources.clone();
        sources.is_some_and(|sources| !sources.are_unchanged())
    }

    fn give_to_one(&self, connection: BorrowedFd<'_>) -> Option<Spawned> {
        loop {
            // A lock that is held for a moment: all acceptors take from the same few.
            let mut state = self.state();
            let parked = state.parked.pop_front();
            state.missed = state.missed.saturating_add(u32::from(parked.is_none()));
            // One system call where the thread has nothing to do, and none under load.
            let idle = std::mem::take(&mut state.idle);
            drop(state);
            if idle {
                self.waker.wake();
            }
            let parked = parked?;
            // It is another's pidfd from now on.
            let _ = self.poller.remove(parked.pidfd());
            match parked.give(connection) {
                Ok(pid) => {
                    return Some(Spawned {
                        pid,
                        pidfd: Some(parked.into_pidfd()),
                    });
                }
                Err(Refusal::Lost) => self.discard(parked),
                Err(Refusal::Short | Refusal::Silent) => {
                    // What keeps one from answering may well keep others; the client has waited enough.
                    self.discard(parked);
                    return None;
                }
            }
        }
    }

    fn give_to_copy(&self, connection: BorrowedFd<'_>) -> Option<Spawned> {
        let mut template = lock(&self.template);
        let inherited = template.as_ref()?.give(connection);
        match inherited {
            Ok(pid) => {
                drop(template);
                Some(Spawned {
                    pid,
                    // It can't have been reaped: only its handler's entry has that done.
                    pidfd: process::open_pidfd(pid).ok(),
                })
            }
            Err(Refusal::Short) => None,
            Err(Refusal::Lost | Refusal::Silent) => {
                let lost = template.take();
                self.state().template = Due::Now;
                drop(template);
                lost.into_iter().for_each(|lost| self.discard(lost));
                None
            }
        }
    }

    fn discard(&self, parked: Parked) {
        let mut state = self.state();
        state.discarded.push(parked);
        state.put_off();
        drop(state);
        self.waker.wake();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn most(&self) -> usize {
        match self.prestart {
            Prestart::Warm(most) => most.get(),
            Prestart::ForkServer { .. } => 1,
        }
    }
}

/// The thread's part.
impl Pool {
    fn keep(&self, mut spawner: Spawner) {
        let steps = self.plan.steps_if_traced();
        let mut environment = self.plan.environment();
        environment.rebase(&self.variables);
        loop {
            match self.next_task() {
                Task::Rest => {
                    self.state().rests = true;
                    self.rested.notify_all();
                    self.wait(None);
                }
                Task::End(discarded) => {
                    for parked in discarded {
                        // Before it is closed; fails for one that isn't watched any more.
                        let _ = self.poller.remove(parked.pidfd());
                        parked.end();
                    }
                }
                Task::Start { age, successor } => {
                    let start = Start {
                        plan: &self.plan,
                        steps: &steps,
                        successor,
                    };
                    self.start_one(&start, &mut spawner, &mut environment, age);
                }
                Task::Wait(limit) => self.wait(limit),
            }
        }
    }

    fn next_task(&self) -> Task {
        let mut state = self.state();
        if !state.discarded.is_empty() {
            return Task::End(std::mem::take(&mut state.discarded));
        }
        if !state.wanted {
            return Task::Rest;
        }
        let now = Instant::now();
        state.idle = false;
        if state.unfit {
            return Task::Wait(None);
        }
        if let Prestart::Warm(most) = self.prestart
            && std::mem::take(&mut state.missed) > 0
            && state.target < most.get()
        {
            state.target = (state.target * 2).min(most.get());
        }
        let due = match self.prestart {
            Prestart::Warm(_) if state.parked.len() < state.target.min(self.most()) => Some(now),
            Prestart::Warm(_) => None,
            Prestart::ForkServer { .. } => match state.template {
                Due::Now => Some(now),
                Due::At(time) => Some(time),
            },
        };
        let paused = state.pause.map(|(until, _)| until);
        let after = paused.into_iter().chain(state.left_until).max();
        match due.map(|due| after.map_or(due, |after| due.max(after))) {
            None => {
                state.idle = true;
                Task::Wait(None)
            }
            Some(due) if due > now => Task::Wait(Some(due - now)),
            Some(_) => Task::Start {
                age: state.age,
                successor: match self.prestart {
                    Prestart::Warm(_) => Successor::Itself,
                    Prestart::ForkServer { .. } if state.careful => Successor::CarefulCopies,
                    Prestart::ForkServer { .. } => Successor::Copies,
                },
            },
        }
    }

    /// Waits until something is to be done.
    fn wait(&self, limit: Option<Duration>) {
        let mut room = no_events();
        let Ok(events) = self.poller.wait(&mut room, limit) else {
            // Nothing that a descriptor in order can say; don't spin on it.
            std::thread::sleep(SHORTEST_PAUSE);
            return;
        };
        for event in events {
            match i32::try_from(event) {
                Ok(0) | Err(_) => self.waker.clear(),
                Ok(pid) => self.bury(Pid::from_raw(pid)),
            }
        }
    }

    /// One that stood ready has ended without a client.
    fn bury(&self, pid: Pid) {
        let mut template = lock(&self.template);
        let mut state = self.state();
        let at = state.parked.iter().position(|parked| parked.pid() == pid);
        let ended = match at {
            Some(at) => state.parked.remove(at),
            None => template.take_if(|parked| parked.pid() == pid),
        };
        let Some(ended) = ended else {
            return;
        };
        if template.is_none() {
            state.template = Due::Now;
        }
        state.discarded.push(ended);
        let pause = state.put_off();
        drop((state, template));
        report::event(Event::Trouble(Trouble::PrestartedEnded {
            service: self.service,
            program: self.plan.name(),
            pid: pid.as_raw(),
            pause,
        }));
    }

    fn start_one(
        &self,
        start: &Start<'_>,
        spawner: &mut Spawner,
        environment: &mut Environment,
        age: u64,
    ) {
        let began = Instant::now();
        // Before it is read by whoever runs it.
        let sources = Arc::new(Sources::of(&self.plan));
        let wanted = || {
            let state = self.state();
            state.wanted && state.age == age
        };
        match start.park(spawner, environment, wanted) {
            Ok(parked) => self.enter(parked, sources, age),
            Err(Failure::Unwanted) => {}
            Err(Failure::Careless) => self.state().careful = true,
            Err(Failure::Short(why)) => self.put_off(&why),
            Err(Failure::Unfit(why)) if self.state().proven => {
                // What it depends on has changed, and may change again. A template from better times
                // mustn't serve for ever.
                let mut template = lock(&self.template);
                self.state().discarded.extend(template.take());
                drop(template);
                self.put_off(&why);
            }
            Err(Failure::Unfit(why)) => {
                let mut state = self.state();
                state.unfit = state.age == age;
                state.sources = Some(sources);
                drop(state);
                report::event(Event::Trouble(Trouble::NotPrestartable {
                    service: self.service,
                    program: self.plan.name(),
                    why: &why,
                }));
            }
        }
        self.leave_time(began.elapsed());
    }

    fn put_off(&self, why: &str) {
        let pause = self.state().put_off();
        report::event(Event::Trouble(Trouble::NotPrestarted {
            service: self.service,
            program: self.plan.name(),
            why,
            pause,
        }));
    }

    fn enter(&self, parked: Parked, sources: Arc<Sources>, age: u64) {
        let pid = parked.pid();
        let mut template = lock(&self.template);
        let mut state = self.state();
        let key = u64::try_from(pid.as_raw()).unwrap_or_default();
        let watched = self.poller.add(parked.pidfd(), Interest::Readable, key);
        if state.age != age || !state.wanted || watched.is_err() {
            if let Err(errno) = watched {
                self.say_unwatched(errno);
                state.put_off();
            }
            state.discarded.push(parked);
            return;
        }
        (state.sources, state.proven) = (Some(sources), true);
        match self.prestart {
            Prestart::Warm(_) => state.parked.push_back(parked),
            Prestart::ForkServer { max_age } => {
                let end = Instant::now().checked_add(max_age.into());
                state.template = end.map_or(Due::Now, Due::At);
                state.discarded.extend(template.replace(parked));
            }
        }
        drop((state, template));
        report::event(Event::Ready(self.service, self.plan.name(), pid.as_raw()));
    }

    fn say_unwatched(&self, errno: Errno) {
        report::event(Event::Trouble(Trouble::NotWatched {
            service: Some(self.service),
            what: Watched::Process,
            errno,
        }));
    }

    /// Where clients come faster than programs can be started ahead of them, the time is left to
    /// handlers that are started as ever, whose clients are there: one that is followed on its way
    /// costs half as much again. One client who found none is no reason: with a pause after each such,
    /// those who come one by one might never find any.
    fn leave_time(&self, taken: Duration) {
        let mut state = self.state();
        let more = state.missed.saturating_sub(1).min(MOST_LEFT);
        if more > 0 {
            state.left_until = Some(Instant::now() + (taken * more).min(LOOK));
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            wanted: false,
            rests: true,
            age: 0,
            parked: VecDeque::new(),
            discarded: Vec::new(),
            target: FIRST,
            missed: 0,
            idle: false,
            template: Due::Now,
            unfit: false,
            proven: false,
            careful: false,
            pause: None,
            left_until: None,
            sources: None,
        }
    }

    fn renew(&mut self, template: Option<Parked>) {
        self.age += 1;
        self.discarded.extend(self.parked.drain(..).chain(template));
        self.template = Due::Now;
        (self.unfit, self.proven, self.careful) = (false, false, false);
        (self.pause, self.left_until, self.sources) = (None, None, None);
    }

    /// Puts the next start off, something having gone wrong; says for how long.
    fn put_off(&mut self) -> Duration {
        let now = Instant::now();
        // Several at a time are one mishap.
        if let Some((until, pause)) = self.pause
            && now < until
        {
            return pause;
        }
        // What went well for long enough since is forgotten.
        let recent = self
            .pause
            .filter(|(until, pause)| now < *until + *pause * 2);
        let last = recent.map_or(Duration::ZERO, |(_, pause)| pause);
        let pause = (last * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.pause = Some((now + pause, pause));
        pause
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
