//! Counters of events, of the process, of each service and of each listener. Each thread counts in a
//! block of its own, and a reader sums all blocks.
//!
//! Counting takes no lock, no system call and no allocation: a few atomic additions for a connection.
//! Blocks are never freed: those of ended threads stay in the sum. An upgrade saves the sums, and the
//! next binary goes on from them.
//!
//! # What holds
//!
//! A reader sees each counter grow; it doesn't see all of them at one moment. When nothing happens any
//! more:
//!
//! - A client is counted at its listener once: as accepted, or as rejected. Of datagrams, those that
//!   were received were accepted, rejected or dropped, or went to a handler that ran already.
//! - For each client that is accepted a handler is started, or is not: over the listeners of a service,
//!   accepted = started + not started. A start in wait mode counts as accepted, since what waits at the
//!   listener is the handler's to accept.
//! - Each TLS handshake ends once: as a session that is established, or in a rejection. What skd-tls has
//!   done is counted when it reports that.
//! - Each handler ends once: started = ended + running. The durations are as many as the ends, and the
//!   latencies as many as the starts but those in wait mode.
//!
//! A handler is counted as started before it can be counted as ended, and its end is counted before its
//! slot is free. A client may see the end of its connection a moment before.
//!
//! # Labels
//!
//! Ways, reasons, causes and results have labels, which counters, JSON lines and metrics share. They
//! are the `label` of [`Way`], [`StartFailure`], [`EndResult`], [`RejectKind`], [`DropReason`] and
//! [`Cause`].
//!
//! [`Way`]: super::Way
//! [`StartFailure`]: super::StartFailure
//! [`EndResult`]: super::EndResult
//! [`RejectKind`]: super::RejectKind
//! [`DropReason`]: super::DropReason
//! [`Cause`]: super::Cause

mod attempts;
mod histogram;
mod layout;
mod saved;

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use skd_control::Attempts;

use super::event::{Attempt, Event, Outcome, Start};
use crate::config::{ListenerId, ServiceId};
use crate::sys::memory;
use histogram::{DURATIONS, LATENCIES, nanoseconds, range};
use layout::{listener as at_listener, process as at_process, service as at_service};

pub use histogram::HistogramCounts;
pub use layout::{ListenerCounts, ProcessCounts, ServiceCounts};
pub use saved::{Restorer, SavedCounters, SavedCounts, save, save_listener, save_service};

/// The counters of one thread.
#[derive(Debug)]
struct Block {
    process: [AtomicU64; at_process::ALL],
    services: &'static [[AtomicU64; at_service::ALL]],
    listeners: &'static [[AtomicU64; at_listener::ALL]],
    next: OnceLock<&'static Self>,
}

impl Block {
    /// A block without services.
    const fn new() -> Self {
        Self {
            process: [const { AtomicU64::new(0) }; at_process::ALL],
            services: &[],
            listeners: &[],
            next: OnceLock::new(),
        }
    }

    fn with_services(services: usize, listeners: usize) -> &'static Self {
        // A service or listener that this thread never serves takes no memory.
        Box::leak(Box::new(Self {
            services: memory::zeroes(services),
            listeners: memory::zeroes(listeners),
            ..Self::new()
        }))
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

    fn add_to_process(&self, at: usize, count: u64) {
        add(&self.process, at, count);
    }

    fn add_to_service(&self, id: ServiceId, at: usize, count: u64) {
        if let Some(cells) = self.services.get(id.index()) {
            add(cells, at, count);
        }
    }

    fn add_to_listener(&self, id: ListenerId, at: usize, count: u64) {
        if let Some(cells) = self.listeners.get(id.index()) {
            add(cells, at, count);
        }
    }

