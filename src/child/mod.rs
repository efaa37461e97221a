//! Handlers before they run: which program, in which surroundings, and how it is started.

pub mod ahead;
pub mod environment;
pub mod plan;
pub mod program;
pub mod spawn;

pub use ahead::Stock;
pub use plan::Plan;
pub use spawn::{Method, Pidfds, SpawnError, Spawned, Spawner};
