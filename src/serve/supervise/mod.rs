//! One program, run again whenever it exits, with signals passed on. Sockets that it is handed stay
//! open here, so that no client is refused in between.

mod idleness;
mod launch;
mod run;
pub mod sockets;
mod supervisor;

pub use launch::rehearse;
pub use run::run;
pub use supervisor::{Obeyed, has_terminal};
