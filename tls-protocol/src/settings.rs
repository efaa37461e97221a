//! What skd-tls is to do for each service.

use serde::{Deserialize, Serialize};

/// The index of a file among those that were sent before the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileIndex(pub usize);

/// What skd-tls is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The paths of the files that were sent, for messages.
    pub files: Vec<String>,
    /// The services with TLS.
    pub services: Vec<Service>,
    /// Where the secrets of sessions are written for debugging (the format of NSS's `SSLKEYLOGFILE`).
    pub keylog: Option<FileIndex>,
}

/// What skd-tls is to do for the clients of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its certificates. The first one is for clients that ask for no name, or for an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// OCSP responses, each for one of the certificates.
    pub ocsp: Vec<FileIndex>,
    /// Whether clients that ask for no name, or for an unknown one, are refused.
    pub strict_sni: bool,
    /// Whether clients have certificates.
    pub client: ClientCertificates,
    /// The certificates of the authorities that clients' certificates are from.
    pub client_ca: Vec<FileIndex>,
    /// Lists of revoked certificates.
    pub crl: Vec<FileIndex>,
    /// The lowest version of TLS.
    pub min: Version,
    /// The protocols that clients may choose from, the preferred one first (ALPN).
    pub alpn: Vec<String>,
    /// How long a connection may be idle, in milliseconds, if that is limited.
    pub idle: Option<u64>,
}

/// A certificate and its key: in two files, or in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate, and those that lead from it to an authority.
    pub chain: FileIndex,
    /// Its private key.
    pub key: FileIndex,
}

/// Whether clients have certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They aren't asked for one.
    #[default]
    None,
    /// They may have one; if they do, it must be good.
    Optional,
    /// Each must have one.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    Tls13,
}
