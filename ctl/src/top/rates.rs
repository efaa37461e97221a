//! Rates from counters.

use std::collections::{BTreeMap, VecDeque};

use skd_control::{ServiceStatus, Status};

use crate::show::rejected;

/// How many rates are kept.
const KEPT: usize = 240;

/// The rates of skd and its services.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: Option<Sample>,
    services: BTreeMap<String, ServiceRates>,
    /// The share of one processor that skd uses.
    pub(super) cpu: Option<f64>,
}

/// Counters at one time.
#[derive(Debug)]
struct Sample {
    /// skd's own clock: a late answer makes no wrong rate.
    uptime: f64,
    pid: i32,
    cpu: f64,
    services: BTreeMap<String, Counts>,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    accepted: u64,
    rejected: u64,
}

/// The rates of a service, in events per second.
#[derive(Debug, Default)]
pub(super) struct ServiceRates {
    /// Accepted, the newest last.
    pub(super) accepted: VecDeque<f64>,
    /// Rejected, the newest last.
    pub(super) rejected: VecDeque<f64>,
}

impl Rates {
    /// Takes note of the counters of a status.
    pub(super) fn sample(&mut self, status: &Status) {
        let now = Sample::new(status);
        // Another skd counts anew. An upgrade changes neither.
        let last = self.last.take();
        let last = last.filter(|last| last.pid == now.pid && last.uptime <= now.uptime);
        match last {
            None => *self = Self::default(),
            Some(last) if now.uptime - last.uptime < 0.01 => {
                self.last = Some(last);
                return;
            }
            Some(last) => self.compare(&last, &now),
        }
        self.last = Some(now);
    }

    fn compare(&mut self, last: &Sample, now: &Sample) {
        let time = now.uptime - last.uptime;
        self.cpu = Some(((now.cpu - last.cpu) / time).max(0.0));
        self.services
            .retain(|name, _| now.services.contains_key(name));
        for (name, counts) in &now.services {
            // A new service has no rate until it is seen again.
            let Some(before) = last.services.get(name) else {
                self.services.remove(name);
                continue;
            };
            let rates = self.services.entry(name.clone()).or_default();
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / time;
            push(&mut rates.accepted, rate(counts.accepted, before.accepted));
            push(&mut rates.rejected, rate(counts.rejected, before.rejected));
        }
    }

    /// The rates of a service.
    pub(super) fn of(&self, service: &str) -> Option<&ServiceRates> {
        self.services.get(service)
    }

    /// How many clients of all services are accepted and rejected in a second.
    pub(super) fn total(&self) -> Option<(f64, f64)> {
        let last = |rates: &VecDeque<f64>| rates.back().copied().unwrap_or(0.0);
        let add = |sum: (f64, f64), rates: &ServiceRates| {
            (sum.0 + last(&rates.accepted), sum.1 + last(&rates.rejected))
        };
        self.cpu?;
        Some(self.services.values().fold((0.0, 0.0), add))
    }
}

impl Sample {
    fn new(status: &Status) -> Self {
        let process = &status.process;
        Self {
            uptime: status.uptime_seconds,
            pid: status.pid,
            cpu: process.user_cpu_seconds + process.system_cpu_seconds,
            services: status
                .services
                .iter()
                .map(|service| (service.name.clone(), Counts::new(service)))
                .collect(),
        }
    }
}

impl Counts {
    fn new(service: &ServiceStatus) -> Self {
        Self {
            accepted: accepted(service),
            rejected: rejected(service),
        }
    }
}

/// How many clients of a service were accepted.
pub(super) fn accepted(service: &ServiceStatus) -> u64 {
    service
        .listeners
        .iter()
        .map(|listener| listener.accepted)
        .sum()
}

fn push(rates: &mut VecDeque<f64>, rate: f64) {
    if rates.len() == KEPT {
        rates.pop_front();
    }
    rates.push_back(rate);
}

/// The last rates as a line of bars, the newest on the right. The highest of them is a full bar.
pub(super) fn sparkline(rates: &VecDeque<f64>, width: usize) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = rates.iter().skip(rates.len().saturating_sub(width));
    let highest = shown.clone().copied().fold(0.0, f64::max);
    let bar = |rate: &f64| {
        // Something is seen of every rate that isn't zero.
        let eighths = if highest > 0.0 {
            (rate / highest * 8.0).ceil()
        } else {
            0.0
        };
        BARS[(eighths as usize).min(8)]
    };
    let bars: String = shown.map(bar).collect();
    format!("{bars:>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::example;

    fn later(seconds: f64, accepted: u64) -> Status {
        let mut status = example::status();
        status.uptime_seconds += seconds;
        status.process.user_cpu_seconds += seconds / 4.0;
        status.services[0].listeners[1].accepted += accepted;
        status
    }

    #[test]
    fn rates_are_differences_over_the_time_of_skd() {
        let mut rates = Rates::default();
        rates.sample(&later(0.0, 0));
        assert!(rates.of("web").is_none());
        assert_eq!(rates.total(), None);
        rates.sample(&later(2.0, 30));
        rates.sample(&later(2.0, 30));
        rates.sample(&later(3.0, 130));
        let web = rates.of("web").unwrap();
        assert_eq!(web.accepted, [15.0, 100.0]);
        assert_eq!(web.rejected, [0.0, 0.0]);
        assert_eq!(rates.cpu, Some(0.25));
        assert_eq!(rates.total(), Some((100.0, 0.0)));
    }

    #[test]
    fn another_skd_begins_anew() {
        let mut rates = Rates::default();
        rates.sample(&later(0.0, 0));
        rates.sample(&later(1.0, 10));
        let mut other = later(2.0, 0);
        other.pid += 1;
        rates.sample(&other);
        assert!(rates.of("web").is_none());
    }

    #[test]
    fn a_service_that_came_back_begins_anew() {
        let mut rates = Rates::default();
        rates.sample(&later(0.0, 0));
        rates.sample(&later(1.0, 10));
        let mut without = later(2.0, 10);
        without.services.remove(0);
        rates.sample(&without);
        assert!(rates.of("web").is_none());
        rates.sample(&later(3.0, 10));
        assert!(rates.of("web").is_none());
        rates.sample(&later(4.0, 20));
        assert_eq!(rates.of("web").unwrap().accepted, [10.0]);
    }

    #[test]
    fn sparklines_end_at_the_right() {
        let rates = VecDeque::from([9.0, 0.0, 0.1, 4.0, 8.0]);
        assert_eq!(sparkline(&rates, 4), " ▁▄█");
        assert_eq!(sparkline(&rates, 7), "  █ ▁▄█");
        assert_eq!(sparkline(&VecDeque::from([0.0]), 3), "   ");
    }
}
