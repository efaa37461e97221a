//! What a pool holds at the moment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::kinds::Kinds;
use super::parked::Parked;
use super::program_files::Sources;
use crate::sys::sync::{Instant, MutexGuard};

/// How many are parked at first, if more may be. Whenever the pool was empty, the number is
/// doubled.
const FIRST: usize = 4;

/// How long nothing is started after a failure. The pause is doubled each time, up to the longest.
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long the first template lives that another start may get further than.
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// The part of a pool that workers and the keeper share.
#[derive(Debug)]
pub(super) struct State {
    /// Whether the pool is to be filled.
    pub(super) wanted: bool,
    /// Whether the keeper is starting or ending processes, which are in none of the lists then.
    pub(super) busy: bool,
    /// Whether the keeper has no process, and starts none.
    pub(super) rests: bool,
    /// Grows with each renewal: what was begun before one is discarded.
    pub(super) age: u64,
    /// Those that serve one connection each, the oldest first.
    pub(super) parked: VecDeque<Parked>,
    /// Those that are to be ended.
    pub(super) discarded: Vec<Parked>,
    /// How many are to be parked, for now.
    pub(super) target: usize,
    /// How many connections found none, since the keeper last looked.
    pub(super) missed: u32,
    /// Whether the keeper waits until one is taken; otherwise it looks by itself.
    pub(super) idle: bool,
    /// When each of the templates that load asks for is to be made. There is always at least one.
    pub(super) templates: Vec<Due>,
    /// When several templates are looked at, whether the last ones are used.
    pub(super) look_at_use: Option<Instant>,
    /// Whether the program can't be parked.
    pub(super) unfit: bool,
    /// Whether it has been parked before.
    pub(super) proven: bool,
    /// The call that it is parked at.
    pub(super) parked_at: Option<String>,
    /// The kinds of what it was found to keep, and mustn't while it is parked.
    pub(super) keeps: Kinds,
    /// How long the next template lives, if another may get further than it did. Doubled each time.
    pub(super) short_life: Duration,
    /// When the next one may be started after a failure, and how long the pause was.
    pub(super) pause: Option<(Instant, Duration)>,
    /// Until when nothing is started, so that other handlers have the CPU time.
    pub(super) left_until: Option<Instant>,
    /// What the parked ones were made from.
    pub(super) sources: Option<Arc<Sources>>,
}

/// When a template is made. What is missing comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// As soon as possible: there is none.
    Now,
    /// When the present one is too old.
    At(Instant),
}

impl State {
    /// Nothing, and nothing wanted yet.
    pub(super) fn new() -> Self {
        Self {
            wanted: false,
            busy: false,
            rests: true,
            age: 0,
            parked: VecDeque::new(),
            discarded: Vec::new(),
            target: FIRST,
            missed: 0,
            idle: false,
            templates: vec![Due::Now],
            look_at_use: None,
            unfit: false,
            proven: false,
            parked_at: None,
            keeps: Kinds::NONE,
            short_life: SHORT_LIFE,
            pause: None,
            left_until: None,
            sources: None,
        }
    }

    /// Nothing more is wanted: the keeper is to rest.
    pub(super) fn pause_starts(&mut self) {
        (self.wanted, self.rests) = (false, false);
    }

    /// Discards all of them, the templates too, and forgets what was known of the program.
    pub(super) fn renew(&mut self, templates: Vec<Parked>) {
        self.age += 1;
        let all = self.parked.drain(..).chain(templates);
        self.discarded.extend(all);
        (self.templates, self.look_at_use) = (vec![Due::Now], None);
        (self.unfit, self.proven, self.keeps) = (false, false, Kinds::NONE);
        (self.pause, self.left_until, self.sources) = (None, None, None);
        (self.short_life, self.parked_at) = (SHORT_LIFE, None);
    }

    /// Sets when the template in a slot is made, if load asks for it.
    pub(super) fn set_due(&mut self, slot: usize, due: Due) {
        if let Some(it) = self.templates.get_mut(slot) {
            *it = due;
        }
    }

    /// Ends the templates but the first ones. If none is left, the first is made anew.
    pub(super) fn keep_templates(
        &mut self,
        count: usize,
        templates: &mut [MutexGuard<'_, Option<Parked>>],
    ) {
        let others = templates.iter_mut().skip(count);
        self.discarded.extend(others.filter_map(|it| it.take()));
        self.templates.truncate(count.max(1));
        if count == 0 {
            self.set_due(0, Due::Now);
        }
    }

    /// Postpones the next start after a failure, and returns by how long.
    pub(super) fn postpone(&mut self) -> Duration {
        let now = Instant::now();
        // Several at a time count once.
        if let Some((_, pause)) = self.pause.filter(|(until, _)| now < *until) {
            return pause;
        }
        // After enough time without a failure the last pause doesn't count.
        let recent = self
            .pause
            .filter(|(until, pause)| now < *until + *pause * 2);
        let last = recent.map_or(Duration::ZERO, |(_, pause)| pause);
        let pause = (last * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.pause = Some((now + pause, pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_each_failure_up_to_the_longest() {
        let mut state = State::new();
        let mut expected = SHORTEST_PAUSE;
        for _ in 0..10 {
            assert_eq!(state.postpone(), expected);
            // Another failure within the pause doesn't count.
            assert_eq!(state.postpone(), expected);
            state.pause = Some((Instant::now(), expected));
            expected = (expected * 2).min(LONGEST_PAUSE);
        }
        state.renew(Vec::new());
        assert_eq!(state.postpone(), SHORTEST_PAUSE);
    }
}
