//! skd-tls as a process: what it can't do, what it says to skd, and its clients.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod certificates;
mod client;
mod confine;
mod serve;
mod skd_side;

/// Longer than anything takes on a busy machine.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);
