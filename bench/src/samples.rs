//! The figures of each round, and their summaries.

mod tls;

use crate::handlers::{Language, Way};
use crate::load::Failures;
use crate::peers::{SANDBOX, Transport};
use crate::results::{
    AlonePoint, BulkPoint, CostPoint, DatagramPoint, Dimension, GrowthPoint, KernelPoint,
    Percentiles, Results, SandboxMemoryPoint, ScriptPoint, ServicesPoint, StreamKey, StreamPoint,
    TlsIdlePoint,
};
use crate::stats::{Latencies, PERCENTILES, Summary};

pub(crate) use tls::{TlsBulkRound, TlsBulkSamples, TlsRound, TlsSamples};

#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub kernel: Vec<KernelSamples>,
    pub rates: Vec<StreamSamples>,
    pub live: Vec<StreamSamples>,
    pub costs: Vec<CostSamples>,
    pub bulk: Vec<BulkSamples>,
    pub datagrams: Vec<DatagramSamples>,
    pub prestart: Vec<StreamSamples>,
    pub prestart_alone: Vec<AloneSamples>,
    pub services: Vec<ServicesSamples>,
    pub sandbox: Vec<StreamSamples>,
    pub sandbox_live: Vec<StreamSamples>,
    pub sandbox_memory: Vec<SandboxMemorySamples>,
    pub tls: Vec<TlsSamples>,
    pub tls_bulk: Vec<TlsBulkSamples>,
    pub tls_idle: Vec<TlsIdlePoint>,
    pub scripts: Vec<ScriptSamples>,
    pub growth: Vec<GrowthSamples>,
}

#[derive(Debug)]
pub(crate) struct StreamSamples {
    pub key: StreamKey,
    pub rounds: Vec<StreamRound>,
    /// Time to the end of the answer, over all rounds.
    pub end: Curve,
}

#[derive(Debug)]
pub(crate) struct StreamRound {
    pub round: u32,
    pub rate: f64,
    pub failures: Failures,
    pub first_byte: RoundPercentiles,
    pub end: RoundPercentiles,
    pub load_cpu: f64,
    pub server_cpu: f64,
    pub children_cpu: f64,
    pub load_cores: f64,
}

/// Percentiles of one round in microseconds; NaN without an answered connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundPercentiles {
    p50: f64,
    p99: f64,
    p999: f64,
}

impl RoundPercentiles {
    pub(crate) fn of(latencies: &Latencies) -> Self {
        let at = |percent| {
            let micros = latencies.percentile(percent);
            micros.map_or(f64::NAN, |micros| micros as f64)
        };
        Self {
            p50: at(50.0),
            p99: at(99.0),
            p999: at(99.9),
        }
    }
}

fn percentiles(rounds: impl Iterator<Item = RoundPercentiles>) -> Percentiles {
    let rounds: Vec<_> = rounds.collect();
    let of = |figure: fn(&RoundPercentiles) -> f64| Summary::of(rounds.iter().map(figure));
    Percentiles {
        p50: of(|round| round.p50),
        p99: of(|round| round.p99),
        p999: of(|round| round.p999),
    }
}

/// The latencies of all rounds.
#[derive(Debug)]
pub(crate) struct Curve(Latencies);

impl Curve {
    pub(crate) fn new() -> Self {
        Self(Latencies::new())
    }

    pub(crate) fn add(&mut self, latencies: &Latencies) {
        self.0.merge(latencies);
    }

    /// Returns `None` if no connection is slower.
    fn percentile(&self, percent: f64) -> Option<u64> {
        let beyond = self.0.len() as f64 * (1.0 - percent / 100.0);
        // 1 - 0.99 is slightly less than a hundredth.
        (beyond > 0.999).then(|| self.0.percentile(percent))?
    }

    /// Returns those of [`PERCENTILES`] that at least ten connections exceed.
    fn points(&self) -> Vec<(f64, u64)> {
        let supported = |percent: f64| self.0.len() as f64 * (1.0 - percent / 100.0) >= 10.0;
        PERCENTILES
            .into_iter()
            .filter(|percent| supported(*percent))
            .filter_map(|percent| Some((percent, self.0.percentile(percent)?)))
            .collect()
    }
}

impl StreamSamples {
    pub(crate) fn new(key: StreamKey) -> Self {
        Self {
            key,
            rounds: Vec::new(),
            end: Curve::new(),
        }
    }

    fn summary(&self, figure: impl Fn(&StreamRound) -> f64) -> Option<Summary> {
        Summary::of(self.rounds.iter().map(figure))
    }

