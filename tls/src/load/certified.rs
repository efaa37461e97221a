//! A certificate of a service with its key.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};
use skd_tls_protocol::CertificateFiles;
use x509_parser::asn1_rs::{Any, FromDer, Oid, Sequence};
use zeroize::Zeroizing;

use super::certificate::{self, Facts};
use super::date::{self, date};
use super::file::{Files, MAX_FILE};
use super::pem::{self, Wanted};

/// A certificate with its key.
#[derive(Clone, Debug)]
pub(super) struct Certified {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) facts: Facts,
    /// What is to be said about it.
    pub(super) warnings: Vec<String>,
}

/// Reads a certificate and its key. Each fault is a sentence that names the option and the file.
pub(super) fn read(files: Files<'_>, of: CertificateFiles) -> Result<Certified, Vec<String>> {
    let is_one_file = of.chain == of.key;
    let (chain_path, key_path) = (files.path(of.chain), files.path(of.key));
    let chain = files.read(of.chain, MAX_FILE);
    let key = match &chain {
        Ok(bytes) if is_one_file => pem::key(bytes, Wanted::KeyBesideCertificate),
        // The same reason as for the certificate.
        Err(_) if is_one_file => Err(String::new()),
        _ => files
            .read(of.key, MAX_FILE)
            .and_then(|it| pem::key(&it, Wanted::Key)),
    };
    let chain = chain
        .and_then(|it| pem::certificates(&it))
        .and_then(|chain| {
            let facts = facts(&chain)?;
            Ok((chain, facts))
        });
    let ((chain, facts), key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => {
            let faults = [(chain_path, chain.err()), (key_path, key.err())];
            let faults = faults.into_iter().filter_map(|(path, why)| {
                let why = why.filter(|why| !why.is_empty())?;
                Some(format!("--tls {path}: {why}"))
            });
            return Err(faults.collect());
        }
    };
    let both = if is_one_file {
        chain_path.to_owned()
    } else {
        format!("{chain_path}:{key_path}")
    };
    let Some(signer) = signer(&key) else {
        let why = unreadable_key(&key);
        return Err(vec![format!("--tls {key_path}: {why}")]);
    };
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) => {}
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let why = mismatch(&certified, &facts);
            return Err(vec![format!("--tls {both}: {why}")]);
        }
        Err(why) => {
            let why = format!("the certificate can't be used: {why}");
            return Err(vec![format!("--tls {chain_path}: {why}")]);
        }
    }
    let mut warnings = warnings(&facts);
    if files.is_world_readable(of.key) {
        warnings.push(if is_one_file {
            "every user may read it, and its private key: take that from them (chmod o-r)".into()
        } else {
            format!(
                "every user may read its private key: take that from them (chmod o-r {key_path})"
            )
        });
    }
    let Some(facts) = facts.into_iter().next() else {
        return Err(vec![format!(
            "--tls {chain_path}: there is no certificate in it"
        )]);
    };
    Ok(Certified {
        key: Arc::new(certified),
        facts,
        warnings,
    })
}

