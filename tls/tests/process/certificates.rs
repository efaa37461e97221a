//! Certificates of tests: an authority, and what it signs.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A directory with an authority's certificate in it, `ca.pem`.
pub(crate) struct Authority {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        // Another one for each: an authority is known by its name.
        let name = directory.path().display().to_string();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(parameters, key);
        Self { directory, issuer }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes a certificate for this name, with its key in one file, and returns that file's path.
    pub(crate) fn sign(&self, name: &str) -> PathBuf {
        self.sign_changed(name, |_| {})
    }

    /// The same with a change.
    pub(crate) fn sign_changed(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let path = self.path(&format!("{name}.pem"));
        std::fs::write(&path, certificate.pem() + &key.serialize_pem()).unwrap();
        path
    }
}

/// The certificates and the key in a file.
pub(crate) fn read(
    path: &Path,
) -> (
    Vec<rustls::pki_types::CertificateDer<'static>>,
    rustls::pki_types::PrivateKeyDer<'static>,
) {
    use rustls::pki_types::pem::PemObject;
    let chain = rustls::pki_types::CertificateDer::pem_file_iter(path).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(path).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}
