//! Whether a client's certificate is accepted.
//!
//! Lists of revoked certificates are looked into for each certificate between the client's and the authority's.
//! A certificate whose issuer has no list here isn't known to be revoked, and is accepted; but if its issuer
//! has lists here, one of them must be about it. Lists that have ended don't count any more: their issuer's
//! certificates are refused, as OpenSSL does it, since it isn't known which of them were revoked meanwhile.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::parse_x509_certificate;

/// How long the names of authorities may be together that clients are told, in bytes. Where they are longer,
/// clients are told none, and send what they have.
const MAX_HINTS: usize = 16 << 10;

/// Verifies certificates of clients.
#[derive(Debug)]
struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    /// The same for certificates whose issuer has a list: the one of the client must be found there.
    listed: Arc<dyn ClientCertVerifier>,
    issuers: HashSet<Box<[u8]>>,
}

/// Why there is no verifier: one of the lists can't be used.
#[derive(Debug)]
pub(super) struct ListFault {
    /// The index of the list, if it is known which one it is.
    pub(super) list: usize,
    pub(super) why: String,
}

/// Makes a verifier for certificates from these authorities, with these lists, whose issuers are as in the
/// lists.
pub(super) fn verifier(
    roots: RootCertStore,
    lists: &[CertificateRevocationListDer<'static>],
    issuers: HashSet<Box<[u8]>>,
    is_optional: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ListFault> {
    let hints: usize = roots.subjects().iter().map(|it| it.as_ref().len()).sum();
    let roots = Arc::new(roots);
    let builder = |lists: &[CertificateRevocationListDer<'static>]| {
        let roots = Arc::clone(&roots);
        let mut it = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .with_crls(lists.iter().cloned())
            .enforce_revocation_expiration();
        if is_optional {
            it = it.allow_unauthenticated();
        }
        if hints > MAX_HINTS {
            it = it.clear_root_hint_subjects();
        }
        it
    };
    // One after the other, to know which one it is.
    for (list, der) in lists.iter().enumerate() {
        if let Err(why) = builder(std::slice::from_ref(der)).build() {
            let why = why.to_string();
            return Err(ListFault { list, why });
        }
    }
    let fault = |why: rustls::server::VerifierBuilderError| ListFault {
        list: 0,
        why: why.to_string(),
    };
    let chain = builder(lists)
        .allow_unknown_revocation_status()
        .build()
        .map_err(fault)?;
    if lists.is_empty() {
        return Ok(chain);
    }
    let listed = builder(lists)
        .only_check_end_entity_revocation()
        .build()
        .map_err(fault)?;
    Ok(Arc::new(Clients {
        chain,
        listed,
        issuers,
    }))
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(certificate, between, now)?;
        let (_, parsed) =
            parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
        if self.issuers.contains(parsed.issuer().as_raw()) {
            return self.listed.verify_client_cert(certificate, between, now);
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
