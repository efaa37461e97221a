//! The rules that hold now, for threads that ask them all the time, and for the one that
//! changes them now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::rules::Rules;

/// The rules that hold now.
#[derive(Debug)]
pub(in crate::serve) struct RulesHandle {
    /// How often they have changed. Read for each connection, where a lock would be one for all
    /// threads; it changes hardly ever.
    edition: AtomicU64,
    current: Mutex<Arc<Rules>>,
}

/// A thread's own copy.
#[derive(Debug)]
pub(in crate::serve) struct RulesReader {
    edition: u64,
    rules: Arc<Rules>,
}

impl RulesHandle {
    /// Begins with these.
    pub(in crate::serve) fn new(rules: Rules) -> Self {
        Self {
            edition: AtomicU64::new(0),
            current: Mutex::new(Arc::new(rules)),
        }
    }

    /// Has these hold from now on.
    pub(in crate::serve) fn replace(&self, rules: Rules) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Arc::new(rules));
        self.edition.fetch_add(1, Ordering::Release);
        drop(current);
        // Perhaps the last copy of many: not while others wait.
        drop(old);
    }

    /// Those that hold now.
    pub(in crate::serve) fn current(&self) -> Arc<Rules> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A thread's own copy, which it keeps.
    pub(in crate::serve) fn reader(&self) -> RulesReader {
        // The edition first: if another comes in between, it is looked for once more.
        let edition = self.edition.load(Ordering::Acquire);
        RulesReader {
            edition,
            rules: self.current(),
        }
    }
}

impl RulesReader {
    /// Lets go of those that don't hold any more.
    pub(in crate::serve) fn refresh(&mut self, book: &RulesHandle) {
        let _ = self.current(book);
    }

    /// Those that hold now: takes no lock unless they have changed.
    pub(in crate::serve) fn current(&mut self, book: &RulesHandle) -> &Rules {
        if book.edition.load(Ordering::Acquire) != self.edition {
            *self = book.reader();
        }
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Rule, RuleLocation, Who};
    use crate::serve::admission::rules::Client;

    fn rules(allow: bool) -> Rules {
        let rule = Rule::new(allow, Who::All, RuleLocation::Line(1));
        Rules::new(vec![(rule, Vec::new())], &[])
    }

    #[test]
    fn a_reader_sees_the_change_and_keeps_its_copy_until_then() {
        let book = RulesHandle::new(rules(true));
        let mut reader = book.reader();
        let client = Client::from(None);
        assert!(reader.current(&book).decide(client).allow);
        let kept = book.current();
        assert!(Arc::ptr_eq(&kept, &reader.rules));
        book.replace(rules(false));
        assert!(!reader.current(&book).decide(client).allow);
        drop(kept);
        assert_eq!(Arc::strong_count(&reader.rules), 2);
    }

    #[test]
    fn readers_beside_a_change_end_with_the_last() {
        let book = RulesHandle::new(rules(true));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut reader = book.reader();
                    while reader.current(&book).decide(Client::from(None)).allow {
                        std::hint::spin_loop();
                    }
                });
            }
            for round in 0..100 {
                book.replace(rules(round % 2 == 0 && round < 99));
            }
            book.replace(rules(false));
        });
    }
}
