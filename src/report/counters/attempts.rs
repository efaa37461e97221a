//! How reloads and upgrades went. There are few, so that a lock and a text are no matter.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use skd_control::Attempts;

use crate::report::event::Attempt;

const NONE: Attempts = Attempts {
    succeeded: 0,
    failed: 0,
    last_seconds: 0.0,
    last_error: None,
};

static ALL: Mutex<[Attempts; Attempt::COUNT]> = Mutex::new([NONE; Attempt::COUNT]);

fn all() -> MutexGuard<'static, [Attempts; Attempt::COUNT]> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that one is over, and why it failed if it did.
pub(super) fn note(attempt: Attempt, fault: Option<&str>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut all = all();
    let its = &mut all[attempt as usize];
    its.last_seconds = now.unwrap_or_default().as_secs_f64();
    its.last_error = fault.map(str::to_owned);
    match fault {
        None => its.succeeded += 1,
        Some(_) => its.failed += 1,
    }
}

/// Returns how those of a kind went.
pub(super) fn of(attempt: Attempt) -> Attempts {
    all()[attempt as usize].clone()
}

/// Goes on after those that an earlier binary has made.
pub(super) fn restore(attempt: Attempt, earlier: &Attempts) {
    let mut all = all();
    let its = &mut all[attempt as usize];
    if its.succeeded + its.failed == 0 {
        its.last_seconds = earlier.last_seconds;
        its.last_error.clone_from(&earlier.last_error);
    }
    its.succeeded += earlier.succeeded;
    its.failed += earlier.failed;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_known_with_its_fault_and_earlier_ones_are_added() {
        let upgrade = Attempt::Upgrade;
        note(upgrade, Some("it is no skd"));
        let failed = of(upgrade);
        assert_eq!(failed.last_error.as_deref(), Some("it is no skd"));
        note(upgrade, None);
        let done = of(upgrade);
        assert_eq!(
            (done.succeeded, done.last_error),
            (failed.succeeded + 1, None)
        );
        restore(upgrade, &failed);
        let both = of(upgrade);
        assert_eq!(both.failed, 2 * failed.failed);
        assert_eq!(both.last_error, None);
    }
}
