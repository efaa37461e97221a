//! Worker threads: each waits for clients and for the ends of the handlers that it started.
//!
//! | file | |
//! | --- | --- |
//! | `worker_loop` | the loop of every worker: serve, wait, reap, wait out a shortage, park |
//! | `intake` | what differs between workers, and what a worker starts handlers with |
//! | `stream` | clients that connect: accept, pending connections, rejections |
//! | `datagram` | clients that send datagrams |
//! | `watched_queue` | pending connections in the worker's epoll set |
//! | `turns` | which worker accepts while another waits out a shortage |
//! | `rejections` | log lines about rejected clients |
//! | `shared`, `threads` | what all threads share, and how many there are |
//! | `saved` | pending connections in the state of an upgrade |

pub(in crate::serve) mod datagram;
mod intake;
mod rejections;
pub(in crate::serve) mod saved;
mod shared;
pub(in crate::serve) mod stream;
mod threads;
mod turns;
mod watched_queue;
mod worker_loop;

pub(in crate::serve) use shared::{Phase, Shared};
pub use threads::{datagram_workers, stream_workers};
pub(in crate::serve) use turns::Turns;
