//! The layout of counters: where each counter of a service, of a listener and of the process is, by
//! which name it is saved, and what the counters say.

use std::time::Duration;

use super::histogram::{DURATIONS, HistogramCounts, LATENCIES, counters};
use crate::report::event::{DropReason, EndResult, StartFailure, TlsFigures, Way};
use crate::report::reason::RejectKind;
use crate::report::trouble::Cause;

/// Where the counters of a service are.
pub(super) mod service {
    use super::{DURATIONS, EndResult, LATENCIES, StartFailure, Way, counters};

    pub(in super::super) const STARTED: usize = 0;
    pub(in super::super) const NOT_STARTED: usize = STARTED + Way::COUNT;
    pub(in super::super) const ENDED: usize = NOT_STARTED + StartFailure::COUNT;
    pub(in super::super) const DURATION: usize = ENDED + EndResult::COUNT;
    pub(in super::super) const DURATION_SUM: usize = LATENCY - 1;
    pub(in super::super) const LATENCY: usize = DURATION + counters(DURATIONS.len());
    pub(in super::super) const LATENCY_SUM: usize = USER_CPU - 1;
    pub(in super::super) const USER_CPU: usize = LATENCY + counters(LATENCIES.len());
    pub(in super::super) const SYSTEM_CPU: usize = USER_CPU + 1;
    pub(in super::super) const GATE_PASSED: usize = SYSTEM_CPU + 1;
    pub(in super::super) const TLS_FULL: usize = GATE_PASSED + 1;
    pub(in super::super) const TLS_RESUMED: usize = TLS_FULL + 1;
    pub(in super::super) const TLS_RECEIVED: usize = TLS_RESUMED + 1;
    pub(in super::super) const TLS_SENT: usize = TLS_RECEIVED + 1;
    pub(in super::super) const TLS_TRUNCATED: usize = TLS_SENT + 1;
    pub(in super::super) const HANDSHAKE: usize = TLS_TRUNCATED + 1;
    pub(in super::super) const HANDSHAKE_SUM: usize = ALL - 1;
    pub(in super::super) const ALL: usize = HANDSHAKE + counters(LATENCIES.len());
}

/// Where the counters of a listener are.
pub(super) mod listener {
    use super::{DropReason, RejectKind};

    pub(in super::super) const ACCEPTED: usize = 0;
    pub(in super::super) const RECEIVED: usize = ACCEPTED + 1;
    pub(in super::super) const SENT: usize = RECEIVED + 1;
    pub(in super::super) const REJECTED: usize = SENT + 1;
    pub(in super::super) const DROPPED: usize = REJECTED + RejectKind::COUNT;
    pub(in super::super) const ALL: usize = DROPPED + DropReason::COUNT;
}

/// Where the counters of the process are.
pub(super) mod process {
    use super::Cause;

    pub(in super::super) const LINES_LOST: usize = 0;
    pub(in super::super) const EVENTS_LOST: usize = LINES_LOST + 1;
    pub(in super::super) const TROUBLES: usize = EVENTS_LOST + 1;
    pub(in super::super) const ALL: usize = TROUBLES + Cause::COUNT;
}

/// What a service has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCounts(pub(super) [u64; service::ALL]);

/// What a listener has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerCounts(pub(super) [u64; listener::ALL]);

/// What the process has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessCounts(pub(super) [u64; process::ALL]);

impl ServiceCounts {
    /// Returns how many handlers were started in this way.
    pub fn started(&self, way: Way) -> u64 {
        self.0[service::STARTED + way as usize]
    }

    /// Returns for how many clients no handler could be started, for this reason.
    pub fn not_started(&self, why: StartFailure) -> u64 {
        self.0[service::NOT_STARTED + why as usize]
    }

    /// Returns how many handlers have ended with this result.
    pub fn ended(&self, result: EndResult) -> u64 {
        self.0[service::ENDED + result as usize]
    }

    /// Returns how many clients its gate has let through.
    pub fn gate_passed(&self) -> u64 {
        self.0[service::GATE_PASSED]
    }

    /// Returns how many TLS sessions were established, anew and resumed.
    pub fn tls_established(&self) -> [(&'static str, u64); 2] {
        let count = |at: usize| self.0[at];
        [
            ("full", count(service::TLS_FULL)),
            ("resumed", count(service::TLS_RESUMED)),
        ]
    }

    /// Returns how long their handshakes took.
    pub fn handshakes(&self) -> HistogramCounts<'_> {
        HistogramCounts::new(&LATENCIES, &self.0[service::HANDSHAKE..])
    }

    /// Returns what skd-tls has done for it.
    pub fn tls_figures(&self) -> TlsFigures {
        TlsFigures {
            received: self.0[service::TLS_RECEIVED],
            sent: self.0[service::TLS_SENT],
            truncated: self.0[service::TLS_TRUNCATED],
        }
    }

