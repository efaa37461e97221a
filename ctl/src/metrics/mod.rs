//! What skd has counted, as metrics for Prometheus and its like. docs/monitoring.md describes each.

mod exposition;
#[cfg(test)]
mod strict;

use std::collections::BTreeMap;

use skd_control::{Attempts, ListenerStatus, ServiceState, ServiceStatus, Status};

pub(crate) use self::exposition::Format;
use self::exposition::{Exposition, Labels};
use crate::show;

/// All states of a service.
const STATES: [ServiceState; 7] = [
    ServiceState::Serving,
    ServiceState::LameDuck,
    ServiceState::Disabled,
    ServiceState::Refusing,
    ServiceState::Draining,
    ServiceState::Removed,
    ServiceState::Done,
];

/// Returns the metrics of a status.
pub(crate) fn text(status: &Status, format: Format) -> String {
    let mut out = Exposition::new(format);
    daemon(&mut out, status);
    process(&mut out, status);
    services(&mut out, &status.services);
    handlers(&mut out, &status.services);
    listeners(&mut out, &status.services);
    out.finish()
}

/// skd and its configuration.
fn daemon(out: &mut Exposition, status: &Status) {
    out.info(
        "skd_build_info",
        "The version of skd.",
        [(vec![("version", status.skd.as_str())], 1.0)],
    );
    out.gauge(
        "skd_uptime_seconds",
        "Time since skd was started, over all upgrades.",
        alone(status.uptime_seconds),
    );
    out.flag(
        "skd_draining",
        "Whether skd ends when its handlers have ended.",
        alone(f64::from(u8::from(status.draining))),
    );
    out.gauge(
        "skd_verbosity",
        "How much skd logs: 0, 1 as with -v, 2 as with -vv.",
        alone(f64::from(status.verbosity)),
    );
    out.gauge(
        "skd_denied_sources",
        "Sources that are denied for a time, by a request to the control socket.",
        alone(status.denials.len() as f64),
    );
    attempts(out, "reload", &status.process.reloads);
    attempts(out, "upgrade", &status.process.upgrades);
}

/// Reloads or upgrades.
fn attempts(out: &mut Exposition, what: &str, attempts: &Attempts) {
    out.counter(
        &format!("skd_{what}s_total"),
        &format!("Attempts to {what}, by the result. A failed one changes nothing."),
        [
            (vec![("result", "success")], attempts.succeeded as f64),
            (vec![("result", "failure")], attempts.failed as f64),
        ],
    );
    if attempts.last_seconds <= 0.0 {
        return;
    }
    out.gauge(
        &format!("skd_last_{what}_timestamp_seconds"),
        &format!("When the last {what} was over, in seconds since 1970."),
        alone(attempts.last_seconds),
    );
    out.flag(
        &format!("skd_last_{what}_success"),
        &format!("Whether the last {what} succeeded."),
        alone(f64::from(u8::from(attempts.last_error.is_none()))),
    );
}

/// The process of skd.
fn process(out: &mut Exposition, status: &Status) {
    let process = &status.process;
    out.counter(
        "process_cpu_seconds_total",
        "CPU time of skd, over all upgrades. Not that of handlers.",
        alone(process.user_cpu_seconds + process.system_cpu_seconds),
    );
    out.counter(
        "skd_cpu_seconds_total",
        "CPU time of skd by mode, over all upgrades. Not that of handlers.",
        [
            (vec![("mode", "user")], process.user_cpu_seconds),
            (vec![("mode", "system")], process.system_cpu_seconds),
        ],
    );
    out.gauge(
        "process_resident_memory_bytes",
        "Resident memory of skd.",
        alone(process.resident_bytes as f64),
    );
    out.gauge(
        "process_open_fds",
        "Open descriptors of skd.",
        alone(process.open_descriptors as f64),
    );
    out.gauge(
        "process_max_fds",
        "How many descriptors skd may have open.",
        alone(process.max_descriptors as f64),
    );
    out.gauge(
        "process_threads",
        "Threads of skd.",
        alone(process.threads as f64),
    );
    out.gauge(
        "skd_lingering_connections",
        "Connections whose handler has ended, and whose input skd drains.",
        alone(process.lingering as f64),
    );
    out.counter(
        "skd_log_lines_lost_total",
        "Lines that the log did not take.",
        alone(process.lost_lines as f64),
    );
    out.counter(
        "skd_events_lost_total",
        "Events that a client of the control socket did not take in time.",
        alone(process.lost_events as f64),
    );
    out.counter(
        "skd_troubles_total",
        "What went wrong in skd, by the cause.",
        each(Vec::new(), "cause", &process.troubles),
    );
}

