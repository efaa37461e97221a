//! Lines about connections on standard error, ten a second at most: a server that is down would fill a disk
//! with them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many lines there are at most in a second.
const MOST: u32 = 10;

/// The lines of a process.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Second>);

/// What was written since a point in time.
#[derive(Debug, Default)]
struct Second {
    begin: Option<Instant>,
    lines: u32,
    dropped: u64,
}

impl Log {
    /// Writes a line, unless there were too many. How many those were is said with the next one.
    pub(super) fn line(&self, text: &str) {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dropped) = second.take(Instant::now()) {
            if dropped > 0 {
                crate::cli::complain(&format!("{dropped} lines like the last ones were left out"));
            }
            crate::cli::complain(text);
        }
    }
}

impl Second {
    /// Counts a line. Returns how many were dropped before it, if it may be written.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let is_new = self
            .begin
            .is_none_or(|begin| now.duration_since(begin) >= Duration::from_secs(1));
        if is_new {
            (self.begin, self.lines) = (Some(now), 0);
        }
        if self.lines == MOST {
            self.dropped += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_are_written_and_the_others_counted() {
        let start = Instant::now();
        let mut second = Second::default();
        for _ in 0..MOST {
            assert_eq!(second.take(start), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(second.take(start + Duration::from_millis(999)), None);
        }
        assert_eq!(second.take(start + Duration::from_secs(1)), Some(5));
        assert_eq!(second.take(start + Duration::from_secs(1)), Some(0));
    }
}
