//! Counters of events. Each thread counts in a block of its own, and a reader sums all blocks.
//!
//! Counting takes no lock, no system call and no allocation. Blocks are never freed: those of
//! ended threads stay in the sum.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::event::{DropReason, Event, Outcome};
use super::reason::RejectKind;
use super::trouble::Cause;
use crate::config::ServiceId;
use crate::sys::memory;
use crate::sys::process::Ended;

/// The counters of one thread.
#[derive(Debug)]
pub(super) struct Block {
    process: ProcessCounters,
    services: &'static [ServiceCounters],
    next: OnceLock<&'static Self>,
}

#[derive(Debug)]
struct ProcessCounters {
    lines_lost: AtomicU64,
    troubles: [AtomicU64; Cause::COUNT],
}

/// The counters of one service: those that each connection changes side by side.
type ServiceCounters = [AtomicU64; COUNTERS];

const ACCEPTED: usize = 0;
const STARTED: usize = 1;
const SUCCEEDED: usize = 2;
const FAILED: usize = 3;
const KILLED: usize = 4;
const REJECTED: usize = 5;
const DROPPED: usize = REJECTED + RejectKind::COUNT;
const COUNTERS: usize = DROPPED + DropReason::COUNT;

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Lines that the log did not take.
    pub lines_lost: u64,
    /// Troubles by [`Cause`], those that were not written too.
    pub troubles: [u64; Cause::COUNT],
    /// The counters of each service.
    pub services: Vec<ServiceSnapshot>,
}

/// The counters of one service at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Connections and datagrams that were admitted.
    pub accepted: u64,
    /// Connections and datagrams that were rejected, by [`RejectKind`].
    pub rejected: [u64; RejectKind::COUNT],
    /// Handlers that were started.
    pub started: u64,
    /// Handlers that exited with status 0.
    pub succeeded: u64,
    /// Handlers that exited with another status.
    pub failed: u64,
    /// Handlers that a signal ended.
    pub killed: u64,
    /// Datagrams that were dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
}

impl Block {
    const fn new(services: &'static [ServiceCounters]) -> Self {
        Self {
            process: ProcessCounters {
                lines_lost: AtomicU64::new(0),
                troubles: [const { AtomicU64::new(0) }; Cause::COUNT],
            },
            services,
            next: OnceLock::new(),
        }
    }

    fn with_services(count: usize) -> &'static Self {
        // A service that this thread never serves takes no memory.
        Box::leak(Box::new(Self::new(memory::zeroes(count))))
    }

    /// Appends a block to the list that begins with this one.
    fn append(&self, block: &'static Self) {
        let mut last = self;
        while last.next.set(block).is_err() {
            match last.next.get() {
                Some(next) => last = next,
                None => return,
            }
        }
    }

    fn count(&self, event: &Event<'_>) {
        let service = |id: ServiceId, counter: usize| self.services.get(id.index())?.get(counter);
        let counter = match event {
            Event::Accepted(id, _) => service(*id, ACCEPTED),
            Event::Rejected(id, _, reason) => service(*id, REJECTED + reason.kind() as usize),
            Event::HandlerStarted(id, _) => service(*id, STARTED),
            Event::Closed(id, _, Outcome { ended, .. })
            | Event::Finished(id, _, Outcome { ended, .. }) => service(
                *id,
                match ended {
                    Ended::Exited(0) => SUCCEEDED,
                    Ended::Exited(_) => FAILED,
                    Ended::Killed(_) => KILLED,
                },
            ),
            Event::DatagramDropped(id, reason) => service(*id, DROPPED + *reason as usize),
            Event::Trouble(trouble) => Some(&self.process.troubles[trouble.cause() as usize]),
            _ => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sums the blocks of the list that begins with this one.
    fn sum(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        let mut next = Some(self);
        while let Some(block) = next {
            add(&mut sum.lines_lost, &block.process.lines_lost);
            add_all(&mut sum.troubles, &block.process.troubles);
            let length = sum.services.len().max(block.services.len());
            sum.services.resize_with(length, Default::default);
            for (sum, counters) in sum.services.iter_mut().zip(block.services) {
                sum.add(counters);
            }
            next = block.next.get().copied();
        }
        sum
    }
}

impl ServiceSnapshot {
    fn add(&mut self, counters: &ServiceCounters) {
        add(&mut self.accepted, &counters[ACCEPTED]);
        add(&mut self.started, &counters[STARTED]);
        add(&mut self.succeeded, &counters[SUCCEEDED]);
        add(&mut self.failed, &counters[FAILED]);
        add(&mut self.killed, &counters[KILLED]);
        add_all(&mut self.rejected, &counters[REJECTED..DROPPED]);
        add_all(&mut self.dropped, &counters[DROPPED..]);
    }
}

fn add(sum: &mut u64, counter: &AtomicU64) {
    *sum = sum.wrapping_add(counter.load(Ordering::Relaxed));
}

fn add_all(sums: &mut [u64], counters: &[AtomicU64]) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        add(sum, counter);
    }
}

