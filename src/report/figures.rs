//! What was counted, in words: a line for the process, one for each service, and one for each of
//! several listeners. What is zero is left out.

use std::collections::BTreeMap;
use std::fmt;

use skd_control::{Attempts, Histogram, ListenerStatus, ServiceStatus, Status};

use crate::config::{Grouped, in_order};

/// What is counted: one, and several.
type Noun = (&'static str, &'static str);

/// A number and what it counts.
struct Counted(u64, Noun);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, (one, more)) = self;
        let what = if *count == 1 { one } else { more };
        write!(f, "{} {what}", Grouped(*count))
    }
}

/// A line of items with commas between them.
struct Items<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    any: bool,
}

impl<'a, 'f> Items<'a, 'f> {
    fn new(f: &'a mut fmt::Formatter<'f>) -> Self {
        Self { f, any: false }
    }

    fn item(&mut self, text: fmt::Arguments<'_>) -> fmt::Result {
        let comma = if self.any { ", " } else { "" };
        self.any = true;
        write!(self.f, "{comma}{text}")
    }

    /// A number before what it counts, one or more, unless it is zero.
    fn number(&mut self, count: u64, what: Noun) -> fmt::Result {
        match count {
            0 => Ok(()),
            _ => self.item(format_args!("{}", Counted(count, what))),
        }
    }

    /// The same with its parts by their labels.
    fn parts(&mut self, counts: &BTreeMap<String, u64>, what: Noun) -> fmt::Result {
        match counts.values().sum() {
            0 => Ok(()),
            sum => self.item(format_args!("{} ({})", Counted(sum, what), Parts(counts))),
        }
    }
}

/// Numbers and their labels, the largest first.
struct Parts<'a>(&'a BTreeMap<String, u64>);

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().filter(|(_, count)| **count > 0);
        let parts = in_order(parts.collect(), |(_, count)| usize::MAX - **count as usize);
        for (index, (label, count)) in parts.into_iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{} {label}", Grouped(*count))?;
        }
        Ok(())
    }
}

/// Writes what the process has counted.
pub(super) fn process(status: &Status, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let own = &status.process;
    let (user, system) = (own.user_cpu_seconds, own.system_cpu_seconds);
    write!(f, "skd: counted in {:.0} s: ", status.uptime_seconds)?;
    let mut items = Items::new(f);
    items.item(format_args!(
        "CPU time {user:.2} s user, {system:.2} s system"
    ))?;
    items.item(format_args!(
        "{} KiB resident",
        Grouped(own.resident_bytes / 1024)
    ))?;
    items.number(
        own.open_descriptors,
        ("open descriptor", "open descriptors"),
    )?;
    items.number(own.threads, ("thread", "threads"))?;
    items.number(
        own.lingering,
        ("lingering connection", "lingering connections"),
    )?;
    items.number(own.lost_lines, ("line lost", "lines lost"))?;
    items.number(own.lost_events, ("event lost", "events lost"))?;
    items.parts(&own.troubles, ("trouble", "troubles"))?;
    attempts(&mut items, &own.reloads, ("reload", "reloads"))?;
    attempts(&mut items, &own.upgrades, ("upgrade", "upgrades"))
}

fn attempts(items: &mut Items<'_, '_>, attempts: &Attempts, what: Noun) -> fmt::Result {
    let Attempts {
        succeeded, failed, ..
    } = attempts;
    items.number(*succeeded, what)?;
    match failed {
        0 => Ok(()),
        _ => items.item(format_args!("{} failed", Counted(*failed, what))),
    }
}

