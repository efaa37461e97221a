//! The files about clients' certificates: authorities, and lists of revoked certificates.

use std::collections::HashSet;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use skd_tls_protocol::{ClientCertificates, Service};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate;
use super::clients;
use super::ends::{Warning, Watched, What};
use super::file::{Files, MAX_CRL, MAX_FILE};
use super::pem;
use crate::distinguished_name;

/// What is asked of clients.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// What ends.
    pub(super) watched: Vec<Watched>,
    /// What is to be said about the files, each with its path.
    pub(super) warnings: Vec<Warning>,
    /// A digest of all that was read: a ticket from before it has changed is no ticket.
    pub(super) digest: [u8; 32],
}

/// Reads what is asked of clients, if anything is. Each fault is a sentence that names the option and the file.
pub(super) fn read(
    files: Files<'_>,
    service: &Service,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Asked>, Vec<String>> {
    if service.client == ClientCertificates::None {
        return Ok(None);
    }
    let mut it = Reading {
        files,
        service: &service.name,
        faults: Vec::new(),
        watched: Vec::new(),
        warnings: Vec::new(),
        digest: digest::Context::new(&digest::SHA256),
    };
    let (roots, subjects) = it.authorities(service);
    let lists = it.lists(service, &subjects);
    if roots.is_empty() && it.faults.is_empty() {
        it.faults.push(
            "--tls-client: it needs the certificates of the authorities that clients' certificates are from \
             (--tls-client-ca FILE)"
                .into(),
        );
    }
    if !it.faults.is_empty() {
        return Err(it.faults);
    }
    let issuers: HashSet<_> = lists.iter().map(|it| it.issuer.clone()).collect();
    let is_optional = service.client == ClientCertificates::Optional;
    let (paths, ders): (Vec<_>, Vec<_>) = lists.into_iter().map(|it| (it.path, it.der)).unzip();
    let verifier = clients::verifier(roots, &ders, issuers, is_optional, provider);
    let verifier = verifier.map_err(|fault| {
        let path = paths.get(fault.list).map_or("", |it| it);
        vec![format!(
            "--tls-crl {path}: the list can't be used: {}",
            fault.why
        )]
    })?;
    let mut digest = [0; 32];
    digest.copy_from_slice(it.digest.finish().as_ref());
    Ok(Some(Asked {
        verifier,
        watched: it.watched,
        warnings: it.warnings,
        digest,
    }))
}

struct Reading<'a> {
    files: Files<'a>,
    service: &'a str,
    faults: Vec<String>,
    watched: Vec<Watched>,
    warnings: Vec<Warning>,
    digest: digest::Context,
}

/// A list of revoked certificates.
struct List<'a> {
    path: &'a str,
    issuer: Box<[u8]>,
    der: rustls::pki_types::CertificateRevocationListDer<'static>,
}

impl<'a> Reading<'a> {
    fn add_to_digest(&mut self, kind: u8, der: &[u8]) {
        self.digest.update(&[kind]);
        self.digest.update(&(der.len() as u64).to_be_bytes());
        self.digest.update(der);
    }

    fn watch(&mut self, what: What, path: &str, whose: &str, from: i64, until: i64) {
        self.watched.push(Watched {
            what,
            service: self.service.into(),
            file: path.into(),
            names: Vec::new(),
            whose: whose.into(),
            from,
            until,
        });
    }

    /// Returns the authorities, and their names.
    fn authorities(&mut self, service: &Service) -> (RootCertStore, HashSet<Box<[u8]>>) {
        let mut roots = RootCertStore::empty();
        let mut subjects = HashSet::new();
        for file in &service.client_ca {
            let path = self.files.path(*file);
            let found = self
                .files
                .read(*file, MAX_FILE)
                .and_then(|it| pem::certificates(&it));
            let found = match found {
                Ok(found) => found,
                Err(why) => {
                    self.faults.push(format!("--tls-client-ca {path}: {why}"));
                    continue;
                }
            };
            for (index, der) in found.into_iter().enumerate() {
                self.add_to_digest(b'A', &der);
                let facts = certificate::read(&der);
                let (Some(facts), Ok(())) = (facts, roots.add(der)) else {
                    let number = index + 1;
                    self.faults.push(format!(
                        "--tls-client-ca {path}: certificate {number} in it is damaged, or of a form that isn't supported"
                    ));
                    continue;
                };
                if !facts.is_authority {
                    self.warnings.push((
                        path.into(),
                        format!(
                            "the certificate of {} in it isn't one of an authority: no certificate of a client \
                             is from there",
                            facts.subject
                        ),
                    ));
                }
                self.watch(
                    What::Authority,
                    path,
                    &facts.subject,
                    facts.not_before,
                    facts.not_after,
                );
                subjects.insert(facts.raw_subject);
            }
        }
        (roots, subjects)
    }

    /// Returns the lists.
    fn lists(&mut self, service: &Service, subjects: &HashSet<Box<[u8]>>) -> Vec<List<'a>> {
        let mut all = Vec::new();
        for file in &service.crl {
            let path = self.files.path(*file);
            let found = self
                .files
                .read(*file, MAX_CRL)
                .and_then(|it| pem::lists(&it));
            let found = match found {
                Ok(found) => found,
                Err(why) => {
                    self.faults.push(format!("--tls-crl {path}: {why}"));
                    continue;
                }
            };
            for der in found {
                self.add_to_digest(b'L', &der);
                let Some(head) = head(&der) else {
                    self.faults.push(format!(
                        "--tls-crl {path}: the list of revoked certificates is damaged"
                    ));
                    continue;
                };
                if !subjects.contains(&head.issuer) {
                    self.warnings.push((
                        path.into(),
                        format!(
                            "the list is from {}, whose certificate isn't in --tls-client-ca: it counts only for \
                             clients that send that certificate along",
                            head.whose
                        ),
                    ));
                }
                if let Some(until) = head.until {
                    self.watch(What::List, path, &head.whose, head.from, until);
                }
                let issuer = head.issuer;
                all.push(List { path, issuer, der });
            }
        }
        all
    }
}

/// What a list says about itself.
struct Head {
    issuer: Box<[u8]>,
    whose: String,
    from: i64,
    until: Option<i64>,
}

fn head(der: &[u8]) -> Option<Head> {
    let (rest, list) = CertificateRevocationList::from_der(der).ok()?;
    rest.is_empty().then(|| Head {
        issuer: list.issuer().as_raw().into(),
        whose: distinguished_name::name(list.issuer()),
        from: list.last_update().timestamp(),
        until: list.next_update().map(|it| it.timestamp()),
    })
}
