//! How skd's rate, own CPU time and memory grow with what may be many. Each daemon is measured beside a daemon with the
//! fewest, in turns.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::live::{HOLD_DEADLINE, check_capacity};
use super::turns::{Load, in_turns};
use super::{Bench, services};
use crate::handlers::Handler;
use crate::load::{Held, hold, hold_silent};
use crate::peers::{Peer, Server, Transport};
use crate::proc;
use crate::results::Dimension;
use crate::samples::{GrowthRound, GrowthSamples};

/// How many turns each load has, and how many windows they take together.
const TURNS: usize = 8;
const WINDOWS: u32 = 1;

/// The most of a quick run.
const MOST_QUICKLY: usize = 100;

/// How long the kernel may take to end what a daemon held.
const ENDING: Duration = Duration::from_secs(30);

/// Clients for the growth of threads, so that each may be busy.
const CLIENTS_OF_THREADS: usize = 32;

const fn counts(dimension: Dimension) -> &'static [usize] {
    match dimension {
        Dimension::Services => &[1, 100, 1_000, 10_000],
        Dimension::Live => &[1, 1_000, 9_000],
        Dimension::Pending => &[1, 1_000, 5_000, 20_000],
        Dimension::Rules => &[1, 1_000, 100_000, 1_000_000],
        Dimension::Threads => &[1, 2, 3, 4, 8, 16],
    }
}

/// The limit of open files: enough for the most pending connections. Other servers would close as many descriptors for
/// each handler, but none runs meanwhile.
const OPEN_FILES: u64 = 100_000;

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let (usual, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(OPEN_FILES), hard)?;
    let outcome = all(bench, round);
    setrlimit(Resource::RLIMIT_NOFILE, usual, hard)?;
    outcome
}

fn all(bench: &mut Bench, round: u32) -> Result<()> {
    for dimension in Dimension::ALL {
        for count in counts(dimension).iter().copied() {
            if bench.settings.quick && count > MOST_QUICKLY {
                continue;
            }
            if !bench.step(round, &format!("{} {count}", dimension.as_str())) {
                continue;
            }
            match measure(bench, round, dimension, count) {
                Ok(figures) => record(bench, dimension, count, figures),
                Err(error) => {
                    let what = format!("{} {count} left out: {error:#}", dimension.as_str());
                    // What a machine doesn't allow is no fault of skd.
                    bench.results.note("growth", None, what);
                }
            }
        }
    }
    Ok(())
}

fn measure(bench: &Bench, round: u32, dimension: Dimension, count: usize) -> Result<GrowthRound> {
    if dimension == Dimension::Services {
        return of_services(bench, round, count);
    }
    let fewest = counts(dimension).first().copied().unwrap_or(1);
    let mut few = Daemon::start(bench, dimension, fewest)?;
    let mut many = Daemon::start(bench, dimension, count)?;
    let clients = match dimension {
        Dimension::Threads => CLIENTS_OF_THREADS,
        _ => bench.settings.usual_clients(),
    };
    let time = bench.settings.window * WINDOWS;
    let loads = [few.load(clients), many.load(clients)];
    let outcomes = in_turns(bench, round, &loads, TURNS, time)?;
    let [of_few, of_many] = outcomes[..] else {
        bail!("there aren't two loads");
    };
    let figures = GrowthRound {
        failures: of_few.failures + of_many.failures,
        rate: of_many.rate,
        rate_of_fewest: of_few.rate,
        cpu: of_many.cpu,
        cpu_of_fewest: of_few.cpu,
        memory: many.memory,
        memory_of_fewest: few.memory,
        // Others come to a daemon that has started.
        start: if dimension == Dimension::Rules {
            many.server.first_answer.as_secs_f64() * 1e3
        } else {
            f64::NAN
        },
    };
    // The kernel's work for thousands of ends must not disturb the next measurement.
    for daemon in [&mut few, &mut many] {
        daemon.held = Held::default();
        daemon.server.await_idle(ENDING);
    }
    Ok(figures)
}

/// One service of many has all connections in one figure, and in the other all services have them in turn; this is the
/// latter.
fn of_services(bench: &Bench, round: u32, count: usize) -> Result<GrowthRound> {
    let figures = services::measure(bench, round, count, TURNS, WINDOWS)?;
    Ok(GrowthRound {
        failures: figures.failures,
        rate: figures.spread_rate,
        rate_of_fewest: figures.rate_of_one,
        cpu: figures.spread_cpu,
        cpu_of_fewest: figures.cpu_of_one,
        memory: figures.memory,
        memory_of_fewest: figures.memory_of_one,
        start: figures.start,
    })
}

struct Daemon {
    server: Server,
    handler: Handler,
    /// What clients hold open.
    held: Held,
    /// Anonymous memory and memory files in KiB with all that. Many rules are in such a file.
    memory: f64,
}

