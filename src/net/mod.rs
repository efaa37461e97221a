//! Sockets: binding them, and knowing who calls.

pub mod check;
mod inherited;
pub mod listener;
mod multicast;
mod options;
pub mod peer;
pub mod proxy;
mod resolve;
mod unix;

pub use inherited::{Handed, refuse_datagrams, refuse_seqpacket, take_over};
pub use listener::{BoundAddress, Listener, Resolved, SavedListener, bind_all, resolve_all};
pub use peer::Peer;
pub use unix::{SavedFile, SocketFile};
