//! Prestarted handlers in the state of an upgrade.
//!
//! They stay children of the process that becomes the next binary, and wait on their control
//! sockets, which stay open. The next binary takes them over if it would make the same ones, and
//! ends them if not.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::kinds::Kinds;
use super::parked::Parked;
use super::pool::{Pool, milliseconds};
use super::program_files::Sources;
use super::state::Due;
use crate::config::Prestart;
use crate::sys::descriptors::SavedDescriptors;
use crate::sys::events::Interest;
use crate::sys::process;
use crate::sys::sync::Instant;

/// How long a pause may be, in milliseconds: longer than any, and short enough to reckon with.
const LONGEST_PAUSE: u64 = 60_000;

/// A pool of prestarted handlers, and what is known of its program. Times are in milliseconds from
/// now.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPool {
    /// What distinguishes them from others.
    key: u64,
    parked: Vec<SavedParked>,
    template: Option<SavedParked>,
    /// When the template is to be replaced.
    due: Option<u64>,
    target: usize,
    unfit: bool,
    proven: bool,
    #[serde(default)]
    parked_at: Option<String>,
    /// The bits of a set of kinds.
    keeps: u8,
    short_life: u64,
    /// How long nothing is started after a failure, and how long that pause is altogether.
    pause: Option<(u64, u64)>,
    /// How long nothing is started, so that other handlers have the CPU time.
    left: Option<u64>,
    sources: Option<Sources>,
}

/// A prestarted handler. It is a child that hasn't been reaped, so that its id is its own.
#[derive(Debug, Serialize, Deserialize)]
struct SavedParked {
    pid: i32,
    control: i32,
    /// The kernel's note of its copies, and the last that was answered.
    copies: Option<(i32, i32)>,
}

impl SavedPool {
    /// Ends all: there is no such pool any more. They are reaped as other children that are no
    /// handlers.
    pub fn end(self) {
        let all = self.parked.iter().chain(&self.template);
        all.for_each(SavedParked::kill);
    }
}

impl SavedParked {
    fn save(parked: &Parked, to: &mut SavedDescriptors) -> Result<Self, Errno> {
        let (pid, control, copies) = parked.parts();
        let copies = copies.map(|(note, last)| Ok((to.pass(note)?, last)));
        Ok(Self {
            pid: pid.as_raw(),
            copies: copies.transpose()?,
            control: to.pass(control)?,
        })
    }

    fn kill(&self) {
        if self.pid > 0 {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Takes it over with descriptors of these numbers, or ends it.
    fn restore(self, take: &mut impl FnMut(i32) -> Option<OwnedFd>) -> Option<Parked> {
        let mut restore = || {
            let control = take(self.control)?;
            let copies = match self.copies {
                Some((note, last)) => Some((File::from(take(note)?), last)),
                None => None,
            };
            let pid = Pid::from_raw(self.pid);
            let pidfd = process::open_pidfd(pid).ok()?;
            Some(Parked::restored(pid, pidfd, control, copies))
        };
        let restored = restore();
        if restored.is_none() {
            self.kill();
        }
        restored
    }
}

impl Pool {
    /// How many descriptors prestarted handlers have, at most. This doesn't wait for a template.
    pub fn count_descriptors(&self) -> usize {
        match self.prestart {
            Prestart::Warm(_) => 2 * self.state().parked.len(),
            Prestart::ForkServer { .. } => 3,
        }
    }

    /// Saves the prestarted handlers, after [`Self::suspend`].
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedPool, Errno> {
        // The only one, after that.
        let template = self.template(0);
        let state = self.state();
        let now = Instant::now();
        let from_now = |time: Instant| milliseconds(time.saturating_duration_since(now));
        let mut save = |parked| SavedParked::save(parked, to);
        let parked = state
            .parked
            .iter()
            .map(&mut save)
            .collect::<Result<_, _>>()?;
        let template = template.as_ref().and_then(|it| it.as_ref());
        let template = template.map(&mut save);
        Ok(SavedPool {
            key: self.key(),
            parked,
            template: template.transpose()?,
            due: match state.templates.first() {
                Some(Due::At(time)) => Some(from_now(*time)),
                Some(Due::Now) | None => None,
            },
            target: state.target,
            unfit: state.unfit,
            proven: state.proven,
            parked_at: state.parked_at.clone(),
            keeps: state.keeps.bits(),
            short_life: milliseconds(state.short_life),
            pause: state
                .pause
                .map(|(until, pause)| (from_now(until), milliseconds(pause))),
            left: state.left_until.map(from_now),
            sources: state.sources.as_deref().cloned(),
        })
    }

    /// Takes over what an earlier binary of this process has left, before the first
    /// [`Self::refill`]. `take` takes out a descriptor with this number.
    ///
    /// Others than this pool would have are ended. Whether files have changed is looked at when the
    /// first client comes.
    pub fn restore(&self, saved: SavedPool, mut take: impl FnMut(i32) -> Option<OwnedFd>) {
        if self.cgroups.is_some() {
            // In which groups they are isn't saved, since others take a moment to start.
            return saved.end();
        }
        let fits = saved.key == self.key();
        let parked: Vec<_> = saved
            .parked
            .into_iter()
            .filter_map(|parked| parked.restore(&mut take))
            .collect();
        let restored = saved.template.and_then(|parked| parked.restore(&mut take));
        let mut template = self.template(0);
        let mut state = self.state();
        if !fits {
            state.discarded.extend(parked.into_iter().chain(restored));
            return;
        }
        let now = Instant::now();
        let short = |time: u64| Duration::from_millis(time.min(LONGEST_PAUSE));
        for parked in parked.into_iter().chain(restored) {
            let key = u64::try_from(parked.pid().as_raw()).unwrap_or_default();
            if let Err(errno) = self.poller.add(parked.pidfd(), Interest::Readable, key) {
                self.report_unwatched(errno);
                state.discarded.push(parked);
            } else if let (true, Some(template)) = (parked.makes_copies(), &mut template) {
                state.discarded.extend(template.replace(parked));
            } else {
                state.parked.push_back(parked);
            }
        }
        let is_there = template.is_some_and(|it| it.is_some());
        let due = saved.due.filter(|_| is_there);
        let due = due.and_then(|due| now.checked_add(Duration::from_millis(due)));
        state.set_due(0, due.map_or(Due::Now, Due::At));
        state.target = saved
            .target
            .clamp(state.target, self.most().max(state.target));
        (state.unfit, state.proven) = (saved.unfit, saved.proven);
        state.parked_at = saved.parked_at;
        state.keeps = Kinds::of_bits(saved.keeps);
        state.short_life = Duration::from_millis(saved.short_life).max(state.short_life);
        state.pause = saved
            .pause
            .map(|(until, pause)| (now + short(until), short(pause)));
        state.left_until = saved.left.map(|left| now + short(left));
        state.sources = saved.sources.map(Arc::new);
        self.look_at.store(0, Ordering::Relaxed);
    }

    /// What distinguishes the prestarted handlers of this pool from those that another skd, or one
    /// with another configuration, would make. The same binary has the same number for the same.
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        // Another version may park a program elsewhere, and plants other code.
        env!("SKD_VERSION").hash(&mut hasher);
        format!("{:?}", self.prestart).hash(&mut hasher);
        self.plan.identify(&mut hasher);
        self.variables.hash(&mut hasher);
        hasher.finish()
    }
}
