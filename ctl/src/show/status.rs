//! The status of skd and of its services, a paragraph each.

use std::collections::BTreeMap;

use skd_control::{
    Attempts, CertificateStatus, Denial, Histogram, ListenerStatus, ProcessStatus, ServiceState,
    ServiceStatus, Status, TlsStatus,
};

use crate::text::{Align, Table, age, bytes, day, escaped, seconds};

/// How skd and its services are.
pub(crate) fn status(status: &Status, width: Option<usize>) -> String {
    let mut text = head(status);
    for service in &status.services {
        text.push('\n');
        text += &paragraph(service, width);
    }
    if !status.denials.is_empty() {
        text += "\nDenied for a time\n";
        text += &denials(&status.denials, width);
    }
    text
}

/// What a service does with new clients, in a word.
pub(crate) fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Serving => "serving",
        ServiceState::LameDuck => "lame-duck",
        ServiceState::Disabled => "disabled",
        ServiceState::Refusing => "refusing",
        ServiceState::Draining => "draining",
        ServiceState::Removed => "removed",
        ServiceState::Done => "done",
    }
}

/// How many connections and datagrams of a service were rejected, for whichever reason.
pub(crate) fn rejected(service: &ServiceStatus) -> u64 {
    service
        .listeners
        .iter()
        .flat_map(|listener| listener.rejected.values())
        .sum()
}

/// Lines that have a name each.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, text: &str) {
        self.0 += &format!("  {name:<14} {}\n", escaped(text));
    }

    /// Adds a line if there is something to say.
    fn some(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.line(name, text);
        }
    }
}

fn head(status: &Status) -> String {
    let process = &status.process;
    let mut lines = Lines(format!(
        "skd {}, process {}, up {}{}\n",
        escaped(&status.skd),
        status.pid,
        age(status.uptime_seconds),
        if status.draining {
            ", ends when its handlers have ended"
        } else {
            ""
        },
    ));
    lines.line(
        "CPU",
        &format!(
            "{} user, {} system",
            seconds(process.user_cpu_seconds),
            seconds(process.system_cpu_seconds)
        ),
    );
    lines.line("memory", &bytes(process.resident_bytes));
    lines.line(
        "descriptors",
        &format!(
            "{} of {}",
            process.open_descriptors, process.max_descriptors
        ),
    );
    lines.line("threads", &process.threads.to_string());
    lines.line("verbosity", &status.verbosity.to_string());
    lines.some("lingering", &nonzero(process.lingering));
    lines.some("lost", &lost(process));
    lines.some("troubles", &labelled(&process.troubles));
    lines.some("reloads", &attempts(&process.reloads));
    lines.some("upgrades", &attempts(&process.upgrades));
    lines.0
}

fn nonzero(count: u64) -> String {
    if count == 0 {
        String::new()
    } else {
        count.to_string()
    }
}