/// Writes what a service has counted.
pub(super) fn service(service: &ServiceStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("skd: counted: ")?;
    let mut items = Items::new(f);
    // One has no line of its own.
    let mut sum = ListenerStatus::default();
    for its in &service.listeners {
        sum.accepted += its.accepted;
        sum.datagrams_received += its.datagrams_received;
        sum.datagrams_sent += its.datagrams_sent;
        add_all(&mut sum.rejected, &its.rejected);
        add_all(&mut sum.datagrams_dropped, &its.datagrams_dropped);
    }
    arrivals(&mut items, &sum)?;
    items.parts(&service.started, ("handler started", "handlers started"))?;
    items.parts(&service.start_failures, ("not started", "not started"))?;
    items.number(service.running, ("running", "running"))?;
    items.parts(&service.ended, ("ended", "ended"))?;
    items.number(service.pending, ("pending", "pending"))?;
    let gate = service.gate.unwrap_or_default();
    items.number(gate.live, ("in the gate", "in the gate"))?;
    items.number(gate.passed, ("passed the gate", "passed the gate"))?;
    if let Some(tls) = &service.tls {
        items.parts(&tls.established, ("TLS session", "TLS sessions"))?;
        items.number(tls.live, ("TLS connection", "TLS connections"))?;
        items.number(tls.truncated, ("truncated", "truncated"))?;
        mean(&mut items, &tls.handshakes, "mean handshake")?;
    }
    mean(&mut items, &service.durations, "mean duration")?;
    mean(&mut items, &service.start_latencies, "mean start latency")?;
    let cpu = service.handlers_user_cpu_seconds + service.handlers_system_cpu_seconds;
    if cpu > 0.0 {
        items.item(format_args!("CPU time of ended handlers {cpu:.2} s"))?;
    }
    Ok(())
}

/// Writes what one of several listeners has counted.
pub(super) fn listener(listener: &ListenerStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let ListenerStatus { kind, address, .. } = listener;
    match address.as_str() {
        "" => write!(f, "skd: counted at {kind} listeners: ")?,
        address => write!(f, "skd: counted at {kind} {address}: ")?,
    }
    arrivals(&mut Items::new(f), listener)
}

fn arrivals(items: &mut Items<'_, '_>, listener: &ListenerStatus) -> fmt::Result {
    items.number(listener.accepted, ("accepted", "accepted"))?;
    items.parts(&listener.rejected, ("refused", "refused"))?;
    items.number(
        listener.datagrams_received,
        ("datagram received", "datagrams received"),
    )?;
    items.number(listener.datagrams_sent, ("datagram sent", "datagrams sent"))?;
    items.parts(
        &listener.datagrams_dropped,
        ("datagram dropped", "datagrams dropped"),
    )
}

fn add_all(sum: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (label, count) in counts {
        *sum.entry(label.clone()).or_default() += count;
    }
}

fn mean(items: &mut Items<'_, '_>, times: &Histogram, what: &str) -> fmt::Result {
    let count: u64 = times.counts.iter().sum();
    match count {
        0 => Ok(()),
        _ => items.item(format_args!(
            "{what} {:.3} ms",
            times.sum_seconds * 1000.0 / count as f64
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServiceId;
    use crate::report::Event;

    fn counts(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
        all.iter()
            .map(|(label, count)| ((*label).into(), *count))
            .collect()
    }

    #[test]
    fn a_line_has_what_is_not_zero_and_parts_by_their_labels() {
        let listener = ListenerStatus {
            kind: "tcp".into(),
            address: "[::1]:80".into(),
            accepted: 10_000,
            rejected: counts(&[("max", 0), ("rate", 9), ("rule", 3)]),
            ..ListenerStatus::default()
        };
        let service = ServiceStatus {
            listeners: vec![listener.clone(), ListenerStatus::default()],
            started: counts(&[("exec", 1), ("pool", 0)]),
            running: 1,
            ..ServiceStatus::default()
        };
        let id = ServiceId::new(0);
        assert_eq!(
            Event::ServiceFigures(id, &service).to_string(),
            "skd: counted: 10,000 accepted, 12 refused (9 rate, 3 rule), 1 handler started (1 exec), \
             1 running"
        );
        assert_eq!(
            Event::ListenerFigures(id, &listener).to_string(),
            "skd: counted at tcp [::1]:80: 10,000 accepted, 12 refused (9 rate, 3 rule)"
        );
        let mut status = Status::default();
        status.process.upgrades.failed = 1;
        status.process.reloads.succeeded = 2;
        assert_eq!(
            Event::ProcessFigures(&status).to_string(),
            "skd: counted in 0 s: CPU time 0.00 s user, 0.00 s system, 0 KiB resident, 2 reloads, \
             1 upgrade failed"
        );
    }
}
