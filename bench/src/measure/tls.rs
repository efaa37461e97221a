//! TLS before a handler: short connections with full and with resumed handshakes, bulk data, and idle connections.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Bench;
use super::cpu_each;
use super::live::{HOLD_DEADLINE, check_capacity};
use crate::handlers::Handler;
use crate::load::{BulkOutcome, TlsClients, TlsLoad};
use crate::options::Group;
use crate::peers::{Certificate, Endpoint, PROBE_TIMEOUT, Peer, Server, Transport};
use crate::proc;
use crate::results::{TlsIdlePoint, TlsKind, Way};
use crate::samples::{RoundPercentiles, TlsBulkRound, TlsBulkSamples, TlsRound, TlsSamples};

/// The time that handlers may take to end before their CPU time is read.
const SETTLE: Duration = Duration::from_millis(500);

/// How often processes are waited for that their parents have left behind.
const REAP: Duration = Duration::from_millis(20);

/// The name of the program that has skd's TLS.
const PROGRAM: &str = "skd-tls";

/// Handlers whose memory is read; all are the same.
const READ: usize = 200;

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let peers = bench.turns(round, |peer| peer.only == Some(Group::Tls));
    if peers.is_empty() {
        return Ok(());
    }
    let certificates = bench.workspace.certificates()?.clone();
    let tiny = bench.tiny.clone();
    let stages: [(&Certificate, &[TlsKind]); 2] = [
        (
            &certificates.ecdsa,
            &[TlsKind::Ecdsa, TlsKind::Resumed, TlsKind::Alone],
        ),
        (&certificates.rsa, &[TlsKind::Rsa]),
    ];
    for (certificate, kinds) in stages {
        for peer in &peers {
            let served = Served::start(bench, round, peer, certificate, &tiny)?;
            for kind in kinds {
                if let Some(served) = served.as_ref().filter(|_| !bench.is_interrupted()) {
                    short(bench, round, peer, served, *kind)?;
                }
            }
        }
    }
    let bulk = [
        (bench.handlers.send.clone(), Way::ToClient),
        (bench.handlers.sink.clone(), Way::ToHandler),
    ];
    for (handler, way) in bulk {
        for peer in &peers {
            if let Some(served) = Served::start(bench, round, peer, &certificates.ecdsa, &handler)?
            {
                transfer(bench, round, peer, &served, way)?;
            }
        }
    }
    // Once: memory doesn't depend on the round, and this takes longer than all the rest.
    if bench.settings.tls_idle > 0 && round <= 1 {
        for peer in peers.iter().filter(|peer| peer.processes_each == 1) {
            idle(bench, round, peer, &certificates.ecdsa)?;
        }
    }
    Ok(())
}

/// A running server with what its clients need to know.
struct Served {
    server: Server,
    certificate: Certificate,
    p256: bool,
    /// Its processes without any connection.
    processes: Vec<i32>,
}

impl Served {
    /// Starts a server with this certificate. Returns `None` if that fails, which is noted, or if this is for the
    /// progress bar only.
    fn start(
        bench: &mut Bench,
        round: u32,
        peer: &Peer,
        certificate: &Certificate,
        handler: &Handler,
    ) -> Result<Option<Self>> {
        if !bench.step(round, &format!("TLS, {}: {}", handler.name, peer.name)) {
            return Ok(None);
        }
        let peer = certificate.given_to(peer);
        let probe = |endpoint: &Endpoint| {
            clients(endpoint, certificate, peer.p256_only, PROBE_TIMEOUT).probe(handler.reply)
        };
        let Some(server) = bench.start_for(&peer, Transport::Tcp, handler, &probe) else {
            return Ok(None);
        };
        // The probes' handlers end.
        std::thread::sleep(Duration::from_millis(50));
        server.reap_orphans();
        Ok(Some(Self {
            processes: server.processes()?,
            server,
            certificate: certificate.clone(),
            p256: peer.p256_only,
        }))
    }