fn lost(process: &ProcessStatus) -> String {
    let lines = (process.lost_lines, "of the log");
    let events = (process.lost_events, "of events");
    let parts =
        [lines, events].map(|(count, what)| (count > 0).then(|| format!("{count} lines {what}")));
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn attempts(attempts: &Attempts) -> String {
    match (attempts.succeeded, attempts.failed, &attempts.last_error) {
        (0, 0, _) => String::new(),
        (succeeded, 0, _) => succeeded.to_string(),
        (succeeded, failed, None) => format!("{succeeded}, and {failed} failed"),
        (succeeded, failed, Some(error)) => {
            format!("{succeeded}, and {failed} failed, the last one: {error}")
        }
    }
}

/// Counts by their labels, the largest first.
fn labelled(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let parts = counts
        .iter()
        .map(|(label, count)| format!("{count} {label}"));
    parts.collect::<Vec<_>>().join(", ")
}

fn paragraph(service: &ServiceStatus, width: Option<usize>) -> String {
    let mut lines = Lines(format!(
        "{}: {}\n",
        escaped(&service.name),
        state(service.state)
    ));
    lines.line("program", &service.program);
    lines.line("handlers", &running(service));
    lines.some("pending", &nonzero(service.pending));
    if let Some(tls) = &service.tls {
        lines.line("TLS", &tls_connections(tls));
        lines.some("handshake", &quantiles(&tls.handshakes));
        for certificate in &tls.certificates {
            lines.line("certificate", &certificate_until(certificate));
        }
    }
    if let Some(gate) = &service.gate {
        let text = format!(
            "{} of {} in it, {} passed",
            gate.live, gate.limit, gate.passed
        );
        lines.line("gate", &text);
    }
    if let Some(pool) = &service.pool {
        let parked = pool
            .parked_at
            .as_ref()
            .map(|call| format!(", parked at {call}"));
        lines.line(
            "pool",
            &format!(
                "{}, {} of {} idle{}",
                pool.mode,
                pool.idle,
                pool.limit,
                parked.unwrap_or_default()
            ),
        );
    }
    lines.some("started", &labelled(&service.started));
    lines.some("not started", &labelled(&service.start_failures));
    lines.some("ended", &labelled(&service.ended));
    lines.some("duration", &quantiles(&service.durations));
    lines.some("start latency", &quantiles(&service.start_latencies));
    let (user, system) = (
        service.handlers_user_cpu_seconds,
        service.handlers_system_cpu_seconds,
    );
    if user + system > 0.0 {
        lines.line(
            "handlers' CPU",
            &format!("{} user, {} system", seconds(user), seconds(system)),
        );
    }
    lines.some("datagrams", &datagrams(&service.listeners));
    lines.0 + &listeners(&service.listeners, width)
}

/// Connections with TLS, and what there was of them.
fn tls_connections(tls: &TlsStatus) -> String {
    let live = match tls.live {
        1 => "1 connection".into(),
        live => format!("{live} connections"),
    };
    let truncated = match tls.truncated {
        0 => String::new(),
        truncated => format!(", {truncated} truncated"),
    };
    match labelled(&tls.established).as_str() {
        "" => live,
        established => format!(
            "{live}; {established}{truncated}; {} received, {} sent",
            bytes(tls.received_bytes),
            bytes(tls.sent_bytes)
        ),
    }
}

/// A certificate, and the day on which it ends.
fn certificate_until(certificate: &CertificateStatus) -> String {
    let until = day(certificate.not_after_seconds);
    match certificate.names.as_slice() {
        [] => format!("{}, until {until}", certificate.file),
        [name] => format!("{}, for {name} until {until}", certificate.file),
        [name, rest @ ..] => format!(
            "{}, for {name} and {} more until {until}",
            certificate.file,
            rest.len()
        ),
    }
}

fn running(service: &ServiceStatus) -> String {
    let slots = service.slots;
    match slots.limit {
        Some(limit) => format!("{}, {} of {limit} slots used", service.running, slots.used),
        None => service.running.to_string(),
    }
}

/// The listeners of a service, a line each, and below it what was rejected and dropped.
fn listeners(listeners: &[ListenerStatus], width: Option<usize>) -> String {
    if listeners.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("  LISTENER", Align::Left),
        ("ACCEPTED", Align::Right),
        ("REJECTED", Align::Left),
    ]);
    for listener in listeners {
        table.row([
            format!("  {} {}", listener.kind, listener.address),
            listener.accepted.to_string(),
            total(&listener.rejected),
        ]);
    }
    table.text(width)
}

/// The datagrams of all listeners.
fn datagrams(listeners: &[ListenerStatus]) -> String {
    let received: u64 = listeners
        .iter()
        .map(|listener| listener.datagrams_received)
        .sum();
    let sent: u64 = listeners
        .iter()
        .map(|listener| listener.datagrams_sent)
        .sum();
    let mut dropped = BTreeMap::new();
    for (reason, count) in listeners
        .iter()
        .flat_map(|listener| &listener.datagrams_dropped)
    {
        *dropped.entry(reason.clone()).or_default() += count;
    }
    match (received, sent, total(&dropped).as_str()) {
        (0, 0, "0") => String::new(),
        (_, _, "0") => format!("{received} received, {sent} sent"),
        (_, _, dropped) => format!("{received} received, {sent} sent; dropped {dropped}"),
    }
}

