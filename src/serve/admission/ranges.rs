//! Ranges of addresses, each with its rule, swept into stretches that don't overlap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Stands for no rule.
pub(super) const NONE: u32 = u32::MAX;

/// Stretches of numbers, side by side and without a gap from 0 up: the first number of each, and
/// the rule of all that are in it.
#[derive(Debug)]
pub(super) struct Table<N> {
    pub(super) starts: Vec<N>,
    pub(super) rules: Vec<u32>,
}

/// An address as a number.
pub(super) trait Number: Copy + Ord + Default {
    /// How many bytes it has.
    const SIZE: usize;

    /// Returns the next number, if there is one.
    fn next(self) -> Option<Self>;

    /// Appends its bytes.
    fn write(self, to: &mut Vec<u8>);

    /// Reads it from as many bytes.
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! number {
    ($type:ty) => {
        impl Number for $type {
            const SIZE: usize = size_of::<Self>();

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn write(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_ne_bytes());
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_ne_bytes)
            }
        }
    };
}

number!(u32);
number!(u128);

impl<N: Number> Table<N> {
    /// Sweeps over ranges, each with its first and its last number and its rule. Where several
    /// overlap, the lowest rule counts. Takes n log n for n of them, however they overlap.
    pub(super) fn new(mut ranges: Vec<(N, N, u32)>) -> Self {
        ranges.sort_unstable();
        let mut table = Self {
            starts: Vec::new(),
            rules: Vec::new(),
        };
        let mut coming = ranges.iter().peekable();
        // Those that have begun, and of which not all are known to be over: the lowest rule on top.
        let mut open = BinaryHeap::new();
        let mut at = N::default();
        loop {
            while let Some((_, last, rule)) = coming.next_if(|(first, ..)| *first <= at) {
                open.push(Reverse((*rule, *last)));
            }
            while open.peek().is_some_and(|Reverse((_, last))| *last < at) {
                open.pop();
            }
            let top = open.peek().map(|Reverse(top)| *top);
            let rule = top.map_or(NONE, |(rule, _)| rule);
            if table.rules.last() != Some(&rule) {
                table.starts.push(at);
                table.rules.push(rule);
            }
            // Nothing changes before the one on top is over, or another begins.
            let over = top.and_then(|(_, last)| last.next());
            let begins = coming.peek().map(|(first, ..)| *first);
            match [over, begins].into_iter().flatten().min() {
                Some(next) => at = next,
                None => break,
            }
        }
        table
    }
}
