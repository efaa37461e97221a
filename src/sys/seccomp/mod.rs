//! Filters of system calls (seccomp(2)): their instructions, and the names of calls.

mod compile;
mod filter;
mod key;
mod names;
mod notify;

pub use compile::{Action, Case, Rules, Test, Verdict};
pub use filter::{Filter, IS_SUPPORTED, Listening};
pub use key::key;
pub use names::{AARCH64, Calls, KnownCall, X86_64, call_name, calls, known_calls};
pub use notify::{Asked, Listener, can_listen, receive_listener};
