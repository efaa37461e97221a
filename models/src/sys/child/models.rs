//! Newborn children, which others stop, and the thread that watches them.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shuttle::rand::Rng;
use shuttle::thread;

use super::newborn::{Births, ChildStack};
use crate::Model;
use crate::kernel;
use crate::sys::process::{self, Process, State, Target, Wait};
use crate::sys::sync::atomic::Ordering;

pub const ALL: &[Model] = &[
    (
        "a newborn child that is stopped goes on, whichever thread makes it",
        continued,
        3_000,
    ),
    (
        "a newborn child that is stopped again and again is killed, and the next one isn't",
        killed,
        3_000,
    ),
    (
        "the watcher of births signals no process that has the id of an earlier child",
        ids_used_again,
        10_000,
    ),
    (
        "the watcher of births sleeps without any, and a birth wakes it",
        woken,
        3_000,
    ),
    (
        "stacks that come and go leave the others watched",
        stacks,
        5_000,
    ),
];

/// How often a child is continued before it is killed.
const CONTINUED: usize = 4;

fn births() -> &'static Births {
    Box::leak(Box::new(Births::new()))
}

/// Makes a child as `launch.rs` does, and returns its index. It is stopped so many times.
fn bear(stack: &ChildStack, pid: i32, stops: usize) -> usize {
    let newborn = &stack.newborn;
    newborn.begin();
    let process = Process {
        stops,
        ..Process::new(pid, 0)
    };
    let index = kernel::with(|kernel| kernel.make(process));
    // SAFETY: the address is that of an atomic integer that lives as long as the stack.
    let id = unsafe { std::sync::atomic::AtomicI32::from_ptr(newborn.pid_address()) };
    id.store(pid, Ordering::SeqCst);
    if (0..=stops).all(|_| process::step(index)) {
        newborn.note_done();
    }
    let is_done = newborn.end();
    assert_eq!(is_done, state(index) == State::Runs);
    index
}

/// The child ends, and is reaped.
fn reap(index: usize) {
    let pid = kernel::with(|kernel| {
        kernel.processes[index].end();
        kernel.processes[index].pid
    });
    process::wait(Target::Process(Pid::from_raw(pid)), Wait::UNTIL_END).unwrap();
}

fn state(index: usize) -> State {
    kernel::read(|kernel| kernel.processes[index].state)
}

fn signals(index: usize) -> Vec<Signal> {
    kernel::read(|kernel| kernel.processes[index].signals.clone())
}

fn run_all<const COUNT: usize>(threads: [Box<dyn FnOnce() + Send>; COUNT]) {
    let threads = threads.map(thread::spawn);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

fn continued() {
    let births = births();
    let thread = |pid| -> Box<dyn FnOnce() + Send> {
        Box::new(move || {
            births.watch(|_, _| ()).unwrap();
            let stack = ChildStack::among(births).unwrap();
            let index = bear(&stack, pid, 1);
            assert_eq!(signals(index), [Signal::SIGCONT]);
        })
    };
    run_all([thread(7), thread(8)]);
    kernel::wait_for_sleep();
    assert_eq!(kernel::read(|kernel| kernel.threads), 1);
    assert!(births.lock().is_empty());
}

fn killed() {
    let births = births();
    births.watch(|_, _| ()).unwrap();
    let stack = ChildStack::among(births).unwrap();
    let index = bear(&stack, 7, usize::MAX);
    let expected = [[Signal::SIGCONT; CONTINUED].as_slice(), &[Signal::SIGKILL]].concat();
    assert_eq!(signals(index), expected);
    reap(index);
    let index = bear(&stack, 7, CONTINUED);
    assert_eq!(signals(index), [Signal::SIGCONT; CONTINUED]);
    kernel::wait_for_sleep();
}

/// A handler of skd's that its user has stopped.
fn stopped_handler(pid: i32) -> Process {
    Process {
        is_skds: false,
        state: State::Stopped,
        ..Process::new(pid, 0)
    }
}

fn ids_used_again() {
    let births = births();
    births.watch(|_, _| ()).unwrap();
    let first = move || {
        let stack = ChildStack::among(births).unwrap();
        for (pid, stops) in [(7, 1), (8, 0), (9, 1)] {
            let index = bear(&stack, pid, stops);
            reap(index);
            kernel::with(|kernel| kernel.make(stopped_handler(pid)));
        }
    };
    let second = move || {
        let stack = ChildStack::among(births).unwrap();
        let index = bear(&stack, 17, 1);
        reap(index);
        kernel::with(|kernel| kernel.make(stopped_handler(17)));
    };
    // Others may continue a child too, at any time.
    let other = || [7, 9, 17].into_iter().for_each(continue_stopped);
    run_all([Box::new(first), Box::new(second), Box::new(other)]);
    kernel::wait_for_sleep();
}

/// Another process continues a child, once that has been stopped.
fn continue_stopped(pid: i32) {
    kernel::until(|kernel| {
        let mut all = kernel.processes.iter();
        let found = all.find(|process| process.is_skds && process.pid == pid)?;
        (found.stops == 0).then_some(())
    });
    // The watcher looks some times before that.
    let looks = shuttle::rand::thread_rng().gen_range(0..8);
    (0..looks).for_each(|_| thread::yield_now());
    kernel::with(|kernel| {
        let mut all = kernel.processes.iter_mut();
        let found = all.find(|process| process.is_skds && process.pid == pid);
        if let Some(process) = found.filter(|process| process.state == State::Stopped) {
            process.state = State::Runs;
        }
    });
}

fn woken() {
    let births = births();
    births.watch(|_, _| ()).unwrap();
    let stack = ChildStack::among(births).unwrap();
    for pid in 7..10 {
        let index = bear(&stack, pid, 1);
        reap(index);
        if pid != 8 {
            kernel::wait_for_sleep();
        }
    }
    let index = bear(&stack, 10, 0);
    reap(index);
    kernel::wait_for_sleep();
}

fn stacks() {
    let births = births();
    births.watch(|_, _| ()).unwrap();
    let brief = move || {
        let stack = ChildStack::among(births).unwrap();
        reap(bear(&stack, 7, 0));
        drop(stack);
        let stack = ChildStack::among(births).unwrap();
        reap(bear(&stack, 7, 1));
    };
    let lasting = move || {
        let stack = ChildStack::among(births).unwrap();
        reap(bear(&stack, 8, 0));
        reap(bear(&stack, 8, 1));
    };
    run_all([Box::new(brief), Box::new(lasting)]);
    kernel::wait_for_sleep();
    assert!(births.lock().is_empty());
}