impl Daemon {
    fn start(bench: &Bench, dimension: Dimension, count: usize) -> Result<Self> {
        let base = bench.settings.base.as_str();
        let peer = bench.peers.iter().find(|peer| peer.name == base);
        let peer = peer.context("the base server isn't measured")?;
        let mut handler = &bench.tiny;
        let mut options = Vec::new();
        match dimension {
            Dimension::Live => {
                handler = &bench.handlers.gate;
                check_capacity(peer, count).map_err(anyhow::Error::msg)?;
            }
            Dimension::Pending => {
                handler = &bench.handlers.gate;
                check_pending(count)?;
                options = ["--first-byte", "1h"].map(str::to_owned).to_vec();
            }
            Dimension::Rules => {
                let file = bench.workspace.folder().join(format!("rules-{count}"));
                if !file.exists() {
                    fs::write(&file, rules(count))?;
                }
                options = vec!["--rules".to_owned(), file.display().to_string()];
            }
            Dimension::Threads => options = vec!["--threads".to_owned(), count.to_string()],
            Dimension::Services => {}
        }
        let peer = with_options(peer, &options);
        let server = Server::start(&bench.workspace, &peer, Transport::Tcp, handler)?;
        server.await_idle(Duration::from_millis(300));
        let held = match dimension {
            Dimension::Live => hold(&server.endpoint, count, HOLD_DEADLINE, &bench.interrupted),
            Dimension::Pending => pending(&server, count, bench)?,
            _ => Held::default(),
        };
        if matches!(dimension, Dimension::Live | Dimension::Pending) {
            ensure!(held.len() == count, "holds only {}", held.len());
        }
        let pid = server.pid();
        let memory = proc::anonymous_kib(pid)? + proc::memory_files_kib(pid)?;
        Ok(Self {
            server,
            handler: handler.clone(),
            held,
            memory: memory as f64,
        })
    }
}

impl Daemon {
    const fn load(&self, clients: usize) -> Load<'_> {
        Load {
            server: &self.server,
            endpoints: std::slice::from_ref(&self.server.endpoint),
            handler: &self.handler,
            clients,
        }
    }
}

/// Returns the base server with further options.
fn with_options(peer: &Peer, options: &[String]) -> Peer {
    let mut peer = peer.clone();
    for recipe in peer.recipes.values_mut() {
        // After the program's name.
        recipe.words.splice(1..1, options.iter().cloned());
    }
    peer
}

/// Opens connections that send nothing, and waits until skd has all of them.
fn pending(server: &Server, count: usize, bench: &Bench) -> Result<Held> {
    let (before, _) = proc::descriptors_and_threads(server.pid())?;
    let held = hold_silent(&server.endpoint, count, HOLD_DEADLINE, &bench.interrupted);
    let began = Instant::now();
    loop {
        let (now, _) = proc::descriptors_and_threads(server.pid())?;
        let accepted = now.saturating_sub(before);
        if accepted >= held.len() {
            return Ok(held);
        }
        ensure!(
            began.elapsed() < Duration::from_secs(5),
            "only {accepted} are pending"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// skd lets half of the files that may be open be pending connections, in equal shares for its threads, which don't get
/// equally many.
fn check_pending(count: usize) -> Result<()> {
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        count as u64 * 4 <= files,
        "{files} open files are not enough"
    );
    Ok(())
}

/// Rules that deny addresses which no client has, apart from each other, and a last rule that allows all.
fn rules(count: usize) -> String {
    let mut text = String::new();
    for number in 1..count {
        let [_, a, b, c] = u32::try_from(number * 7).unwrap_or(0).to_be_bytes();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "deny 10.{a}.{b}.{c}");
    }
    text + "allow all\n"
}

fn record(bench: &mut Bench, dimension: Dimension, count: usize, figures: GrowthRound) {
    if figures.failures > 0 {
        let what = format!(
            "{} connections failed: {} {count}",
            figures.failures,
            dimension.as_str()
        );
        let base = bench.settings.base.clone();
        bench.results.note(&base, Some(Transport::Tcp), what);
    }
    let cells = &mut bench.samples.growth;
    let same = |cell: &&mut GrowthSamples| cell.dimension == dimension && cell.count == count;
    match cells.iter_mut().find(same) {
        Some(cell) => cell.rounds.push(figures),
        None => cells.push(GrowthSamples {
            dimension,
            count,
            rounds: vec![figures],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_as_many_as_wanted_and_apart() {
        assert_eq!(rules(1), "allow all\n");
        let text = rules(1_000_000);
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1_000_000);
        assert_eq!(lines[1], "deny 10.0.0.14");
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 1_000_000);
    }

    #[test]
    fn growth_begins_with_the_fewest() {
        for dimension in Dimension::ALL {
            let counts = counts(dimension);
            assert!(counts.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(counts.first(), Some(&1));
        }
    }
}
