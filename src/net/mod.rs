//! Sockets: binding them, and knowing who calls.

pub mod check;
mod inherited;
pub mod listener;
mod multicast;
mod options;
mod peer;
pub mod proxy;
mod resolve;
mod unix;

pub use inherited::{Handed, refuse_datagrams, refuse_seqpacket, take_over};
pub use listener::{Listener, ListenerAddress, Resolved, SavedListener, bind_all, resolve_all};
pub use unix::{SavedFile, SocketFile};

pub use crate::config::{BoundAddress, Peer};
