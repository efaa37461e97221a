//! Handlers before they run: which program, in which surroundings, and how it is started.
//!
//! The modules are floors: a file imports only from lower floors or from its own folder. From the
//! ground up:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 0 | `environment`, `program`, `cgroups`, `filter` | the variables that all handlers have; PROG, found and checked once; control groups; filters of system calls |
//! | 1 | `plan` | a handler's preparation as data |
//! | 2 | `method` | how children are made on this kernel |
//! | 3 | `spawn` | a plan and a connection become a running handler |
//! | 4 | `jail` | sandboxes, and the processes that make handlers in them |
//! | 5 | `prestart` | the pool of handlers that are started before their clients come |
//! | 6 | `start` | a handler from the pool, from a jailer, or by spawning |

mod cgroups;
pub mod environment;
mod filter;
mod jail;
mod method;
pub mod plan;
mod prestart;
pub mod program;
mod spawn;
mod start;

pub use cgroups::{Cgroup, Cgroups, Settings};
pub use filter::{FilterSocket, Filters};
pub use jail::{Jail, Wanted, sandbox_below_chroot};
pub use method::{Method, Pidfds, try_cgroup, watch_births};
pub use plan::Plan;
#[cfg(target_arch = "x86_64")]
pub use prestart::{HarmlessCalls, harmless_calls};
pub use prestart::{Pool, SavedPool, rehearse};
pub use spawn::{PeerRefused, SpawnError, Spawned, Spawner};
pub use start::Source;
