//! Black-box tests: the real binary, real sockets, real processes. One file a topic, on one harness.
//!
//! `SKD_ORIGINAL=/path/to/skd-1.2 cargo test --test behaviour` runs the shared ones against the
//! original as well.

// A test says what is wrong by panicking, and what it prints is shown only when it fails. Nothing here
// is an interface to anybody outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod harness;

mod harness_itself;
mod stream;
