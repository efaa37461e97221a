//! From settings and files to what a handshake needs.
//!
//! A file imports those above it only:
//!
//! | file | |
//! | --- | --- |
//! | `date.rs` | dates in messages |
//! | `file.rs`, `pem.rs` | the bytes of a file, and what is in them |
//! | `certificate.rs`, `certified.rs` | what a certificate says; a certificate with its key |
//! | `ocsp.rs` | what an OCSP response says |
//! | `ends.rs` | what is said about what ends |
//! | `clients.rs`, `authorities.rs` | how clients' certificates are verified, and the files for that |
//! | `ticket_keys.rs`, `tickets.rs` | session tickets |
//! | `keylog.rs` | secrets for debugging |
//! | `resolver.rs` | which certificate a client gets |
//! | `stapling.rs` | which certificate an OCSP response belongs to |
//! | `service.rs` | a service of all that |

mod authorities;
mod certificate;
mod certified;
mod clients;
pub(crate) mod date;
mod ends;
mod file;
mod keylog;
mod ocsp;
pub(crate) mod pem;
mod resolver;
mod service;
mod stapling;
mod ticket_keys;
mod tickets;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CommonState, HandshakeKind, ServerConfig};
use skd_tls_protocol::{Certificate, Settings};

pub use ends::Watch;
pub use tickets::Tickets;

use service::Loader;

/// The services of the settings that hold.
#[derive(Debug, Default)]
pub struct Services {
    by_name: HashMap<Box<str>, Arc<Service>>,
}

/// A service with TLS.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Box<str>,
    /// Its certificates, and what is asked of its clients.
    pub config: Arc<ServerConfig>,
    /// How long a connection may be idle, if that is limited.
    pub idle: Option<Duration>,
    /// What verifies certificates of clients, if those have any.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// What was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// The services.
    pub services: Services,
    /// Their certificates, and other files that there is something to be said about.
    pub certificates: Vec<Certificate>,
    /// What is to be looked at once a day.
    pub watch: Watch,
}

impl Services {
    /// Returns these services, by their names.
    pub fn new(services: impl IntoIterator<Item = Service>) -> Self {
        let named = services.into_iter();
        let named = named.map(|it| (it.name.clone(), Arc::new(it)));
        Self {
            by_name: named.collect(),
        }
    }

    /// Returns the service with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Service>> {
        self.by_name.get(name)
    }

    /// Returns all services, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_name.values()
    }
}

impl Service {
    /// Returns a service with a configuration that was made elsewhere, and asks nothing of its clients.
    pub fn new(name: &str, config: ServerConfig, idle: Option<Duration>) -> Self {
        Self {
            name: name.into(),
            config: Arc::new(config),
            idle,
            verifier: None,
        }
    }

    /// Verifies the certificate of a client again whose session was resumed. rustls doesn't: its certificate may
    /// have ended since, and tickets, each of which is good for the next one, would let it in for ever.
    pub(crate) fn verify_again(&self, state: &CommonState) -> Result<(), rustls::Error> {
        let certificates = state.peer_certificates();
        if let (Some(HandshakeKind::Resumed), Some([own, between @ ..]), Some(verifier)) =
            (state.handshake_kind(), certificates, &self.verifier)
        {
            verifier.verify_client_cert(own, between, UnixTime::now())?;
        }
        Ok(())
    }
}

/// Has the libraries do what they do once, while this process still has all of its rights.
pub fn prepare() {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let _ = provider.secure_random.fill(&mut [0; 32]);
    Tickets::default().renew();
    date::now();
}

/// Loads settings and their files, all of it or nothing. What is wrong is said in sentences that name the
/// service, the option and the file: all of it at once, as far as it can be seen.
pub fn load(
    settings: &Settings,
    files: &[OwnedFd],
    tickets: &Arc<Tickets>,
) -> Result<Loaded, Vec<String>> {
    let mut loader = Loader::new(settings, files, tickets);
    for service in &settings.services {
        loader.add(service);
    }
    loader.end()
}
