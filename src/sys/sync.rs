//! What threads share memory by, and what they wait for. `models/` builds the files that use it with
//! other primitives, which try many schedules.

pub use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, atomic};
pub use std::thread;
pub use std::time::Instant;