/// Reads what the certificates of a chain say.
fn facts(chain: &[CertificateDer<'_>]) -> Result<Vec<Facts>, String> {
    let mut all = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate() {
        let facts = certificate::read(der);
        all.push(facts.ok_or_else(|| {
            if chain.len() == 1 {
                "its certificate is damaged".to_owned()
            } else {
                format!("certificate {} in it is damaged", index + 1)
            }
        })?);
    }
    // Of the others only their signatures count, which clients look at.
    match all.first().and_then(|it| it.key_fault.clone()) {
        Some(why) => Err(why),
        None => Ok(all),
    }
}

/// Returns the key, ready to sign.
fn signer(key: &Zeroizing<PrivateKeyDer<'static>>) -> Option<Arc<dyn SigningKey>> {
    any_supported_type(key).ok()
}

/// Returns why a key can't be read.
fn unreadable_key(key: &PrivateKeyDer<'_>) -> String {
    let kind = match key {
        PrivateKeyDer::Pkcs8(der) => pkcs8_kind(der.secret_pkcs8_der()),
        _ => None,
    };
    match kind.as_deref() {
        None | Some("1.2.840.113549.1.1.1" | "1.2.840.10045.2.1" | "1.3.101.112") => {
            "its private key is damaged, or of a size or curve that isn't supported".into()
        }
        Some(kind) => format!("its private key is of a kind that isn't supported ({kind})"),
    }
}

/// Returns which kind of key is in a PKCS #8 structure.
fn pkcs8_kind(der: &[u8]) -> Option<String> {
    let (_, outer) = Sequence::from_der(der).ok()?;
    let (rest, _version) = Any::from_der(&outer.content).ok()?;
    let (_, algorithm) = Sequence::from_der(rest).ok()?;
    let (_, kind) = Oid::from_der(&algorithm.content).ok()?;
    Some(kind.to_id_string())
}

/// Returns what is said about a key that isn't the one of the first certificate.
fn mismatch(certified: &CertifiedKey, facts: &[Facts]) -> String {
    let mut others = certified.cert.iter().zip(facts).skip(1);
    let own = others.find(|(der, _)| {
        let own = CertifiedKey::new(vec![(*der).clone()], Arc::clone(&certified.key));
        own.keys_match().is_ok()
    });
    match (own, facts.first()) {
        (Some((_, own)), Some(first)) => format!(
            "the private key belongs to the certificate of {}, which isn't the first one: that is of {}, and \
             has to come after it",
            own.subject, first.subject
        ),
        (None, Some(first)) => format!(
            "the private key doesn't belong to the certificate of {}",
            first.subject
        ),
        _ => "the private key doesn't belong to the certificate".into(),
    }
}

/// Returns what is to be said about a chain, but for the end of its first certificate.
fn warnings(chain: &[Facts]) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(first) = chain.first() else {
        return warnings;
    };
    if !first.has_alternative_names {
        warnings.push("it has no subjectAltName: clients refuse it".to_owned());
    } else if first.hosts.is_empty() && first.addresses.is_empty() {
        warnings.push("no name of a host is in its subjectAltName: clients refuse it".into());
    }
    if !first.is_for_servers {
        warnings.push("its extendedKeyUsage isn't for servers: clients refuse it".into());
    }
    warnings.extend(order(chain));
    let now = date::now();
    for other in chain.iter().skip(1).filter(|it| it.not_after < now) {
        warnings.push(format!(
            "the certificate of {} in it has ended on {}: clients may refuse it",
            other.subject,
            date(other.not_after)
        ));
    }
    warnings
}

/// Returns what is to be said about the order of a chain: each certificate is issued by the next one.
fn order(chain: &[Facts]) -> Option<String> {
    let is_own = |it: &Facts| it.raw_issuer == it.raw_subject;
    if let [only] = chain {
        // A private authority mostly has no other below it, and clients have its certificate.
        return (!is_own(only) && only.has_issuers_url).then(|| {
            format!(
                "the certificate of its issuer ({}) isn't in it: append that, unless clients have it",
                only.issuer
            )
        });
    }
    let pairs = chain.iter().zip(chain.iter().skip(1));
    let mut broken = pairs.filter(|(one, next)| one.raw_issuer != next.raw_subject && !is_own(one));
    let (one, _) = broken.next()?;
    let is_elsewhere = chain.iter().any(|it| it.raw_subject == one.raw_issuer);
    Some(if is_elsewhere {
        format!(
            "the order of its certificates is wrong: the one of {} has to come right after that of {}",
            one.issuer, one.subject
        )
    } else {
        format!(
            "the certificate of {} isn't in it, which has issued that of {}: append that, unless clients have it",
            one.issuer, one.subject
        )
    })
}
