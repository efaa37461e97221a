//! Sockets: binding them, and knowing who calls.

mod given;
pub mod listener;
pub mod peer;
mod resolve;
mod unix;

pub use given::{Handed, take_over};
pub use listener::{Listener, Place, bind_all, resolve_all};
pub use peer::Peer;
pub use unix::SocketFile;