    /// Returns how long they ran.
    pub fn durations(&self) -> HistogramCounts<'_> {
        HistogramCounts::new(&DURATIONS, &self.0[service::DURATION..service::LATENCY])
    }

    /// Returns how long their clients have waited for them.
    pub fn latencies(&self) -> HistogramCounts<'_> {
        HistogramCounts::new(&LATENCIES, &self.0[service::LATENCY..service::USER_CPU])
    }

    /// Returns whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; service::ALL]
    }

    /// Returns the CPU time that they have used, in user mode and in the kernel.
    pub fn cpu(&self) -> (Duration, Duration) {
        let time = |at: usize| Duration::from_nanos(self.0[at]);
        (time(service::USER_CPU), time(service::SYSTEM_CPU))
    }
}

impl ListenerCounts {
    /// Returns how many connections were admitted, or datagrams for which a handler was started.
    pub fn accepted(&self) -> u64 {
        self.0[listener::ACCEPTED]
    }

    /// Returns how many datagrams were received.
    pub fn received(&self) -> u64 {
        self.0[listener::RECEIVED]
    }

    /// Returns how many datagrams were sent.
    pub fn sent(&self) -> u64 {
        self.0[listener::SENT]
    }

    /// Returns how many connections or datagrams were rejected for this kind of reason.
    pub fn rejected(&self, kind: RejectKind) -> u64 {
        self.0[listener::REJECTED + kind as usize]
    }

    /// Returns how many datagrams were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.0[listener::DROPPED + reason as usize]
    }

    /// Returns whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; listener::ALL]
    }
}

impl ProcessCounts {
    /// Returns how many lines the log did not take.
    pub fn lines_lost(&self) -> u64 {
        self.0[process::LINES_LOST]
    }

    /// Returns how many events clients of the control socket did not take.
    pub fn events_lost(&self) -> u64 {
        self.0[process::EVENTS_LOST]
    }

    /// Returns how often something went wrong for this cause, in lines or not.
    pub fn troubles(&self, cause: Cause) -> u64 {
        self.0[process::TROUBLES + cause as usize]
    }
}

/// Returns the names by which the counters of a service are saved, in their order.
pub(super) fn service_names() -> Vec<String> {
    let durations = DURATIONS.iter().map(|(_, name)| *name);
    let latencies = LATENCIES.iter().map(|(_, name)| *name);
    let mut names = Vec::new();
    add(&mut names, "started", Way::ALL.map(Way::label));
    add(
        &mut names,
        "not-started",
        StartFailure::ALL.map(StartFailure::label),
    );
    add(&mut names, "ended", EndResult::ALL.map(EndResult::label));
    add(&mut names, "duration", durations.chain(["more", "sum"]));
    add(&mut names, "latency", latencies.chain(["more", "sum"]));
    add(&mut names, "cpu", ["user", "system"]);
    add(&mut names, "gate", ["passed"]);
    let tls = ["full", "resumed", "received", "sent", "truncated"];
    add(&mut names, "tls", tls);
    let latencies = LATENCIES.iter().map(|(_, name)| *name);
    add(&mut names, "handshake", latencies.chain(["more", "sum"]));
    names
}

/// Returns the names by which the counters of a listener are saved, in their order.
pub(super) fn listener_names() -> Vec<String> {
    let mut names = vec!["accepted".into(), "received".into(), "sent".into()];
    add(
        &mut names,
        "rejected",
        RejectKind::ALL.map(RejectKind::label),
    );
    add(
        &mut names,
        "dropped",
        DropReason::ALL.map(DropReason::label),
    );
    names
}

/// Returns the names by which the counters of the process are saved, in their order.
pub(super) fn process_names() -> Vec<String> {
    let mut names = vec!["lines-lost".into(), "events-lost".into()];
    add(&mut names, "trouble", Cause::ALL.map(Cause::label));
    names
}

fn add(names: &mut Vec<String>, what: &str, labels: impl IntoIterator<Item = &'static str>) {
    names.extend(labels.into_iter().map(|label| format!("{what}/{label}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_counter_has_a_name_of_its_own() {
        for (names, count) in [
            (service_names(), service::ALL),
            (listener_names(), listener::ALL),
            (process_names(), process::ALL),
        ] {
            assert_eq!(names.len(), count);
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), count);
        }
        assert_eq!(service_names()[service::LATENCY], "latency/50us");
        assert_eq!(service_names()[service::USER_CPU], "cpu/user");
        assert_eq!(service_names()[service::TLS_SENT], "tls/sent");
        assert_eq!(service_names()[service::HANDSHAKE_SUM], "handshake/sum");
        assert_eq!(listener_names()[listener::DROPPED], "dropped/overflow");
        assert_eq!(process_names()[process::TROUBLES], "trouble/accept");
    }

    #[test]
    fn enumerations_are_listed_in_their_order() {
        assert!(
            Way::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            StartFailure::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            EndResult::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            RejectKind::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            DropReason::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            Cause::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
    }
}
