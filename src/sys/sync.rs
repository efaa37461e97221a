//! What threads share memory by. `models/` builds the files that use it with other primitives, which
//! try many schedules.

pub use std::sync::{Mutex, MutexGuard, PoisonError, atomic};
