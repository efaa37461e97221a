//! Certificates for servers with TLS, which sign themselves.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::CertificateDer;

use super::Peer;

/// The name that they are for.
pub(crate) const HOST: &str = "localhost";

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    certificate: String,
    key: String,
    /// Both in one file, as haproxy wants them.
    both: String,
    /// For clients, which trust it alone.
    pub der: CertificateDer<'static>,
}

/// The certificates of a run.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    /// With a key on the curve P-256.
    pub ecdsa: Certificate,
    /// With an RSA key of 2,048 bits.
    pub rsa: Certificate,
}

impl Certificates {
    /// Makes them in a folder.
    pub(super) fn prepare(folder: &Path) -> Result<Self> {
        let ecdsa = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        Ok(Self {
            ecdsa: Certificate::write(folder, "ecdsa", &ecdsa)?,
            rsa: Certificate::write(folder, "rsa", &rsa)?,
        })
    }
}

impl Certificate {
    fn write(folder: &Path, name: &str, key: &KeyPair) -> Result<Self> {
        let params = CertificateParams::new([HOST.to_owned()])?;
        let certificate = params.self_signed(key)?;
        let (chain, secret) = (certificate.pem(), key.serialize_pem());
        let file = |ending: &str, text: &str| -> Result<String> {
            let path = folder.join(format!("{name}{ending}"));
            let mut options = File::options();
            // skd refuses keys that every user can read.
            let options = options.write(true).create_new(true).mode(0o600);
            options
                .open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .with_context(|| format!("cannot write '{}'", path.display()))?;
            Ok(path.to_string_lossy().into_owned())
        };
        Ok(Self {
            certificate: file(".crt", &chain)?,
            key: file(".key", &secret)?,
            both: file(".pem", &format!("{chain}{secret}"))?,
            der: certificate.der().clone(),
        })
    }

    /// Returns the peer as a server with this certificate.
    pub(crate) fn given_to(&self, peer: &Peer) -> Peer {
        peer.clone()
            .with("{certificate}", &self.certificate)
            .with("{key}", &self.key)
            .with("{both}", &self.both)
    }
}
