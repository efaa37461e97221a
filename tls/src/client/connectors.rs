//! Threads that connect to the server: the look-up of a name waits, and a server may take its time. There are as
//! many as there are connections that wait for that, up to a limit.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many threads there are at most.
const MOST_THREADS: usize = 128;

/// How many connections wait for a thread at most.
const MOST_WAITING: usize = 1024;

/// How long a thread without work is kept.
const KEPT: Duration = Duration::from_secs(10);

/// What a thread needs of a stack: the C library's resolver has buffers of 64 KiB on it.
const STACK: usize = 512 << 10;

/// A connection that waits for the server.
#[derive(Debug)]
pub(super) struct Queued {
    /// The connection.
    pub(super) connection: OwnedFd,
    /// The name of its client.
    pub(super) peer: String,
}

/// The threads.
pub(super) struct Connectors(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    work: Box<dyn Fn(Queued) + Send + Sync>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Queued>,
    threads: usize,
    idle: usize,
}

impl Connectors {
    /// Returns threads that do this with each connection. There is none until it is needed.
    pub(super) fn new(work: impl Fn(Queued) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            work: Box::new(work),
        }))
    }

    /// Whether so many connections wait that no more are to be accepted.
    pub(super) fn are_full(&self) -> bool {
        self.0.lock().waiting.len() >= MOST_WAITING
    }

    /// Adds a connection. If no thread can be made, it waits for a thread that is there; the error is
    /// returned if there is none.
    pub(super) fn add(&self, queued: Queued) -> io::Result<()> {
        let mut state = self.0.lock();
        state.waiting.push_back(queued);
        if state.idle >= state.waiting.len() || state.threads >= MOST_THREADS {
            self.0.changed.notify_one();
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new()
            .name("connect".to_owned())
            .stack_size(STACK);
        match thread.spawn(move || shared.run()) {
            Ok(_) => state.threads += 1,
            Err(error) if state.threads == 0 => {
                state.waiting.pop_back();
                return Err(error);
            }
            Err(_) => {}
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some(queued) = state.waiting.pop_front() {
                drop(state);
                (self.work)(queued);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let (again, waited) = self
                .changed
                .wait_timeout(state, KEPT)
                .unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle -= 1;
            if waited.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::sync::mpsc;

    fn queued(name: &str) -> Queued {
        Queued {
            connection: File::open("/dev/null").unwrap().into(),
            peer: name.to_owned(),
        }
    }

    #[test]
    fn one_that_waits_keeps_no_other_from_its_turn() {
        let (done, results) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let connectors = Connectors::new(move |queued: Queued| {
            if queued.peer == "slow" {
                gate.lock().unwrap().recv().unwrap();
            }
            done.send(queued.peer).unwrap();
        });
        connectors.add(queued("slow")).unwrap();
        for _ in 0..1000 {
            connectors.add(queued("quick")).unwrap();
        }
        for _ in 0..1000 {
            assert_eq!(results.recv().unwrap(), "quick");
        }
        go.send(()).unwrap();
        assert_eq!(results.recv().unwrap(), "slow");
        assert!(!connectors.are_full());
        assert!(connectors.0.lock().threads <= MOST_THREADS);
    }
}
