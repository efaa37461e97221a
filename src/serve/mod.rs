//! The running daemon: connections and datagrams become handlers, handlers end, signals arrive.
//!
//! Its folders are floors too: a file imports only from lower folders or from its own. From the
//! ground up:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 0 | `tls`, `gate`, `availability` | what has connections before handlers do; whether a service takes clients |
//! | 1 | `admission` | which client is admitted, and when: pure parts that are told the time |
//! | 2 | `service` | a service as all threads share it; where each of its settings is |
//! | 3 | `handlers` | the table of live handlers: start, timeouts, reaping, lingering close |
//! | 4 | `worker`, `wait_mode`, `supervise` | the threads that serve; the two other ways to run a program |
//! | 5 | `control` | the main thread: signals, drain, reload, upgrade |

mod admission;
mod availability;
mod control;
mod gate;
mod handlers;
mod service;
pub mod supervise;
mod tls;
mod wait_mode;
mod worker;

pub use admission::{Client, Decision, Ready, Rules};
pub use availability::Availability;
pub use control::{
    BoundControl, Daemon, Origin, Prepared, RemovedService, Resources, Restored, RestoredService,
    SavedControl, TlsKeeper, TlsStart, TlsUser, read_request, upgrade,
};
pub use handlers::linger::most as most_lingering;
pub use service::{DrainTimeouts, TimeLimits};
pub use worker::{datagram_workers, stream_workers};
