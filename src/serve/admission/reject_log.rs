//! Log lines about rejected clients: a few a second for each source, and a bounded number for all.
//! The others are counted, and written as sums once the second is over. A source that is rejected a
//! hundred thousand times a second fills no disk, and doesn't hide the first line about another.
//!
//! Each worker has one for each service, of a fixed size once a client was rejected: 15 KiB.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use crate::config::Source;
use crate::report::{self, Limiter, RejectCause, RejectCounts};

/// How long lines are counted before what was not written is summed up.
const SECOND: Duration = Duration::from_secs(1);

/// How many lines there are for a source in a second.
const EACH: u8 = 3;

/// How many lines there are for all sources in a second. With the sums there are fifty at most.
const ALL: u32 = 34;

/// How many sums of one source there are at the end of a second. Another is of all other sources
/// together.
const SUMS: u32 = 15;

/// How many sets of entries there are, and how many entries in each.
const SETS: usize = 64;
const WAYS: usize = 4;

/// Decides which rejections get a line.
#[derive(Debug)]
pub(in crate::serve) struct RejectLog {
    /// So that no client can choose addresses that share a set with another's.
    hasher: RandomState,
    /// Empty until the first rejection: most services have none.
    sets: Vec<[Entry; WAYS]>,
    /// Open when the current second is over.
    limiter: Limiter,
    /// How many lines were written in it.
    lines: u32,
    /// Whether some were not, about a source that has an entry.
    has_counted: bool,
    /// How many were not, about all others.
    others: RejectCounts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    source: Option<Source>,
    lines: u8,
    counted: RejectCounts,
}

/// Whether a rejection gets a line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Noted {
    /// It does.
    Line,
    /// It was counted.
    Sum,
}

impl RejectLog {
    pub(in crate::serve) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            sets: Vec::new(),
            limiter: Limiter::new(),
            lines: 0,
            has_counted: false,
            others: RejectCounts::default(),
        }
    }

    /// Notes that a client of this source was rejected for this cause. What is [`due`](Self::due) has to be
    /// flushed before, or counting goes on as if the second weren't over.
    pub(in crate::serve) fn note(&mut self, source: Source, cause: RejectCause, now: u64) -> Noted {
        if self.limiter.is_open(now) && self.due().is_none() {
            self.begin(now);
        }
        let more = self.lines < ALL;
        let set = self.hasher.hash_one(source) as usize % SETS;
        let set = self.sets.get_mut(set);
        let Some(entry) = set.and_then(|set| entry(set, source)) else {
            // A set full of sources that are counted keeps them: a client with many addresses
            // can't hide the source that is rejected most.
            if !more {
                self.others.count(cause);
                return Noted::Sum;
            }
            self.lines += 1;
            return Noted::Line;
        };
        if more && entry.lines < EACH {
            entry.lines += 1;
            self.lines += 1;
            return Noted::Line;
        }
        entry.counted.count(cause);
        self.has_counted = true;
        Noted::Sum
    }

    /// Returns when something is to be flushed, if anything was counted.
    pub(in crate::serve) fn due(&self) -> Option<u64> {
        (self.has_counted || self.others.total() != 0).then(|| self.limiter.opens_at())
    }

    /// Ends the second now, since there will be no later.
    pub(in crate::serve) fn cut_short(&mut self) {
        self.limiter.open();
    }

    /// Once the second is over, calls `report` with how many more clients of which source were
    /// rejected and why, and begins another second. The largest sum is first, and that of all other sources
    /// last.
    pub(in crate::serve) fn flush(
        &mut self,
        now: u64,
        mut report: impl FnMut(Option<Source>, &RejectCounts),
    ) {
        if !self.limiter.is_open(now) || self.due().is_none() {
            return;
        }
        for _ in 0..SUMS {
            let entries = self.sets.iter_mut().flatten();
            let Some(most) = entries.max_by_key(|entry| entry.counted.total()) else {
                break;
            };
            if most.counted.total() == 0 {
                break;
            }
            report(most.source, &std::mem::take(&mut most.counted));
        }
        for entry in self.sets.iter().flatten() {
            self.others.add_all(&entry.counted);
        }
        if self.others.total() != 0 {
            report(None, &self.others);
        }
        self.begin(now);
    }

    fn begin(&mut self, now: u64) {
        self.limiter.close(now, report::throttle(SECOND));
        self.sets.clear();
        // Without memory, sources aren't told apart.
        if self.sets.try_reserve_exact(SETS).is_ok() {
            self.sets.resize(SETS, Default::default());
        }
        self.lines = 0;
        self.has_counted = false;
        self.others = RejectCounts::default();
    }
}

