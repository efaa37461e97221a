//! Handlers before they run: which program, in which surroundings, and how it is started.
//!
//! The modules are floors: a file imports only from lower floors or from its own folder. From the
//! ground up:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 0 | `environment`, `program` | the variables that all handlers have; PROG, found and checked once |
//! | 1 | `plan` | a handler's preparation as data |
//! | 2 | `method` | how children are made on this kernel |
//! | 3 | `spawn` | a plan and a connection become a running handler |
//! | 4 | `prestart` | the pool of handlers that are started before their clients come |
//! | 5 | `start` | a handler from the pool, or by spawning |

pub mod environment;
mod method;
pub mod plan;
mod prestart;
pub mod program;
mod spawn;
mod start;

pub use method::{Method, Pidfds, watch_births};
pub use plan::Plan;
#[cfg(target_arch = "x86_64")]
pub use prestart::{HarmlessCalls, harmless_calls};
pub use prestart::{Pool, SavedPool, rehearse};
pub use spawn::{PeerRefused, SpawnError, Spawned, Spawner};
