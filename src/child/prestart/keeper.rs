//! The thread that keeps the pool filled.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::failure::Failure;
use super::kinds::Kinds;
use super::park::{End, Start};
use super::parked::Parked;
use super::pool::Pool;
use super::program_files::Sources;
use super::state::{Due, SHORTEST_PAUSE};
use crate::child::cgroups::Cgroups;
use crate::child::jail::Jail;
use crate::child::plan::Plan;
use crate::child::spawn::Spawner;
use crate::config::{Prestart, ServiceId};
use crate::error::Error;
use crate::report::{self, Event, Trouble, Watched};
use crate::sys::environment::Environment;
use crate::sys::events::{Interest, Poller, Waker, no_events};
use crate::sys::sync::{Instant, thread};
use crate::sys::thread::Thread;

/// The longest pause in favour of other handlers, and how many times as long as a start it is at
/// most.
const MOST_LEFT: (Duration, u32) = (Duration::from_secs(1), 8);

/// The key of the waker; that of a process is its id.
const WAKER: u64 = 0;

/// What the keeper does next.
enum Task {
    End(Vec<Parked>),
    Start { age: u64, without: Kinds },
    Wait(Option<Duration>),
}

impl Pool {
    /// Makes a pool of handlers that `plan` starts, in its sandbox if it has one, with these variables
    /// besides, each `NAME=VALUE`, and its thread, which starts nothing before [`Self::refill`].
    pub fn start(
        service: ServiceId,
        prestart: Prestart,
        (plan, jail, cgroups): (Arc<Plan>, Option<Arc<Jail>>, Option<Arc<Cgroups>>),
        variables: Vec<CString>,
        spawner: Spawner,
    ) -> Result<Arc<Self>, Error> {
        let failed = |errno| Error::start("no means for a pool of prestarted handlers", errno);
        let common = plan.variables().iter().cloned();
        let variables = common.chain(variables).collect();
        let waker = Waker::new().map_err(failed)?;
        let poller = Poller::new().map_err(failed)?;
        poller
            .add(&waker, Interest::Readable, WAKER)
            .map_err(failed)?;
        let pool = Arc::new(Self::new(
            service,
            prestart,
            (plan, jail, cgroups),
            variables,
            (waker, poller),
        ));
        let keeper = Arc::clone(&pool);
        let name = CString::new("prestart").unwrap_or_default();
        Thread::start(name, 128 * 1024, move || keeper.keep(spawner)).map_err(failed)?;
        Ok(pool)
    }

    fn keep(&self, mut spawner: Spawner) {
        let steps = self.plan.steps_if_traced();
        let mut environment = self.plan.environment();
        environment.rebase(&self.variables);
        loop {
            match self.next_task() {
                Task::End(discarded) => {
                    for parked in discarded {
                        // Before it is closed; fails for a process that isn't watched any more.
                        let _ = self.poller.remove(parked.pidfd());
                        parked.end();
                    }
                }
                Task::Start { age, without } => {
                    let start = Start {
                        plan: &self.plan,
                        jail: self.jail.as_deref(),
                        cgroups: self.cgroups.as_ref(),
                        steps: &steps,
                        successor: self.prestart.into(),
                        without,
                    };
                    self.start_one(&start, &mut spawner, &mut environment, age);
                }
                Task::Wait(limit) => self.wait(limit),
            }
        }
    }