/// The services: their configuration, and how they are now.
fn services(out: &mut Exposition, services: &[ServiceStatus]) {
    out.info(
        "skd_service_info",
        "The program of a service.",
        services.iter().map(|service| {
            let mut labels = of(service);
            labels.push(("program", &service.program));
            (labels, 1.0)
        }),
    );
    out.flag(
        "skd_service_state",
        "The state of a service: 1 for its state, 0 for the others.",
        services.iter().flat_map(|service| {
            STATES.into_iter().map(move |state| {
                let mut labels = of(service);
                labels.push(("state", show::state(state)));
                (labels, f64::from(u8::from(service.state == state)))
            })
        }),
    );
    out.gauge(
        "skd_handlers_running",
        "Live handlers.",
        services
            .iter()
            .map(|service| (of(service), service.running as f64)),
    );
    out.gauge(
        "skd_slots_used",
        "Slots that have a handler.",
        services
            .iter()
            .map(|service| (of(service), service.slots.used as f64)),
    );
    out.gauge(
        "skd_slots_limit",
        "Slots that there are. Missing if that is not limited.",
        services
            .iter()
            .filter_map(|service| Some((of(service), service.slots.limit? as f64))),
    );
    out.gauge(
        "skd_pending_connections",
        "Connections that are accepted and have no handler yet.",
        services
            .iter()
            .map(|service| (of(service), service.pending as f64)),
    );
    tls(out, services);
    gates(out, services);
    pools(out, services);
}

/// TLS.
fn tls(out: &mut Exposition, services: &[ServiceStatus]) {
    let all = || {
        services
            .iter()
            .filter_map(|service| Some((of(service), service.tls.as_ref()?)))
    };
    out.gauge(
        "skd_tls_connections",
        "Connections that skd-tls has, those in a handshake among them.",
        all().map(|(labels, tls)| (labels, tls.live as f64)),
    );
    out.counter(
        "skd_tls_handshakes_total",
        "TLS handshakes that have succeeded, by their kind: full, resumed. Others are rejections.",
        all().flat_map(|(labels, tls)| each(labels, "kind", &tls.established)),
    );
    out.histogram(
        "skd_tls_handshake_duration_seconds",
        "How long these handshakes took.",
        all().map(|(labels, tls)| (labels, &tls.handshakes)),
    );
    out.counter(
        "skd_tls_received_bytes_total",
        "Bytes that clients have sent, without TLS.",
        all().map(|(labels, tls)| (labels, tls.received_bytes as f64)),
    );
    out.counter(
        "skd_tls_sent_bytes_total",
        "Bytes that were sent to clients, without TLS.",
        all().map(|(labels, tls)| (labels, tls.sent_bytes as f64)),
    );
    out.counter(
        "skd_tls_truncated_total",
        "Connections that clients have ended without close_notify.",
        all().map(|(labels, tls)| (labels, tls.truncated as f64)),
    );
    out.gauge(
        "skd_tls_certificate_expiry_timestamp_seconds",
        "When a certificate ends, in seconds since 1970.",
        all().flat_map(|(labels, tls)| {
            tls.certificates.iter().map(move |certificate| {
                let mut labels = labels.clone();
                labels.push(("file", &certificate.file));
                (labels, certificate.not_after_seconds as f64)
            })
        }),
    );
}

