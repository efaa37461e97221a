//! The sources that are rejected most, and how often lately: in the last five to ten minutes.
//!
//! Each worker counts in a table of a fixed size for each service, made at the first rejection: 6 KiB.
//! It finds those that matter among any number of sources (the *space-saving* algorithm of Metwally,
//! Agrawal and El Abbadi). A source without an entry takes that with the lowest count, and goes on
//! from this count. So an entry counts at least what its source had since, and too much by no more
//! than it began with. Of `n` rejections, a source with more than `n / 64` has an entry.
//!
//! There are two tables: one for the current five minutes, and one for those before. An upgrade begins
//! anew.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::Source;
use crate::report::RejectKind;

/// How many sources a table has.
const ENTRIES: usize = 64;

/// How long a table counts, in nanoseconds.
const WINDOW: u64 = 300 * 1_000_000_000;

/// The sources that are rejected most of one service.
#[derive(Debug)]
pub(in crate::serve) struct RejectedSources {
    /// For each worker. The lock is the worker's own, but for the instant in which a client of the
    /// control socket asks: taking it costs a rejected client two atomic operations and no system
    /// call. With atomics, an entry could belong to one source and count another's rejections.
    parts: Box<[Mutex<Part>]>,
}

/// How often a source was rejected lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) struct Rejected {
    /// At least so often.
    pub(in crate::serve) count: u64,
    /// When the last time was, in nanoseconds of the clock of rates.
    pub(in crate::serve) at: u64,
    /// Why it was rejected the last time.
    pub(in crate::serve) last: RejectKind,
}

impl RejectedSources {
    /// Nothing was rejected by so many workers.
    pub(in crate::serve) fn new(workers: usize) -> Self {
        Self {
            parts: (0..workers).map(|_| Mutex::default()).collect(),
        }
    }

    /// Notes that this worker has rejected a client of this source.
    pub(in crate::serve) fn note(&self, worker: usize, source: Source, why: RejectKind, now: u64) {
        self.part(worker).note(source, why, now);
    }

    /// Returns how often each source was rejected lately, of those that have an entry.
    pub(in crate::serve) fn recent(&self, now: u64) -> HashMap<Source, Rejected> {
        let mut all = HashMap::new();
        for worker in 0..self.parts.len() {
            let mut part = self.part(worker);
            part.turn(now);
            for (source, rejected) in part.tables.iter().flat_map(Table::entries) {
                let sum = all.entry(source).or_insert(Rejected {
                    count: 0,
                    ..rejected
                });
                sum.count += rejected.count;
                if sum.at < rejected.at {
                    (sum.at, sum.last) = (rejected.at, rejected.last);
                }
            }
        }
        all
    }

    fn part(&self, worker: usize) -> MutexGuard<'_, Part> {
        self.parts[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tables of one worker.
#[derive(Debug, Default)]
struct Part {
    /// That of the current time, and that of the time before. Empty before the first rejection.
    tables: Vec<Table>,
    /// When the current time is over.
    until: u64,
}

impl Part {
    fn note(&mut self, source: Source, why: RejectKind, now: u64) {
        if self.tables.is_empty() {
            // Without memory, nothing is counted here. It is in the counters all the same.
            if self.tables.try_reserve_exact(2).is_err() {
                return;
            }
            self.tables.resize_with(2, Table::default);
            self.until = now.saturating_add(WINDOW);
        }
        self.turn(now);
        if let Some(table) = self.tables.first_mut() {
            table.note(source, why, now);
        }
    }

    /// Begins another time if the current one is over.
    fn turn(&mut self, now: u64) {
        if now < self.until {
            return;
        }
        self.tables.reverse();
        let long_ago = now - self.until >= WINDOW;
        let over = if long_ago { 2 } else { 1 };
        for table in self.tables.iter_mut().take(over) {
            table.clear();
        }
        self.until = now.saturating_add(WINDOW);
    }
}

/// The sources that are rejected most within one time.
#[derive(Debug)]
struct Table {
    /// How many entries are taken, the first ones.
    length: usize,
    /// The beginning of each source. Beside each other, all are compared in some nanoseconds.
    marks: [u64; ENTRIES],
    /// The counts, for the lowest of which all are looked at.
    counts: [u32; ENTRIES],
    entries: [Entry; ENTRIES],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    source: Source,
    /// Where its count began.
    began: u32,
    at: u64,
    last: RejectKind,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            length: 0,
            marks: [0; ENTRIES],
            counts: [0; ENTRIES],
            entries: [Entry {
                source: Source::UNKNOWN,
                began: 0,
                at: 0,
                last: RejectKind::Rule,
            }; ENTRIES],
        }
    }
}

impl Table {
    fn note(&mut self, source: Source, why: RejectKind, at: u64) {
        let mark = source.mark();
        let index = self.find(source, mark).unwrap_or_else(|| {
            let index = self.claim();
            let began = self.counts[index];
            self.marks[index] = mark;
            self.entries[index] = Entry {
                source,
                began,
                at,
                last: why,
            };
            index
        });
        self.counts[index] = self.counts[index].saturating_add(1);
        let entry = &mut self.entries[index];
        (entry.at, entry.last) = (at, why);
    }