    fn count(&self, event: &Event<'_>) {
        match event {
            Event::Accepted(client) | Event::WaitModeStart(client) => {
                self.add_to_listener(client.listener, at_listener::ACCEPTED, 1);
            }
            Event::Rejected(client, reason) => {
                let at = at_listener::REJECTED + reason.kind() as usize;
                self.add_to_listener(client.listener, at, 1);
            }
            Event::GatePassed(client, ..) => {
                self.add_to_service(client.service, at_service::GATE_PASSED, 1);
            }
            Event::TlsEstablished(client, session, took) => {
                self.count_session(client.service, session.resumed, nanoseconds(*took));
            }
            Event::TlsFigures(id, figures) => {
                self.add_to_service(*id, at_service::TLS_RECEIVED, figures.received);
                self.add_to_service(*id, at_service::TLS_SENT, figures.sent);
                self.add_to_service(*id, at_service::TLS_TRUNCATED, figures.truncated);
            }
            Event::HandlerStarted(id, start) => self.count_start(*id, start),
            Event::HandlerNotStarted(id, why) => {
                self.add_to_service(*id, at_service::NOT_STARTED + *why as usize, 1);
            }
            Event::Closed(client, outcome) | Event::Finished(client, outcome) => {
                self.count_end(client.service, outcome);
            }
            Event::DatagramsReceived(id, count) => {
                self.add_to_listener(*id, at_listener::RECEIVED, *count);
            }
            Event::DatagramsSent(id, count) => {
                self.add_to_listener(*id, at_listener::SENT, *count);
            }
            Event::DatagramDropped(_, id, reason) => {
                self.add_to_listener(*id, at_listener::DROPPED + *reason as usize, 1);
            }
            Event::Trouble(trouble) => {
                self.add_to_process(at_process::TROUBLES + trouble.cause() as usize, 1);
            }
            Event::Attempted(attempt, fault) => attempts::note(*attempt, *fault),
            _ => {}
        }
    }

    fn count_start(&self, id: ServiceId, start: &Start) {
        let Some(cells) = self.services.get(id.index()) else {
            return;
        };
        add(cells, at_service::STARTED + start.way as usize, 1);
        if let Some(latency) = start.latency {
            let latency = nanoseconds(latency);
            add(cells, at_service::LATENCY + range(&LATENCIES, latency), 1);
            add(cells, at_service::LATENCY_SUM, latency);
        }
    }

    fn count_session(&self, id: ServiceId, is_resumed: bool, took: u64) {
        if let Some(cells) = self.services.get(id.index()) {
            let kind = match is_resumed {
                false => at_service::TLS_FULL,
                true => at_service::TLS_RESUMED,
            };
            add(cells, kind, 1);
            add(cells, at_service::HANDSHAKE + range(&LATENCIES, took), 1);
            add(cells, at_service::HANDSHAKE_SUM, took);
        }
    }

    fn count_end(&self, id: ServiceId, outcome: &Outcome) {
        let Some(cells) = self.services.get(id.index()) else {
            return;
        };
        let duration = nanoseconds(outcome.after);
        add(cells, at_service::ENDED + outcome.result() as usize, 1);
        add(cells, at_service::DURATION + range(&DURATIONS, duration), 1);
        add(cells, at_service::DURATION_SUM, duration);
        add(cells, at_service::USER_CPU, nanoseconds(outcome.usage.user));
        add(
            cells,
            at_service::SYSTEM_CPU,
            nanoseconds(outcome.usage.system),
        );
    }

    /// Sums the counters of a service, a listener or the process over the blocks of the list that begins with this one.
    fn sum<const N: usize>(&self, cells_of: impl Fn(&Self) -> Option<&[AtomicU64; N]>) -> [u64; N] {
        let mut sum = [0_u64; N];
        let mut next = Some(self);
        while let Some(block) = next {
            for (sum, counter) in sum.iter_mut().zip(cells_of(block).into_iter().flatten()) {
                *sum = sum.wrapping_add(counter.load(Ordering::Relaxed));
            }
            next = block.next.get().copied();
        }
        sum
    }
}

fn add(cells: &[AtomicU64], at: usize, count: u64) {
    cells[at].fetch_add(count, Ordering::Relaxed);
}

/// The first block, without services, of threads that count before there are services.
static FIRST: Block = Block::new();
/// The block of threads without a block of their own.
static SHARED: OnceLock<&'static Block> = OnceLock::new();

thread_local! {
    static OWN: Cell<Option<&'static Block>> = const { Cell::new(None) };
}

/// Makes counters for so many services and listeners.
pub(super) fn set_up(services: usize, listeners: usize) {
    SHARED.get_or_init(|| {
        let block = Block::with_services(services, listeners);
        FIRST.append(block);
        block
    });
}

/// Gives this thread a block of its own. Call it once, where the thread starts.
pub fn register_thread() {
    let of = |shared: &&'static Block| (shared.services.len(), shared.listeners.len());
    let (services, listeners) = SHARED.get().map_or((0, 0), of);
    let block = Block::with_services(services, listeners);
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
    own().add_to_process(at_process::LINES_LOST, 1);
}