    fn clients(&self, timeout: Duration) -> TlsClients<'_> {
        clients(&self.server.endpoint, &self.certificate, self.p256, timeout)
    }

    /// Runs something, and returns its outcome with the CPU time that all processes of the server have used for
    /// it, handlers among them.
    fn timed<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
        self.server.await_only(&self.processes, SETTLE);
        let before = self.server.cpu_of_all()?;
        let over = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            let server = &self.server;
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    server.reap_orphans();
                    std::thread::sleep(REAP);
                }
            });
            let outcome = run();
            over.store(true, Ordering::Relaxed);
            outcome
        })?;
        self.server.await_only(&self.processes, SETTLE);
        let cpu = self.server.cpu_of_all()?.saturating_sub(before);
        Ok((outcome, cpu))
    }
}

fn clients<'a>(
    endpoint: &'a Endpoint,
    certificate: &Certificate,
    p256: bool,
    timeout: Duration,
) -> TlsClients<'a> {
    TlsClients {
        endpoint,
        certificate: certificate.der.clone(),
        p256,
        timeout,
    }
}

/// Measures short connections of one kind for one round.
fn short(bench: &mut Bench, round: u32, peer: &Peer, served: &Served, kind: TlsKind) -> Result<()> {
    let window = bench.settings.window;
    let count = match kind {
        TlsKind::Alone => 1,
        _ => bench.settings.usual_clients(),
    };
    let load = TlsLoad {
        clients: count,
        resume: kind == TlsKind::Resumed,
        warm_up: window / 10,
        window,
        interrupted: &bench.interrupted,
    };
    let clients = served.clients(bench.settings.timeout);
    let (outcome, cpu) = served.timed(|| clients.run(load))?;
    if !served.server.is_running() {
        let what = "ended during the measurement".to_owned();
        bench.results.note(&peer.name, Some(Transport::Tcp), what);
        return Ok(());
    }
    if outcome.failures.total() > 0 {
        let failures = outcome.failures;
        let what = format!(
            "connections with TLS failed: {} refused, {} reset, {} wrong, {} late",
            failures.refused, failures.reset, failures.wrong, failures.late
        );
        bench.results.note(&peer.name, Some(Transport::Tcp), what);
    }
    let share = |count: u64| count as f64 / outcome.completed.max(1) as f64;
    let figures = TlsRound {
        round,
        failures: outcome.failures.total(),
        rate: outcome.in_window as f64 / window.as_secs_f64(),
        cpu: cpu_each(cpu, outcome.completed),
        load_cpu: cpu_each(outcome.cpu, outcome.completed),
        first_byte: RoundPercentiles::of(&outcome.first),
        resumed: share(outcome.resumed),
        unclean: share(outcome.unclean),
    };
    let cells = &mut bench.samples.tls;
    let same = |cell: &&mut TlsSamples| cell.server == peer.name && cell.kind == kind;
    if let Some(cell) = cells.iter_mut().find(same) {
        cell.rounds.push(figures);
    } else {
        cells.push(TlsSamples {
            server: peer.name.clone(),
            kind,
            clients: count,
            rounds: vec![figures],
        });
    }
    Ok(())
}

/// Measures bulk data one way.
fn transfer(bench: &mut Bench, round: u32, peer: &Peer, served: &Served, way: Way) -> Result<()> {
    let bytes = bench.settings.bulk_bytes;
    let clients = served.clients(bench.settings.timeout);
    let transferred = served.timed(|| match way {
        Way::ToClient => clients.receive(bytes),
        Way::ToHandler => clients.send(bytes),
    });
    let (outcome, cpu): (BulkOutcome, _) = match transferred {
        Ok(done) => done,
        Err(error) => {
            bench.note_error(
                peer,
                Transport::Tcp,
                "bulk transfer with TLS failed",
                &error,
            );
            return Ok(());
        }
    };
    if !outcome.complete {
        let what = format!(
            "bulk data with TLS incomplete: {} of {bytes} bytes",
            outcome.received
        );
        bench.results.note(&peer.name, Some(Transport::Tcp), what);
    }
    let mib = outcome.received as f64 / f64::from(1 << 20);
    let figures = TlsBulkRound {
        round,
        complete: outcome.complete,
        rate: mib / outcome.took.as_secs_f64().max(1e-9),
        cpu: cpu.as_secs_f64() * 1e3 / mib,
    };
    let cells = &mut bench.samples.tls_bulk;
    let same = |cell: &&mut TlsBulkSamples| cell.server == peer.name && cell.way == way;
    if let Some(cell) = cells.iter_mut().find(same) {
        cell.rounds.push(figures);
    } else {
        cells.push(TlsBulkSamples {
            server: peer.name.clone(),
            way,
            rounds: vec![figures],
        });
    }
    Ok(())
}

