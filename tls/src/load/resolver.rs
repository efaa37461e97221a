//! Which certificate a client gets.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::date;

/// A certificate, as clients get it.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    /// Without an OCSP response.
    pub(super) plain: Arc<CertifiedKey>,
    /// With one, and until when that holds.
    pub(super) stapled: Option<(Arc<CertifiedKey>, i64)>,
}

/// The certificates of a service, by the names that clients ask for.
///
/// A name of its own is before one with an asterisk, which stands for exactly one label (RFC 6125). Several
/// certificates may be for one name, with keys of different kinds: a client gets the first that
/// it accepts. Those with RSA are the last of them, since they take the most time, and all clients accept them.
#[derive(Debug)]
pub(super) struct Resolver {
    offered: Vec<Offered>,
    /// By their names, and by their names without the asterisk and the dot.
    exact: HashMap<Box<str>, Vec<usize>>,
    wildcard: HashMap<Box<str>, Vec<usize>>,
    /// Those for clients that ask for no name, or for another.
    default: Vec<usize>,
}

/// A name that several certificates of the same kind are for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Duplicate {
    pub(super) name: String,
    /// The indexes of the certificate that clients get, and of the other.
    pub(super) used: usize,
    pub(super) unused: usize,
}

impl Resolver {
    /// Makes a resolver of certificates, each with its names. The first one is the default, unless clients have
    /// to ask for a name.
    pub(super) fn new(
        certificates: Vec<(Offered, &[String])>,
        is_strict: bool,
    ) -> (Self, Vec<Duplicate>) {
        let mut exact = HashMap::<Box<str>, Vec<usize>>::new();
        let mut wildcard = HashMap::<Box<str>, Vec<usize>>::new();
        let mut duplicates = Vec::new();
        let kind = |index: usize| {
            let (offered, _): &(Offered, &[String]) = &certificates[index];
            offered.plain.key.algorithm()
        };
        for (index, (_, names)) in certificates.iter().enumerate() {
            for name in *names {
                let (map, key) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcard, rest),
                    None => (&mut exact, &**name),
                };
                let those = map.entry(key.into()).or_default();
                match those.iter().find(|it| kind(**it) == kind(index)) {
                    None => those.push(index),
                    // Twice in one certificate.
                    Some(used) if *used == index => {}
                    Some(used) => duplicates.push(Duplicate {
                        name: name.clone(),
                        used: *used,
                        unused: index,
                    }),
                }
            }
        }
        let mut default = Vec::new();
        if !is_strict && !certificates.is_empty() {
            default.push(0);
            // Those of another kind for the same name are for the clients that don't accept the first one.
            let name = certificates[0].1.first();
            let those = name.and_then(|it| match it.strip_prefix("*.") {
                Some(rest) => wildcard.get(rest),
                None => exact.get(&**it),
            });
            default.extend(those.into_iter().flatten().filter(|it| **it != 0));
        }
        let is_last = |index: &usize| kind(*index) == SignatureAlgorithm::RSA;
        let all = exact.values_mut().chain(wildcard.values_mut());
        for those in all.chain([&mut default]) {
            those.sort_by_key(is_last);
        }
        let offered = certificates.iter().map(|(it, _)| it.clone()).collect();
        let resolver = Self {
            offered,
            exact,
            wildcard,
            default,
        };
        (resolver, duplicates)
    }

    /// Returns the certificate for a client that asks for this name and accepts these kinds of signatures.
    /// Takes no memory.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Offered> {
        let name = name.map(|it| it.strip_suffix('.').unwrap_or(it));
        let exact = name.and_then(|it| self.exact.get(it));
        let rest = name.and_then(|it| Some(it.split_once('.')?.1));
        let wildcard = rest.and_then(|it| self.wildcard.get(it));
        let named = [exact, wildcard].into_iter().flatten().flatten();
        let mut those = named.clone();
        let accepted = |index: &&usize| {
            let key = &self.offered[**index].plain.key;
            key.choose_scheme(schemes).is_some()
        };
        let index = if those.clone().next().is_some() {
            // Where none is accepted, rustls says so to the client.
            those.find(accepted).or_else(|| named.clone().next())
        } else {
            let mut those = self.default.iter();
            those.find(accepted).or_else(|| self.default.first())
        };
        index.map(|it| &self.offered[*it])
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has made the name lower case.
        let offered = self.choose(hello.server_name(), hello.signature_schemes())?;
        let key = match &offered.stapled {
            Some((stapled, until)) if date::now() < *until => stapled,
            _ => &offered.plain,
        };
        Some(Arc::clone(key))
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::sign::any_supported_type;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// A certificate with a key of this kind; the certificate itself is its number.
    fn offered(number: u8, rsa: bool) -> Offered {
        let algorithm = if rsa {
            &rcgen::PKCS_RSA_SHA256
        } else {
            &rcgen::PKCS_ECDSA_P256_SHA256
        };
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let key = any_supported_type(&PrivateKeyDer::Pkcs8(key.serialize_der().into())).unwrap();
        Offered {
            plain: Arc::new(CertifiedKey::new(vec![vec![number].into()], key)),
            stapled: None,
        }
    }

    fn resolver(certificates: &[(bool, &[&str])], is_strict: bool) -> (Resolver, Vec<Duplicate>) {
        let names: Vec<Vec<String>> = certificates
            .iter()
            .map(|(_, names)| names.iter().map(|it| (*it).to_owned()).collect())
            .collect();
        let all = certificates.iter().zip(&names).enumerate();
        let all = all.map(|(index, ((rsa, _), names))| (offered(index as u8, *rsa), &names[..]));
        Resolver::new(all.collect(), is_strict)
    }

    const ALL: [SignatureScheme; 2] = [
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ];
    const RSA: [SignatureScheme; 1] = [SignatureScheme::RSA_PSS_SHA256];
    const ECDSA: [SignatureScheme; 1] = [SignatureScheme::ECDSA_NISTP256_SHA256];

    fn choose(resolver: &Resolver, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<u8> {
        let offered = resolver.choose(name, schemes)?;
        Some(offered.plain.cert[0].as_ref()[0])
    }

    #[test]
    fn names_of_their_own_are_before_those_with_an_asterisk() {
        let (it, duplicates) = resolver(
            &[
                (false, &["first.example"]),
                (false, &["*.example.org"]),
                (false, &["a.example.org", "example.org"]),
                (false, &["*.b.example.org"]),
            ],
            false,
        );
        assert_eq!(duplicates, []);
        for (name, number) in [
            (None, 0),
            (Some("first.example"), 0),
            (Some("unknown.example"), 0),
            (Some("x.example.org"), 1),
            (Some("x.example.org."), 1),
            (Some("a.example.org"), 2),
            (Some("example.org"), 2),
            (Some("x.b.example.org"), 3),
            (Some("b.example.org"), 1),
            // An asterisk stands for one label, not for two, and not for none.
            (Some("x.y.example.org"), 0),
            (Some(".example.org"), 1),
            (Some("org"), 0),
            (Some(""), 0),
        ] {
            assert_eq!(choose(&it, name, &ALL), Some(number), "{name:?}");
        }
    }

    #[test]
    fn strict_services_have_no_default() {
        let (it, _) = resolver(&[(false, &["a.example", "*.b.example"])], true);
        assert_eq!(choose(&it, Some("a.example"), &ALL), Some(0));
        assert_eq!(choose(&it, Some("x.b.example"), &ALL), Some(0));
        assert_eq!(choose(&it, Some("b.example"), &ALL), None);
        assert_eq!(choose(&it, None, &ALL), None);
    }

    #[test]
    fn clients_get_the_kind_that_they_accept_and_rsa_last() {
        let (it, duplicates) = resolver(
            &[
                (true, &["a.example"]),
                (false, &["a.example", "*.example"]),
                (true, &["*.example"]),
            ],
            false,
        );
        assert_eq!(duplicates, []);
        for name in [Some("a.example"), None] {
            assert_eq!(choose(&it, name, &ALL), Some(1), "{name:?}");
            assert_eq!(choose(&it, name, &ECDSA), Some(1));
            assert_eq!(choose(&it, name, &RSA), Some(0));
            // Nothing fits: rustls says so.
            assert!(choose(&it, name, &[]).is_some());
        }
        assert_eq!(choose(&it, Some("b.example"), &RSA), Some(2));
        assert_eq!(choose(&it, Some("b.example"), &ALL), Some(1));
    }

    #[test]
    fn the_first_certificate_for_a_name_wins() {
        let (it, duplicates) = resolver(
            &[
                (false, &["a.example", "a.example"]),
                (false, &["b.example", "a.example"]),
            ],
            false,
        );
        assert_eq!(choose(&it, Some("a.example"), &ALL), Some(0));
        let name = "a.example".to_owned();
        assert_eq!(
            duplicates,
            [Duplicate {
                name,
                used: 0,
                unused: 1
            }]
        );
    }
}
