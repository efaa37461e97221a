//! The name that a client has asked for (SNI).
//!
//! rustls's unbuffered interface doesn't tell it, but it asks for a certificate with it: in each handshake, also
//! where an earlier session is resumed, and in the thread that takes the client's bytes. There it is noted.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

thread_local! {
    static NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Forgets the name.
pub(super) fn clear() {
    take();
}

/// Returns the name for which this thread was asked for a certificate since it was cleared.
pub(super) fn take() -> Option<Box<str>> {
    NAME.take()
}

/// Returns the same settings, with which names are noted.
pub(super) fn noting(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(Noting(Arc::clone(&config.cert_resolver)));
    Arc::new(config)
}

#[derive(Debug)]
struct Noting(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Noting {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NAME.set(hello.server_name().map(Into::into));
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}
