//! Prestarted handlers: processes that have done all that a program does before it looks at its
//! client, and are parked there.
//!
//! | file | |
//! | --- | --- |
//! | `harmless` | the system calls that a program may make before it has a client |
//! | `harmful` | those that it may not make for `--fork-server=shared` |
//! | `verdict`, `calls` | what becomes of a program at each call |
//! | `arguments`, `look` | what a call is about: arguments, descriptors, names |
//! | `runs` | calls in a row that aren't looked at one by one |
//! | `failure` | why a program isn't parked |
//! | `kinds` | kinds of what a program makes, and its copies would share |
//! | `files` | what a parked process has open |
//! | `inheritance` | its memory, threads and signals: what copies would share, or lack |
//! | `locks` | the locks that it holds, which a copy couldn't release |
//! | `program_files` | what the program was made from |
//! | `parked` | a parked process, and how it gets a connection |
//! | `park` | a program is started and parked |
//! | `state`, `pool` | the parked processes of a service |
//! | `hand_off` | a worker hands a connection to one of them |
//! | `rehearsal` | one start, for `--check` |
//! | `saved` | all of that, saved for the next binary of an upgrade |
//! | `keeper` | the thread that keeps the pool filled |
//!
//! A thread of its own starts programs and parks them: a process is traced (ptrace(2)) by one
//! thread. Workers hand connections to what is parked, and start handlers where nothing is.

#[cfg(target_arch = "x86_64")]
mod arguments;
#[cfg(target_arch = "x86_64")]
mod calls;
#[cfg(target_arch = "x86_64")]
mod failure;
#[cfg(target_arch = "x86_64")]
mod files;
#[cfg(target_arch = "x86_64")]
mod hand_off;
#[cfg(target_arch = "x86_64")]
mod harmful;
#[cfg(target_arch = "x86_64")]
mod harmless;
#[cfg(target_arch = "x86_64")]
mod inheritance;
#[cfg(target_arch = "x86_64")]
mod keeper;
#[cfg(target_arch = "x86_64")]
mod kinds;
#[cfg(target_arch = "x86_64")]
mod locks;
#[cfg(target_arch = "x86_64")]
mod look;
#[cfg(target_arch = "x86_64")]
mod park;
#[cfg(target_arch = "x86_64")]
mod parked;
#[cfg(target_arch = "x86_64")]
mod pool;
#[cfg(target_arch = "x86_64")]
mod program_files;
#[cfg(target_arch = "x86_64")]
mod rehearsal;
#[cfg(target_arch = "x86_64")]
mod runs;
#[cfg(target_arch = "x86_64")]
mod saved;
#[cfg(target_arch = "x86_64")]
mod state;
#[cfg(not(target_arch = "x86_64"))]
mod unsupported;
#[cfg(target_arch = "x86_64")]
mod verdict;

#[cfg(target_arch = "x86_64")]
pub use harmless::{HarmlessCalls, harmless_calls};
#[cfg(target_arch = "x86_64")]
pub use pool::Pool;
#[cfg(target_arch = "x86_64")]
pub use rehearsal::rehearse;
#[cfg(target_arch = "x86_64")]
pub use saved::SavedPool;
#[cfg(not(target_arch = "x86_64"))]
pub use unsupported::{Pool, SavedPool, rehearse};
