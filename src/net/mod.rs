//! Sockets: binding them, and knowing who calls.

pub mod check;
mod given;
pub mod listener;
mod multicast;
mod options;
pub mod peer;
pub mod proxy;
mod resolve;
mod unix;

pub use given::{Handed, refuse_datagrams, refuse_seqpacket, take_over};
pub use listener::{HandedListener, Listener, Place, Resolved, bind_all, resolve_all};
pub use peer::Peer;
pub use unix::{HandedFile, SocketFile};
