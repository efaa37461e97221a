//! All figures of a run, as they go into results.json.

use serde::Serialize;

use crate::load::Failures;
use crate::machine::Machine;
use crate::options::Settings;
use crate::peers::{Missing, Peer, Transport};
use crate::stats::{Latencies, PERCENTILES, Summary};

#[derive(Debug, Serialize)]
pub(crate) struct Results {
    /// Of the form of this file.
    pub format: u32,
    pub date: String,
    pub machine: Machine,
    pub settings: Settings,
    pub servers: Vec<ServerInfo>,
    pub missing: Vec<Missing>,
    /// Whatever did not go as it should, in words.
    pub problems: Vec<Problem>,
    pub interrupted: bool,
    pub kernel: Vec<KernelCell>,
    pub rates: Vec<StreamCell>,
    pub live: Vec<StreamCell>,
    pub costs: Vec<CostCell>,
    pub bulk: Vec<BulkCell>,
    pub datagrams: Vec<DatagramCell>,
    /// Of handlers that read a line, by servers that start them at the connection or ahead of it.
    pub ahead: Vec<StreamCell>,
    /// The same for one client at a time, with pauses.
    pub ahead_alone: Vec<AloneCell>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ServerInfo {
    pub name: String,
    pub version: Option<String>,
    pub commands: Vec<(Transport, String)>,
    pub program_bytes: Option<u64>,
    /// The server that this is with other options.
    pub mode_of: Option<&'static str>,
    pub remark: String,
}

impl ServerInfo {
    pub(crate) fn of(peer: &Peer) -> Self {
        let commands = peer
            .recipes
            .iter()
            .map(|(kind, recipe)| (*kind, recipe.display(&peer.program)));
        Self {
            name: peer.name.clone(),
            version: peer.version.clone(),
            commands: commands.collect(),
            program_bytes: std::fs::metadata(&peer.program)
                .ok()
                .map(|metadata| metadata.len()),
            mode_of: peer.mode_of,
            remark: peer.remark.to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub server: String,
    pub transport: Option<Transport>,
    pub what: String,
    /// How often it happened.
    pub times: u32,
}

/// What a series of short connections is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StreamKey {
    pub server: String,
    pub transport: Transport,
    pub handler: &'static str,
    pub clients: usize,
    /// Handlers held live meanwhile.
    pub live: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct StreamCell {
    #[serde(flatten)]
    pub key: StreamKey,
    pub rounds: Vec<StreamRound>,
    /// Over all rounds.
    pub first_byte: Curve,
    pub end: Curve,
}

#[derive(Debug, Serialize)]
pub(crate) struct StreamRound {
    pub round: u32,
    /// Connections a second.
    pub rate: f64,
    pub completed: u64,
    pub failures: Failures,
    pub first_byte: Percentiles,
    pub end: Percentiles,
    /// CPU time in microseconds for each connection.
    pub load_cpu: f64,
    pub server_cpu: f64,
    pub children_cpu: f64,
    /// Cores that the load generator kept busy, on average.
    pub load_cores: f64,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
}

impl Percentiles {
    pub(crate) fn of(latencies: &Latencies) -> Self {
        let at = |percent| latencies.percentile(percent).unwrap_or(0);
        Self {
            p50: at(50.0),
            p99: at(99.0),
            p999: at(99.9),
        }
    }
}

/// A distribution of latencies: microseconds at each of [`PERCENTILES`].
#[derive(Debug)]
pub(crate) struct Curve(Latencies);

impl Curve {
    pub(crate) fn new() -> Self {
        Self(Latencies::new())
    }

    pub(crate) fn add(&mut self, latencies: &Latencies) {
        self.0.merge(latencies);
    }

    /// `None` where not even one connection lies beyond.
    pub(crate) fn percentile(&self, percent: f64) -> Option<u64> {
        let beyond = self.0.len() as f64 * (1.0 - percent / 100.0);
        // Less a little, since 1 - 0.99 is a bit less than a hundredth.
        (beyond > 0.999).then(|| self.0.percentile(percent))?
    }

    /// Without those percentiles that too few connections stand behind.
    pub(crate) fn points(&self) -> Vec<(f64, u64)> {
        let supported = |percent: f64| self.0.len() as f64 * (1.0 - percent / 100.0) >= 10.0;
        PERCENTILES
            .into_iter()
            .filter(|percent| supported(*percent))
            .filter_map(|percent| Some((percent, self.0.percentile(percent)?)))
            .collect()
    }
}

impl Serialize for Curve {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.points())
    }
}

impl StreamCell {
    pub(crate) fn new(key: StreamKey) -> Self {
        Self {
            key,
            rounds: Vec::new(),
            first_byte: Curve::new(),
            end: Curve::new(),
        }
    }

    pub(crate) fn summary(&self, figure: impl Fn(&StreamRound) -> f64) -> Option<Summary> {
        Summary::of(self.rounds.iter().map(figure))
    }

    pub(crate) fn failures(&self) -> Failures {
        total(self.rounds.iter().map(|round| &round.failures))
    }

    /// This cell's rate over the other's, round by round.
    pub(crate) fn ratio_to(&self, other: &Self) -> Option<Summary> {
        let rates = |cell: &Self| -> Vec<(u32, f64)> {
            let rounds = cell.rounds.iter();
            rounds.map(|round| (round.round, round.rate)).collect()
        };
        ratios(&rates(self), &rates(other))
    }
}

fn total<'a>(failures: impl Iterator<Item = &'a Failures>) -> Failures {
    let mut total = Failures::default();
    for some in failures {
        total.add(some);
    }
    total
}

