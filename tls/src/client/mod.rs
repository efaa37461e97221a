//! TLS to a server.
//!
//! | file | |
//! | --- | --- |
//! | `options.rs` | what is given on the command line |
//! | `config.rs` | what a handshake needs |
//! | `connect.rs` | connects to the first address that answers |
//! | `single.rs`, `standard.rs` | `--connect`: standard input and output |
//! | `listen.rs`, `connectors.rs`, `log.rs` | `--listen`: connections that are accepted here |
//! | `failure.rs` | why there is no session, in words |

mod config;
mod connect;
mod connectors;
mod failure;
mod listen;
mod log;
pub(crate) mod options;
mod single;
mod standard;

use self::options::{Options, Trust};

/// What a client has ended with, if not well. The sentences are for standard error.
#[derive(Debug)]
pub(crate) enum End {
    /// It couldn't connect, or this machine can't do what it was asked for.
    NotConnected(String),
    /// There was no session: the server doesn't speak TLS, its certificate isn't accepted, or another reason.
    NoSession(String),
    /// What the server has sent may not be all.
    Cut(String),
}

/// Connects as the options say, and relays until the end.
pub(crate) fn run(options: Options) -> Result<(), End> {
    if options.trust == Trust::Anything {
        crate::cli::complain(
            "--insecure: any server is taken for the right one, and can read and change everything",
        );
    }
    let config = config::config(&options).map_err(End::NotConnected)?;
    match options.listen.is_empty() {
        true => single::run(&options, config),
        false => listen::run(options, config),
    }
}
