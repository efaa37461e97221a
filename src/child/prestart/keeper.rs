//! The thread that keeps the pool filled.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::failure::Failure;
use super::hand_off::CROWD;
use super::kinds::Kinds;
use super::park::{End, Start};
use super::parked::Parked;
use super::pool::{Pool, milliseconds, take_all};
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

/// The time after which templates are ended that have had no client.
const UNUSED: Duration = Duration::from_secs(5);

/// The key of the waker; that of a process is its id.
const WAKER: u64 = 0;

/// What the keeper does next.
enum Task {
    End(Vec<Parked>),
    Start(Birth),
    Wait(Option<Duration>),
}

/// A process that the keeper starts.
#[derive(Clone, Copy)]
struct Birth {
    /// The age of the pool.
    age: u64,
    without: Kinds,
    /// Which template it becomes, if handlers are copies.
    slot: usize,
}

impl Pool {
    /// Makes a pool of handlers that `plan` starts, in its sandbox if it has one, with these variables
    /// besides, each `NAME=VALUE`, and its thread, which starts nothing before [`Self::refill`].
    /// `workers` is how many threads hand connections to it.
    pub fn start(
        service: ServiceId,
        prestart: Prestart,
        (plan, jail, cgroups): (Arc<Plan>, Option<Arc<Jail>>, Option<Arc<Cgroups>>),
        variables: Vec<CString>,
        spawner: Spawner,
        workers: usize,
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
            workers,
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
            self.fit_templates();
            match self.next_task() {
                Task::End(discarded) => {
                    for parked in discarded {
                        // Before it is closed; fails for a process that isn't watched any more.
                        let _ = self.poller.remove(parked.pidfd());
                        parked.end();
                    }
                }
                Task::Start(birth) => {
                    let start = Start {
                        plan: &self.plan,
                        jail: self.jail.as_deref(),
                        cgroups: self.cgroups.as_ref(),
                        steps: &steps,
                        successor: self.prestart.into(),
                        without: birth.without,
                    };
                    self.start_one(&start, &mut spawner, &mut environment, birth);
                }
                Task::Wait(limit) => self.wait(limit),
            }
        }
    }

    /// Has another template made if load asks for it, and ends those that have had no client for a
    /// while. Clients go to the first ones, so those are the last ones.
    fn fit_templates(&self) {
        let mut state = self.state();
        let now = Instant::now();
        let this_span = milliseconds(self.began.elapsed()) < self.look_at.load(Ordering::Relaxed);
        let crowded = this_span && self.crowd.load(Ordering::Relaxed) >= CROWD;
        // Where the first can't be made, others can't either.
        if crowded && state.proven && state.templates.len() < self.most() {
            self.crowd.store(0, Ordering::Relaxed);
            state.templates.push(Due::Now);
            state.look_at_use = Some(now + UNUSED);
            return;
        }
        if state.look_at_use.is_none_or(|time| now < time) {
            return;
        }
        let mut count = 1;
        for slot in 0..state.templates.len() {
            // A locked template is at work.
            let template = self.try_template(slot);
            if template.is_none_or(|it| it.as_ref().is_some_and(Parked::take_used)) {
                count = slot + 1;
            }
        }
        while state.templates.len() > count {
            let Some(mut template) = self.try_template(state.templates.len() - 1) else {
                break;
            };
            state.discarded.extend(template.take());
            state.templates.pop();
        }
        state.look_at_use = (state.templates.len() > 1).then(|| now + UNUSED);
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
        let (due, slot) = match self.prestart {
            Prestart::Warm(_) if state.parked.len() < state.target.min(self.most()) => {
                (Some(now), 0)
            }
            Prestart::Warm(_) => (None, 0),
            Prestart::ForkServer { .. } => {
                let first = state.templates.iter().zip(0..).min();
                first.map_or((None, 0), |(due, slot)| match due {
                    Due::Now => (Some(now), slot),
                    Due::At(time) => (Some(*time), slot),
                })
            }
        };
        let paused = state.pause.map(|(until, _)| until);
        let after = paused.into_iter().chain(state.left_until).max();
        match due.map(|due| after.map_or(due, |after| due.max(after))) {
            None => {
                state.idle = true;
                Task::Wait(None)
            }
            Some(due) if due > now => {
                let until = state.look_at_use.map_or(due, |time| due.min(time));
                Task::Wait(Some(until - now))
            }
            Some(_) => {
                state.busy = true;
                Task::Start(Birth {
                    age: state.age,
                    without: state.keeps,
                    slot,
                })
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
        let mut templates = self.templates();
        let mut state = self.state();
        let at = state.parked.iter().position(|parked| parked.pid() == pid);
        let ended = match at {
            Some(at) => state.parked.remove(at),
            None => templates.iter_mut().zip(0..).find_map(|(it, slot)| {
                let ended = it.take_if(|parked| parked.pid() == pid)?;
                state.set_due(slot, Due::Now);
                Some(ended)
            }),
        };
        let Some(ended) = ended else {
            return;
        };
        state.discarded.push(ended);
        let pause = state.postpone();
        drop((state, templates));
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
        birth: Birth,
    ) {
        let Birth { age, slot, .. } = birth;
        let began = Instant::now();
        // Before the kernel reads them.
        let sources = Arc::new(Sources::of(&self.plan));
        let wanted = || {
            let state = self.state();
            state.wanted && state.age == age
        };
        match start.park(spawner, environment, wanted) {
            Ok((parked, end)) => self.enter(parked, sources, birth, &end),
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
                // mustn't serve for ever. If it was to be one more, the others go on.
                let mut templates = self.templates();
                self.state().keep_templates(slot, &mut templates);
                drop(templates);
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

    fn enter(&self, parked: Parked, sources: Arc<Sources>, birth: Birth, end: &End) {
        let pid = parked.pid();
        let mut templates = self.templates();
        let mut state = self.state();
        let key = u64::try_from(pid.as_raw()).unwrap_or_default();
        let watched = self.poller.add(parked.pidfd(), Interest::Readable, key);
        if state.age != birth.age || !state.wanted || watched.is_err() {
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
            state.renew(take_all(&mut templates));
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
                    if birth.slot == 0 {
                        state.short_life = life.saturating_mul(2);
                    }
                    life.min(max_age)
                } else {
                    max_age
                };
                let due = Instant::now().checked_add(life);
                // After a renewal there is only the first.
                let slot = birth.slot.min(state.templates.len().saturating_sub(1));
                state.set_due(slot, due.map_or(Due::Now, Due::At));
                // What is new has its time to be used.
                if templates[slot].as_ref().is_none_or(Parked::take_used) {
                    parked.set_used();
                }
                // The connections of before have seen one less.
                self.crowd.store(0, Ordering::Relaxed);
                state.discarded.extend(templates[slot].replace(parked));
            }
        }
        drop((state, templates));
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
