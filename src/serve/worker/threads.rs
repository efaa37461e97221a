//! How many worker threads there are.

use std::num::NonZeroUsize;

use crate::config::{DatagramMode, MOST_THREADS};

/// Returns the number of threads that accept connections, where there are any.
pub fn stream_workers(wanted: Option<NonZeroUsize>) -> usize {
    // While one waits for its child to exec, another can use the core; many more would only
    // have children wait for each other.
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let usual = || (cores() * 3).div_ceil(2).min(MOST_THREADS);
    wanted.map_or_else(usual, |threads| threads.get())
}

/// Returns the number of threads that receive the datagrams of a service, if there are low
/// descriptors for them.
pub fn datagram_workers(mode: DatagramMode, wanted: Option<NonZeroUsize>) -> usize {
    match mode {
        // A thread that makes a process for a datagram stops while it is made.
        DatagramMode::PerPacket => stream_workers(wanted),
        // The senders of a service are in one table.
        DatagramMode::PerPeer => 1,
        DatagramMode::Wait => 0,
    }
}
