//! The program as its users see it, beside a skd of which nothing is there but prepared answers.

// A test reports a failure by panicking. The tests may need a newer Rust than skdctl itself.
#![allow(
    clippy::incompatible_msrv,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod commands;
mod documents;
mod fake;
mod top;
