//! Lines about refused connections: a few a second of each source, a bounded number of all, and
//! what wasn't said is counted and said once the second is over. Whoever is refused a hundred
//! thousand times a second fills no disk, and hides nobody else's first line.
//!
//! One for each acceptor thread, of a fixed size: 7 KiB.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use crate::config::Source;
use crate::report::{self, Gate};

/// How long lines are counted before what was not written is summed up.
const SECOND: Duration = Duration::from_secs(1);

/// How many lines of a source there are in a second.
const EACH: u32 = 3;

/// How many lines in a second of all sources. With those that say what was counted there are
/// fifty at most.
const ALL: u32 = 34;

/// How many lines at the end of a second say what was counted of one source; another is for
/// all others together.
const SUMS: u32 = 15;

/// How many sets of entries there are, and how many entries in each.
const SETS: usize = 64;
const WAYS: usize = 4;

/// Which lines are to be said.
#[derive(Debug)]
pub(in crate::serve) struct RejectLog {
    /// So that nobody can choose addresses that share a set with another's.
    hasher: RandomState,
    sets: Box<[[Entry; WAYS]]>,
    /// Open when the second is over that is counted now.
    gate: Gate,
    /// How many lines were said in it.
    lines: u32,
    /// How many weren't, of sources that have an entry.
    counted: u64,
    /// How many weren't, of all the others.
    others: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    source: Option<Source>,
    said: u32,
    counted: u32,
}

/// Whether a refusal is worth a line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Say {
    /// It is.
    Line,
    /// It was counted.
    Nothing,
}

impl RejectLog {
    pub(in crate::serve) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            sets: vec![Default::default(); SETS].into(),
            gate: Gate::new(),
            lines: 0,
            counted: 0,
            others: 0,
        }
    }

    /// A connection of this source was refused. What is [`due`](Self::due) is to be said first,
    /// or it goes on being counted as if the second weren't over.
    pub(in crate::serve) fn note(&mut self, source: Source, now: u64) -> Say {
        if self.gate.is_open(now) && self.due().is_none() {
            self.begin(now);
        }
        let room = self.lines < ALL;
        let set = self.hasher.hash_one(source) as usize % SETS;
        let Some(entry) = entry(&mut self.sets[set], source) else {
            // A set full of sources that are counted keeps them: somebody who comes from many
            // addresses can't hide who comes most.
            if !room {
                self.others = self.others.saturating_add(1);
                return Say::Nothing;
            }
            self.lines += 1;
            return Say::Line;
        };
        if room && entry.said < EACH {
            entry.said += 1;
            self.lines += 1;
            return Say::Line;
        }
        entry.counted = entry.counted.saturating_add(1);
        self.counted = self.counted.saturating_add(1);
        Say::Nothing
    }

    /// When there is something to be flushed, if anything was counted.
    pub(in crate::serve) fn due(&self) -> Option<u64> {
        (self.counted != 0 || self.others != 0).then(|| self.gate.opens_at())
    }

    /// Has the second over now: what was counted can be said later no more.
    pub(in crate::serve) fn cut_short(&mut self) {
        self.gate.open();
    }

    /// Once the second is over, calls `say` with how many more were refused of which source, the
    /// most first and all others together last, and begins another.
    pub(in crate::serve) fn flush(&mut self, now: u64, mut say: impl FnMut(Option<Source>, u64)) {
        if !self.gate.is_open(now) || self.due().is_none() {
            return;
        }
        for _ in 0..SUMS {
            let entries = self.sets.iter_mut().flatten();
            let Some(most) = entries.max_by_key(|entry| entry.counted) else {
                break;
            };
            if most.counted == 0 {
                break;
            }
            self.counted -= u64::from(most.counted);
            say(most.source, std::mem::take(&mut most.counted).into());
        }
        let others = self.others.saturating_add(self.counted);
        if others != 0 {
            say(None, others);
        }
        self.begin(now);
    }

    fn begin(&mut self, now: u64) {
        self.gate.close(now, report::throttle(SECOND));
        self.sets.fill(Default::default());
        (self.lines, self.counted, self.others) = (0, 0, 0);
    }
}

