//! Sockets: binding them, and knowing who calls.

pub mod check;
pub mod listener;
pub mod peer;
mod resolve;
mod unix;

pub use listener::{HandedListener, Listener, Resolved, bind_all, resolve_all};
pub use peer::Peer;
pub use unix::{HandedFile, SocketFile};
