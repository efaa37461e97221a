//! The threads that do handshakes and relay.
//!
//! Each thread has an epoll set of its own with the request channel in it, and serves the connections that it
//! has received from there, from their handshake to their end. No thread waits for one of them.
//!
//! | file | |
//! | --- | --- |
//! | `mod.rs` | what all threads share |
//! | `thread.rs` | a thread: events, turns, deadlines |
//! | `requests.rs`, `services.rs` | what skd passes, and for which service |
//! | `connection.rs` | a connection's phases |
//! | `handshake.rs`, `relay.rs`, `linger.rs` | what is done in each of them |
//! | `link.rs`, `tls.rs`, `socket.rs`, `buffers.rs` | both ends, the session between them, and what is left over |
//! | `aside.rs` | closing what may wait |
//! | `server_name.rs`, `figures.rs`, `timers.rs`, `slab.rs` | the parts of it |

mod aside;
mod buffers;
mod connection;
mod figures;
mod handshake;
mod linger;
mod link;
mod relay;
mod requests;
mod server_name;
mod services;
mod slab;
mod socket;
mod thread;
mod timers;
mod tls;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use skd_tls_protocol::ServiceFigures;

pub use connection::{Ended, Truncated};
pub use handshake::Fault;
use thread::{Shared, Thread};

use crate::load::Services;

/// All threads.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// A connection to a server.
pub struct Outgoing {
    /// What is asked of the server.
    pub config: Arc<ClientConfig>,
    /// The server's name.
    pub name: ServerName<'static>,
    /// The connection, which needn't be established yet.
    pub tcp: OwnedFd,
    /// A stream socket with the plain bytes.
    pub plain: OwnedFd,
    /// How long the handshake may take, and the connection before it.
    pub within: Duration,
    /// How long it may be idle, if that is limited.
    pub idle: Option<Duration>,
    /// Told how it has ended, when both sockets are closed here, or are about to be. Doesn't wait.
    pub ended: Box<dyn FnOnce(Ended) + Send>,
}

impl Engine {
    /// Starts so many threads, which receive connections for these services from this end of the request
    /// channel. `truncated` is called by them, and doesn't wait.
    ///
    /// The limit of open files is taken as it is now.
    pub fn start(
        requests: OwnedFd,
        threads: usize,
        services: &Services,
        truncated: impl Fn(Truncated) + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        Self::begin(Some(requests), threads, services, Box::new(truncated))
    }

    /// Starts so many threads for connections to servers.
    pub fn client(threads: usize) -> io::Result<Arc<Self>> {
        Self::begin(None, threads, &Services::default(), Box::new(|_| {}))
    }

    fn begin(
        requests: Option<OwnedFd>,
        threads: usize,
        services: &Services,
        truncated: Box<dyn Fn(Truncated) + Send + Sync>,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::new(requests, threads.max(1), truncated)?);
        shared.replace(services);
        let engine = Self {
            shared: Arc::clone(&shared),
        };
        // All are made before one runs: then there are all of them, or none.
        let ready: Vec<Thread> = (0..threads.max(1))
            .map(|index| Thread::new(Arc::clone(&shared), index))
            .collect::<io::Result<_>>()?;
        for thread in ready {
            let name = format!("relay-{}", thread.index());
            let spawned = std::thread::Builder::new()
                .name(name)
                .spawn(move || thread.run());
            if let Err(error) = spawned {
                engine.retire();
                return Err(error);
            }
        }
        Ok(Arc::new(engine))
    }

    /// Has new connections get these services. Those that are there keep what they have.
    pub fn replace(&self, services: &Services) {
        self.shared.replace(services);
    }

    /// Relays a connection to a server. Some thread does it.
    pub fn connect(&self, outgoing: Outgoing) {
        self.shared.pass(outgoing);
    }

    /// Returns what has changed in the figures since it was asked last.
    pub fn figures(&self) -> Vec<ServiceFigures> {
        self.shared.figures.changed()
    }

    /// Takes no more connections.
    pub fn retire(&self) {
        self.shared.retire(None);
    }

    /// Takes no more connections, and ends those that are there: sends what there is, and `close_notify`,
    /// and closes them after this time at the latest.
    pub fn stop(&self, within: Duration) {
        self.shared.retire(Some(Instant::now() + within));
    }

    /// Returns whether it takes no more connections and none is left.
    pub fn is_done(&self) -> bool {
        self.shared.is_done()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.retire();
    }
}
