//! The running daemon: connections and datagrams become handlers, handlers end, signals arrive.
//!
//! Its folders are floors too: a file imports only from lower folders or from its own. From the
//! ground up:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 0 | `admission`, `availability` | which client is admitted, and when: pure parts that are told the time |
//! | 1 | `service` | a service as all threads share it; where each of its settings is |
//! | 2 | `handlers` | the table of live handlers: start, timeouts, reaping, lingering close |
//! | 3 | `worker`, `wait_mode`, `supervise` | the threads that serve; the two other ways to run a program |
//! | 4 | `control` | the main thread: signals, drain, reload, upgrade |

mod admission;
mod availability;
mod control;
mod handlers;
mod service;
pub mod supervise;
mod wait_mode;
mod worker;

pub use admission::{Client, Decision, Ready, Rules};
pub use availability::Availability;
pub use control::{
    BoundControl, Daemon, Origin, Prepared, RemovedService, Resources, Restored, RestoredService,
    SavedControl, read_request, upgrade,
};
pub use handlers::linger::most as most_lingering;
pub use service::{DrainTimeouts, TimeLimits};
pub use worker::{datagram_workers, stream_workers};
