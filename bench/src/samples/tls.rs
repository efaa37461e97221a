//! TLS before a handler.

use super::{RoundPercentiles, percentiles, ratios};
use crate::peers::TLS;
use crate::results::{TlsBulkPoint, TlsKind, TlsPoint, Way};
use crate::stats::Summary;

#[derive(Debug)]
pub(crate) struct TlsSamples {
    pub server: String,
    pub kind: TlsKind,
    pub clients: usize,
    pub rounds: Vec<TlsRound>,
}

#[derive(Debug)]
pub(crate) struct TlsRound {
    pub round: u32,
    pub failures: u64,
    pub rate: f64,
    pub cpu: f64,
    pub load_cpu: f64,
    pub first_byte: RoundPercentiles,
    pub resumed: f64,
    pub unclean: f64,
}

#[derive(Debug)]
pub(crate) struct TlsBulkSamples {
    pub server: String,
    pub way: Way,
    pub rounds: Vec<TlsBulkRound>,
}

#[derive(Debug)]
pub(crate) struct TlsBulkRound {
    pub round: u32,
    pub complete: bool,
    pub rate: f64,
    pub cpu: f64,
}

impl TlsSamples {
    fn figures(&self, figure: fn(&TlsRound) -> f64) -> Vec<(u32, f64)> {
        let rounds = self.rounds.iter();
        rounds.map(|round| (round.round, figure(round))).collect()
    }

    fn point(&self, skd: Option<&Self>) -> Option<TlsPoint> {
        let of = |figure: fn(&TlsRound) -> f64| Summary::of(self.rounds.iter().map(figure));
        // As far as there is something to compare with.
        let skd = skd.filter(|skd| skd.server != self.server);
        let rate = |samples: &Self| samples.figures(|round| round.rate);
        let cpu = |samples: &Self| samples.figures(|round| round.cpu);
        Some(TlsPoint {
            server: self.server.clone(),
            kind: self.kind,
            clients: self.clients,
            rounds: self.rounds.len(),
            failures: self.rounds.iter().map(|round| round.failures).sum(),
            rate: of(|round| round.rate)?,
            cpu: of(|round| round.cpu),
            load_cpu: of(|round| round.load_cpu),
            first_byte: percentiles(self.rounds.iter().map(|round| round.first_byte)),
            resumed: of(|round| round.resumed)?,
            unclean: of(|round| round.unclean)?,
            ratio: skd.and_then(|skd| ratios(&rate(skd), &rate(self))),
            cpu_ratio: skd.and_then(|skd| ratios(&cpu(self), &cpu(skd))),
        })
    }
}

impl TlsBulkSamples {
    fn rates(&self) -> Vec<(u32, f64)> {
        let rounds = self.rounds.iter();
        rounds.map(|round| (round.round, round.rate)).collect()
    }

    fn point(&self, skd: Option<&Self>) -> Option<TlsBulkPoint> {
        let skd = skd.filter(|skd| skd.server != self.server);
        Some(TlsBulkPoint {
            server: self.server.clone(),
            way: self.way,
            rounds: self.rounds.len(),
            incomplete: self.rounds.iter().filter(|round| !round.complete).count(),
            rate: Summary::of(self.rounds.iter().map(|round| round.rate))?,
            cpu: Summary::of(self.rounds.iter().map(|round| round.cpu)),
            ratio: skd.and_then(|skd| ratios(&skd.rates(), &self.rates())),
        })
    }
}

pub(super) fn points(all: &[TlsSamples]) -> Vec<TlsPoint> {
    let skd = |kind| {
        let mut all = all.iter();
        all.find(|samples| samples.server == TLS && samples.kind == kind)
    };
    let points = all.iter();
    points
        .filter_map(|samples| samples.point(skd(samples.kind)))
        .collect()
}

pub(super) fn bulk_points(all: &[TlsBulkSamples]) -> Vec<TlsBulkPoint> {
    let skd = |way| {
        let mut all = all.iter();
        all.find(|samples| samples.server == TLS && samples.way == way)
    };
    let points = all.iter();
    points
        .filter_map(|samples| samples.point(skd(samples.way)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Latencies;

    fn samples(server: &str, figures: &[(u32, f64, f64)]) -> TlsSamples {
        let round = |(round, rate, cpu): &(u32, f64, f64)| TlsRound {
            round: *round,
            failures: 1,
            rate: *rate,
            cpu: *cpu,
            load_cpu: 1.0,
            first_byte: RoundPercentiles::of(&Latencies::new()),
            resumed: 0.0,
            unclean: 0.5,
        };
        TlsSamples {
            server: server.to_owned(),
            kind: TlsKind::Ecdsa,
            clients: 8,
            rounds: figures.iter().map(round).collect(),
        }
    }

    #[test]
    fn others_are_compared_with_skd_within_a_round() {
        let all = [
            samples(TLS, &[(1, 100.0, 10.0), (2, 300.0, 30.0)]),
            samples("other", &[(1, 50.0, 20.0), (2, 100.0, 30.0)]),
        ];
        let points = points(&all);
        assert!(points[0].ratio.is_none() && points[0].cpu_ratio.is_none());
        assert_eq!(points[0].failures, 2);
        assert_eq!(points[1].ratio.map(|r| (r.min, r.max)), Some((2.0, 3.0)));
        assert_eq!(
            points[1].cpu_ratio.map(|r| (r.min, r.max)),
            Some((1.0, 2.0))
        );
        assert!(points[1].first_byte.p50.is_none());
    }

    #[test]
    fn bulk_data_that_is_incomplete_is_counted() {
        let round = |round, complete| TlsBulkRound {
            round,
            complete,
            rate: 7.0,
            cpu: f64::NAN,
        };
        let all = [TlsBulkSamples {
            server: "other".to_owned(),
            way: Way::ToHandler,
            rounds: vec![round(1, true), round(2, false)],
        }];
        let points = bulk_points(&all);
        assert_eq!(points[0].incomplete, 1);
        assert_eq!(points[0].rate.median, 7.0);
        assert!(points[0].cpu.is_none() && points[0].ratio.is_none());
    }
}
