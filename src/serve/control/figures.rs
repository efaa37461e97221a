//! The status of skd and its services: what was counted, and how things are now.
//!
//! Any thread can ask. Locks are taken one by one, for a moment each.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use skd_control::{
    CertificateStatus, Denial, Histogram, ListenerStatus, ProcessStatus, ServiceState,
    ServiceStatus, Status as Answer, TlsStatus,
};

use super::view::{ServiceView, View};
use crate::child::Pool;
use crate::config::{ListenerId, ServiceId};
use crate::report::counters::{self, HistogramCounts, ServiceCounts};
use crate::report::{
    self, Attempt, Cause, DropReason, EndResult, Event, RejectKind, StartFailure, Way, mask,
};
use crate::serve::availability::Availability;
use crate::serve::service::Service;
use crate::serve::tls::TlsService;

/// The kind of all listeners together that a service doesn't have any more.
const FORMER: &str = "former";

/// Returns the status of skd and of the services with these names; of all if there are none.
pub(in crate::serve) fn status(view: &View, services: &[String]) -> Answer {
    let wanted: HashSet<&str> = services.iter().map(String::as_str).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.contains(name);
    let services = by_name(view, is_wanted).into_iter();
    Answer {
        services: services
            .filter_map(|ids| service_status(view, &ids))
            .collect(),
        denials: denials(view),
        ..of_process(view)
    }
}

/// Returns the status of skd without its services.
fn of_process(view: &View) -> Answer {
    Answer {
        skd: env!("SKD_VERSION").into(),
        pid: Pid::this().as_raw(),
        uptime_seconds: view.began.elapsed().as_secs_f64(),
        verbosity: report::verbosity(),
        draining: view.shared.is_draining(),
        process: process(view),
        ..Answer::default()
    }
}

/// Returns the clients that are denied for a time.
fn denials(view: &View) -> Vec<Denial> {
    let now = Instant::now();
    let name = |service: ServiceId| {
        let service = view.services.get(service.index());
        service.map(|service| service.name.to_string())
    };
    let denied = view.shared.denials.list().into_iter();
    let denied = denied.map(|((clients, service), until)| Denial {
        source: mask::clients(clients).to_string(),
        service: service.and_then(name),
        left_seconds: until.saturating_duration_since(now).as_secs_f64(),
    });
    denied.collect()
}

/// Writes into the log what was counted: a line for the process, one for each service that has
/// counted anything, and one for each of its listeners if it has several.
pub(in crate::serve) fn summarize(view: &View) {
    report::event(Event::ProcessFigures(&of_process(view)));
    // One at a time: this is the main thread, and there may be thousands that are idle.
    for ids in by_name(view, |_| true) {
        if ids.iter().all(|id| is_unused(view, *id)) {
            continue;
        }
        let (Some(first), Some(service)) = (ids.first(), service_status(view, &ids)) else {
            continue;
        };
        report::event(Event::ServiceFigures(*first, &service));
        if service.listeners.len() > 1 {
            for listener in service.listeners.iter().filter(|it| has_clients(it)) {
                report::event(Event::ListenerFigures(*first, listener));
            }
        }
    }
}

/// Returns whether a service has counted nothing, and has no client.
fn is_unused(view: &View, id: ServiceId) -> bool {
    let used = view
        .services
        .get(id.index())
        .map_or(0, |it| it.slots.used());
    let pending = view.served(id).map_or(0, Service::pending);
    let listeners = view.listeners_of(id).map(|listener| listener.id);
    let mut listeners = listeners.chain([view.former(id)]);
    used + pending == 0
        && counters::service(id).is_empty()
        && listeners.all(|id| counters::listener(id).is_empty())
}

/// Returns whether anything has come to a listener.
fn has_clients(listener: &ListenerStatus) -> bool {
    let refused = listener.rejected.values();
    let refused: u64 = refused.chain(listener.datagrams_dropped.values()).sum();
    refused + listener.accepted + listener.datagrams_received + listener.datagrams_sent > 0
}