/// Returns the entry of this source, or an entry that it may have: of the entries that count
/// nothing, the one with the fewest lines.
fn entry(set: &mut [Entry; WAYS], source: Source) -> Option<&mut Entry> {
    let own = set.iter().position(|entry| entry.source == Some(source));
    if let Some(own) = own {
        return Some(&mut set[own]);
    }
    let free = set.iter_mut().filter(|entry| entry.counted.total() == 0);
    let entry = free.min_by_key(|entry| entry.lines)?;
    *entry = Entry {
        source: Some(source),
        ..Entry::default()
    };
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reason;
    use proptest::prelude::*;

    const NOW: u64 = 17;
    const SECOND: u64 = super::SECOND.as_nanos() as u64;

    /// Notes a rejection for the same cause each time.
    fn note(reject_log: &mut RejectLog, source: Source, now: u64) -> Noted {
        reject_log.note(source, RejectCause::from(&Reason::Rate), now)
    }

    fn flush(reject_log: &mut RejectLog, now: u64) -> Vec<(Option<Source>, u64)> {
        let mut sums = Vec::new();
        reject_log.flush(now, |source, counts| sums.push((source, counts.total())));
        sums
    }

    #[test]
    fn there_are_a_few_lines_a_second_and_then_a_sum() {
        let mut reject_log = RejectLog::new();
        let (one, other) = (Source::user(1), Source::user(2));
        for _ in 0..3 {
            assert_eq!(note(&mut reject_log, one, NOW), Noted::Line);
        }
        assert_eq!(reject_log.due(), None);
        for _ in 0..4812 {
            assert_eq!(note(&mut reject_log, one, NOW), Noted::Sum);
        }
        assert_eq!(note(&mut reject_log, other, NOW), Noted::Line);
        assert_eq!(reject_log.due(), Some(NOW + SECOND));
        assert!(flush(&mut reject_log, NOW + SECOND - 1).is_empty());
        let sums = flush(&mut reject_log, NOW + SECOND);
        assert_eq!(sums, [(Some(one), 4812)]);
        assert_eq!(reject_log.due(), None);
        assert_eq!(note(&mut reject_log, one, NOW + SECOND), Noted::Line);
    }

    #[test]
    fn a_second_cut_short_is_over() {
        let mut reject_log = RejectLog::new();
        for _ in 0..5 {
            note(&mut reject_log, Source::user(1), NOW);
        }
        reject_log.cut_short();
        assert_eq!(flush(&mut reject_log, NOW), [(Some(Source::user(1)), 2)]);
        assert_eq!(note(&mut reject_log, Source::user(1), NOW), Noted::Line);
    }

    #[test]
    fn a_second_with_nothing_counted_ends_by_itself() {
        let mut reject_log = RejectLog::new();
        for second in 0..5 {
            for _ in 0..3 {
                let now = NOW + second * SECOND;
                assert_eq!(note(&mut reject_log, Source::user(1), now), Noted::Line);
            }
        }
    }

    #[test]
    fn many_sources_have_a_bounded_number_of_lines_and_do_not_hide_the_most_frequent() {
        let mut reject_log = RejectLog::new();
        let hog = Source::user(0);
        let many = if cfg!(miri) { 500 } else { 100_000 };
        let mut lines = 0;
        for user in 1..=many {
            for source in [hog, Source::user(user)] {
                lines += u64::from(note(&mut reject_log, source, NOW) == Noted::Line);
            }
        }
        let sums = flush(&mut reject_log, NOW + SECOND);
        assert!(lines + sums.len() as u64 <= 50, "{lines} {sums:?}");
        assert_eq!(sums[0], (Some(hog), u64::from(many) - 3));
        assert_eq!(sums.last().unwrap().0, None);
        let counted: u64 = sums.iter().map(|(_, count)| count).sum();
        assert_eq!(lines + counted, 2 * u64::from(many));
    }

    #[test]
    fn its_size_is_fixed() {
        assert_eq!(size_of::<Entry>() * SETS * WAYS, 15 * 1024);
    }

    proptest! {
        #[test]
        fn every_rejection_has_a_line_or_is_counted_once(
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
                    let sums = flush(&mut reject_log, now);
                    prop_assert!(second + sums.len() <= 50);
                    counted += sums.iter().map(|(_, count)| *count as usize).sum::<usize>();
                }
                let noted = note(&mut reject_log, Source::user(*user), now);
                if reject_log.limiter.opens_at() != begun {
                    (begun, second) = (reject_log.limiter.opens_at(), 0);
                }
                if noted == Noted::Line {
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