/// Clients in gates, and past them.
fn gates(out: &mut Exposition, services: &[ServiceStatus]) {
    let gates = || {
        services
            .iter()
            .filter_map(|service| Some((of(service), service.gate?)))
    };
    out.gauge(
        "skd_gate_clients",
        "Clients that are in the gate.",
        gates().map(|(labels, gate)| (labels, gate.live as f64)),
    );
    out.gauge(
        "skd_gate_limit_clients",
        "Clients that may be in the gate.",
        gates().map(|(labels, gate)| (labels, gate.limit as f64)),
    );
    out.counter(
        "skd_gate_passed_total",
        "Clients that the gate has let through. It has turned others away: they are rejected.",
        gates().map(|(labels, gate)| (labels, gate.passed as f64)),
    );
}

/// Prestarted handlers.
fn pools(out: &mut Exposition, services: &[ServiceStatus]) {
    let pools = || {
        services
            .iter()
            .filter_map(|service| Some((service, service.pool.as_ref()?)))
    };
    out.info(
        "skd_pool_info",
        "How a service prestarts its handlers, and the call that the program is parked at.",
        pools().map(|(service, pool)| {
            let parked_at = pool.parked_at.as_deref().unwrap_or_default();
            let mut labels = of(service);
            labels.extend([("mode", pool.mode.as_str()), ("parked_at", parked_at)]);
            (labels, 1.0)
        }),
    );
    out.gauge(
        "skd_pool_idle_handlers",
        "Prestarted handlers that wait for a client. Of a fork server, its templates.",
        pools().map(|(service, pool)| (of(service), pool.idle as f64)),
    );
    out.gauge(
        "skd_pool_limit_handlers",
        "Prestarted handlers that there may be.",
        pools().map(|(service, pool)| (of(service), pool.limit as f64)),
    );
}

/// Starts and ends of handlers.
fn handlers(out: &mut Exposition, services: &[ServiceStatus]) {
    out.counter(
        "skd_handlers_started_total",
        "Handlers that were started, by the way: exec, pool, copy.",
        services
            .iter()
            .flat_map(|service| each(of(service), "way", &service.started)),
    );
    out.counter(
        "skd_start_failures_total",
        "Handlers that could not be started, by the cause.",
        services
            .iter()
            .flat_map(|service| each(of(service), "cause", &service.start_failures)),
    );
    out.counter(
        "skd_handlers_ended_total",
        "Handlers that have ended, by the result.",
        services
            .iter()
            .flat_map(|service| each(of(service), "result", &service.ended)),
    );
    out.counter(
        "skd_handlers_cpu_seconds_total",
        "CPU time of handlers that have ended, by mode.",
        services.iter().flat_map(|service| {
            let user = service.handlers_user_cpu_seconds;
            let system = service.handlers_system_cpu_seconds;
            [("user", user), ("system", system)].map(|(mode, value)| {
                let mut labels = of(service);
                labels.push(("mode", mode));
                (labels, value)
            })
        }),
    );
    out.histogram(
        "skd_handler_duration_seconds",
        "How long handlers ran.",
        services
            .iter()
            .map(|service| (of(service), &service.durations)),
    );
    out.histogram(
        "skd_start_latency_seconds",
        "The time from the accept of a connection to the start of its handler.",
        services
            .iter()
            .map(|service| (of(service), &service.start_latencies)),
    );
}