/// Figures over those of the same round: rounds are neighbours in time, so a disturbance of the
/// machine hits both.
fn ratios(figures: &[(u32, f64)], others: &[(u32, f64)]) -> Option<Summary> {
    Summary::of(figures.iter().filter_map(|(round, figure)| {
        let (_, other) = others.iter().find(|(other, _)| other == round)?;
        (*other > 0.0).then(|| figure / other)
    }))
}

/// What one client at a time finds.
#[derive(Debug, Serialize)]
pub(crate) struct AloneCell {
    pub server: String,
    pub transport: Transport,
    pub handler: &'static str,
    pub rounds: Vec<AloneRound>,
    /// Over all rounds.
    pub first_byte: Curve,
    pub end: Curve,
}

#[derive(Debug, Serialize)]
pub(crate) struct AloneRound {
    pub round: u32,
    pub completed: u64,
    pub failures: Failures,
    pub first_byte: Percentiles,
    pub end: Percentiles,
}

impl AloneCell {
    pub(crate) fn new(server: String, transport: Transport, handler: &'static str) -> Self {
        Self {
            server,
            transport,
            handler,
            rounds: Vec::new(),
            first_byte: Curve::new(),
            end: Curve::new(),
        }
    }

    pub(crate) fn failures(&self) -> Failures {
        total(self.rounds.iter().map(|round| &round.failures))
    }

    /// The rounds' medians of the time to the first byte, in microseconds.
    pub(crate) fn first_byte(&self) -> Option<Summary> {
        Summary::of(self.medians().into_iter().map(|(_, median)| median))
    }

    /// Those over the other's, round by round.
    pub(crate) fn share_of(&self, other: &Self) -> Option<Summary> {
        ratios(&self.medians(), &other.medians())
    }

    fn medians(&self) -> Vec<(u32, f64)> {
        let answered = self.rounds.iter().filter(|round| round.completed > 0);
        answered
            .map(|round| (round.round, round.first_byte.p50 as f64))
            .collect()
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct KernelCell {
    pub handler: &'static str,
    pub threads: usize,
    pub rounds: Vec<KernelRound>,
}

#[derive(Debug, Serialize)]
pub(crate) struct KernelRound {
    pub round: u32,
    /// Programs a second.
    pub rate: f64,
    /// CPU time in microseconds for each program, its own and that of starting it.
    pub cpu: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct CostCell {
    pub server: String,
    pub transport: Transport,
    pub program_bytes: Option<u64>,
    pub rounds: Vec<CostRound>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CostRound {
    pub round: u32,
    /// Microseconds from starting the program to the end of its first answer.
    pub first_answer: f64,
    /// CPU time in microseconds for each connection.
    pub server_cpu: f64,
    pub children_cpu: f64,
    pub load_cpu: f64,
    /// Anonymous memory in KiB.
    pub idle_memory: f64,
    pub memory_each: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct BulkCell {
    pub server: String,
    pub transport: Transport,
    /// `send`: from the handler to the client; `echo`: there and back at the same time.
    pub direction: &'static str,
    pub rounds: Vec<BulkRound>,
}

#[derive(Debug, Serialize)]
pub(crate) struct BulkRound {
    pub round: u32,
    /// MiB a second.
    pub rate: f64,
    pub complete: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct DatagramCell {
    pub server: String,
    pub clients: usize,
    pub rounds: Vec<DatagramRound>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DatagramRound {
    pub round: u32,
    /// Answers a second.
    pub rate: f64,
    pub latency: Percentiles,
    pub lost: u64,
    pub wrong: u64,
}

impl Results {
    pub(crate) fn note(&mut self, server: &str, transport: Option<Transport>, what: String) {
        let same = |problem: &&mut Problem| {
            problem.server == server && problem.transport == transport && problem.what == what
        };
        match self.problems.iter_mut().find(same) {
            Some(problem) => problem.times += 1,
            None => {
                self.problems.push(Problem {
                    server: server.to_owned(),
                    transport,
                    what,
                    times: 1,
                });
            }
        }
    }

    /// Connections that failed, of the servers whose name `counts`.
    pub(crate) fn failed_connections(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let streams = self.rates.iter().chain(&self.live).chain(&self.ahead);
        let streams = streams
            .filter(|cell| counts(&cell.key.server))
            .map(|cell| cell.failures().total());
        let alone = self.ahead_alone.iter();
        let alone = alone
            .filter(|cell| counts(&cell.server))
            .map(|cell| cell.failures().total());
        streams.chain(alone).sum()
    }

    /// Whether this is the base server, or that with other options.
    pub(crate) fn is_base(&self, server: &str) -> bool {
        let base = self.settings.base.as_str();
        let mode = |info: &ServerInfo| info.name == server && info.mode_of == Some(base);
        server == base || self.servers.iter().any(mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let figures = [(1, 10.0), (2, 30.0), (4, 7.0)];
        let others = [(2, 10.0), (1, 10.0), (3, 1.0)];
        let ratio = ratios(&figures, &others).map(|ratio| (ratio.min, ratio.median, ratio.max));
        assert_eq!(ratio, Some((1.0, 2.0, 3.0)));
        assert_eq!(ratios(&figures, &[(1, 0.0)]), None);
    }

    #[test]
    fn a_percentile_needs_a_connection_beyond() {
        let mut latencies = Latencies::new();
        for micros in 1..=99 {
            latencies.record(std::time::Duration::from_micros(micros));
        }
        let mut curve = Curve::new();
        curve.add(&latencies);
        assert_eq!(curve.percentile(50.0), Some(50));
        assert_eq!(curve.percentile(99.0), None);
        curve.add(&latencies);
        assert_eq!(curve.percentile(99.0), Some(99));
    }
}
