//! Worker threads: each waits for clients and for the ends of the handlers that it started.

pub(in crate::serve) mod datagram;
mod queue;
mod rejections;
pub(in crate::serve) mod saved;
mod shared;
mod source;
pub(in crate::serve) mod stream;
mod threads;
mod turns;
mod worker_loop;

pub(in crate::serve) use shared::{Phase, Shared};
pub use threads::{acceptors, datagram_workers};
pub(in crate::serve) use turns::Turns;