/// Returns figures of the process.
fn process(view: &View) -> ProcessStatus {
    let counts = counters::process();
    let (user, system) = own_cpu();
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    };
    ProcessStatus {
        user_cpu_seconds: user.as_secs_f64(),
        system_cpu_seconds: system.as_secs_f64(),
        resident_bytes: number("VmRSS").unwrap_or_default() * 1024,
        open_descriptors: open_descriptors(),
        max_descriptors: files,
        threads: number("Threads").unwrap_or_default(),
        lingering: view.shared.handlers.lingering.len() as u64,
        lost_lines: counts.lines_lost(),
        lost_events: counts.events_lost(),
        troubles: labelled(Cause::ALL, Cause::label, |cause| counts.troubles(cause)),
        reloads: counters::attempts(Attempt::Reload),
        upgrades: counters::attempts(Attempt::Upgrade),
    }
}

/// The CPU time of this process, in user mode and in the kernel. It goes on over an exec.
fn own_cpu() -> (Duration, Duration) {
    let time = |time: TimeVal| {
        let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    getrusage(UsageWho::RUSAGE_SELF).map_or_else(
        |_| Default::default(),
        |usage| (time(usage.user_time()), time(usage.system_time())),
    )
}

/// How many descriptors are open. The kernel says so since 6.2; before, they are counted.
fn open_descriptors() -> u64 {
    let folder = Path::new("/proc/self/fd");
    let length = fs::metadata(folder).map_or(0, |folder| folder.len());
    match length {
        // The count has one more, with which it is made.
        0 => fs::read_dir(folder).map_or(0, |all| (all.count() as u64).saturating_sub(1)),
        length => length,
    }
}

/// Returns the services with each wanted name, in the order of the first with it: a service that has
/// moved to other listeners serves the last clients of the old ones as another.
fn by_name(view: &View, is_wanted: impl Fn(&str) -> bool) -> Vec<Vec<ServiceId>> {
    let mut all: Vec<Vec<ServiceId>> = Vec::new();
    let mut indices: HashMap<&str, usize> = HashMap::new();
    for (id, service) in view.services().filter(|(_, it)| is_wanted(&it.name)) {
        match indices.get(&*service.name) {
            Some(at) => all[*at].push(id),
            None => {
                indices.insert(&service.name, all.len());
                all.push(vec![id]);
            }
        }
    }
    all
}

/// Returns the figures of the services with one name, together.
fn service_status(view: &View, ids: &[ServiceId]) -> Option<ServiceStatus> {
    let mut status = None;
    for id in ids {
        let service = view.services.get(id.index())?;
        let to = status.get_or_insert_with(|| new(view, *id, service));
        add_figures(to, view, *id, service);
    }
    status
}

/// A service that has counted nothing yet.
fn new(view: &View, id: ServiceId, service: &ServiceView) -> ServiceStatus {
    let served = view.served(id);
    let program = served.map(|it| it.source.plan.name().to_string_lossy().into_owned());
    ServiceStatus {
        name: service.name.to_string(),
        state: match served {
            // Those that serve their last clients too.
            _ if service.is_removed => ServiceState::Removed,
            Some(served) if served.is_done() => ServiceState::Done,
            Some(served) => match served.availability.get() {
                Availability::Serving if service.is_lame_duck.load(Ordering::SeqCst) => {
                    ServiceState::LameDuck
                }
                Availability::Serving => ServiceState::Serving,
                Availability::Disabled => ServiceState::Disabled,
                Availability::Refusing => ServiceState::Refusing,
                Availability::Draining => ServiceState::Draining,
            },
            None => ServiceState::Removed,
        },
        program: program.unwrap_or_default(),
        slots: skd_control::Slots {
            used: 0,
            limit: service.slots.limit().map(|limit| limit as u64),
        },
        ..ServiceStatus::default()
    }
}

/// Adds what a service has counted.
fn add_figures(to: &mut ServiceStatus, view: &View, id: ServiceId, service: &ServiceView) {
    let served = view.served(id);
    // Its handlers are counted as started before they end.
    let counts = counters::service(id);
    let used = service.slots.used() as u64;
    to.slots.used += used;
    to.running += used + service.slots.in_wait_mode() as u64;
    to.pending += served.map_or(0, |it| it.pending() as u64);
    add(
        &mut to.started,
        labelled(Way::ALL, Way::label, |way| counts.started(way)),
    );
    let not_started = |why| counts.not_started(why);
    let failures = labelled(StartFailure::ALL, StartFailure::label, not_started);
    add(&mut to.start_failures, failures);
    let ended = labelled(EndResult::ALL, EndResult::label, |it| counts.ended(it));
    add(&mut to.ended, ended);
    add_histogram(&mut to.durations, counts.durations());
    add_histogram(&mut to.start_latencies, counts.latencies());
    let (user, system) = counts.cpu();
    to.handlers_user_cpu_seconds += user.as_secs_f64();
    to.handlers_system_cpu_seconds += system.as_secs_f64();
    let listeners = view.listeners_of(id);
    let counted = listeners.map(|it| listener_status(it.id, it.kind(), it.address()));
    to.listeners.extend(counted);
    let former = view.former(id);
    if !counters::listener(former).is_empty() {
        let counted = listener_status(former, FORMER, String::new());
        to.listeners.push(counted);
    }
    if let Some(gate) = served.and_then(|it| it.gate.as_ref()) {
        let to = to.gate.get_or_insert_default();
        to.live += gate.live() as u64;
        to.limit = gate.most.get() as u64;
    }
    if let Some(tls) = served.and_then(|it| it.tls.as_ref()) {
        add_tls(to.tls.get_or_insert_default(), tls, &counts);
    }
    if let Some(gate) = &mut to.gate {
        gate.passed += counts.gate_passed();
    }
    to.pool = view.pool(id).map(Pool::status);
}

fn add_tls(to: &mut TlsStatus, tls: &TlsService, counts: &ServiceCounts) {
    to.live += tls.live();
    for (kind, count) in counts.tls_established() {
        *to.established.entry(kind.into()).or_default() += count;
    }
    add_histogram(&mut to.handshakes, counts.handshakes());
    let figures = counts.tls_figures();
    to.received_bytes += figures.received;
    to.sent_bytes += figures.sent;
    to.truncated += figures.truncated;
    for certificate in tls.certificates() {
        // A service that serves its last clients may have an earlier one under the same path.
        let is_known = |it: &CertificateStatus| it.file == certificate.file;
        if !to.certificates.iter().any(is_known) {
            to.certificates.push(CertificateStatus {
                file: certificate.file,
                names: certificate.names,
                not_after_seconds: certificate.not_after,
            });
        }
    }
}

fn listener_status(id: ListenerId, kind: &str, address: String) -> ListenerStatus {
    let counts = counters::listener(id);
    let rejected = |kind| counts.rejected(kind);
    let dropped = |reason| counts.dropped(reason);
    ListenerStatus {
        kind: kind.into(),
        address,
        accepted: counts.accepted(),
        rejected: labelled(RejectKind::ALL, RejectKind::label, rejected),
        datagrams_received: counts.received(),
        datagrams_sent: counts.sent(),
        datagrams_dropped: match kind {
            // A listener for streams has none.
            "tcp" | "unix" | "unix-seqpacket" => BTreeMap::new(),
            _ => labelled(DropReason::ALL, DropReason::label, dropped),
        },
    }
}

/// Counts by their labels, those that are zero too: a reader sees all that there are.
fn labelled<T: Copy, const N: usize>(
    all: [T; N],
    label: impl Fn(T) -> &'static str,
    count: impl Fn(T) -> u64,
) -> BTreeMap<String, u64> {
    // Collected, they would be sorted first, by a copy of that code for each kind.
    let mut counts = BTreeMap::new();
    for it in all {
        counts.insert(label(it).into(), count(it));
    }
    counts
}

fn add(to: &mut BTreeMap<String, u64>, counts: BTreeMap<String, u64>) {
    for (label, count) in counts {
        *to.entry(label).or_default() += count;
    }
}

fn add_histogram(to: &mut Histogram, from: HistogramCounts<'_>) {
    if to.counts.is_empty() {
        to.bounds = from.bounds().map(|bound| bound.as_secs_f64()).collect();
        to.counts = vec![0; from.counts().len()];
    }
    for (to, count) in to.counts.iter_mut().zip(from.counts()) {
        *to += count;
    }
    to.sum_seconds += from.sum().as_secs_f64();
}