/// The first block, without services, of threads that count before there are services.
static FIRST: Block = Block::new(&[]);
/// The block of threads without a block of their own.
static SHARED: OnceLock<&'static Block> = OnceLock::new();

thread_local! {
    static OWN: Cell<Option<&'static Block>> = const { Cell::new(None) };
}

/// Makes counters for so many services.
pub(super) fn set_services(count: usize) {
    SHARED.get_or_init(|| {
        let block = Block::with_services(count);
        FIRST.append(block);
        block
    });
}

/// Gives this thread a block of its own. Call it once, where the thread starts.
pub fn register_thread() {
    let services = SHARED.get().map_or(0, |shared| shared.services.len());
    let block = Block::with_services(services);
    FIRST.append(block);
    OWN.set(Some(block));
}

fn own() -> &'static Block {
    OWN.get()
        .unwrap_or_else(|| SHARED.get().copied().unwrap_or(&FIRST))
}

/// Counts an event.
pub(super) fn count(event: &Event<'_>) {
    own().count(event);
}

/// Counts a line that the log did not take.
pub(super) fn count_lost_line() {
    own().process.lines_lost.fetch_add(1, Ordering::Relaxed);
}

/// Returns the sums of the counters of all threads.
pub fn snapshot() -> Snapshot {
    FIRST.sum()
}

#[cfg(test)]
mod tests {
    use super::super::{self as report, Reason, TEST_SERVICES, Trouble, Watched};
    use super::*;
    use crate::config::{Peer, ServiceId};
    use nix::errno::Errno;
    use std::time::Duration;

    fn of(service: usize) -> ServiceSnapshot {
        snapshot().services[service]
    }

    const PEER: Peer = Peer::UnixStream(None);

    #[test]
    fn events_that_nobody_logs_are_counted() {
        report::set_test_services();
        let id = ServiceId::new(2);
        assert!(!report::wants(1));
        let before = of(2);
        report::event(Event::Accepted(id, &PEER));
        report::event(Event::Rejected(id, &PEER, Reason::NoRule));
        report::event(Event::Rejected(id, &PEER, Reason::Max(3)));
        report::event(Event::HandlerStarted(id, 1));
        report::event(Event::DatagramDropped(id, DropReason::Empty));
        for ended in [Ended::Exited(0), Ended::Exited(1), Ended::Killed(9)] {
            let after = Duration::ZERO;
            report::event(Event::Closed(
                id,
                &PEER,
                Outcome {
                    pid: 1,
                    ended,
                    after,
                },
            ));
        }
        let mut expected = before;
        expected.accepted += 1;
        expected.rejected[RejectKind::NoRule as usize] += 1;
        expected.rejected[RejectKind::Max as usize] += 1;
        expected.started += 1;
        expected.dropped[DropReason::Empty as usize] += 1;
        expected.succeeded += 1;
        expected.failed += 1;
        expected.killed += 1;
        assert_eq!(of(2), expected);
    }

    #[test]
    fn throttled_events_are_counted() {
        report::set_test_services();
        let id = ServiceId::new(3);
        for _ in 0..3 {
            report::event_if(Event::Rejected(id, &PEER, Reason::Rate), || false);
        }
        assert_eq!(of(3).rejected[RejectKind::Rate as usize], 3);
        let watch = Cause::Watch as usize;
        let before = snapshot().troubles[watch];
        for _ in 0..5 {
            report::event(Event::Trouble(Trouble::NotWatched {
                service: Some(id),
                what: Watched::Listener,
                errno: Errno::ENOSPC,
            }));
        }
        assert!(snapshot().troubles[watch] >= before + 5);
    }

    #[test]
    fn the_sum_has_the_blocks_of_all_threads_and_of_ended_ones() {
        report::set_test_services();
        let id = ServiceId::new(4);
        let threads: Vec<_> = (1..=4_u64)
            .map(|count| {
                std::thread::spawn(move || {
                    // One of them uses the shared block.
                    if count > 1 {
                        register_thread();
                    }
                    for _ in 0..count {
                        report::event(Event::HandlerStarted(id, 7));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|it| it.join().unwrap());
        assert_eq!(of(4).started, 1 + 2 + 3 + 4);
        assert_eq!(of(4).started, 10);
    }

    #[test]
    fn an_unknown_service_is_passed_over() {
        report::set_test_services();
        report::event(Event::HandlerStarted(ServiceId::new(TEST_SERVICES), 7));
        assert_eq!(snapshot().services.len(), TEST_SERVICES);
    }

    #[test]
    fn lost_lines_are_counted() {
        let before = snapshot().lines_lost;
        count_lost_line();
        assert!(snapshot().lines_lost > before);
    }
}
