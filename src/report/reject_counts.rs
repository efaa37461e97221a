//! How many clients were rejected for which reasons, in a summary.

use std::fmt;
use std::num::NonZeroU32;

use super::reason::{Reason, RejectKind};
use crate::config::RuleLocation;

/// What rejections are told apart by in a summary: the kind of reason, and of a rule in a file its
/// line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectCause {
    kind: RejectKind,
    line: Option<NonZeroU32>,
}

/// How many causes are told apart. A source is seldom rejected for more in one second.
const CAUSES: usize = 3;

/// The number of rejections by their causes. Those for further causes are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectCounts {
    causes: [Option<RejectCause>; CAUSES],
    /// Of each cause.
    counts: [u32; CAUSES],
    other: u32,
}

impl RejectCause {
    /// Returns what its kind is called, in the counters too.
    pub(super) fn label(self) -> &'static str {
        self.kind.label()
    }
}

impl From<&Reason<'_>> for RejectCause {
    fn from(reason: &Reason<'_>) -> Self {
        let line = match reason {
            Reason::Rule(RuleLocation::Line(line)) => {
                u32::try_from(*line).ok().and_then(NonZeroU32::new)
            }
            _ => None,
        };
        Self {
            kind: reason.kind(),
            line,
        }
    }
}

impl RejectCounts {
    /// Counts one rejection.
    pub fn count(&mut self, cause: RejectCause) {
        self.add(Some(cause), 1);
    }

    /// Counts all that the other has counted.
    pub fn add_all(&mut self, other: &Self) {
        for (cause, count) in other.causes.iter().zip(other.counts) {
            self.add(*cause, count);
        }
        self.other = self.other.saturating_add(other.other);
    }

    /// Returns how many there were.
    pub fn total(&self) -> u64 {
        let counts = self.counts.iter().map(|count| u64::from(*count));
        counts.sum::<u64>() + u64::from(self.other)
    }

    /// Returns the causes, each with its count, and at last the count of all others. None is zero.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<RejectCause>, u32)> {
        let mut known = [0, 1, 2].map(|index| (self.causes[index], self.counts[index]));
        // Of three: a sort would be kilobytes of code.
        for (one, next) in [(0, 1), (1, 2), (0, 1)] {
            if known[one].1 < known[next].1 {
                known.swap(one, next);
            }
        }
        let all = known.into_iter().chain([(None, self.other)]);
        all.filter(|(_, count)| *count > 0)
    }

    fn add(&mut self, cause: Option<RejectCause>, count: u32) {
        if cause.is_none() {
            return;
        }
        let own = self.causes.iter().position(|it| *it == cause);
        let free = || self.causes.iter().position(Option::is_none);
        let counter = match own.or_else(free) {
            Some(index) => {
                self.causes[index] = cause;
                &mut self.counts[index]
            }
            None => &mut self.other,
        };
        *counter = counter.saturating_add(count);
    }
}

/// Formats a cause: `rate`, `rule line 4`.
impl fmt::Display for RejectCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())?;
        match self.line {
            Some(line) => write!(f, " line {line}"),
            None => Ok(()),
        }
    }
}

/// Formats all causes: `9 rate, 3 rule line 4`.
impl fmt::Display for RejectCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (cause, count)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match cause {
                Some(cause) => write!(f, "{comma}{count} {cause}")?,
                None => write!(f, "{comma}{count} {OTHER}")?,
            }
        }
        Ok(())
    }
}

/// What the causes are called that aren't told apart.
pub(super) const OTHER: &str = "other";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_most_frequent_cause_is_first_and_a_rule_has_its_line() {
        let mut counts = RejectCounts::default();
        let rule = RuleLocation::Line(4);
        for (reason, count) in [
            (Reason::Rule(&rule), 3),
            (Reason::Rate, 9),
            (Reason::NoRule, 1),
            (Reason::Crowd, 2),
        ] {
            for _ in 0..count {
                counts.count(RejectCause::from(&reason));
            }
        }
        let (rate, rule, none) = (
            RejectKind::Rate.label(),
            RejectKind::Rule.label(),
            RejectKind::NoRule.label(),
        );
        assert_eq!(
            counts.to_string(),
            format!("9 {rate}, 3 {rule} line 4, 1 {none}, 2 other")
        );
        assert_eq!(counts.total(), 15);
    }

    proptest! {
        #[test]
        fn each_is_counted_once(lines in prop::collection::vec(prop::collection::vec(1..6_usize, 0..9), 0..5)) {
            let mut sum = RejectCounts::default();
            for lines in &lines {
                let mut counts = RejectCounts::default();
                for line in lines {
                    let location = RuleLocation::Line(*line);
                    counts.count(RejectCause::from(&Reason::Rule(&location)));
                }
                prop_assert_eq!(counts.total(), lines.len() as u64);
                sum.add_all(&counts);
            }
            prop_assert_eq!(sum.total(), lines.concat().len() as u64);
        }
    }
}
