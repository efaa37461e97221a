//! Handlers before they run: which program, in which surroundings, and how it is started.

#[cfg(target_arch = "x86_64")]
pub mod ahead;
#[cfg(not(target_arch = "x86_64"))]
#[path = "ahead/unsupported.rs"]
pub mod ahead;
pub mod environment;
pub mod plan;
pub mod program;
pub mod spawn;

pub use ahead::Stock;
pub use plan::Plan;
pub use spawn::{Method, Pidfds, SpawnError, Spawned, Spawner};