    fn find(&self, source: Source, mark: u64) -> Option<usize> {
        let marks = self.marks[..self.length].iter().enumerate();
        let mut like = marks.filter(|(_, other)| **other == mark);
        like.find_map(|(index, _)| (self.entries[index].source == source).then_some(index))
    }

    /// Returns the index for another source: of a free entry, or of that with the lowest count.
    fn claim(&mut self) -> usize {
        if self.length < ENTRIES {
            self.length += 1;
            return self.length - 1;
        }
        // First the number, then the index: both loops are a few instructions for many entries.
        let lowest = self.counts.iter().copied().min().unwrap_or_default();
        let mut counts = self.counts.iter();
        counts
            .position(|count| *count == lowest)
            .unwrap_or_default()
    }

    fn entries(&self) -> impl Iterator<Item = (Source, Rejected)> {
        let entries = self.entries[..self.length].iter().zip(&self.counts);
        entries.map(|(entry, count)| {
            let rejected = Rejected {
                count: count.saturating_sub(entry.began).into(),
                at: entry.at,
                last: entry.last,
            };
            (entry.source, rejected)
        })
    }

    fn clear(&mut self) {
        self.length = 0;
        self.counts = [0; ENTRIES];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(sources: &RejectedSources, now: u64) -> HashMap<Source, u64> {
        let recent = sources.recent(now).into_iter();
        recent
            .map(|(source, rejected)| (source, rejected.count))
            .collect()
    }

    #[test]
    fn workers_are_summed_and_the_last_reason_stays() {
        let sources = RejectedSources::new(3);
        let [first, second] = [1, 2].map(Source::user);
        for (worker, source, why, now) in [
            (0, first, RejectKind::Rule, 10),
            (0, first, RejectKind::Rate, 40),
            (1, first, RejectKind::Max, 30),
            (2, second, RejectKind::NoRule, 20),
        ] {
            sources.note(worker, source, why, now);
        }
        let recent = sources.recent(50);
        assert_eq!(recent.len(), 2);
        assert_eq!(
            (recent[&first].count, recent[&first].last),
            (3, RejectKind::Rate)
        );
        assert_eq!(
            (recent[&second].count, recent[&second].last),
            (1, RejectKind::NoRule)
        );
    }

    #[test]
    fn what_is_more_than_two_windows_ago_is_forgotten() {
        let sources = RejectedSources::new(1);
        let [first, second] = [1, 2].map(Source::user);
        sources.note(0, first, RejectKind::Rule, 5);
        assert_eq!(counts(&sources, WINDOW + 4), [(first, 1)].into());
        sources.note(0, second, RejectKind::Rule, WINDOW + 5);
        sources.note(0, first, RejectKind::Rule, WINDOW + 6);
        assert_eq!(
            counts(&sources, WINDOW + 6),
            [(first, 2), (second, 1)].into()
        );
        // Without another rejection, too.
        assert_eq!(
            counts(&sources, 2 * WINDOW + 6),
            [(first, 1), (second, 1)].into()
        );
        assert_eq!(counts(&sources, 3 * WINDOW + 7), [].into());
        sources.note(0, first, RejectKind::Rule, 4 * WINDOW);
        assert_eq!(counts(&sources, 9 * WINDOW), [].into());
    }

    #[test]
    fn sources_that_begin_alike_are_told_apart() {
        let prefix = crate::config::SourcePrefix { v4: 32, v6: 128 };
        let source = |last: u128| {
            let address = std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | last);
            Source::address(address.into(), prefix)
        };
        let sources = RejectedSources::new(1);
        for last in 0..10 {
            for _ in 0..=last {
                sources.note(0, source(last), RejectKind::Rule, 0);
            }
        }
        let counts = counts(&sources, 0);
        assert_eq!(counts.len(), 10);
        assert!((0..10).all(|last| counts[&source(last)] == last as u64 + 1));
    }

    proptest! {
        #[test]
        fn heavy_hitters_are_found_and_nothing_is_counted_twice(
            // The lower the number, the more often it comes.
            rejected in prop::collection::vec(
                (0.0..1.0_f64).prop_map(|x| (400.0 * x * x * x * x) as u32),
                1..3000,
            ),
        ) {
            let sources = RejectedSources::new(1);
            let mut truth: HashMap<Source, u64> = HashMap::new();
            for (now, user) in (0..).zip(&rejected) {
                let source = Source::user(*user);
                sources.note(0, source, RejectKind::Rule, now);
                *truth.entry(source).or_default() += 1;
            }
            let found = counts(&sources, rejected.len() as u64);
            prop_assert!(found.len() <= ENTRIES);
            let bound = (rejected.len() / ENTRIES) as u64;
            for (source, count) in &truth {
                let found = found.get(source).copied().unwrap_or_default();
                prop_assert!(found <= *count, "{} of {}", found, count);
                if *count > bound {
                    prop_assert!(found > 0 && found + bound >= *count, "{} of {}", found, count);
                }
            }
            prop_assert!(found.keys().all(|source| truth.contains_key(source)));
        }
    }
}
