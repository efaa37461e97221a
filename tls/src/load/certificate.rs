//! What a certificate says.

use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::asn1_rs::oid;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_DSA, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
    OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS, OID_SIG_ED448, OID_SIG_ED25519,
};
use x509_parser::parse_x509_certificate;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::distinguished_name::{common_name, name};

/// What a certificate says, as far as it matters here.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Whom it is for, in text, and as it is in the certificate.
    pub(super) subject: String,
    pub(super) raw_subject: Box<[u8]>,
    /// Who has made it, in text, and as it is in the certificate.
    pub(super) issuer: String,
    pub(super) raw_issuer: Box<[u8]>,
    /// Its number.
    pub(super) serial: Box<[u8]>,
    /// The names of hosts that it is for, in lower case.
    pub(super) hosts: Vec<String>,
    /// The IP addresses that it is for.
    pub(super) addresses: Vec<String>,
    /// Whether it has a subjectAltName.
    pub(super) has_alternative_names: bool,
    /// From when on it is valid, in seconds since 1970.
    pub(super) not_before: i64,
    /// Until when it is valid.
    pub(super) not_after: i64,
    /// Whether it is one of an authority.
    pub(super) is_authority: bool,
    /// Whether it is for servers, as far as it says what it is for.
    pub(super) is_for_servers: bool,
    /// Whether it says where the certificate of its issuer is to be had (RFC 5280, 4.2.2.1), as those of public
    /// authorities do.
    pub(super) has_issuers_url: bool,
    /// Whether clients refuse it without an OCSP response (RFC 7633).
    pub(super) must_staple: bool,
    /// Why its kind of key can't be used.
    pub(super) key_fault: Option<String>,
}

/// Reads a certificate.
pub(super) fn read(der: &[u8]) -> Option<Facts> {
    let (rest, it) = parse_x509_certificate(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let (mut hosts, mut addresses) = (Vec::new(), Vec::new());
    let alternative = it.subject_alternative_name().ok().flatten();
    for name in alternative.iter().flat_map(|it| &it.value.general_names) {
        match name {
            GeneralName::DNSName(host) => hosts.extend(host_name(host)),
            GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
            _ => {}
        }
    }
    if alternative.is_none() {
        // Old clients look there; the others refuse it.
        let common = common_name(it.subject());
        hosts.extend(common.as_deref().and_then(host_name));
    }
    let usage = it.extended_key_usage().ok().flatten();
    Some(Facts {
        subject: name(it.subject()),
        raw_subject: it.subject().as_raw().into(),
        issuer: name(it.issuer()),
        raw_issuer: it.issuer().as_raw().into(),
        serial: it.raw_serial().into(),
        hosts,
        addresses,
        has_alternative_names: alternative.is_some(),
        not_before: it.validity().not_before.timestamp(),
        not_after: it.validity().not_after.timestamp(),
        is_authority: it.is_ca(),
        is_for_servers: usage.is_none_or(|it| it.value.server_auth || it.value.any),
        has_issuers_url: has_issuers_url(&it),
        must_staple: must_staple(&it),
        key_fault: key_fault(it.public_key()),
    })
}

/// Returns the name of a host as clients may ask for it: in lower case, without a dot at the end, and with an
/// asterisk as its first label at most. Others aren't names of hosts.
fn host_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = name.strip_prefix("*.").unwrap_or(name);
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!plain.is_empty() && name.len() <= 253 && plain.bytes().all(is_known))
        .then(|| name.to_ascii_lowercase())
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).to_string());
    }
    let bytes = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(bytes).to_string())
}

/// Whether the extension is there that asks for an OCSP response: a list with the number of `status_request`.
fn must_staple(it: &X509Certificate<'_>) -> bool {
    const STATUS_REQUEST: [u8; 3] = [2, 1, 5];
    let mut all = it.extensions().iter();
    all.any(|it| {
        it.oid == oid!(1.3.6.1.5.5.7.1.24)
            && it.value.windows(3).any(|part| part == STATUS_REQUEST)
            && matches!(
                it.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. }
            )
    })
}

