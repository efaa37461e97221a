//! The engine, with real sockets, and rustls's own client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bounds;
mod ends;
mod faults;
mod outgoing;
mod relay;
mod rig;
mod sessions;
