//! Sockets: binding them, inheriting them, and reading PROXY protocol headers from connections.
//!
//! A file imports only from lower floors. From the ground up:
//!
//! | floor | modules | |
//! | --- | --- | --- |
//! | 0 | `holder`, `multicast`, `peer`, `proxy`, `resolve`, `target`, `unix`, `variables` | one subject each, independent of the others |
//! | 1 | `open`, `options` | opening sockets, and setting their options |
//! | 2 | `settings` | what a bound socket was asked for, and how that changes |
//! | 3 | `listener` | a bound socket |
//! | 4 | `inherited` | listeners that another program has bound |
//! | 5 | `bind`, `check` | all listeners of a service: binding them, or predicting why that would fail |
//! | 6 | `kept` | listeners of an earlier process that are still wanted |

mod bind;
pub mod check;
mod holder;
mod inherited;
mod kept;
mod listener;
mod multicast;
mod open;
mod options;
mod peer;
pub mod proxy;
mod resolve;
mod settings;
mod target;
mod unix;
mod variables;

pub use bind::bind_all;
pub use inherited::{
    InheritedListener, inherit_all, refuse_datagrams, refuse_packets, refuse_seqpacket,
};
pub use kept::{Binding, KeptListeners};
pub use listener::{LastClient, Listener, ListenerAddress, SavedListener, Serving};
pub use resolve::{Resolved, resolve_all};
pub use target::addresses_of;
pub use unix::{LOCK_TIMEOUT, SavedFile, SocketFile};

pub use crate::config::{BoundAddress, Peer};
