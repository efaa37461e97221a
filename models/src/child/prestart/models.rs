//! The pool of prestarted handlers: clients, the keeper, and what comes between them.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shuttle::thread;

use super::hand_off::CROWD;
use super::pool::Pool;
use crate::Model;
use crate::child::plan::Plan;
use crate::child::spawn::Spawner;
use crate::config::{Prestart, ServiceId, Sharing};
use crate::kernel;
use crate::sys::process::State;

pub const ALL: &[Model] = &[
    (
        "a prestarted handler has one client, a client one handler, and nothing remains",
        warm,
        1_000,
    ),
    (
        "a copy has one client, a client one copy, and nothing remains",
        fork_server,
        1_000,
    ),
    (
        "clients that find nothing prestarted have more started",
        refilled,
        1_000,
    ),
    (
        "a start that fails, or an early end, delays the next start and no more",
        failures,
        1_000,
    ),
    (
        "a template that is replaced loses no client and is ended",
        replaced,
        1_000,
    ),
    (
        "a template that was made for a crowd is ended when it is unused",
        crowded,
        2_000,
    ),
    (
        "a client after a renewal gets a handler from after it",
        renewed,
        2_000,
    ),
    (
        "a client after a look at the program's files gets the new program",
        outdated,
        2_000,
    ),
    (
        "a pool that is retired has no process, and can be filled again",
        retired,
        2_000,
    ),
    (
        "a pool that is retired under clients has no process in the end",
        retired_under_clients,
        2_000,
    ),
];

const WARM: fn() -> Prestart = || Prestart::Warm(NonZeroUsize::new(2).unwrap());

const FORK_SERVER: fn() -> Prestart = || Prestart::ForkServer {
    sharing: Sharing::Strict,
    max_age: "1d".parse().unwrap(),
};

fn either() -> Prestart {
    use shuttle::rand::Rng;
    let which = [WARM, FORK_SERVER];
    which[shuttle::rand::thread_rng().gen_range(0..2)]()
}

fn pool(prestart: Prestart) -> Arc<Pool> {
    let service = ServiceId::new(0);
    let source = (Arc::new(Plan), None, None);
    Pool::start(service, prestart, source, Vec::new(), Spawner, 2).unwrap()
}

fn filled(prestart: Prestart) -> Arc<Pool> {
    let pool = pool(prestart);
    pool.refill();
    pool
}

/// Offers a connection once, and returns the index of the process that goes on with it.
fn offer(pool: &Pool) -> Option<usize> {
    let connection = File::open("/dev/null").unwrap();
    // If it finds the template at work, another one is made.
    pool.crowd.store(CROWD - 1, Ordering::Relaxed);
    let spawned = pool.hand_off(connection.as_fd());
    let number = connection.as_raw_fd();
    let index = kernel::with(|kernel| {
        let process = |spawned| {
            let mut all = kernel.processes.iter();
            all.position(|process| spawned == process.pid).unwrap()
        };
        let index = spawned
            .as_ref()
            .map(|spawned| process(spawned.pid.as_raw()));
        // It goes on with it, or else no process does.
        let client = index.map(|index| kernel.processes[index].client);
        let served = kernel.served.contains(&number);
        assert_eq!(
            client,
            served.then_some(Some(number)),
            "{:?}",
            kernel.processes
        );
        // The number is used again.
        kernel.served.retain(|served| *served != number);
        index
    });
    if let Some(spawned) = spawned {
        assert!(spawned.pidfd.is_some());
    }
    index
}

/// Offers a connection until a process goes on with it.
fn insist(pool: &Pool) -> usize {
    loop {
        let ready = kernel::read(|kernel| kernel.ready);
        if let Some(index) = offer(pool) {
            return index;
        }
        kernel::until(|kernel| (kernel.ready > ready).then_some(()));
    }
}

/// Ends a process that waits for its client, if there is one.
fn kill_one() {
    kernel::with(|kernel| {
        let mut all = kernel.processes.iter_mut();
        let waits = all.find(|process| process.client.is_none() && process.state == State::Runs);
        if let Some(process) = waits {
            process.end();
        }
    });
}

/// A new version of the program is installed.
fn install() -> u32 {
    kernel::with(|kernel| {
        kernel.version += 1;
        kernel.version
    })
}

fn version(index: usize) -> u32 {
    kernel::read(|kernel| kernel.processes[index].version)
}

