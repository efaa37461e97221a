//! One skd with many services: its start and end, its memory, and the rate with one service and with
//! many.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Bench;
use super::turns::{Load, in_turns};
use crate::peers::Server;
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
        match measure(bench, round, services, TURNS, WINDOWS) {
            Ok(figures) => record(bench, services, figures),
            Err(error) => {
                let what = format!("a daemon of {services}: {error:#}");
                bench.results.note("services", None, what);
            }
        }
    }
    Ok(())
}

/// Measures one daemon of so many services beside a daemon of one, in so many turns of all windows together.
pub(super) fn measure(
    bench: &Bench,
    round: u32,
    services: usize,
    turns: usize,
    windows: u32,
) -> Result<ServicesRound> {
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
    let clients = bench.settings.usual_clients();
    let load = |server, endpoints| Load {
        server,
        endpoints,
        handler: &bench.tiny,
        clients,
    };
    let loads = [
        load(&one, std::slice::from_ref(&one.endpoint)),
        load(&many, std::slice::from_ref(&many.endpoint)),
        load(&many, &endpoints),
    ];
    let time = bench.settings.window * windows;
    let outcomes = in_turns(bench, round, &loads, turns, time)?;
    let failures = outcomes.iter().map(|outcome| outcome.failures).sum();
    let [of_one, to_one, spread] = outcomes[..] else {
        bail!("there aren't three loads");
    };
    Ok(ServicesRound {
        failures,
        start: many.first_answer.as_secs_f64() * 1e3,
        memory,
        memory_of_one,
        descriptors: descriptors as f64,
        threads: threads as f64,
        rate: to_one.rate,
        cpu: to_one.cpu,
        spread_rate: spread.rate,
        spread_cpu: spread.cpu,
        rate_of_one: of_one.rate,
        cpu_of_one: of_one.cpu,
        end: many.end()?.as_secs_f64() * 1e3,
    })
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
