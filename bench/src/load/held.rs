//! Open connections, each with a live handler at the other end.

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::connect;
use crate::handlers::ANSWER;
use crate::peers::Endpoint;

/// Open connections, which close when dropped. Their handlers then end.
#[derive(Debug, Default)]
pub(crate) struct Held {
    sockets: Vec<Socket>,
}

impl Held {
    pub(crate) const fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.sockets.append(&mut other.sockets);
    }
}

/// Enough threads, with one connection at a time each, to keep any server busy.
const THREADS: usize = 16;
/// Opening connections stops after this many failures.
const MAX_FAILURES: u64 = 16;

/// Opens up to `count` connections before the deadline. Each handler has answered, and is therefore
/// live.
pub(crate) fn hold(
    endpoint: &Endpoint,
    count: usize,
    deadline: Duration,
    interrupted: &AtomicBool,
) -> Held {
    hold_by(&|| open(endpoint), count, deadline, interrupted)
}

/// The same with connections that send nothing and expect no answer.
pub(crate) fn hold_silent(
    endpoint: &Endpoint,
    count: usize,
    deadline: Duration,
    interrupted: &AtomicBool,
) -> Held {
    let open = || connect(endpoint, Duration::from_secs(5));
    hold_by(&open, count, deadline, interrupted)
}

fn hold_by(
    open: &(dyn Fn() -> io::Result<Socket> + Sync),
    count: usize,
    deadline: Duration,
    interrupted: &AtomicBool,
) -> Held {
    let began = Instant::now();
    let (taken, failures) = (AtomicUsize::new(0), AtomicU64::new(0));
    let sockets = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(count) {
            scope.spawn(|| {
                while taken.fetch_add(1, Ordering::Relaxed) < count
                    && began.elapsed() < deadline
                    && failures.load(Ordering::Relaxed) < MAX_FAILURES
                    && !interrupted.load(Ordering::Relaxed)
                {
                    match open() {
                        Ok(socket) => {
                            if let Ok(mut sockets) = sockets.lock() {
                                sockets.push(socket);
                            }
                        }
                        Err(_) => {
                            failures.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    Held {
        sockets: sockets.into_inner().unwrap_or_default(),
    }
}

fn open(endpoint: &Endpoint) -> io::Result<Socket> {
    let socket = connect(endpoint, Duration::from_secs(5))?;
    let mut answer = [0; ANSWER.len()];
    (&socket).read_exact(&mut answer)?;
    if answer == ANSWER {
        Ok(socket)
    } else {
        Err(io::Error::other("the answer is wrong"))
    }
}
