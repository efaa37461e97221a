//! A status with a bit of everything, for tests.

use std::collections::BTreeMap;

use skd_control::{
    Attempts, CertificateStatus, Denial, GateStatus, HandlerStatus, Handlers, Histogram,
    ListenerStatus, PoolStatus, ProcessStatus, ServiceState, ServiceStatus, Slots, Status,
    TlsStatus,
};

/// Counts by a label.
fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// Three services.
pub(crate) fn status() -> Status {
    Status {
        skd: "2.1.0".into(),
        pid: 1234,
        uptime_seconds: 273_600.0,
        verbosity: 1,
        draining: false,
        process: ProcessStatus {
            user_cpu_seconds: 1.25,
            system_cpu_seconds: 3.5,
            resident_bytes: 5_242_880,
            open_descriptors: 42,
            max_descriptors: 1024,
            threads: 3,
            lingering: 2,
            lost_lines: 7,
            lost_events: 0,
            troubles: counts(&[("accept", 2)]),
            reloads: Attempts {
                succeeded: 4,
                failed: 1,
                last_seconds: 1_796_000_000.0,
                last_error: Some("/etc/skd.toml:3: no such program".into()),
            },
            upgrades: Attempts::default(),
        },
        services: vec![web(), dns(), removed()],
        denials: vec![Denial {
            source: "203.0.113.0/24".into(),
            service: Some("web".into()),
            left_seconds: 185.0,
        }],
    }
}

fn web() -> ServiceStatus {
    ServiceStatus {
        name: "web".into(),
        program: "/usr/bin/busybox".into(),
        running: 12,
        slots: Slots {
            used: 12,
            limit: Some(40),
        },
        pending: 3,
        gate: Some(GateStatus {
            live: 2,
            limit: 256,
            passed: 17,
        }),
        tls: Some(TlsStatus {
            live: 3,
            established: counts(&[("full", 900), ("resumed", 100)]),
            handshakes: Histogram {
                bounds: vec![0.002, 0.01],
                counts: vec![900, 100, 0],
                sum_seconds: 2.0,
            },
            received_bytes: 1024,
            sent_bytes: 5_242_880,
            truncated: 4,
            certificates: vec![CertificateStatus {
                file: "/etc/skd/web.pem".into(),
                names: vec!["example.org".into(), "www.example.org".into()],
                not_after_seconds: 1_801_439_999,
            }],
        }),
        pool: Some(PoolStatus {
            mode: "warm".into(),
            idle: 2,
            limit: 4,
            parked_at: Some("read".into()),
        }),
        listeners: vec![
            ListenerStatus {
                kind: "tcp".into(),
                address: "0.0.0.0:80".into(),
                accepted: 12_000,
                rejected: counts(&[("rate", 600), ("rule", 77)]),
                ..ListenerStatus::default()
            },
            ListenerStatus {
                kind: "tcp".into(),
                address: "[::]:80".into(),
                accepted: 345,
                rejected: counts(&[("max", 1)]),
                ..ListenerStatus::default()
            },
        ],
        started: counts(&[("exec", 45), ("pool", 12_300)]),
        start_failures: counts(&[("exec", 1)]),
        ended: counts(&[("signal", 3), ("success", 12_330)]),
        durations: Histogram {
            bounds: vec![0.001, 0.01, 0.1, 1.0],
            counts: vec![0, 10_000, 2_000, 300, 33],
            sum_seconds: 246.66,
        },
        start_latencies: Histogram::default(),
        handlers_user_cpu_seconds: 12.5,
        handlers_system_cpu_seconds: 0.5,
        ..ServiceStatus::default()
    }
}

fn dns() -> ServiceStatus {
    ServiceStatus {
        name: "dns".into(),
        state: ServiceState::Refusing,
        program: "/usr/sbin/named".into(),
        running: 1,
        slots: Slots {
            used: 1,
            limit: None,
        },
        listeners: vec![ListenerStatus {
            kind: "udp".into(),
            address: "0.0.0.0:53".into(),
            accepted: 99,
            datagrams_received: 150,
            datagrams_sent: 149,
            datagrams_dropped: counts(&[("queue", 1)]),
            ..ListenerStatus::default()
        }],
        started: counts(&[("exec", 99)]),
        ..ServiceStatus::default()
    }
}

fn removed() -> ServiceStatus {
    ServiceStatus {
        // Such a name can't be configured, and must do no harm if it comes.
        name: "a\x1bb".into(),
        state: ServiceState::Removed,
        program: "/bin/cat".into(),
        running: 2,
        slots: Slots {
            used: 2,
            limit: None,
        },
        ..ServiceStatus::default()
    }
}

/// Two of more handlers.
pub(crate) fn handlers() -> Handlers {
    Handlers {
        total: 17,
        handlers: vec![
            HandlerStatus {
                pid: 4711,
                service: "web".into(),
                listener: "0.0.0.0:80".into(),
                client: "192.0.2.7:51234".into(),
                age_seconds: 185.0,
                cpu_seconds: Some(0.012),
                resident_bytes: Some(1_468_006),
                received_bytes: Some(312),
                sent_bytes: Some(1_048_576),
            },
            HandlerStatus {
                pid: 4712,
                service: "dns".into(),
                listener: "0.0.0.0:53".into(),
                client: "[2001:db8::1]:5353".into(),
                age_seconds: 0.417,
                ..HandlerStatus::default()
            },
        ],
    }
}
