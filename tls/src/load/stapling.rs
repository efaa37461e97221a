//! The OCSP responses of a service: each belongs to the certificate that it is about.
//!
//! Only a response that holds and says that all is well goes to clients. Otherwise there is a warning, and no
//! fault: after a renewal, a load would fail for as long as there is no new response.

use std::sync::Arc;

use rustls::sign::CertifiedKey;
use skd_tls_protocol::{CertificateFiles, FileIndex, Service};

use super::certified::Certified;
use super::date::{self, date};
use super::ends::{Warning, Watched, What};
use super::file::{Files, MAX_FILE};
use super::ocsp::{self, About, Status};
use super::resolver::Offered;

/// How far clocks may differ, in seconds.
const SKEW: i64 = 300;

/// A response from a file.
pub(super) struct Response {
    file: FileIndex,
    bytes: Vec<u8>,
    /// What it is about; the status of a response without an answer.
    about: Result<Vec<About>, u8>,
}

/// Reads the responses of a service. Each fault is a sentence that names the option and the file.
pub(super) fn read(files: Files<'_>, service: &Service) -> Result<Vec<Response>, Vec<String>> {
    let (mut responses, mut faults) = (Vec::new(), Vec::new());
    for file in &service.ocsp {
        let read = files.read(*file, MAX_FILE);
        let read = read.and_then(|bytes| match ocsp::read(&bytes) {
            Ok(about) => Ok((bytes.to_vec(), Ok(about))),
            Err(ocsp::Fault::Refused(status)) => Ok((Vec::new(), Err(status))),
            Err(ocsp::Fault::Unreadable) if bytes.starts_with(b"-----BEGIN") => Err(
                "it is PEM, and DER is wanted, as \"openssl ocsp -respout FILE\" writes it".into(),
            ),
            Err(ocsp::Fault::Unreadable) => Err("it is no OCSP response".to_owned()),
        });
        match read {
            Ok((bytes, about)) => responses.push(Response {
                file: *file,
                bytes,
                about,
            }),
            Err(why) => faults.push(format!("--tls-ocsp {}: {why}", files.path(*file))),
        }
    }
    if faults.is_empty() {
        Ok(responses)
    } else {
        Err(faults)
    }
}

/// Certificates with their responses.
#[derive(Debug)]
pub(super) struct Stapled {
    pub(super) certificates: Vec<Offered>,
    pub(super) watched: Vec<Watched>,
    pub(super) warnings: Vec<Warning>,
}

/// Gives each certificate its response, if there is a good one.
pub(super) fn staple(
    files: Files<'_>,
    certified: &[(CertificateFiles, Certified)],
    responses: Vec<Response>,
) -> Stapled {
    let certificates = certified.iter().map(|(_, it)| Offered {
        plain: Arc::clone(&it.key),
        stapled: None,
    });
    let mut to = Stapled {
        certificates: certificates.collect(),
        watched: Vec::new(),
        warnings: Vec::new(),
    };
    for response in responses {
        let path = files.path(response.file);
        for why in to.add(certified, path, &response) {
            to.warnings.push((path.into(), why));
        }
    }
    for ((of, certified), offered) in certified.iter().zip(&to.certificates) {
        if certified.facts.must_staple && offered.stapled.is_none() {
            to.warnings.push((
                files.path(of.chain).into(),
                "clients refuse it without an OCSP response, and there is none (--tls-ocsp)".into(),
            ));
        }
    }
    to
}

impl Stapled {
    /// Adds a response. Returns what is to be said about it.
    fn add(
        &mut self,
        certified: &[(CertificateFiles, Certified)],
        path: &str,
        response: &Response,
    ) -> Vec<String> {
        let about = match &response.about {
            Ok(about) => about,
            Err(status) => {
                return vec![format!(
                    "it has no OCSP response, but the status {status} of an authority that gave none"
                )];
            }
        };
        let mut warnings = Vec::new();
        let mut is_about_any = false;
        for about in about {
            for (index, (_, it)) in certified.iter().enumerate() {
                if about.is_about(&it.facts) {
                    is_about_any = true;
                    match self.add_to(index, it, about, path, &response.bytes) {
                        Ok(()) => {}
                        Err(why) => warnings.push(why),
                    }
                }
            }
        }
        if !is_about_any {
            warnings.push(
                "the OCSP response is about none of the service's certificates: clients don't get it".into(),
            );
        }
        warnings
    }

    fn add_to(
        &mut self,
        index: usize,
        certified: &Certified,
        about: &About,
        path: &str,
        bytes: &[u8],
    ) -> Result<(), String> {
        let subject = &certified.facts.subject;
        match about.status {
            Status::Good if about.from > date::now().saturating_add(SKEW) => Err(format!(
                "the OCSP response doesn't hold before {}: clients don't get it",
                date(about.from)
            )),
            Status::Good => {
                let stapled = CertifiedKey {
                    ocsp: Some(bytes.to_vec()),
                    ..CertifiedKey::clone(&certified.key)
                };
                self.certificates[index].stapled = Some((Arc::new(stapled), about.until));
                self.watched.push(Watched {
                    what: What::Response,
                    service: String::new(),
                    file: path.into(),
                    names: Vec::new(),
                    whose: subject.clone(),
                    from: about.from,
                    until: about.until,
                });
                Ok(())
            }
            Status::Revoked => Err(format!(
                "the authority has revoked the certificate of {subject}, says the OCSP response: get a new one"
            )),
            Status::Unknown => Err(format!(
                "the authority doesn't know the certificate of {subject}, says the OCSP response: clients don't \
                 get it"
            )),
        }
    }
}
