//! The rules that apply now, for threads that ask them all the time, and for the thread that
//! replaces them now and then.

use std::sync::Arc;

use super::rules::Rules;
use crate::sys::sync::atomic::{AtomicU64, Ordering};
use crate::sys::sync::{Mutex, PoisonError};

/// The rules that apply now.
#[derive(Debug)]
pub(in crate::serve) struct RulesHandle {
    /// How often they were replaced. Read for each connection, where a lock would be one for all
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
    /// A handle that begins with these rules.
    pub(in crate::serve) fn new(rules: Rules) -> Self {
        Self {
            edition: AtomicU64::new(0),
            current: Mutex::new(Arc::new(rules)),
        }
    }

    /// Replaces the rules.
    pub(in crate::serve) fn replace(&self, rules: Rules) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Arc::new(rules));
        self.edition.fetch_add(1, Ordering::Release);
        drop(current);
        // Perhaps the last copy of many rules: not while others wait.
        drop(old);
    }

    /// Returns the rules that apply now.
    pub(in crate::serve) fn current(&self) -> Arc<Rules> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a thread's own copy, which it keeps.
    pub(in crate::serve) fn reader(&self) -> RulesReader {
        // The edition first: if the rules are replaced in between, they are taken once more.
        let edition = self.edition.load(Ordering::Acquire);
        RulesReader {
            edition,
            rules: self.current(),
        }
    }
}

impl RulesReader {
    /// Drops rules that were replaced.
    pub(in crate::serve) fn refresh(&mut self, handle: &RulesHandle) {
        let _ = self.current(handle);
    }

    /// Returns the rules that apply now. Takes no lock unless they were replaced.
    pub(in crate::serve) fn current(&mut self, handle: &RulesHandle) -> &Rules {
        if handle.edition.load(Ordering::Acquire) != self.edition {
            *self = handle.reader();
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
        Rules::new(&[(rule, Vec::new())], &[].into())
    }

    #[test]
    fn a_reader_sees_the_change_and_keeps_its_copy_until_then() {
        let handle = RulesHandle::new(rules(true));
        let mut reader = handle.reader();
        let client = Client::from(None);
        assert!(reader.current(&handle).decide(client).allow);
        let kept = handle.current();
        assert!(Arc::ptr_eq(&kept, &reader.rules));
        handle.replace(rules(false));
        assert!(!reader.current(&handle).decide(client).allow);
        drop(kept);
        assert_eq!(Arc::strong_count(&reader.rules), 2);
    }

    #[test]
    fn readers_during_replacements_end_with_the_last_rules() {
        let handle = RulesHandle::new(rules(true));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut reader = handle.reader();
                    while reader.current(&handle).decide(Client::from(None)).allow {
                        std::hint::spin_loop();
                    }
                });
            }
            for round in 0..100 {
                handle.replace(rules(round % 2 == 0 && round < 99));
            }
            handle.replace(rules(false));
        });
    }
}