    fn next_task(&self) -> Task {
        let mut state = self.state();
        state.busy = !state.discarded.is_empty();
        if state.busy {
            return Task::End(std::mem::take(&mut state.discarded));
        }
        if !state.wanted {
            // Under the lock that this was seen under.
            state.rests = true;
            self.rested.notify_all();
            return Task::Wait(None);
        }
        let now = Instant::now();
        state.idle = false;
        if state.unfit {
            return Task::Wait(None);
        }
        if let Prestart::Warm(most) = self.prestart {
            if std::mem::take(&mut state.missed) > 0 {
                state.target = (state.target * 2).min(most.get());
            }
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
            Some(_) => {
                state.busy = true;
                Task::Start {
                    age: state.age,
                    without: state.keeps,
                }
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self, limit: Option<Duration>) {
        let mut buffer = no_events();
        let Ok(events) = self.poller.wait(&mut buffer, limit) else {
            // A poller in order doesn't fail; don't spin if it does.
            thread::sleep(SHORTEST_PAUSE);
            return;
        };
        for event in events {
            match i32::try_from(event) {
                Ok(0) | Err(_) => self.waker.clear(),
                Ok(pid) => self.bury(Pid::from_raw(pid)),
            }
        }
    }

    /// Discards a prestarted handler that has ended without a client.
    fn bury(&self, pid: Pid) {
        let mut template = self.template();
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
        let pause = state.postpone();
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
        // Before the kernel reads them.
        let sources = Arc::new(Sources::of(&self.plan));
        let wanted = || {
            let state = self.state();
            state.wanted && state.age == age
        };
        match start.park(spawner, environment, wanted) {
            Ok((parked, end)) => self.enter(parked, sources, age, &end),
            Err(Failure::Unwanted) => {}
            Err(Failure::Careless(kinds)) => {
                let mut state = self.state();
                if state.age == age {
                    state.keeps = state.keeps.and(kinds);
                }
            }
            Err(Failure::Short(why)) => self.postpone(&why),
            Err(Failure::Unfit(why)) if self.state().proven => {
                // What it depends on has changed, and may change again. A template from before
                // mustn't serve for ever.
                let mut template = self.template();
                self.state().discarded.extend(template.take());
                drop(template);
                self.postpone(&why);
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

    fn postpone(&self, why: &str) {
        let pause = self.state().postpone();
        report::event(Event::Trouble(Trouble::NotPrestarted {
            service: self.service,
            program: self.plan.name(),
            why,
            pause,
        }));
    }

    fn enter(&self, parked: Parked, sources: Arc<Sources>, age: u64, end: &End) {
        let pid = parked.pid();
        let mut template = self.template();
        let mut state = self.state();
        let key = u64::try_from(pid.as_raw()).unwrap_or_default();
        let watched = self.poller.add(parked.pidfd(), Interest::Readable, key);
        if state.age != age || !state.wanted || watched.is_err() {
            if let Err(errno) = watched {
                self.report_unwatched(errno);
                state.postpone();
            }
            state.discarded.push(parked);
            return;
        }
        // The others were started from what PROG was before.
        let known = state.sources.as_ref();
        if known.is_some_and(|known| *known != sources) {
            state.renew(template.take());
        }
        let first = !state.proven;
        (state.sources, state.proven) = (Some(sources), true);
        let described = end.describe(self.plan.name());
        if state.parked_at.as_deref() != Some(described.at) {
            state.parked_at = Some(described.at.to_owned());
        }
        match self.prestart {
            Prestart::Warm(_) => state.parked.push_back(parked),
            Prestart::ForkServer { max_age, .. } => {
                let max_age = Duration::from(max_age);
                let life = if end.for_now {
                    let life = state.short_life;
                    state.short_life = life.saturating_mul(2);
                    life.min(max_age)
                } else {
                    max_age
                };
                let due = Instant::now().checked_add(life);
                state.template = due.map_or(Due::Now, Due::At);
                state.discarded.extend(template.replace(parked));
            }
        }
        drop((state, template));
        if first {
            report::event(Event::Parked(self.service, described));
        }
        report::event(Event::Ready(self.service, self.plan.name(), pid.as_raw()));
    }

    /// Leaves CPU time to other handlers, where clients come faster than programs can be
    /// prestarted.
    ///
    /// Those are started for clients that wait, and a start that is traced costs about twice as
    /// much. A single client that found none is no reason: with a pause after each, clients that
    /// come one by one might never find any.
    fn leave_time(&self, taken: Duration) {
        let (longest, most) = MOST_LEFT;
        let mut state = self.state();
        let more = state.missed.saturating_sub(1).min(most);
        if more > 0 {
            state.left_until = Some(Instant::now() + (taken * more).min(longest));
        }
    }

    pub(super) fn report_unwatched(&self, errno: Errno) {
        report::event(Event::Trouble(Trouble::NotWatched {
            service: Some(self.service),
            what: Watched::Process,
            errno,
        }));
    }
}
