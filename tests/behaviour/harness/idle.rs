//! Whether processes are idle. A process that waits wakes a few times a second at most, however loaded the machine
//! is; a process that spins or polls is seen by its context switches or its processor time.

use super::process::{cpu_ticks, exists, stat_field, status_field, threads};
use super::{DEADLINE, poll_for};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// How long the processes are watched.
const WINDOW: Duration = Duration::from_secs(1);

/// How long they are watched to see whether they have become quiet.
const LOOK: Duration = Duration::from_millis(100);

/// The most context switches a second. A thread that tries again every 100 ms has ten to twenty; a loop that polls
/// every millisecond has nearly a thousand.
const SWITCHES: u64 = 300;

/// How many times as many a traced process may have. Each of its system calls is at least two: starting a handler every
/// 100 ms makes some 500. A loop that polls every millisecond has more than 3,000.
const TRACED: u64 = 4;

/// The most clock ticks a second. A thread that spins takes a hundred, and a share of that on a loaded machine.
const TICKS: u64 = 10;

/// Waits until these processes have become quiet, and asserts that they stay so for [`WINDOW`], and alive.
#[track_caller]
pub fn assert_idle(pids: &[i32]) {
    if let Err(seen) = watch(pids, DEADLINE) {
        panic!("{seen}");
    }
}

/// Describes processes that are not idle. They may take `timeout` to become quiet.
pub fn watch(pids: &[i32], timeout: Duration) -> Result<(), String> {
    let mut last = None;
    let quiet = poll_for(timeout, || {
        let seen = Activity::of(pids, LOOK);
        let idle = seen.is_idle();
        last = Some(seen);
        idle.then_some(())
    });
    if quiet.is_none() {
        let last = last.map(|seen| seen.to_string()).unwrap_or_default();
        return Err(format!("not quiet after {timeout:?}: {last}"));
    }
    let seen = Activity::of(pids, WINDOW);
    if !seen.is_idle() {
        return Err(format!("not idle: {seen}"));
    }
    match pids.iter().find(|&&pid| !exists(pid)) {
        Some(gone) => Err(format!("process {gone} has ended: {seen}")),
        None => Ok(()),
    }
}

/// Waits until no thread of `pid` has run for a moment.
#[track_caller]
pub fn wait_asleep(pid: i32) {
    super::wait_until("all threads sleep", || is_asleep(pid));
}

/// Whether no thread of `pid` runs, or has run for a moment.
pub fn is_asleep(pid: i32) -> bool {
    let before = switches(pid);
    let sleeps = || {
        let mut states = threads(pid)
            .into_iter()
            .map(|(thread, _)| stat_field(thread, 3));
        states.all(|state| state.is_some_and(|state| state == "S"))
    };
    if !sleeps() {
        return false;
    }
    thread::sleep(Duration::from_millis(20));
    sleeps() && switches(pid) == before
}

/// The context switches of each thread of `pid`, voluntary and involuntary, with the name of the thread.
pub fn switches(pid: i32) -> BTreeMap<i32, (String, u64, u64)> {
    let of = |thread: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        Some((
            field("voluntary_ctxt_switches:")?,
            field("nonvoluntary_ctxt_switches:")?,
        ))
    };
    let threads = threads(pid).into_iter();
    threads
        .filter_map(|(thread, name)| {
            let (voluntary, involuntary) = of(thread)?;
            Some((thread, (name, voluntary, involuntary)))
        })
        .collect()
}

/// The activity of processes during some time.
struct Activity {
    time: Duration,
    /// The most context switches a second.
    most: u64,
    /// Of each process that had any.
    ticks: Vec<(i32, u64)>,
    /// Of each thread that had any: process, thread and name; voluntary and involuntary switches.
    switches: Vec<(i32, i32, String, u64, u64)>,
}

impl Activity {
    fn of(pids: &[i32], time: Duration) -> Self {
        let ticks = || -> Vec<u64> {
            let each = pids.iter();
            each.map(|&pid| if exists(pid) { cpu_ticks(pid) } else { 0 })
                .collect()
        };
        let all = || -> Vec<_> { pids.iter().map(|&pid| switches(pid)).collect() };
        let (begin, ticks_before, before) = (Instant::now(), ticks(), all());
        thread::sleep(time);
        let (after, ticks_after) = (all(), ticks());
        let time = begin.elapsed();
        let traced =
            |&pid: &i32| status_field(pid, "TracerPid").is_some_and(|tracer| tracer != "0");
        let ticks = pids.iter().zip(ticks_before).zip(ticks_after);
        let ticks = ticks.map(|((&pid, before), after)| (pid, after.saturating_sub(before)));
        let ticks = ticks.filter(|(_, ticks)| *ticks > 0).collect();
        let most = SWITCHES * if pids.iter().any(traced) { TRACED } else { 1 };
        let mut switches = Vec::new();
        for ((pid, before), after) in pids.iter().zip(before).zip(after) {
            for (thread, (name, voluntary, involuntary)) in after {
                let (_, v, i) = before.get(&thread).cloned().unwrap_or_default();
                let (v, i) = (voluntary.saturating_sub(v), involuntary.saturating_sub(i));
                if v + i > 0 {
                    switches.push((*pid, thread, name, v, i));
                }
            }
        }
        Self {
            time,
            most,
            ticks,
            switches,
        }
    }

    fn sum(&self) -> u64 {
        self.switches.iter().map(|(.., v, i)| v + i).sum()
    }

    fn all_ticks(&self) -> u64 {
        self.ticks.iter().map(|(_, ticks)| ticks).sum()
    }

    fn is_idle(&self) -> bool {
        let most = |each: u64| each as f64 * self.time.as_secs_f64();
        self.sum() as f64 <= most(self.most) && self.all_ticks() as f64 <= most(TICKS).max(1.0)
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sum, ticks, time) = (self.sum(), self.all_ticks(), self.time);
        write!(f, "{sum} context switches and {ticks} ticks in {time:?}")?;
        write!(f, " (at most {} and {TICKS} a second)", self.most)?;
        for (pid, ticks) in &self.ticks {
            write!(f, "\n  process {pid}: {ticks} ticks")?;
        }
        for (pid, thread, name, voluntary, involuntary) in &self.switches {
            write!(f, "\n  process {pid}, thread {thread} ({name}): ")?;
            write!(f, "{voluntary} voluntary, {involuntary} involuntary")?;
        }
        Ok(())
    }
}
