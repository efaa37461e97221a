//! One skd with many services: its start and end, its memory, and the rate with one service and with
//! many.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use crate::load::{StreamLoad, StreamOutcome};
use crate::peers::{Endpoint, Server};
use crate::proc;
use crate::samples::{ServicesRound, ServicesSamples};

const COUNTS: [usize; 5] = [1, 10, 100, 1_000, 10_000];

/// The most services of a quick run.
const MOST_QUICKLY: usize = 100;

/// How many turns each load has, and how many windows they take together.
const TURNS: usize = 12;
const WINDOWS: u32 = 3;

/// The program that makes a daemon of several services from a file, an example of skd.
const PROGRAM: &str = "examples/services";

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let most = if bench.settings.quick {
        MOST_QUICKLY
    } else {
        usize::MAX
    };
    let counts = COUNTS.into_iter().filter(|count| *count <= most);
    for services in counts {
        if !bench.step(round, &format!("{services} services")) {
            continue;
        }
        match measure(bench, round, services) {
            Ok(figures) => record(bench, services, figures),
            Err(error) => {
                let what = format!("a daemon of {services}: {error:#}");
                bench.results.note("services", None, what);
            }
        }
    }
    Ok(())
}

fn measure(bench: &Bench, round: u32, services: usize) -> Result<ServicesRound> {
    let base = bench
        .peers
        .iter()
        .find(|peer| peer.name == bench.settings.base);
    let program = base.and_then(|peer| Some(peer.program.parent()?.join(PROGRAM)));
    let program = program.filter(|program| program.is_file());
    let program = program.context(
        "there is no program for it beside skd: cargo build --release --example services",
    )?;
    let start = |services| Server::of_services(&bench.workspace, &program, &bench.tiny, services);
    let (one, _) = start(1)?;
    let (many, endpoints) = start(services)?;
    let settle = Duration::from_millis(300);
    many.await_idle(settle);
    let memory_of_one = one.anonymous_kib()? as f64;
    let memory = many.anonymous_kib()? as f64;
    let (descriptors, threads) = proc::descriptors_and_threads(many.pid())?;
    // Short turns, since the machine's speed changes within seconds; each is first in some.
    let loads = [
        std::slice::from_ref(&one.endpoint),
        std::slice::from_ref(&many.endpoint),
        &endpoints,
    ];
    let mut rates = [0.0; 3];
    let mut failures = 0;
    for turn in 0..TURNS {
        for first in 0..loads.len() {
            let at = (first + turn + round as usize) % loads.len();
            let outcome = load(bench, loads[at])?;
            let seconds = bench.settings.window.as_secs_f64() * f64::from(WINDOWS);
            rates[at] += outcome.in_window as f64 / seconds;
            failures += outcome.failures.total();
        }
    }
    let [rate_of_one, rate, spread_rate] = rates;
    Ok(ServicesRound {
        failures,
        start: many.first_answer.as_secs_f64() * 1e3,
        memory,
        memory_of_one,
        descriptors: descriptors as f64,
        threads: threads as f64,
        rate,
        spread_rate,
        rate_of_one,
        end: many.end()?.as_secs_f64() * 1e3,
    })
}

/// Loads services with the usual clients, for one turn.
fn load(bench: &Bench, endpoints: &[Endpoint]) -> Result<StreamOutcome> {
    let window = bench.settings.window * WINDOWS / TURNS as u32;
    let load = StreamLoad {
        endpoints,
        clients: bench.settings.usual_clients(),
        threads: bench.settings.load_threads,
        warm_up: window / 10,
        window,
        timeout: bench.settings.timeout,
        reply: bench.tiny.reply,
        interrupted: &bench.interrupted,
    };
    Ok(load.run()?)
}

fn record(bench: &mut Bench, services: usize, figures: ServicesRound) {
    let cells = &mut bench.samples.services;
    if let Some(cell) = cells.iter_mut().find(|cell| cell.services == services) {
        return cell.rounds.push(figures);
    }
    cells.push(ServicesSamples {
        services,
        rounds: vec![figures],
    });
}
