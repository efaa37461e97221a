//! Certificates and other files, made by rcgen or by OpenSSL.

use std::path::Path;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// An authority.
pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// A certificate with its key.
pub(crate) struct Made {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

impl Made {
    /// Certificate and key in one file.
    pub(crate) fn both(&self) -> String {
        format!("{}{}", self.pem, self.key.serialize_pem())
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Makes an authority.
pub(crate) fn authority(name: &str) -> Authority {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

/// Makes an authority whose certificate has ended in January 2020.
pub(crate) fn ended_authority(name: &str) -> Authority {
    let mut params = authority_params(name);
    params.not_after = rcgen::date_time_ymd(2020, 1, 31);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Makes an authority between another one and those that it signs for.
pub(crate) fn between(name: &str, above: &Authority) -> Authority {
    CertifiedIssuer::signed_by(authority_params(name), KeyPair::generate().unwrap(), above).unwrap()
}

/// What a certificate for a server says, as a rule.
pub(crate) fn server(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = names.first().map_or("server", |it| it);
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// What a certificate for a client says, as a rule.
pub(crate) fn client(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example, Inc");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Makes a certificate that an authority has signed.
pub(crate) fn signed(params: &CertificateParams, by: &Authority) -> Made {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    Made {
        der: certificate.der().clone(),
        pem: certificate.pem(),
        key,
    }
}

/// Makes a certificate that has signed itself.
pub(crate) fn alone(params: &CertificateParams, key: KeyPair) -> Made {
    let certificate = params.self_signed(&key).unwrap();
    Made {
        der: certificate.der().clone(),
        pem: certificate.pem(),
        key,
    }
}

/// A folder that OpenSSL works in.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs openssl with these words.
    pub(crate) fn openssl(&self, words: &str) -> &Self {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        self
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.path().join(name), contents).unwrap();
        self
    }
}
