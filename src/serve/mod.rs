//! The running daemon: connections and datagrams become handlers, handlers end, signals arrive.
//!
//! The rooms are floors too: a file imports only from lower rooms or from its own. From the
//! ground up:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 0 | `admission` | which client is let in, when: pure parts, to which the time is told |
//! | 1 | `service` | what one service is made of |
//! | 2 | `handlers` | the table of live handlers: start, timeouts, reaping, lingering close |
//! | 3 | `worker`, `wait_mode`, `supervise` | the threads that serve; the two other ways to run a program |
//! | 4 | `control` | the main thread: signals, drain, reload, upgrade |

mod admission;
mod control;
mod handlers;
mod service;
pub mod supervise;
mod wait_mode;
mod worker;

pub use admission::{Client, Decision, Ready, Rules, SavedRules};
pub use control::{
    Daemon, Origin, Prepared, RemovedService, Resources, Restored, RestoredService, upgrade,
};
pub use handlers::linger::most as most_lingering;
pub use service::{DrainTimeouts, TimeLimits};
pub use worker::{acceptors, datagram_workers};