/// Counts events that a client of the control socket did not take.
pub fn count_lost_events(count: u64) {
    own().add_to_process(at_process::EVENTS_LOST, count);
}

/// Returns what a service has counted, in all threads.
pub fn service(id: ServiceId) -> ServiceCounts {
    ServiceCounts(FIRST.sum(|block| block.services.get(id.index())))
}

/// Returns what a listener has counted, in all threads.
pub fn listener(id: ListenerId) -> ListenerCounts {
    ListenerCounts(FIRST.sum(|block| block.listeners.get(id.index())))
}

/// Returns what the process has counted, in all threads.
pub fn process() -> ProcessCounts {
    ProcessCounts(FIRST.sum(|block| Some(&block.process)))
}

/// Returns how reloads, or upgrades, went.
pub fn attempts(attempt: Attempt) -> Attempts {
    attempts::of(attempt)
}

#[cfg(test)]
mod tests {
    use super::super::{
        self as report, Cause, Client, DropReason, EndResult, Reason, RejectKind, Start,
        StartFailure, TEST_SERVICES, Told, Trouble, Watched, Way,
    };
    use super::*;
    use crate::config::Peer;
    use crate::sys::process::{Ended, Usage};
    use nix::errno::Errno;
    use std::time::Duration;

    const PEER: Peer = Peer::UnixStream(None);

    fn start(way: Way, latency: Option<Duration>) -> Start {
        Start {
            pid: 1,
            way,
            latency,
        }
    }