/// What has come to the listeners.
fn listeners(out: &mut Exposition, services: &[ServiceStatus]) {
    let all = || {
        services.iter().flat_map(|service| {
            service.listeners.iter().map(move |listener| {
                let mut labels = of(service);
                labels.extend([
                    ("listener", listener.address.as_str()),
                    ("kind", listener.kind.as_str()),
                ]);
                (labels, listener)
            })
        })
    };
    let datagrams = || all().filter(|(_, listener)| takes_datagrams(listener));
    out.counter(
        "skd_accepted_total",
        "Connections that were admitted, and datagrams for which a handler was started.",
        all().map(|(labels, listener)| (labels, listener.accepted as f64)),
    );
    out.counter(
        "skd_rejected_total",
        "Connections and datagrams that were rejected, by the reason.",
        all().flat_map(|(labels, listener)| each(labels, "reason", &listener.rejected)),
    );
    out.counter(
        "skd_datagrams_received_total",
        "Datagrams that skd has received.",
        datagrams().map(|(labels, listener)| (labels, listener.datagrams_received as f64)),
    );
    out.counter(
        "skd_datagrams_sent_total",
        "Datagrams that skd has sent for handlers.",
        datagrams().map(|(labels, listener)| (labels, listener.datagrams_sent as f64)),
    );
    out.counter(
        "skd_datagrams_dropped_total",
        "Datagrams that skd has dropped, by the reason.",
        datagrams()
            .flat_map(|(labels, listener)| each(labels, "reason", &listener.datagrams_dropped)),
    );
}

fn takes_datagrams(listener: &ListenerStatus) -> bool {
    matches!(listener.kind.as_str(), "udp" | "unix-datagram")
}

/// The only sample of a metric.
fn alone(value: f64) -> [(Labels<'static>, f64); 1] {
    [(Vec::new(), value)]
}

/// The labels of all metrics of a service.
fn of(service: &ServiceStatus) -> Labels<'_> {
    vec![("service", &service.name)]
}