/// A sum, and what it is made of.
fn total(counts: &BTreeMap<String, u64>) -> String {
    match counts.values().sum::<u64>() {
        0 => "0".into(),
        sum => format!("{sum}: {}", labelled(counts)),
    }
}

fn denials(denials: &[Denial], width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("  SOURCE", Align::Left),
        ("SERVICE", Align::Left),
        ("LEFT", Align::Right),
    ]);
    for denial in denials {
        table.row([
            format!("  {}", denial.source),
            denial.service.clone().unwrap_or_else(|| "all".into()),
            age(denial.left_seconds),
        ]);
    }
    table.text(width)
}

/// The mean of a histogram, and within which of its bounds half and 99 % are.
fn quantiles(histogram: &Histogram) -> String {
    let count: u64 = histogram.counts.iter().sum();
    if count == 0 {
        return String::new();
    }
    let within = |share: f64| {
        let wanted = (count as f64 * share).ceil() as u64;
        let mut below = 0;
        let bucket = histogram.counts.iter().position(|count| {
            below += count;
            below >= wanted
        });
        match bucket.and_then(|bucket| histogram.bounds.get(bucket)) {
            Some(bound) => format!("≤ {}", seconds(*bound)),
            None => format!(
                "> {}",
                seconds(histogram.bounds.last().copied().unwrap_or(0.0))
            ),
        }
    };
    format!(
        "mean {}, half {}, 99 % {}",
        seconds(histogram.sum_seconds / count as f64),
        within(0.5),
        within(0.99)
    )
}

#[cfg(test)]
mod tests {
    use super::super::example;

    #[test]
    fn a_status_is_shown() {
        let text = "\
skd 2.1.0, process 1234, up 3d04h
  CPU            1.25 s user, 3.50 s system
  memory         5.0 MiB
  descriptors    42 of 1024
  threads        3
  verbosity      1
  lingering      2
  lost           7 lines of the log
  troubles       2 accept
  reloads        4, and 1 failed, the last one: /etc/skd.toml:3: no such program

web: serving
  program        /usr/bin/busybox
  handlers       12, 12 of 40 slots used
  pending        3
  TLS            3 connections; 900 full, 100 resumed, 4 truncated; 1.0 KiB received, 5.0 MiB sent
  handshake      mean 2.0 ms, half ≤ 2.0 ms, 99 % ≤ 10 ms
  certificate    /etc/skd/web.pem, for example.org and 1 more until 2027-01-31
  gate           2 of 256 in it, 17 passed
  pool           warm, 2 of 4 idle, parked at read
  started        12300 pool, 45 exec
  not started    1 exec
  ended          12330 success, 3 signal
  duration       mean 20 ms, half ≤ 10 ms, 99 % ≤ 1.00 s
  handlers' CPU  12.50 s user, 500 ms system
  LISTENER        ACCEPTED  REJECTED
  tcp 0.0.0.0:80     12000  677: 600 rate, 77 rule
  tcp [::]:80          345  1: 1 max

dns: refusing
  program        /usr/sbin/named
  handlers       1
  started        99 exec
  datagrams      150 received, 149 sent; dropped 1: 1 queue
  LISTENER        ACCEPTED  REJECTED
  udp 0.0.0.0:53        99  0

a\\u{1b}b: removed
  program        /bin/cat
  handlers       2

Denied for a time
  SOURCE          SERVICE   LEFT
  203.0.113.0/24  web      3m05s
";
        assert_eq!(super::status(&example::status(), None), text);
    }
}
