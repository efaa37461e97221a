//! The turns of stream workers to accept clients: the kernel wakes one of them for each client.

use std::sync::atomic::{AtomicBool, Ordering};

/// The turns of all stream workers, which are the first of the workers. The workers after them
/// receive datagrams, of one service each, and have no turns.
#[derive(Debug)]
pub(in crate::serve) struct Turns(Box<[Turn]>);

#[derive(Debug, Default)]
struct Turn {
    /// Whether the stream worker waits out a shortage.
    pausing: AtomicBool,
    /// Whether another stream worker has left its turn to this one.
    passed: AtomicBool,
}

impl Turns {
    pub(in crate::serve) fn new(stream_workers: usize) -> Self {
        Self((0..stream_workers).map(|_| Turn::default()).collect())
    }

    /// Notes whether a worker waits out a shortage.
    pub(super) fn set_pausing(&self, worker: usize, pausing: bool) {
        if let Some(turn) = self.0.get(worker) {
            turn.pausing.store(pausing, Ordering::SeqCst);
        }
    }

    /// Leaves the turn of this stream worker to another that doesn't wait out a shortage. Returns
    /// that stream worker, which has to be woken.
    pub(super) fn pass(&self, worker: usize) -> Option<usize> {
        let turns = self.0.iter().enumerate();
        let mut others = turns.filter(|(index, _)| *index != worker);
        let (other, turn) = others.find(|(_, turn)| !turn.pausing.load(Ordering::SeqCst))?;
        turn.passed.store(true, Ordering::SeqCst);
        Some(other)
    }

    /// Returns whether another stream worker has left its turn to this one.
    pub(super) fn take_passed(&self, worker: usize) -> bool {
        self.0[worker].passed.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_goes_to_a_worker_that_is_not_pausing() {
        let turns = Turns::new(3);
        turns.set_pausing(0, true);
        turns.set_pausing(1, true);
        assert_eq!(turns.pass(0), Some(2));
        assert!(!turns.take_passed(0) && !turns.take_passed(1));
        assert!(turns.take_passed(2));
        assert!(!turns.take_passed(2));
        turns.set_pausing(2, true);
        assert_eq!(turns.pass(0), None);
        turns.set_pausing(1, false);
        assert_eq!(turns.pass(0), Some(1));
        assert_eq!(Turns::new(1).pass(0), None);
        // A datagram worker.
        turns.set_pausing(3, true);
    }
}
