//! TLS for skd, in a process of its own: it holds keys, does handshakes, and relays between clients and
//! handlers, which read and write plain bytes. skd starts it, and keeps it running.
//!
//! | folder | |
//! | --- | --- |
//! | `cli.rs` | what it is started for |
//! | `serve.rs`, `confine.rs` | the process that skd starts: the control channel, and how it gives up its rights |
//! | `load/` | from settings and files to what a handshake needs |
//! | `engine/` | the threads that do handshakes and relay |
//! | `session/` | what a handler is told about a session, and the log about a failed handshake |
//! | `distinguished_name.rs` | the names of certificates in text |
//! | `client/` | TLS to a server: `--connect` and `--listen` |
//! | `sys.rs` | every unsafe line |

mod calls;
mod cli;
mod client;
pub mod confine;
mod control;
mod distinguished_name;
pub mod engine;
pub mod load;
mod serve;
pub mod session;
pub mod sys;
mod truncated;

pub use cli::run;