/// A sample for each count, which gets one label more.
fn each<'a>(
    labels: Labels<'a>,
    name: &'static str,
    counts: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = (Labels<'a>, f64)> {
    counts.iter().map(move |(value, count)| {
        let mut labels = labels.clone();
        labels.push((name, value));
        (labels, *count as f64)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::strict::Parsed;
    use super::*;
    use proptest::prelude::*;
    use skd_control::{
        CertificateStatus, Denial, GateStatus, Histogram, PoolStatus, ProcessStatus, Slots,
        TlsStatus,
    };

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    /// A status that has a value in every field.
    pub(crate) fn full() -> Status {
        let attempts = Attempts {
            succeeded: 2,
            failed: 1,
            last_seconds: 1_700_000_000.5,
            last_error: Some("skd.toml:3: no such key".into()),
        };
        Status {
            skd: "2.0.0".into(),
            pid: 42,
            uptime_seconds: 93_784.25,
            verbosity: 1,
            draining: false,
            process: ProcessStatus {
                user_cpu_seconds: 1.5,
                system_cpu_seconds: 2.25,
                resident_bytes: 3_000_000,
                open_descriptors: 17,
                max_descriptors: 1024,
                threads: 3,
                lingering: 1,
                lost_lines: 5,
                lost_events: 6,
                troubles: counts(&[("accept", 7)]),
                reloads: attempts.clone(),
                upgrades: attempts,
            },
            services: vec![full_service("web", "tcp"), full_service("dns", "udp")],
            denials: vec![Denial {
                source: "192.0.2.0/24".into(),
                service: Some("web".into()),
                left_seconds: 30.0,
            }],
        }
    }

    fn full_service(name: &str, kind: &str) -> ServiceStatus {
        ServiceStatus {
            name: name.into(),
            state: ServiceState::Serving,
            program: "/usr/bin/cat".into(),
            running: 3,
            slots: Slots {
                used: 2,
                limit: Some(8),
            },
            pending: 4,
            gate: Some(GateStatus {
                live: 2,
                limit: 256,
                passed: 17,
            }),
            tls: Some(TlsStatus {
                live: 21,
                established: counts(&[("full", 22), ("resumed", 23)]),
                handshakes: Histogram {
                    bounds: vec![0.5],
                    counts: vec![40, 5],
                    sum_seconds: 3.5,
                },
                received_bytes: 24,
                sent_bytes: 25,
                truncated: 26,
                certificates: vec![CertificateStatus {
                    file: "/etc/web.pem".into(),
                    names: vec!["example.org".into()],
                    not_after_seconds: 1_800_000_000,
                }],
            }),
            pool: Some(PoolStatus {
                mode: "warm".into(),
                idle: 5,
                limit: 6,
                parked_at: Some("read".into()),
            }),
            listeners: vec![ListenerStatus {
                kind: kind.into(),
                address: "[127.0.0.1]:80".into(),
                accepted: 100,
                rejected: counts(&[("rate", 9), ("rule", 3)]),
                datagrams_received: 110,
                datagrams_sent: 111,
                datagrams_dropped: counts(&[("queue", 12)]),
            }],
            started: counts(&[("exec", 60), ("pool", 40)]),
            start_failures: counts(&[("fork", 1)]),
            ended: counts(&[("success", 90), ("signal", 7)]),
            durations: Histogram {
                bounds: vec![0.001, 0.5, 1.0],
                counts: vec![1, 2, 3, 4],
                sum_seconds: 12.5,
            },
            start_latencies: Histogram {
                bounds: vec![0.00001, 10.0],
                counts: vec![5, 6, 0],
                sum_seconds: 0.75,
            },
            handlers_user_cpu_seconds: 8.5,
            handlers_system_cpu_seconds: 9.5,
        }
    }

    fn parsed(status: &Status, format: Format) -> Parsed {
        Parsed::of(&text(status, format), format)
    }

    #[test]
    fn every_field_has_its_metric() {
        for format in [Format::OpenMetrics, Format::Prometheus] {
            let all = parsed(&full(), format);
            let web = ("service", "web");
            let tcp = [web, ("listener", "[127.0.0.1]:80"), ("kind", "tcp")];
            let udp = [
                ("service", "dns"),
                ("listener", "[127.0.0.1]:80"),
                ("kind", "udp"),
            ];
            let with =
                |labels: &[(&'static str, &'static str)], more| [labels, &[more]].concat().to_vec();
            for (name, labels, value) in [
                ("skd_build_info", vec![("version", "2.0.0")], 1.0),
                ("skd_uptime_seconds", vec![], 93_784.25),
                ("skd_draining", vec![], 0.0),
                ("skd_verbosity", vec![], 1.0),
                ("skd_denied_sources", vec![], 1.0),
                ("skd_reloads_total", vec![("result", "success")], 2.0),
                ("skd_reloads_total", vec![("result", "failure")], 1.0),
                ("skd_last_reload_timestamp_seconds", vec![], 1_700_000_000.5),
                ("skd_last_reload_success", vec![], 0.0),
                ("skd_upgrades_total", vec![("result", "success")], 2.0),
                (
                    "skd_last_upgrade_timestamp_seconds",
                    vec![],
                    1_700_000_000.5,
                ),
                ("skd_last_upgrade_success", vec![], 0.0),
                ("process_cpu_seconds_total", vec![], 3.75),
                ("skd_cpu_seconds_total", vec![("mode", "user")], 1.5),
                ("skd_cpu_seconds_total", vec![("mode", "system")], 2.25),
                ("process_resident_memory_bytes", vec![], 3_000_000.0),
                ("process_open_fds", vec![], 17.0),
                ("process_max_fds", vec![], 1024.0),
                ("process_threads", vec![], 3.0),
                ("skd_lingering_connections", vec![], 1.0),
                ("skd_log_lines_lost_total", vec![], 5.0),
                ("skd_events_lost_total", vec![], 6.0),
                ("skd_troubles_total", vec![("cause", "accept")], 7.0),
                (
                    "skd_service_info",
                    vec![web, ("program", "/usr/bin/cat")],
                    1.0,
                ),
                ("skd_service_state", vec![web, ("state", "serving")], 1.0),
                ("skd_service_state", vec![web, ("state", "draining")], 0.0),
                ("skd_handlers_running", vec![web], 3.0),
                ("skd_slots_used", vec![web], 2.0),
                ("skd_slots_limit", vec![web], 8.0),
                ("skd_pending_connections", vec![web], 4.0),
                ("skd_tls_connections", vec![web], 21.0),
                (
                    "skd_tls_handshakes_total",
                    vec![web, ("kind", "full")],
                    22.0,
                ),
                (
                    "skd_tls_handshakes_total",
                    vec![web, ("kind", "resumed")],
                    23.0,
                ),
                ("skd_tls_handshake_duration_seconds_count", vec![web], 45.0),
                ("skd_tls_received_bytes_total", vec![web], 24.0),
                ("skd_tls_sent_bytes_total", vec![web], 25.0),
                ("skd_tls_truncated_total", vec![web], 26.0),
                (
                    "skd_tls_certificate_expiry_timestamp_seconds",
                    vec![web, ("file", "/etc/web.pem")],
                    1_800_000_000.0,
                ),
                ("skd_gate_clients", vec![web], 2.0),
                ("skd_gate_limit_clients", vec![web], 256.0),
                ("skd_gate_passed_total", vec![web], 17.0),
                (
                    "skd_pool_info",
                    vec![web, ("mode", "warm"), ("parked_at", "read")],
                    1.0,
                ),
                ("skd_pool_idle_handlers", vec![web], 5.0),
                ("skd_pool_limit_handlers", vec![web], 6.0),
                (
                    "skd_handlers_started_total",
                    vec![web, ("way", "pool")],
                    40.0,
                ),
                (
                    "skd_start_failures_total",
                    vec![web, ("cause", "fork")],
                    1.0,
                ),
                (
                    "skd_handlers_ended_total",
                    vec![web, ("result", "signal")],
                    7.0,
                ),
                (
                    "skd_handlers_cpu_seconds_total",
                    vec![web, ("mode", "user")],
                    8.5,
                ),
                (
                    "skd_handlers_cpu_seconds_total",
                    vec![web, ("mode", "system")],
                    9.5,
                ),
                (
                    "skd_handler_duration_seconds_bucket",
                    vec![web, ("le", "0.001")],
                    1.0,
                ),
                (
                    "skd_handler_duration_seconds_bucket",
                    vec![web, ("le", "1.0")],
                    6.0,
                ),
                (
                    "skd_handler_duration_seconds_bucket",
                    vec![web, ("le", "+Inf")],
                    10.0,
                ),
                ("skd_handler_duration_seconds_count", vec![web], 10.0),
                ("skd_handler_duration_seconds_sum", vec![web], 12.5),
                (
                    "skd_start_latency_seconds_bucket",
                    vec![web, ("le", "0.00001")],
                    5.0,
                ),
                ("skd_start_latency_seconds_count", vec![web], 11.0),
                ("skd_start_latency_seconds_sum", vec![web], 0.75),
                ("skd_accepted_total", tcp.to_vec(), 100.0),
                ("skd_rejected_total", with(&tcp, ("reason", "rate")), 9.0),
                ("skd_rejected_total", with(&tcp, ("reason", "rule")), 3.0),
                ("skd_datagrams_received_total", udp.to_vec(), 110.0),
                ("skd_datagrams_sent_total", udp.to_vec(), 111.0),
                (
                    "skd_datagrams_dropped_total",
                    with(&udp, ("reason", "queue")),
                    12.0,
                ),
            ] {
                assert_eq!(all.value(name, &labels), Some(value), "{name}{labels:?}");
            }
        }
    }

    #[test]
    fn the_documentation_has_each_metric_and_its_labels() {
        let rows = include_str!("../../../docs/monitoring.md").lines();
        let rows = rows.filter_map(|row| row.strip_prefix("| `")?.split_once("` | "));
        let documented: BTreeMap<_, _> = rows
            .filter(|(name, _)| name.contains('_'))
            .map(|(name, rest)| {
                let labels = rest.trim_start_matches("| ").split(" | ").next();
                let labels = labels
                    .filter(|_| !rest.starts_with('|'))
                    .unwrap_or_default();
                (name.to_owned(), labels.replace(", ", " "))
            })
            .collect();
        let mut found = BTreeMap::new();
        for line in text(&full(), Format::Prometheus).lines() {
            let Some((sample, _)) = line.split_once(' ').filter(|_| !line.starts_with('#')) else {
                continue;
            };
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let of_histogram = ["_count", "_sum"].iter().any(|end| name.ends_with(end));
            let labels: Vec<_> = labels
                .split("\",")
                .filter_map(|label| label.split_once('='))
                .map(|(label, _)| label)
                .collect();
            if !of_histogram {
                let name = name.strip_suffix("_bucket").unwrap_or(name);
                found.insert(name.to_owned(), labels.join(" "));
            }
        }
        assert_eq!(found, documented);
    }

    #[test]
    fn a_status_with_nothing_in_it_has_metrics() {
        for format in [Format::OpenMetrics, Format::Prometheus] {
            let all = parsed(&Status::default(), format);
            assert_eq!(all.value("skd_uptime_seconds", &[]), Some(0.0));
            assert_eq!(all.value("skd_last_reload_success", &[]), None);
        }
    }

    // A service that was removed and has handlers still, beside a new one of its name.
    #[test]
    fn services_of_one_name_are_summed() {
        let mut status = full();
        let mut removed = full_service("web", "tcp");
        removed.state = ServiceState::Removed;
        status.services.push(removed);
        let all = parsed(&status, Format::OpenMetrics);
        let web = ("service", "web");
        for (name, labels, value) in [
            ("skd_handlers_running", vec![web], 6.0),
            ("skd_service_state", vec![web, ("state", "serving")], 1.0),
            ("skd_service_state", vec![web, ("state", "removed")], 1.0),
            (
                "skd_service_info",
                vec![web, ("program", "/usr/bin/cat")],
                1.0,
            ),
            ("skd_handler_duration_seconds_count", vec![web], 20.0),
        ] {
            assert_eq!(all.value(name, &labels), Some(value), "{name}{labels:?}");
        }
    }

    // No panic, and nothing that isn't well formed, whatever an skd of another version says.
    #[test]
    fn odd_histograms_are_well_formed() {
        for (bounds, counts) in [
            (vec![], vec![]),
            (vec![], vec![3]),
            (vec![1.0, 2.0], vec![3]),
            (vec![1.0], vec![3, 4, 5]),
        ] {
            let mut status = full();
            status.services[0].durations = Histogram {
                bounds,
                counts: counts.clone(),
                sum_seconds: 1.0,
            };
            let all = parsed(&status, Format::OpenMetrics);
            let count = counts.iter().sum::<u64>() as f64;
            let labels = [("service", "web")];
            assert_eq!(
                all.value("skd_handler_duration_seconds_count", &labels),
                Some(count)
            );
        }
    }

    #[test]
    fn counters_have_their_names_in_each_format() {
        let text = |format| text(&full(), format);
        let open = text(Format::OpenMetrics);
        assert!(open.contains("\n# TYPE skd_accepted counter\n# HELP skd_accepted Conn"));
        assert!(open.contains(
            "\n# TYPE process_cpu_seconds counter\n# UNIT process_cpu_seconds seconds\n"
        ));
        assert!(open.starts_with("# TYPE skd_build info\n"));
        assert!(open.ends_with("\n# EOF\n"));
        let prometheus = text(Format::Prometheus);
        assert!(prometheus.contains("\n# TYPE skd_accepted_total counter\n"));
        assert!(prometheus.starts_with("# TYPE skd_build_info gauge\n"));
        assert!(!prometheus.contains("EOF") && !prometheus.contains("UNIT"));
    }

    proptest! {
        #[test]
        fn any_label_value_comes_back(name in any::<String>(), address in "[\\\\\"\n{},=a]{0,9}", reason in any::<String>()) {
            for format in [Format::OpenMetrics, Format::Prometheus] {
                let mut status = full();
                let service = &mut status.services[0];
                service.name.clone_from(&name);
                service.listeners[0].address.clone_from(&address);
                service.listeners[0].rejected = BTreeMap::from([(reason.clone(), 77)]);
                let all = parsed(&status, format);
                let labels = [
                    ("service", name.as_str()),
                    ("listener", address.as_str()),
                    ("kind", "tcp"),
                    ("reason", reason.as_str()),
                ];
                prop_assert_eq!(all.value("skd_rejected_total", &labels), Some(77.0));
            }
        }
    }
}
