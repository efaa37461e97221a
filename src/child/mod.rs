//! Handlers before they run: which program, in which surroundings, and how it is started.

pub mod environment;
pub mod plan;
#[cfg(target_arch = "x86_64")]
pub mod prestart;
#[cfg(not(target_arch = "x86_64"))]
#[path = "prestart/unsupported.rs"]
pub mod prestart;
pub mod program;
pub mod spawn;

pub use plan::Plan;
pub use prestart::Pool;
pub use spawn::{Method, Pidfds, SpawnError, Spawned, Spawner};
