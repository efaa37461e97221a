//! The measurements and their order.
//!
//! A round takes every measurement once. In each measurement the servers take turns, and another
//! one is first each round. A disturbance of the machine therefore affects all servers, and not
//! always the same one first.

mod bulk;
mod cost;
mod datagram;
mod growth;
mod kernel;
mod live;
mod prestart;
mod rates;
mod sandbox;
mod scripts;
mod services;
mod tls;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::handlers::{Handler, Handlers, Way};
use crate::load::{StreamLoad, StreamOutcome};
use crate::options::{Group, Settings};
use crate::peers::{Endpoint, PROBE_TIMEOUT, Peer, Probe, Server, Transport, Workspace};
use crate::results::{Results, StreamKey};
use crate::samples::{RoundPercentiles, Samples, StreamRound, StreamSamples};

/// The state that all measurements share.
pub(crate) struct Bench {
    pub settings: Settings,
    pub peers: Vec<Peer>,
    pub handlers: Handlers,
    pub tiny: Handler,
    /// The programs of the ways to have a small service, as far as they can be made.
    pub scripts: Vec<(&'static Way, Option<Handler>)>,
    pub workspace: Workspace,
    pub interrupted: Arc<AtomicBool>,
    /// Filled with the summaries of the samples at the end.
    pub results: Results,
    pub samples: Samples,
    progress: ProgressBar,
    /// Only counts the steps, for the progress bar.
    counting: bool,
    /// Failed starts. A server that never works is not started again and again.
    failed_starts: HashMap<(String, Transport, &'static str), u32>,
}

const MAX_FAILED_STARTS: u32 = 2;

impl Bench {
    pub(crate) fn new(
        settings: Settings,
        peers: Vec<Peer>,
        handlers: Handlers,
        tiny: Handler,
        workspace: Workspace,
        interrupted: Arc<AtomicBool>,
        results: Results,
    ) -> Self {
        let progress = ProgressBar::new(0);
        let template = "{bar:30} {pos}/{len} {elapsed_precise} (left {eta}) {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            progress.set_style(style);
        }
        Self {
            settings,
            peers,
            handlers,
            tiny,
            scripts: Vec::new(),
            workspace,
            interrupted,
            results,
            samples: Samples::default(),
            progress,
            counting: false,
            failed_starts: HashMap::new(),
        }
    }

    /// Takes all measurements. The failure of a server is noted; an error is one of the benchmark
    /// itself.
    pub(crate) fn run(mut self) -> Result<Results> {
        for (name, reason) in self.handlers.missing() {
            self.results
                .note(name.as_str(), None, format!("handler left out: {reason}"));
        }
        let groups: [(Group, Measurement); 12] = [
            (Group::Kernel, kernel::round),
            (Group::Rates, rates::round),
            (Group::Live, live::round),
            (Group::Cost, cost::round),
            (Group::Bulk, bulk::round),
            (Group::Datagram, datagram::round),
            (Group::Prestart, prestart::round),
            (Group::Services, services::round),
            (Group::Sandbox, sandbox::round),
            (Group::Tls, tls::round),
            (Group::Scripts, scripts::round),
            (Group::Growth, growth::round),
        ];
        let round = |bench: &mut Self, round| {
            for (group, measure) in groups {
                if bench.settings.measures(group) && !bench.is_interrupted() {
                    measure(bench, round)?;
                }
            }
            Ok::<(), Error>(())
        };
        self.counting = true;
        round(&mut self, 0)?;
        self.counting = false;
        self.progress
            .set_length(self.progress.position() * u64::from(self.settings.rounds));
        self.progress.reset();
        self.progress.enable_steady_tick(Duration::from_millis(500));
        for number in 1..=self.settings.rounds {
            round(&mut self, number)?;
        }
        self.progress.finish_and_clear();
        self.results.interrupted = self.is_interrupted();
        self.samples.summarise_into(&mut self.results);
        Ok(self.results)
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Shows the next step, and returns whether to take it.
    fn step(&self, round: u32, what: &str) -> bool {
        self.progress.set_message(format!("round {round}: {what}"));
        self.progress.inc(1);
        !self.counting && !self.is_interrupted()
    }

    /// Returns the peers that `chosen` accepts in the order of a round.
    fn turns(&self, round: u32, chosen: impl Fn(&Peer) -> bool) -> Vec<Peer> {
        in_turn(self.peers.iter().filter(|peer| chosen(peer)), round)
    }

    /// Returns one kind of socket for each peer: TCP, or unix for those without TCP. The base in
    /// all its modes gets both if a peer has only unix.
    fn usual_turns(&self, round: u32, group: Group) -> Vec<(Peer, Transport)> {
        let streams = |peer: &Peer| {
            let tcp = peer.recipes.contains_key(&Transport::Tcp);
            let unix = peer.recipes.contains_key(&Transport::Unix);
            (tcp, unix)
        };
        let peers = self.turns(round, |peer| {
            streams(peer) != (false, false) && peer.takes_part(group)
        });
        let wanted = |transport| self.settings.transports.contains(&transport);
        let unix_needed = peers.iter().any(|peer| streams(peer) == (false, true));
        let mut turns = Vec::new();
        for peer in peers {
            let (tcp, unix) = streams(&peer);
            let base = self.settings.base.as_str();
            let skd = peer.name == base || peer.mode_of == Some(base) || peer.before_of.is_some();
            let both = unix_needed && skd;
            if tcp && wanted(Transport::Tcp) {
                turns.push((peer.clone(), Transport::Tcp));
            }
            if unix && (!tcp || both || !wanted(Transport::Tcp)) && wanted(Transport::Unix) {
                turns.push((peer, Transport::Unix));
            }
        }
        turns
    }

    /// Starts a server, or notes the failure.
    fn start(&mut self, peer: &Peer, transport: Transport, handler: &Handler) -> Option<Server> {
        let probe =
            |endpoint: &Endpoint| crate::load::probe(endpoint, handler.reply, PROBE_TIMEOUT);
        self.start_for(peer, transport, handler, &probe)
    }

    /// The same for clients of another kind.
    fn start_for(
        &mut self,
        peer: &Peer,
        transport: Transport,
        handler: &Handler,
        probe: Probe<'_>,
    ) -> Option<Server> {
        let key = (peer.name.clone(), transport, handler.name);
        let failed = self.failed_starts.get(&key).copied().unwrap_or(0);
        if failed >= MAX_FAILED_STARTS || self.counting || self.is_interrupted() {
            return None;
        }
        match Server::start_for(&self.workspace, peer, transport, handler, probe) {
            Ok(server) => Some(server),
            Err(error) => {
                self.failed_starts.insert(key, failed + 1);
                let what = format!("does not serve the handler '{}'", handler.name);
                self.note_error(peer, transport, &what, &error);
                None
            }
        }
    }

    fn note_error(&mut self, peer: &Peer, transport: Transport, what: &str, error: &Error) {
        self.results
            .note(&peer.name, Some(transport), format!("{what}: {error:#}"));
    }

    fn note_failed(
        &mut self,
        peer: &Peer,
        transport: Transport,
        clients: usize,
        handler: &Handler,
    ) {
        let s = if clients == 1 { "" } else { "s" };
        let what = format!(
            "connections failed: {clients} client{s}, handler '{}'",
            handler.name
        );
        self.results.note(&peer.name, Some(transport), what);
    }

    /// Loads a running server for one window.
    fn load(
        &self,
        server: &Server,
        handler: &Handler,
        clients: usize,
        window: Duration,
    ) -> Result<StreamOutcome> {
        // Prestarted handlers must be used up first, so that the rate of replacement counts.
        let warm_up = window / if handler.reply.is_to_a_line() { 4 } else { 10 };
        let load = StreamLoad {
            endpoints: std::slice::from_ref(&server.endpoint),
            clients,
            threads: self.settings.load_threads,
            warm_up,
            window,
            timeout: self.settings.timeout,
            reply: handler.reply,
            interrupted: &self.interrupted,
        };
        Ok(load.run()?)
    }

    /// Measures short connections to a running server for one round.
    fn measure_stream(
        &mut self,
        round: u32,
        peer: &Peer,
        server: &Server,
        handler: &Handler,
        key: StreamKey,
        cells: fn(&mut Samples) -> &mut Vec<StreamSamples>,
    ) -> Result<()> {
        let transport = key.transport;
        let window = self.settings.window * handler.windows;
        let settle = Duration::from_millis(if key.live == 0 { 300 } else { 0 });
        server.await_idle(settle);
        let before = server.cpu_times()?;
        let outcome = self.load(server, handler, key.clients, window)?;
        server.await_idle(settle);
        if !server.is_running() {
            self.results.note(
                &peer.name,
                Some(transport),
                "ended during the measurement".to_owned(),
            );
            return Ok(());
        }
        let cpu = server.cpu_times()?.since(before);
        if outcome.failures.total() > 0 {
            self.note_failed(peer, transport, key.clients, handler);
        }
        let each = |time| cpu_each(time, outcome.completed);
        let figures = StreamRound {
            round,
            rate: outcome.in_window as f64 / window.as_secs_f64(),
            failures: outcome.failures,
            first_byte: RoundPercentiles::of(&outcome.first),
            end: RoundPercentiles::of(&outcome.end),
            load_cpu: each(outcome.cpu),
            server_cpu: each(cpu.own),
            children_cpu: each(cpu.children),
            load_cores: outcome.cpu.as_secs_f64() / outcome.elapsed.as_secs_f64().max(1e-9),
        };
        let cells = cells(&mut self.samples);
        let index = cells
            .iter()
            .position(|cell| cell.key == key)
            .unwrap_or_else(|| {
                cells.push(StreamSamples::new(key));
                cells.len() - 1
            });
        let cell = &mut cells[index];
        cell.rounds.push(figures);
        cell.end.add(&outcome.end);
        Ok(())
    }
}

/// Returns microseconds for each connection; NaN with too few connections, since the kernel counts
/// in hundredths of a second.
fn cpu_each(time: Duration, connections: u64) -> f64 {
    if connections < 20 {
        f64::NAN
    } else {
        time.as_secs_f64() * 1e6 / connections as f64
    }
}

/// Begins with another peer each round. A server and its earlier binary stay next to each other,
/// and take turns in being first.
fn in_turn<'a>(peers: impl Iterator<Item = &'a Peer>, round: u32) -> Vec<Peer> {
    let mut units: Vec<Vec<Peer>> = Vec::new();
    for peer in peers {
        let now = peer.before_of.as_deref();
        match units.iter_mut().find(|unit| Some(&*unit[0].name) == now) {
            Some(unit) => unit.push(peer.clone()),
            None => units.push(vec![peer.clone()]),
        }
    }
    if !units.is_empty() {
        let first = round as usize % units.len();
        units.rotate_left(first);
    }
    if round % 2 == 1 {
        for unit in &mut units {
            unit.reverse();
        }
    }
    units.concat()
}

type Measurement = fn(&mut Bench, u32) -> Result<()>;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    fn peer(name: &str, before_of: Option<&str>) -> Peer {
        Peer {
            name: name.to_owned(),
            program: PathBuf::new(),
            version: None,
            recipes: BTreeMap::new(),
            processes_each: 1,
            only: None,
            prestarts: false,
            helpers: false,
            p256_only: false,
            mode_of: None,
            before_of: before_of.map(str::to_owned),
            remark: "",
        }
    }

    #[test]
    fn two_binaries_alternate() {
        let peers = [
            peer("a", None),
            peer("a-before", Some("a")),
            peer("b", None),
        ];
        let turns = |round| {
            let peers = in_turn(peers.iter(), round).into_iter();
            peers.map(|peer| peer.name).collect::<Vec<_>>()
        };
        assert_eq!(turns(0), ["a", "a-before", "b"]);
        assert_eq!(turns(1), ["b", "a-before", "a"]);
        assert_eq!(turns(2), ["a", "a-before", "b"]);
    }
}