fn run_all(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

fn task(pool: &Arc<Pool>, work: impl FnOnce(&Pool) + Send + 'static) -> Box<dyn FnOnce() + Send> {
    let pool = Arc::clone(pool);
    Box::new(move || work(&pool))
}

/// What no client has was ended and reaped.
fn assert_nothing_remains(pool: &Pool) {
    kernel::read(|kernel| {
        let mut all = kernel.processes.iter();
        let remains = all.find(|process| {
            let is_reaped = process.state == State::Reaped;
            is_reaped == process.client.is_some()
        });
        assert!(remains.is_none(), "{remains:?}");
    });
    assert_eq!(pool.poller.processes(), 0);
    let templates = pool.templates();
    assert!(templates.iter().all(|it| it.is_none()));
    let state = pool.state();
    assert!(state.parked.is_empty() && state.discarded.is_empty());
}

fn with_trouble(prestart: Prestart) {
    kernel::with(|kernel| kernel.trouble = true);
    let pool = filled(prestart);
    run_all(vec![
        task(&pool, |pool| _ = offer(pool)),
        task(&pool, |pool| {
            offer(pool);
            offer(pool);
        }),
        task(&pool, |_| kill_one()),
    ]);
    kernel::wait_for_sleep();
    assert!(pool.state().discarded.is_empty());
    pool.retire();
    assert_nothing_remains(&pool);
}

fn warm() {
    with_trouble(WARM());
}

fn fork_server() {
    with_trouble(FORK_SERVER());
}

fn refilled() {
    let pool = filled(either());
    let client = || {
        task(&pool, |pool| {
            insist(pool);
            insist(pool);
        })
    };
    run_all(vec![client(), client()]);
    kernel::wait_for_sleep();
    let parked = pool.state().parked.len();
    let templates = pool.templates();
    assert!(parked == pool.most() || templates.iter().any(|it| it.is_some()));
}

fn failures() {
    kernel::with(|kernel| kernel.failures = 1);
    let pool = filled(either());
    run_all(vec![
        task(&pool, |pool| _ = insist(pool)),
        task(&pool, |pool| _ = insist(pool)),
        task(&pool, |_| kill_one()),
    ]);
    insist(&pool);
    kernel::wait_for_sleep();
    // The keeper sees it first, or the client.
    for waits in [true, false] {
        kill_one();
        if waits {
            kernel::wait_for_sleep();
        }
        insist(&pool);
    }
    pool.retire();
    assert_nothing_remains(&pool);
}

fn replaced() {
    kernel::with(|kernel| kernel.early = 3);
    let pool = filled(FORK_SERVER());
    run_all(vec![
        task(&pool, |pool| _ = insist(pool)),
        task(&pool, |pool| _ = insist(pool)),
    ]);
    kernel::wait_for_sleep();
    pool.retire();
    assert_nothing_remains(&pool);
}

fn crowded() {
    let pool = filled(FORK_SERVER());
    insist(&pool);
    let client = || task(&pool, |pool| _ = insist(pool));
    run_all(vec![client(), client(), task(&pool, |_| kill_one())]);
    kernel::wait_for_sleep();
    let made = pool.templates().iter().filter(|it| it.is_some()).count();
    assert_eq!(made, 1);
    assert_eq!(pool.poller.processes(), 1);
    insist(&pool);
    pool.retire();
    assert_nothing_remains(&pool);
}

fn renewed() {
    let pool = filled(either());
    run_all(vec![
        task(&pool, |pool| _ = offer(pool)),
        task(&pool, |pool| {
            let new = install();
            pool.renew();
            if let Some(index) = offer(pool) {
                assert_eq!(version(index), new);
            }
            assert_eq!(version(insist(pool)), new);
        }),
    ]);
    pool.retire();
    assert_nothing_remains(&pool);
}

fn outdated() {
    let pool = filled(either());
    insist(&pool);
    run_all(vec![task(&pool, |pool| {
        let new = install();
        kernel::with(|kernel| kernel.clock += Duration::from_secs(1));
        assert_eq!(version(insist(pool)), new);
    })]);
    pool.retire();
    assert_nothing_remains(&pool);
}

fn retired() {
    let pool = filled(either());
    run_all(vec![
        task(&pool, |pool| {
            pool.retire();
            assert_nothing_remains(pool);
            pool.refill();
            insist(pool);
            pool.retire();
            assert_nothing_remains(pool);
        }),
        task(&pool, |_| kill_one()),
    ]);
}

fn retired_under_clients() {
    let pool = filled(either());
    run_all(vec![
        task(&pool, |pool| _ = offer(pool)),
        task(&pool, |pool| _ = offer(pool)),
        task(&pool, Pool::retire),
    ]);
    kernel::wait_for_sleep();
    assert_nothing_remains(&pool);
}
