//! The pool: the parked processes of a service, and what the rest of skd asks of it.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Pid;
use skd_control::PoolStatus;

use super::parked::Parked;
use super::state::State;
use crate::child::cgroups::Cgroups;
use crate::child::jail::Jail;
use crate::child::plan::Plan;
use crate::config::{Prestart, ServiceId};
use crate::sys::events::{Poller, Waker};
use crate::sys::sync::atomic::{AtomicU32, AtomicU64};
use crate::sys::sync::{Condvar, Instant, Mutex, MutexGuard, PoisonError, TryLockError};

/// How often at most the program's files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// How long [`Pool::retire`] and [`Pool::suspend`] wait for the keeper.
const RESTING: Duration = Duration::from_secs(5);

/// The prestarted handlers of a service. A thread, the keeper, sees to them.
#[derive(Debug)]
pub struct Pool {
    pub(super) service: ServiceId,
    pub(super) prestart: Prestart,
    pub(super) plan: Arc<Plan>,
    /// The sandbox of all of them, if there is one.
    pub(super) jail: Option<Arc<Jail>>,
    /// The control groups of handlers, if they have some.
    pub(super) cgroups: Option<Arc<Cgroups>>,
    /// What all of them have in their environment.
    pub(super) variables: Arc<[CString]>,
    state: Mutex<State>,
    /// The processes that the fork server copies: a slot for each thread that asks for copies, of
    /// which only the first ones are filled, as many as load asks for. Each answers one request after
    /// the other: a worker locks it until it has the answer. Copies of one process can't be made in
    /// parallel anyway.
    ///
    /// They are locked in this order, and before the state. A thread that has locked the state may
    /// only try to lock one.
    templates: Box<[Mutex<Option<Parked>>]>,
    /// How many connections found all templates at work, in the present span of [`LOOK`].
    pub(super) crowd: AtomicU32,
    /// Notified when the keeper rests.
    pub(super) rested: Condvar,
    pub(super) waker: Waker,
    pub(super) poller: Poller,
    pub(super) began: Instant,
    /// When the sources are looked at again, in milliseconds since then.
    pub(super) look_at: AtomicU64,
}

impl Pool {
    /// An empty pool.
    pub(super) fn new(
        service: ServiceId,
        prestart: Prestart,
        (plan, jail, cgroups): (Arc<Plan>, Option<Arc<Jail>>, Option<Arc<Cgroups>>),
        variables: Arc<[CString]>,
        (waker, poller): (Waker, Poller),
        workers: usize,
    ) -> Self {
        let templates = match prestart {
            Prestart::Warm(_) => 0,
            Prestart::ForkServer { .. } => workers,
        };
        Self {
            service,
            prestart,
            plan,
            jail,
            cgroups,
            variables,
            state: Mutex::new(State::new()),
            templates: (0..templates).map(|_| Mutex::new(None)).collect(),
            crowd: AtomicU32::new(0),
            rested: Condvar::new(),
            waker,
            poller,
            began: Instant::now(),
            look_at: AtomicU64::new(milliseconds(LOOK)),
        }
    }

    /// Fills the pool, from now on.
    pub fn refill(&self) {
        self.state().wanted = true;
        self.waker.wake();
    }

    /// Ends and reaps all prestarted handlers, and starts no more until [`Self::refill`].
    pub fn retire(&self) {
        let mut templates = self.templates();
        let mut state = self.state();
        // In one step: the keeper rests when nothing is wanted and nothing is left to be ended.
        state.pause_starts();
        state.renew(take_all(&mut templates));
        drop((state, templates));
        self.wait_for_rest();
    }

    /// Starts no more until [`Self::refill`]. Prestarted handlers stay as they are, but of the
    /// templates only one, which alone is saved.
    pub fn suspend(&self) {
        let mut templates = self.templates();
        let mut state = self.state();
        state.pause_starts();
        if let Some(slot) = templates.iter().position(|it| it.is_some()) {
            *templates[0] = templates[slot].take();
            state.templates.swap(0, slot);
        }
        state.keep_templates(1, &mut templates);
        drop((state, templates));
        self.wait_for_rest();
    }

    /// Waits until the keeper has no process in hand. A start that is under way is ended soon, and
    /// waited for; with a limit, for the kernel may not let the process go.
    fn wait_for_rest(&self) {
        self.waker.wake();
        let state = self.state();
        let resting = self
            .rested
            .wait_timeout_while(state, RESTING, |state| !state.rests);
        drop(resting);
    }

    /// Ends all prestarted handlers, and starts others from what PROG is now.
    pub fn renew(&self) {
        let mut templates = self.templates();
        self.state().renew(take_all(&mut templates));
        drop(templates);
        self.waker.wake();
    }

    /// Has the keeper end one after a failure, and returns how long nothing is started.
    pub(super) fn discard(&self, parked: Parked) -> Duration {
        let mut state = self.state();
        state.discarded.push(parked);
        let pause = state.postpone();
        drop(state);
        self.waker.wake();
        pause
    }

    /// Whether a child of this process may be one of the pool's, and not a handler yet. This doesn't
    /// wait: while the keeper or a template is at work, any may be.
    pub fn may_have(&self, pid: Pid) -> bool {
        // First, so that the keeper moves none meanwhile.
        let state = self.state();
        let is_template = |slot| match self.try_template(slot) {
            Some(template) => template.as_ref().is_some_and(|it| it.pid() == pid),
            None => true,
        };
        let mut parked = state.parked.iter().chain(&state.discarded);
        state.busy
            || parked.any(|parked| parked.pid() == pid)
            || (0..self.templates.len()).any(is_template)
    }

    /// Returns how things are. This waits for no hand-off.
    pub fn status(&self) -> PoolStatus {
        // A locked template is just being copied, or replaced.
        let is_there = |slot: &usize| self.try_template(*slot).is_none_or(|it| it.is_some());
        let templates = (0..self.templates.len()).filter(is_there).count();
        let state = self.state();
        let (mode, idle) = match self.prestart {
            Prestart::Warm(_) => ("warm", state.parked.len()),
            Prestart::ForkServer { .. } => ("fork-server", templates),
        };
        PoolStatus {
            mode: mode.into(),
            idle: idle as u64,
            limit: self.most() as u64,
            parked_at: state.parked_at.clone(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// All templates.
    pub(super) fn templates(&self) -> Vec<MutexGuard<'_, Option<Parked>>> {
        self.templates.iter().map(lock).collect()
    }

    /// The template in this slot, or `None` while it is at work. Returns `None` too if there is no
    /// such slot.
    pub(super) fn try_template(&self, slot: usize) -> Option<MutexGuard<'_, Option<Parked>>> {
        match self.templates.get(slot)?.try_lock() {
            Ok(template) => Some(template),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits for the template in this slot.
    pub(super) fn template(&self, slot: usize) -> Option<MutexGuard<'_, Option<Parked>>> {
        self.templates.get(slot).map(lock)
    }

    /// How many are parked at most.
    pub(super) fn most(&self) -> usize {
        match self.prestart {
            Prestart::Warm(most) => most.get(),
            Prestart::ForkServer { .. } => self.templates.len(),
        }
    }
}

/// Takes all templates.
pub(super) fn take_all(templates: &mut [MutexGuard<'_, Option<Parked>>]) -> Vec<Parked> {
    templates.iter_mut().filter_map(|it| it.take()).collect()
}

/// A time in milliseconds.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
