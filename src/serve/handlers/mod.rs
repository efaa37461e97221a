//! Live handlers: how each begins, which timeouts it has, and where it ends.

mod births;
mod containment;
mod context;
pub(in crate::serve) mod gate;
mod left;
pub(in crate::serve) mod linger;
pub(in crate::serve) mod orphans;
pub(in crate::serve) mod reap;
pub(in crate::serve) mod saved;
mod slab;
pub(in crate::serve) mod start;
pub(in crate::serve) mod table;
pub(in crate::serve) mod timeouts;
mod timers;
pub(in crate::serve) mod token;

pub(in crate::serve) use births::Births;
pub(in crate::serve) use context::Handlers;
pub(in crate::serve) use left::Containment;
pub(in crate::serve) use slab::Slab;
pub(in crate::serve) use timers::Timers;