    /// A client of the service with this number, at the listener with the same.
    fn client(number: usize) -> Client<'static> {
        Client {
            service: ServiceId::new(number),
            listener: ListenerId::new(number),
            peer: &PEER,
        }
    }

    fn outcome(ended: Ended, told: Option<Told>) -> Outcome {
        Outcome {
            out_of_memory: false,
            pid: 1,
            ended,
            told,
            after: Duration::from_millis(7),
            usage: Usage {
                user: Duration::from_micros(300),
                system: Duration::from_micros(200),
                max_rss: 1,
            },
        }
    }

    #[test]
    fn arrivals_are_counted_at_their_listener_though_no_line_is_written() {
        report::set_test_services();
        assert!(!report::wants(1));
        let client = client(2);
        let id = client.listener;
        let before = listener(id);
        report::event(Event::Accepted(client));
        report::event(Event::WaitModeStart(client));
        report::event(Event::Rejected(client, Reason::NoRule));
        report::event(Event::Rejected(client, Reason::Max(3)));
        report::event(Event::DatagramsReceived(id, 5));
        report::event(Event::DatagramsSent(id, 4));
        report::event(Event::DatagramDropped(
            client.service,
            id,
            DropReason::Empty,
        ));
        let after = listener(id);
        assert_eq!(after.accepted(), before.accepted() + 2);
        for kind in RejectKind::ALL {
            let more = matches!(kind, RejectKind::NoRule | RejectKind::Max);
            assert_eq!(
                after.rejected(kind),
                before.rejected(kind) + u64::from(more)
            );
        }
        assert_eq!(after.received(), before.received() + 5);
        assert_eq!(after.sent(), before.sent() + 4);
        for reason in DropReason::ALL {
            let more = u64::from(reason == DropReason::Empty);
            assert_eq!(after.dropped(reason), before.dropped(reason) + more);
        }
        assert!(!after.is_empty());
    }

    #[test]
    fn each_end_has_one_result() {
        report::set_test_services();
        let client = client(1);
        let id = client.service;
        let ends = [
            (Ended::Exited(0), None, EndResult::Success),
            (Ended::Exited(1), None, EndResult::Failure),
            (Ended::Killed(9), None, EndResult::Signal),
            (Ended::Killed(15), Some(Told::Timeout), EndResult::Timeout),
            (Ended::Exited(0), Some(Told::Idle), EndResult::IdleTimeout),
            (Ended::Exited(3), Some(Told::Drain), EndResult::Drain),
            (Ended::Killed(9), Some(Told::Killed), EndResult::Killed),
        ];
        for (ended, told, result) in ends {
            let before = service(id);
            report::event(Event::Closed(client, outcome(ended, told)));
            let after = service(id);
            for other in EndResult::ALL {
                let more = u64::from(other == result);
                assert_eq!(after.ended(other), before.ended(other) + more);
            }
            assert_eq!(after.cpu().0 - before.cpu().0, Duration::from_micros(300));
            assert_eq!(after.cpu().1 - before.cpu().1, Duration::from_micros(200));
        }
        let all = service(id);
        let ended: u64 = EndResult::ALL.map(|result| all.ended(result)).iter().sum();
        assert_eq!(all.durations().counts().iter().sum::<u64>(), ended);
        assert_eq!(
            all.durations().sum(),
            Duration::from_millis(7) * ended as u32
        );
    }

    #[test]
    fn sessions_are_counted_by_kind_with_how_long_their_handshakes_took() {
        report::set_test_services();
        let client = client(3);
        let id = client.service;
        for (resumed, took) in [(false, 2), (true, 1), (true, 1)] {
            let session = skd_tls_protocol::Session {
                resumed,
                ..Default::default()
            };
            let took = Duration::from_millis(took);
            report::event(Event::TlsEstablished(client, &session, took));
        }
        let figures = report::TlsFigures {
            received: 10,
            sent: 20,
            truncated: 1,
        };
        report::event(Event::TlsFigures(id, figures));
        report::event(Event::TlsTruncated(client));
        let counts = service(id);
        assert_eq!(counts.tls_established(), [("full", 1), ("resumed", 2)]);
        assert_eq!(counts.tls_figures(), figures);
        assert_eq!(counts.handshakes().sum(), Duration::from_millis(4));
        assert_eq!(counts.handshakes().counts().iter().sum::<u64>(), 3);
    }

    #[test]
    fn starts_are_counted_by_way_or_cause_with_how_long_clients_waited() {
        report::set_test_services();
        let id = ServiceId::new(0);
        let waited = Some(Duration::from_micros(80));
        for way in Way::ALL {
            report::event(Event::HandlerStarted(id, start(way, waited)));
        }
        report::event(Event::HandlerStarted(id, start(Way::Pool, None)));
        for why in StartFailure::ALL {
            report::event(Event::HandlerNotStarted(id, why));
        }
        let counts = service(id);
        assert_eq!(Way::ALL.map(|way| counts.started(way)), [1, 2, 1]);
        let failed = StartFailure::ALL.map(|why| counts.not_started(why));
        assert_eq!(failed, [1; StartFailure::COUNT]);
        let latencies = counts.latencies();
        assert_eq!(latencies.counts()[..3], [0, 3, 0]);
        assert_eq!(latencies.sum(), Duration::from_micros(240));
        assert_eq!(latencies.bounds().count() + 1, latencies.counts().len());
    }

    #[test]
    fn throttled_events_are_counted() {
        report::set_test_services();
        let client = client(3);
        let before = listener(client.listener).rejected(RejectKind::Rate);
        for _ in 0..3 {
            report::event_if(Event::Rejected(client, Reason::Rate), || false);
        }
        let after = listener(client.listener).rejected(RejectKind::Rate);
        assert_eq!(after, before + 3);
        let before = process().troubles(Cause::Watch);
        for _ in 0..5 {
            report::event(Event::Trouble(Trouble::NotWatched {
                service: Some(client.service),
                what: Watched::Listener,
                errno: Errno::ENOSPC,
            }));
        }
        assert!(process().troubles(Cause::Watch) >= before + 5);
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
                        report::event(Event::HandlerStarted(id, start(Way::Exec, None)));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|it| it.join().unwrap());
        assert_eq!(service(id).started(Way::Exec), 1 + 2 + 3 + 4);
    }

    #[test]
    fn what_is_of_no_known_service_or_listener_is_passed_over() {
        report::set_test_services();
        let unknown = ServiceId::new(TEST_SERVICES);
        report::event(Event::HandlerStarted(unknown, start(Way::Exec, None)));
        assert_eq!(service(unknown), ServiceCounts([0; at_service::ALL]));
        let gone = Client {
            listener: ListenerId::NONE,
            ..client(0)
        };
        report::event(Event::Accepted(gone));
        assert!(listener(ListenerId::NONE).is_empty());
    }

    #[test]
    fn lost_lines_and_events_are_counted() {
        let before = process();
        count_lost_line();
        count_lost_events(3);
        assert!(process().lines_lost() > before.lines_lost());
        assert!(process().events_lost() >= before.events_lost() + 3);
    }
}