    fn rates(&self) -> Vec<(u32, f64)> {
        let rounds = self.rounds.iter();
        rounds.map(|round| (round.round, round.rate)).collect()
    }

    fn point(&self) -> Option<StreamPoint> {
        Some(StreamPoint {
            key: self.key.clone(),
            rounds: self.rounds.len(),
            failures: total(self.rounds.iter().map(|round| &round.failures)),
            rate: self.summary(|round| round.rate)?,
            first_byte: percentiles(self.rounds.iter().map(|round| round.first_byte)),
            end: percentiles(self.rounds.iter().map(|round| round.end)),
            load_cpu: self.summary(|round| round.load_cpu),
            server_cpu: self.summary(|round| round.server_cpu),
            children_cpu: self.summary(|round| round.children_cpu),
            load_cores: self.summary(|round| round.load_cores),
            kernel_share: None,
            ratio: None,
            over_best_peer: None,
            over_plain: None,
            over_sandbox: None,
            curve: Vec::new(),
        })
    }
}

fn total<'a>(failures: impl Iterator<Item = &'a Failures>) -> u64 {
    failures.map(Failures::total).sum()
}

/// Summarises the ratios of figures of the same round. A disturbance of the machine affects both,
/// since the measurements of a round are close in time.
fn ratios(figures: &[(u32, f64)], others: &[(u32, f64)]) -> Option<Summary> {
    Summary::of(figures.iter().filter_map(|(round, figure)| {
        let (_, other) = others.iter().find(|(other, _)| other == round)?;
        (*other > 0.0).then(|| figure / other)
    }))
}

#[derive(Debug)]
pub(crate) struct AloneSamples {
    pub server: String,
    pub transport: Transport,
    pub handler: String,
    pub rounds: Vec<AloneRound>,
    /// Time to the first byte, over all rounds.
    pub first_byte: Curve,
}

#[derive(Debug)]
pub(crate) struct AloneRound {
    pub round: u32,
    pub failures: Failures,
    pub first_byte: RoundPercentiles,
    pub end: RoundPercentiles,
}

impl AloneSamples {
    pub(crate) fn new(server: String, transport: Transport, handler: String) -> Self {
        Self {
            server,
            transport,
            handler,
            rounds: Vec::new(),
            first_byte: Curve::new(),
        }
    }

    /// The median time to the first byte of each round that has one.
    fn medians(&self) -> Vec<(u32, f64)> {
        let medians = self.rounds.iter();
        let medians = medians.map(|round| (round.round, round.first_byte.p50));
        medians.filter(|(_, median)| median.is_finite()).collect()
    }

