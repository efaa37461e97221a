//! skd-tls, as skd keeps it: its processes, the channels to them, and what an upgrade saves of that.
//!
//! Of these processes one is running, and gets its settings again at a reload. While it is replaced, the
//! next one is loading the same beside it. Earlier ones serve their last connections, and end.

mod channel;
mod child;
mod keeper;
mod program;
mod saved;

pub use channel::TlsUser;
pub(in crate::serve) use keeper::{Outcome, TlsNews};
pub use keeper::{TlsKeeper, TlsStart};
pub(in crate::serve) use saved::SavedTls;
