//! From the options of a client to what a handshake needs.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version};
use skd::config::TlsCertificate;
use skd_tls_protocol::Version;

use super::options::{Options, Trust};
use crate::load::pem::{self, Wanted};

/// Returns what all connections of a client have in common. An error is a sentence.
pub(super) fn config(options: &Options) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = match options.min {
        Version::Tls12 => &[&version::TLS13, &version::TLS12][..],
        Version::Tls13 => &[&version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = match &options.trust {
        Trust::Anything => Arc::new(Anything(Arc::clone(&provider))),
        trust => WebPkiServerVerifier::builder_with_provider(roots(trust)?.into(), provider)
            .build()
            .map_err(|error| error.to_string())?,
    };
    // The builder's only way to a verifier of one's own. It is webpki's, but for --insecure.
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &options.certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let (chain, key) = own(certificate)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                let file = certificate.chain.display();
                match error {
                    Error::InconsistentKeys(_) => {
                        format!("--cert {file}: the private key is that of another certificate")
                    }
                    error => format!("--cert {file} can't be used: {error}"),
                }
            })?
        }
    };
    config.alpn_protocols = options
        .alpn
        .iter()
        .map(|name| name.clone().into())
        .collect();
    Ok(Arc::new(config))
}

fn roots(trust: &Trust) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Trust::Files(files) = trust {
        for file in files {
            for certificate in certificates(file).map_err(|why| format!("--ca {why}"))? {
                roots.add(certificate).map_err(|error| {
                    format!(
                        "--ca {}: a certificate in it can't be used: {error}",
                        file.display()
                    )
                })?;
            }
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    // A few of some systems are too old in form to be read.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})"));
        return Err(format!(
            "this system has no certificates of authorities{}: install them (ca-certificates), or give --ca",
            why.unwrap_or_default()
        ));
    }
    Ok(roots)
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own(certificate: &TlsCertificate) -> Result<Own, String> {
    let chain = certificates(&certificate.chain).map_err(|why| format!("--cert {why}"))?;
    let (file, wanted) = match &certificate.key {
        Some(key) => (key, Wanted::Key),
        None => (&certificate.chain, Wanted::KeyBesideCertificate),
    };
    let bytes = read(file).map_err(|why| format!("--cert {why}"))?;
    let key =
        pem::key(&bytes, wanted).map_err(|why| format!("--cert {}: {why}", file.display()))?;
    Ok((chain, key.clone_key()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(file)?;
    pem::certificates(&bytes).map_err(|why| format!("{}: {why}", file.display()))
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{} can't be read: {error}", file.display()))
}

/// Takes any certificate for the server's. What is signed with its key is verified all the same.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