    fn point(&self) -> AlonePoint {
        AlonePoint {
            server: self.server.clone(),
            transport: self.transport,
            handler: self.handler.clone(),
            rounds: self.rounds.len(),
            failures: total(self.rounds.iter().map(|round| &round.failures)),
            first_byte: percentiles(self.rounds.iter().map(|round| round.first_byte)),
            end: percentiles(self.rounds.iter().map(|round| round.end)),
            first_byte_p99: self.first_byte.percentile(99.0),
            share: None,
            ratio: None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct KernelSamples {
    pub handler: String,
    pub threads: usize,
    pub rounds: Vec<KernelRound>,
}

#[derive(Debug)]
pub(crate) struct KernelRound {
    pub rate: f64,
    pub cpu: f64,
}

impl KernelSamples {
    fn point(&self) -> Option<KernelPoint> {
        Some(KernelPoint {
            handler: self.handler.clone(),
            threads: self.threads,
            rounds: self.rounds.len(),
            rate: Summary::of(self.rounds.iter().map(|round| round.rate))?,
            cpu: Summary::of(self.rounds.iter().map(|round| round.cpu))?,
        })
    }
}

#[derive(Debug)]
pub(crate) struct CostSamples {
    pub server: String,
    pub transport: Transport,
    pub program_bytes: Option<u64>,
    pub rounds: Vec<CostRound>,
}

#[derive(Debug)]
pub(crate) struct CostRound {
    pub first_answer: f64,
    pub server_cpu: f64,
    pub children_cpu: f64,
    pub load_cpu: f64,
    pub idle_memory: f64,
    pub memory_each: Option<f64>,
}

impl CostSamples {
    fn point(&self) -> CostPoint {
        let of = |figure: fn(&CostRound) -> f64| Summary::of(self.rounds.iter().map(figure));
        CostPoint {
            server: self.server.clone(),
            transport: self.transport,
            rounds: self.rounds.len(),
            program_bytes: self.program_bytes,
            first_answer: of(|round| round.first_answer),
            server_cpu: of(|round| round.server_cpu),
            children_cpu: of(|round| round.children_cpu),
            cpu: of(|round| round.server_cpu + round.children_cpu),
            load_cpu: of(|round| round.load_cpu),
            idle_memory: of(|round| round.idle_memory),
            memory_each: Summary::of(self.rounds.iter().filter_map(|round| round.memory_each)),
        }
    }
}

#[derive(Debug)]
pub(crate) struct ServicesSamples {
    pub services: usize,
    pub rounds: Vec<ServicesRound>,
}

#[derive(Debug)]
pub(crate) struct ServicesRound {
    pub failures: u64,
    pub start: f64,
    pub end: f64,
    pub memory: f64,
    /// Of a daemon with one service.
    pub memory_of_one: f64,
    pub descriptors: f64,
    pub threads: f64,
    pub rate: f64,
    pub cpu: f64,
    pub spread_rate: f64,
    pub spread_cpu: f64,
    /// Of a daemon with one service.
    pub rate_of_one: f64,
    pub cpu_of_one: f64,
}

impl ServicesSamples {
    fn point(&self) -> ServicesPoint {
        let of = |figure: fn(&ServicesRound) -> f64| Summary::of(self.rounds.iter().map(figure));
        let more = self.services.saturating_sub(1);
        let each = |round: &ServicesRound| {
            let bytes = (round.memory - round.memory_of_one) * 1024.0;
            (more > 0).then(|| bytes / more as f64)
        };
        ServicesPoint {
            services: self.services,
            rounds: self.rounds.len(),
            failures: self.rounds.iter().map(|round| round.failures).sum(),
            start: of(|round| round.start),
            end: of(|round| round.end),
            memory: of(|round| round.memory),
            memory_each: Summary::of(self.rounds.iter().filter_map(each)),
            descriptors: of(|round| round.descriptors),
            threads: of(|round| round.threads),
            rate: of(|round| round.rate),
            ratio: of(|round| round.rate / round.rate_of_one),
            spread_ratio: of(|round| round.spread_rate / round.rate_of_one),
            cpu: of(|round| round.cpu),
            spread_cpu: of(|round| round.spread_cpu),
        }
    }
}

#[derive(Debug)]
pub(crate) struct ScriptSamples {
    pub way: &'static Way,
    pub rounds: Vec<ScriptRound>,
}

#[derive(Debug)]
pub(crate) struct ScriptRound {
    pub round: u32,
    pub failures: u64,
    pub rate: f64,
    pub first_byte: RoundPercentiles,
    pub cpu: f64,
    pub memory: f64,
}

impl ScriptSamples {
    fn rates(&self) -> Vec<(u32, f64)> {
        let rounds = self.rounds.iter();
        rounds.map(|round| (round.round, round.rate)).collect()
    }

    fn point(&self, reference: Option<&Self>) -> ScriptPoint {
        let of = |figure: fn(&ScriptRound) -> f64| Summary::of(self.rounds.iter().map(figure));
        let reference = reference.filter(|reference| !std::ptr::eq(*reference, self));
        ScriptPoint {
            language: self.way.language,
            way: self.way.name.to_owned(),
            server: self.way.server.to_owned(),
            rounds: self.rounds.len(),
            failures: self.rounds.iter().map(|round| round.failures).sum(),
            rate: of(|round| round.rate),
            ratio: reference.and_then(|reference| ratios(&reference.rates(), &self.rates())),
            first_byte: percentiles(self.rounds.iter().map(|round| round.first_byte)),
            cpu: of(|round| round.cpu),
            memory: of(|round| round.memory),
        }
    }
}

#[derive(Debug)]
pub(crate) struct GrowthSamples {
    pub dimension: Dimension,
    pub count: usize,
    pub rounds: Vec<GrowthRound>,
}

/// Of a daemon with so many, and of one with the fewest beside it.
#[derive(Debug)]
pub(crate) struct GrowthRound {
    pub failures: u64,
    pub rate: f64,
    pub rate_of_fewest: f64,
    pub cpu: f64,
    pub cpu_of_fewest: f64,
    pub memory: f64,
    pub memory_of_fewest: f64,
    pub start: f64,
}

impl GrowthSamples {
    fn point(&self) -> GrowthPoint {
        let of = |figure: fn(&GrowthRound) -> f64| Summary::of(self.rounds.iter().map(figure));
        GrowthPoint {
            dimension: self.dimension,
            count: self.count,
            rounds: self.rounds.len(),
            failures: self.rounds.iter().map(|round| round.failures).sum(),
            rate: of(|round| round.rate),
            ratio: of(|round| round.rate / round.rate_of_fewest),
            cpu: of(|round| round.cpu),
            cpu_ratio: of(|round| round.cpu / round.cpu_of_fewest),
            memory: of(|round| round.memory),
            memory_of_fewest: of(|round| round.memory_of_fewest),
            start: of(|round| round.start),
        }
    }
}

#[derive(Debug)]
pub(crate) struct SandboxMemorySamples {
    pub server: String,
    pub live: usize,
    pub rounds: Vec<SandboxMemoryRound>,
}

/// KiB for each live sandbox.
#[derive(Debug)]
pub(crate) struct SandboxMemoryRound {
    pub handler: f64,
    pub others: f64,
    pub kernel: f64,
}

impl SandboxMemorySamples {
    fn point(&self) -> SandboxMemoryPoint {
        let of =
            |figure: fn(&SandboxMemoryRound) -> f64| Summary::of(self.rounds.iter().map(figure));
        SandboxMemoryPoint {
            server: self.server.clone(),
            live: self.live,
            rounds: self.rounds.len(),
            handler: of(|round| round.handler),
            others: of(|round| round.others),
            kernel: of(|round| round.kernel),
        }
    }
}

#[derive(Debug)]
pub(crate) struct BulkSamples {
    pub server: String,
    pub transport: Transport,
    pub direction: String,
    pub rounds: Vec<BulkRound>,
}

#[derive(Debug)]
pub(crate) struct BulkRound {
    pub rate: f64,
    pub complete: bool,
}

impl BulkSamples {
    fn point(&self) -> Option<BulkPoint> {
        Some(BulkPoint {
            server: self.server.clone(),
            transport: self.transport,
            direction: self.direction.clone(),
            rounds: self.rounds.len(),
            incomplete: self.rounds.iter().filter(|round| !round.complete).count(),
            rate: Summary::of(self.rounds.iter().map(|round| round.rate))?,
        })
    }
}

#[derive(Debug)]
pub(crate) struct DatagramSamples {
    pub server: String,
    pub clients: usize,
    pub rounds: Vec<DatagramRound>,
}

#[derive(Debug)]
pub(crate) struct DatagramRound {
    pub rate: f64,
    pub latency: RoundPercentiles,
    pub lost: u64,
    pub wrong: u64,
}

impl DatagramSamples {
    fn point(&self) -> Option<DatagramPoint> {
        Some(DatagramPoint {
            server: self.server.clone(),
            clients: self.clients,
            rounds: self.rounds.len(),
            rate: Summary::of(self.rounds.iter().map(|round| round.rate))?,
            latency: percentiles(self.rounds.iter().map(|round| round.latency)),
            lost: self.rounds.iter().map(|round| round.lost).sum(),
            wrong: self.rounds.iter().map(|round| round.wrong).sum(),
        })
    }
}

impl Samples {
    /// Fills the points of `results`.
    pub(crate) fn summarise_into(&self, results: &mut Results) {
        results.kernel = self
            .kernel
            .iter()
            .filter_map(KernelSamples::point)
            .collect();
        results.costs = self.costs.iter().map(CostSamples::point).collect();
        results.bulk = self.bulk.iter().filter_map(BulkSamples::point).collect();
        results.datagrams = self
            .datagrams
            .iter()
            .filter_map(DatagramSamples::point)
            .collect();
        results.services = self.services.iter().map(ServicesSamples::point).collect();
        results.sandbox_memory = self
            .sandbox_memory
            .iter()
            .map(SandboxMemorySamples::point)
            .collect();
        results.scripts = self.scripts();
        let mut languages = Language::ALL.to_vec();
        languages.retain(|language| {
            self.scripts
                .iter()
                .any(|cell| cell.way.language == *language)
        });
        let versions = languages.into_iter();
        let versions = versions.filter_map(|language| Some((language, language.version()?)));
        results.languages = versions.collect();
        results.growth = self.growth.iter().map(GrowthSamples::point).collect();
        results.tls = tls::points(&self.tls);
        results.tls_bulk = tls::bulk_points(&self.tls_bulk);
        results.tls_idle = self.tls_idle.clone();
        results.sandbox = sandboxes(&self.sandbox, results);
        results.sandbox_live = sandboxes(&self.sandbox_live, results);
        results.rates = streams(&self.rates, results);
        results.live = streams(&self.live, results);
        results.prestart = streams(&self.prestart, results);
        results.prestart_alone = self.alone(results);
        self.add_kernel_shares(results);
        self.add_curves(results);
        self.add_best_peers(results);
    }

    fn scripts(&self) -> Vec<ScriptPoint> {
        let point = |samples: &ScriptSamples| {
            let reference = self
                .scripts
                .iter()
                .find(|other| other.way.language == samples.way.language && other.way.reference);
            samples.point(reference)
        };
        self.scripts.iter().map(point).collect()
    }

    fn alone(&self, results: &Results) -> Vec<AlonePoint> {
        let other = |server: &str, samples: &AloneSamples| {
            let other = self.prestart_alone.iter().find(|other| {
                other.server == server
                    && other.transport == samples.transport
                    && other.handler == samples.handler
            });
            other.map(AloneSamples::medians)
        };
        let point = |samples: &AloneSamples| {
            let mut point = samples.point();
            let medians = samples.medians();
            point.share = other(&results.settings.base, samples)
                .filter(|_| samples.server != results.settings.base)
                .and_then(|base| ratios(&medians, &base));
            point.ratio = results
                .before_of(&samples.server)
                .and_then(|now| ratios(&other(now, samples)?, &medians));
            point
        };
        self.prestart_alone.iter().map(point).collect()
    }

    fn add_kernel_shares(&self, results: &mut Results) {
        let cores = results.machine.cores as f64;
        for point in &mut results.rates {
            let kernel = results.kernel.iter();
            let mut kernel = kernel.filter(|kernel| kernel.handler == point.key.handler);
            let samples = self.rates.iter().find(|samples| samples.key == point.key);
            let (Some(kernel), Some(samples)) = (kernel.next(), samples) else {
                continue;
            };
            let used = cores.min(kernel.threads as f64);
            point.kernel_share = samples.summary(|round| {
                let free = ((cores - round.load_cores) / used).clamp(0.01, 1.0);
                round.rate / (kernel.rate.median * free)
            });
        }
    }

    /// Adds the latencies that plots show.
    fn add_curves(&self, results: &mut Results) {
        let clients = results.settings.usual_clients();
        for point in &mut results.rates {
            if point.key.handler != "tiny" || point.key.clients != clients {
                continue;
            }
            let samples = self.rates.iter().find(|samples| samples.key == point.key);
            if let Some(samples) = samples {
                point.curve = samples.end.points();
            }
        }
    }

    fn add_best_peers(&self, results: &mut Results) {
        let rates = |key: &StreamKey| {
            let samples = self.prestart.iter().find(|samples| samples.key == *key);
            samples.map(StreamSamples::rates)
        };
        let over_best_peer = |point: &StreamPoint| {
            let key = &point.key;
            if !results.is_base(&key.server) {
                return None;
            }
            let best = results.best_peer(key.transport, &key.handler, key.clients)?;
            ratios(&rates(key)?, &rates(&best.key)?)
        };
        let found: Vec<_> = results.prestart.iter().map(over_best_peer).collect();
        for (point, ratio) in results.prestart.iter_mut().zip(found) {
            point.over_best_peer = ratio;
        }
    }
}

/// Returns the points of these samples with their ratios.
fn streams(all: &[StreamSamples], results: &Results) -> Vec<StreamPoint> {
    let ratio = |samples: &StreamSamples| {
        let server = &samples.key.server;
        let compared = results.before_of(server).unwrap_or(&results.settings.base);
        let key = StreamKey {
            server: compared.to_owned(),
            ..samples.key.clone()
        };
        let other = all.iter().find(|other| other.key == key)?;
        (compared != server).then(|| ratios(&other.rates(), &samples.rates()))?
    };
    let point = |samples: &StreamSamples| {
        let mut point = samples.point()?;
        point.ratio = ratio(samples);
        Some(point)
    };
    all.iter().filter_map(point).collect()
}

/// Returns the points of these samples with their ratios to the base server and to its sandbox.
fn sandboxes(all: &[StreamSamples], results: &Results) -> Vec<StreamPoint> {
    let over = |samples: &StreamSamples, server: &str| {
        let key = StreamKey {
            server: server.to_owned(),
            ..samples.key.clone()
        };
        let other = all.iter().find(|other| other.key == key)?;
        (server != samples.key.server).then(|| ratios(&samples.rates(), &other.rates()))?
    };
    let point = |samples: &StreamSamples| {
        let mut point = samples.point()?;
        point.over_plain = over(samples, &results.settings.base);
        point.over_sandbox = over(samples, SANDBOX);
        Some(point)
    };
    all.iter().filter_map(point).collect()
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
