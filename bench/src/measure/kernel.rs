//! The bare kernel: the same programs without server and socket, as the limit of any launcher.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};

use super::Bench;
use crate::handlers::Handler;
use crate::samples::{KernelRound, KernelSamples};
use crate::sys::BareLauncher;

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let handlers: Vec<Handler> = bench.handlers.answering().cloned().collect();
    let threads = bench.settings.kernel_threads;
    for handler in handlers {
        if !bench.step(round, &format!("bare kernel: {}", handler.name)) {
            continue;
        }
        let before = cpu_time()?;
        let (count, took) = launch(
            &handler.words,
            threads,
            bench.settings.window * handler.windows,
            &bench.interrupted,
        )
        .with_context(|| format!("the bare kernel cannot run '{}'", handler.name))?;
        let cpu = cpu_time()?.saturating_sub(before);
        let figures = KernelRound {
            rate: count as f64 / took.as_secs_f64(),
            cpu: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
        };
        let cells = &mut bench.samples.kernel;
        if let Some(cell) = cells.iter_mut().find(|cell| cell.handler == handler.name) {
            cell.rounds.push(figures);
        } else {
            cells.push(KernelSamples {
                handler: handler.name.to_owned(),
                threads,
                rounds: vec![figures],
            });
        }
    }
    Ok(())
}

/// Returns the number of programs and the elapsed time.
fn launch(
    words: &[String],
    threads: usize,
    window: Duration,
    interrupted: &AtomicBool,
) -> io::Result<(u64, Duration)> {
    let began = Instant::now();
    let one = || {
        let mut launcher = BareLauncher::new(words)?;
        let mut count = 0_u64;
        while began.elapsed() < window && !interrupted.load(Ordering::Relaxed) {
            launcher.run_once()?;
            count += 1;
        }
        io::Result::Ok(count)
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let mut total = 0;
        for thread in running {
            total += thread
                .join()
                .map_err(|_| io::Error::other("a thread panicked"))??;
        }
        Ok((total, began.elapsed()))
    })
}

/// Returns the CPU time of this process and its waited-for children.
fn cpu_time() -> Result<Duration> {
    let mut total = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            total += Duration::from_secs(u64::try_from(time.tv_sec())?)
                + Duration::from_micros(u64::try_from(time.tv_usec())?);
        }
    }
    Ok(total)
}
