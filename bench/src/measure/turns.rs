//! Several daemons at the same time, loaded in short turns, since the machine's speed changes within seconds.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, cpu_each};
use crate::handlers::Handler;
use crate::load::StreamLoad;
use crate::peers::{Endpoint, Server};
use crate::proc;

/// A load on one of the daemons.
pub(super) struct Load<'a> {
    pub server: &'a Server,
    /// Where its connections go, one after the other.
    pub endpoints: &'a [Endpoint],
    pub handler: &'a Handler,
    pub clients: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TurnsOutcome {
    /// Connections a second.
    pub rate: f64,
    /// CPU time of the daemon itself in microseconds for each connection.
    pub cpu: f64,
    pub failures: u64,
}

/// Gives each load as many turns, which take `time` together. Each is first in some.
pub(super) fn in_turns(
    bench: &Bench,
    round: u32,
    loads: &[Load<'_>],
    turns: usize,
    time: Duration,
) -> Result<Vec<TurnsOutcome>> {
    let window = time / u32::try_from(turns)?;
    let mut sums = vec![(0_u64, 0_u64, Duration::ZERO, 0_u64); loads.len()];
    for turn in 0..turns {
        for first in 0..loads.len() {
            let at = (first + turn + round as usize) % loads.len();
            let load = &loads[at];
            let before = proc::cpu_of_threads(load.server.pid())?;
            let outcome = StreamLoad {
                endpoints: load.endpoints,
                clients: load.clients,
                threads: bench.settings.load_threads,
                warm_up: window / 10,
                window,
                timeout: bench.settings.timeout,
                reply: load.handler.reply,
                interrupted: &bench.interrupted,
            };
            let outcome = outcome.run()?;
            let cpu = proc::cpu_of_threads(load.server.pid())?.saturating_sub(before);
            let (in_window, completed, used, failures) = &mut sums[at];
            *in_window += outcome.in_window;
            *completed += outcome.completed;
            *used += cpu;
            *failures += outcome.failures.total();
        }
    }
    let outcome = |(in_window, completed, cpu, failures): (u64, u64, Duration, u64)| TurnsOutcome {
        rate: in_window as f64 / time.as_secs_f64(),
        cpu: cpu_each(cpu, completed),
        failures,
    };
    Ok(sums.into_iter().map(outcome).collect())
}