/// Returns whether a certificate says where that of its issuer is to be had.
fn has_issuers_url(it: &X509Certificate<'_>) -> bool {
    it.extensions()
        .iter()
        .any(|it| match it.parsed_extension() {
            ParsedExtension::AuthorityInfoAccess(access) => {
                let mut all = access.iter();
                all.any(|it| it.access_method == oid!(1.3.6.1.5.5.7.48.2))
            }
            _ => false,
        })
}

/// Returns why a key can't be used, if its kind is known not to be.
fn key_fault(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    const WANTED: &str =
        "RSA of 2048 bits and more, ECDSA (P-256, P-384, P-521) and Ed25519 are supported";
    let kind = &key.algorithm.algorithm;
    if *kind == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(key)) = key.parsed() else {
            return Some("its public key is damaged".into());
        };
        let bits = key.key_size();
        return match bits {
            ..2048 => Some(format!(
                "its RSA key has {bits} bits, and 2048 are the least: make a new key"
            )),
            2048..=8192 => None,
            _ => Some(format!(
                "its RSA key has {bits} bits, and 8192 are the most: make a new key"
            )),
        };
    }
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|it| it.as_oid().ok());
        let known = [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521];
        return curve
            .is_none_or(|it| !known.contains(&it))
            .then(|| format!("its elliptic curve isn't supported: {WANTED}"));
    }
    let kind = match kind {
        kind if *kind == OID_SIG_ED25519 => return None,
        kind if *kind == OID_SIG_ED448 => "Ed448".into(),
        kind if *kind == OID_KEY_TYPE_DSA => "DSA".into(),
        kind if *kind == OID_PKCS1_RSASSAPSS => "RSA-PSS".into(),
        kind => kind.to_id_string(),
    };
    Some(format!(
        "its kind of key ({kind}) isn't supported: {WANTED}"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn what_a_certificate_says_is_read() {
        let mut params = CertificateParams::new(vec![
            "Example.ORG".to_owned(),
            "*.Example.org".to_owned(),
            "a.*.org".to_owned(),
            "192.0.2.1".to_owned(),
            "2001:db8::1".to_owned(),
        ])
        .unwrap();
        params
            .subject_alt_names
            .push(SanType::Rfc822Name("x@example.org".try_into().unwrap()));
        params.serial_number = Some(0x1234_u64.into());
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "Example");
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let facts = read(der.der()).unwrap();
        assert_eq!(facts.hosts, ["example.org", "*.example.org"]);
        assert_eq!(facts.addresses, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(facts.subject, "O=Example,CN=rcgen self signed cert");
        assert_eq!(facts.raw_subject, facts.raw_issuer);
        assert_eq!(*facts.serial, [0x12, 0x34]);
        assert!(facts.has_alternative_names && facts.is_for_servers && !facts.must_staple);
        assert_eq!(facts.key_fault, None);
        let mut longer = der.der().to_vec();
        longer.push(0);
        assert!(read(&longer).is_none());
    }

    #[test]
    fn names_of_hosts_are_those_that_clients_may_ask_for() {
        for (name, found) in [
            ("a.B", Some("a.b")),
            ("a.b.", Some("a.b")),
            ("*.a", Some("*.a")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("f*.a", None),
            ("*", None),
            ("*.*.a", None),
            ("", None),
            (".", None),
            ("bücher.example", None),
            ("a b", None),
            ("a\0b", None),
        ] {
            assert_eq!(host_name(name).as_deref(), found, "{name}");
        }
        assert_eq!(host_name(&"a".repeat(254)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(at: proptest::sample::Index, to: u8) {
            static DER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                let params = CertificateParams::new(vec!["a.example".to_owned(), "::1".to_owned()]).unwrap();
                params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
            });
            let mut bytes = DER.clone();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = read(&bytes);
        }
    }
}