/// Measures the memory of idle connections.
fn idle(bench: &mut Bench, round: u32, peer: &Peer, certificate: &Certificate) -> Result<()> {
    let count = bench.settings.tls_idle;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Two descriptors for each connection in the process that has the TLS; servers inherit the limit.
    let needed = 2 * count as u64 + 1_000;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(needed.max(soft)), hard)?;
    let outcome = idle_with_limit(bench, round, peer, certificate, needed.min(hard));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    outcome
}

fn idle_with_limit(
    bench: &mut Bench,
    round: u32,
    peer: &Peer,
    certificate: &Certificate,
    descriptors: u64,
) -> Result<()> {
    let count = bench.settings.tls_idle;
    let note = |bench: &mut Bench, what: String| {
        bench.results.note(&peer.name, Some(Transport::Tcp), what);
    };
    let gate = bench.handlers.gate.clone();
    let Some(served) = Served::start(bench, round, peer, certificate, &gate)? else {
        return Ok(());
    };
    let possible = match descriptors / 2 < count as u64 + 20 {
        true => Err(format!("{descriptors} open files are not enough")),
        false => check_capacity(peer, count),
    };
    if let Err(reason) = possible {
        let what = format!("{count} idle connections with TLS left out: {reason}");
        note(bench, what);
        return Ok(());
    }
    let server = &served.server;
    server.await_only(&served.processes, SETTLE);
    let (before, kernel) = (sizes(server, &gate)?, proc::kernel_kib()?);
    let clients = served.clients(bench.settings.timeout);
    let held = clients.hold(count, HOLD_DEADLINE, &bench.interrupted)?;
    if held.len() < count {
        let what = format!(
            "holds only {} of {count} idle connections with TLS",
            held.len()
        );
        note(bench, what);
        return Ok(());
    }
    let after = sizes(server, &gate)?;
    let kernel = proc::kernel_kib()?.saturating_sub(kernel);
    let each = |kib: u64| kib as f64 / count as f64;
    let skd_tls = after.skd_tls.zip(before.skd_tls);
    bench.samples.tls_idle.push(TlsIdlePoint {
        server: peer.name.clone(),
        live: count,
        handler: after.handler,
        skd_tls: skd_tls.map(|(after, before)| each(after.saturating_sub(before))),
        others: each(after.others.saturating_sub(before.others)),
        kernel: each(kernel),
    });
    drop(held);
    // The kernel's work for thousands of ends must not disturb the next measurement.
    if !server.await_only(&served.processes, HOLD_DEADLINE) {
        let what = "processes stay after their clients with TLS have disconnected".to_owned();
        note(bench, what);
    }
    Ok(())
}

/// Proportional set sizes in KiB.
struct Sizes {
    /// Of one handler, on average.
    handler: f64,
    skd_tls: Option<u64>,
    others: u64,
}

fn sizes(server: &Server, handler: &Handler) -> Result<Sizes> {
    let program = Path::new(&handler.words[0]);
    let size = |pid: &i32| proc::proportional_kib(*pid).unwrap_or(0);
    let (handlers, others): (Vec<_>, Vec<_>) = server
        .processes()?
        .into_iter()
        .partition(|pid| proc::runs(*pid, program));
    // It may be in a root directory of its own, where the path of its program says nothing but the name.
    let (tls, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|pid| {
        proc::executable(*pid).is_ok_and(|path| path.file_name() == Some(PROGRAM.as_ref()))
    });
    let read = &handlers[..handlers.len().min(READ)];
    let sum = |pids: &[i32]| pids.iter().map(size).sum::<u64>();
    Ok(Sizes {
        handler: sum(read) as f64 / read.len().max(1) as f64,
        skd_tls: (!tls.is_empty()).then(|| sum(&tls)),
        others: sum(&others),
    })
}