/// The entry of this source, or one that it may have: of those that count nothing, the one that
/// has said least.
fn entry(set: &mut [Entry; WAYS], source: Source) -> Option<&mut Entry> {
    let own = set.iter().position(|entry| entry.source == Some(source));
    if let Some(own) = own {
        return Some(&mut set[own]);
    }
    let free = set.iter_mut().filter(|entry| entry.counted == 0);
    let entry = free.min_by_key(|entry| entry.said)?;
    *entry = Entry {
        source: Some(source),
        ..Entry::default()
    };
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 17;
    const SECOND: u64 = super::SECOND.as_nanos() as u64;

    fn flush(reject_log: &mut RejectLog, now: u64) -> Vec<(Option<Source>, u64)> {
        let mut said = Vec::new();
        reject_log.flush(now, |source, count| said.push((source, count)));
        said
    }

    #[test]
    fn a_few_lines_a_second_and_then_how_many_more() {
        let mut reject_log = RejectLog::new();
        let (one, other) = (Source::user(1), Source::user(2));
        for _ in 0..3 {
            assert_eq!(reject_log.note(one, NOW), Say::Line);
        }
        assert_eq!(reject_log.due(), None);
        for _ in 0..4812 {
            assert_eq!(reject_log.note(one, NOW), Say::Nothing);
        }
        assert_eq!(reject_log.note(other, NOW), Say::Line);
        assert_eq!(reject_log.due(), Some(NOW + SECOND));
        assert!(flush(&mut reject_log, NOW + SECOND - 1).is_empty());
        let said = flush(&mut reject_log, NOW + SECOND);
        assert_eq!(said, [(Some(one), 4812)]);
        assert_eq!(reject_log.due(), None);
        assert_eq!(reject_log.note(one, NOW + SECOND), Say::Line);
    }

    #[test]
    fn a_second_cut_short_is_over() {
        let mut reject_log = RejectLog::new();
        for _ in 0..5 {
            reject_log.note(Source::user(1), NOW);
        }
        reject_log.cut_short();
        assert_eq!(flush(&mut reject_log, NOW), [(Some(Source::user(1)), 2)]);
        assert_eq!(reject_log.note(Source::user(1), NOW), Say::Line);
    }

    #[test]
    fn a_second_of_which_all_was_said_ends_by_itself() {
        let mut reject_log = RejectLog::new();
        for second in 0..5 {
            for _ in 0..3 {
                let now = NOW + second * SECOND;
                assert_eq!(reject_log.note(Source::user(1), now), Say::Line);
            }
        }
    }

    #[test]
    fn many_sources_have_a_bounded_number_of_lines_and_hide_nobody_who_comes_often() {
        let mut reject_log = RejectLog::new();
        let hog = Source::user(0);
        let many = if cfg!(miri) { 500 } else { 100_000 };
        let mut lines = 0;
        for user in 1..=many {
            for source in [hog, Source::user(user)] {
                lines += u64::from(reject_log.note(source, NOW) == Say::Line);
            }
        }
        let said = flush(&mut reject_log, NOW + SECOND);
        assert!(lines + said.len() as u64 <= 50, "{lines} {said:?}");
        assert_eq!(said[0], (Some(hog), u64::from(many) - 3));
        assert_eq!(said.last().unwrap().0, None);
        let counted: u64 = said.iter().map(|(_, count)| count).sum();
        assert_eq!(lines + counted, 2 * u64::from(many));
    }

    #[test]
    fn it_is_as_small_as_is_said() {
        assert_eq!(size_of::<Entry>() * SETS * WAYS, 7 * 1024);
    }

    proptest! {
        #[test]
        fn every_refusal_is_said_or_counted_once(
            notes in prop::collection::vec(
                (0..40_u32, 0..SECOND / 20),
                1..if cfg!(miri) { 30 } else { 2000 },
            ),
        ) {
            let mut reject_log = RejectLog::new();
            let (mut now, mut lines, mut counted, mut second) = (0, 0, 0, 0);
            let mut begun = 0;
            for (user, time) in &notes {
                now += time;
                if reject_log.due().is_some_and(|due| now >= due) {
                    let said = flush(&mut reject_log, now);
                    prop_assert!(second + said.len() <= 50);
                    counted += said.iter().map(|(_, count)| *count as usize).sum::<usize>();
                }
                let say = reject_log.note(Source::user(*user), now);
                if reject_log.gate.opens_at() != begun {
                    (begun, second) = (reject_log.gate.opens_at(), 0);
                }
                if say == Say::Line {
                    second += 1;
                    lines += 1;
                }
            }
            counted += flush(&mut reject_log, now + SECOND)
                .iter()
                .map(|(_, count)| *count as usize)
                .sum::<usize>();
            prop_assert_eq!(lines + counted, notes.len());
        }
    }
}
