//! What is in a file: certificates, keys and lists as PEM, or why there is none of them.

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// What a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Certificates.
    Certificates,
    /// A private key in a file of its own.
    Key,
    /// A private key in the file of its certificate.
    KeyBesideCertificate,
    /// Lists of revoked certificates.
    Lists,
}

/// The sections of a file.
struct Sections(Vec<(SectionKind, Zeroizing<Vec<u8>>)>);

impl Sections {
    /// Reads the sections of a file. Those of kinds that nothing is known about are passed over.
    fn read(bytes: &[u8], wanted: Wanted) -> Result<Self, String> {
        // Editors of Windows begin a file with a byte order mark.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if !labels(bytes).any(|_| true) {
            return Err(no_pem(bytes, wanted));
        }
        let mut sections = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            let (kind, der) = section.map_err(|why| damage(bytes, &why))?;
            sections.push((kind, Zeroizing::new(der)));
        }
        Ok(Self(sections))
    }

    fn count(&self, kinds: &[SectionKind]) -> usize {
        let all = self.0.iter();
        all.filter(|(kind, _)| kinds.contains(kind)).count()
    }
}

const KEYS: [SectionKind; 3] = [
    SectionKind::PrivateKey,
    SectionKind::RsaPrivateKey,
    SectionKind::EcPrivateKey,
];

/// Returns the certificates in a file, at least one.
pub(crate) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let sections = Sections::read(bytes, Wanted::Certificates)?;
    if sections.count(&[SectionKind::Certificate]) == 0 {
        let instead = if let Some(label) = other_certificates(bytes) {
            return Err(label.into());
        } else if sections.count(&[SectionKind::Csr]) > 0
            || has_label(bytes, b"NEW CERTIFICATE REQUEST")
        {
            ": it has a certificate request, which an authority makes a certificate of"
        } else if sections.count(&KEYS) > 0 || is_encrypted(bytes) {
            ": it has a private key"
        } else if sections.count(&[SectionKind::Crl]) > 0 {
            ": it has a list of revoked certificates"
        } else {
            ""
        };
        return Err(format!("there is no certificate in it{instead}"));
    }
    let of_certificates = sections.0.into_iter();
    let of_certificates = of_certificates.filter(|(kind, _)| *kind == SectionKind::Certificate);
    // A copy: what is taken out isn't overwritten, and needn't be.
    Ok(of_certificates
        .map(|(_, der)| der.to_vec().into())
        .collect())
}

/// Returns the private key in a file.
pub(crate) fn key(
    bytes: &[u8],
    wanted: Wanted,
) -> Result<Zeroizing<PrivateKeyDer<'static>>, String> {
    if is_encrypted(bytes) {
        return Err(
            "its private key is encrypted, and there is nobody to ask for the passphrase: make a file \
             without one, readable by root only (openssl pkey -in FILE -out NEW)"
                .into(),
        );
    }
    let sections = Sections::read(bytes, wanted)?;
    match sections.count(&KEYS) {
        0 => {
            let hint = match wanted {
                Wanted::KeyBesideCertificate => {
                    ": give the file with the key after a colon (CERT:KEY)"
                }
                _ if sections.count(&[SectionKind::Certificate]) > 0 => ": it has a certificate",
                _ if sections.count(&[SectionKind::PublicKey]) > 0 => ": it has a public key",
                _ if sections.count(&[SectionKind::Csr]) > 0 => ": it has a certificate request",
                _ => "",
            };
            Err(format!("there is no private key in it{hint}"))
        }
        1 => {
            let mut all = sections.0.into_iter();
            let (kind, der) = all.find(|(kind, _)| KEYS.contains(kind)).unzip();
            let der = der.map(|der| der.to_vec()).unwrap_or_default();
            Ok(Zeroizing::new(match kind {
                Some(SectionKind::RsaPrivateKey) => PrivateKeyDer::Pkcs1(der.into()),
                Some(SectionKind::EcPrivateKey) => PrivateKeyDer::Sec1(der.into()),
                _ => PrivateKeyDer::Pkcs8(der.into()),
            }))
        }
        several => Err(format!(
            "there are {several} private keys in it, and one is wanted"
        )),
    }
}

/// Returns the lists of revoked certificates in a file, at least one. Authorities publish them as DER, so that
/// is taken too.
pub(super) fn lists(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    if is_der(bytes) && !labels(bytes).any(|_| true) {
        return Ok(vec![bytes.to_vec().into()]);
    }
    let sections = Sections::read(bytes, Wanted::Lists)?;
    if sections.count(&[SectionKind::Crl]) == 0 {
        return Err("there is no list of revoked certificates in it".into());
    }
    let lists = sections.0.into_iter();
    let lists = lists.filter(|(kind, _)| *kind == SectionKind::Crl);
    Ok(lists.map(|(_, der)| der.to_vec().into()).collect())
}

/// Returns the labels of the sections in a file.
fn labels(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.filter_map(|line| {
        let line = line.trim_ascii_end();
        line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----")
    })
}

fn has_label(bytes: &[u8], label: &[u8]) -> bool {
    labels(bytes).any(|it| it == label)
}

/// Whether a private key in a file is encrypted: as PKCS #8 has it, or as OpenSSL had it before.
fn is_encrypted(bytes: &[u8]) -> bool {
    has_label(bytes, b"ENCRYPTED PRIVATE KEY")
        || bytes
            .split(|byte| matches!(byte, b'\n' | b'\r'))
            .any(|line| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED"))
}

/// Returns what is said about certificates of other forms.
fn other_certificates(bytes: &[u8]) -> Option<&'static str> {
    if has_label(bytes, b"TRUSTED CERTIFICATE") || has_label(bytes, b"X509 CERTIFICATE") {
        Some(
            "its certificate is in a form of OpenSSL's own: convert it (openssl x509 -in FILE -out NEW)",
        )
    } else if has_label(bytes, b"PKCS7") || has_label(bytes, b"CMS") {
        Some("it is a PKCS #7 file: convert it (openssl pkcs7 -print_certs -in FILE -out NEW)")
    } else {
        None
    }
}

/// Whether bytes begin like a sequence of DER.
fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x80..=0x84, ..])
}

/// Returns why there is no PEM in a file.
fn no_pem(bytes: &[u8], wanted: Wanted) -> String {
    // A PKCS #12 file is a sequence that begins with its version, 3.
    if matches!(
        bytes,
        [0x30, 0x82, _, _, 2, 1, 3, ..] | [0x30, 0x80, 2, 1, 3, ..]
    ) {
        return "it is a PKCS #12 file, and PEM is wanted: convert it (openssl pkcs12 -in FILE -nodes -out NEW)"
            .into();
    }
    if is_der(bytes) {
        let what = match wanted {
            Wanted::Certificates => "x509",
            Wanted::Key | Wanted::KeyBesideCertificate => "pkey",
            Wanted::Lists => "crl",
        };
        return format!(
            "it is in DER, and PEM is wanted: convert it (openssl {what} -inform DER -in FILE -out NEW)"
        );
    }
    let what = match wanted {
        Wanted::Certificates => "certificate",
        Wanted::Key | Wanted::KeyBesideCertificate => "private key",
        Wanted::Lists => "list of revoked certificates",
    };
    format!(
        "there is no {what} in it: it isn't PEM, which has lines like \"-----BEGIN CERTIFICATE-----\""
    )
}

/// Returns how a file is damaged. Nothing of its contents is in that: it may be a key.
fn damage(bytes: &[u8], why: &pem::Error) -> String {
    match why {
        pem::Error::MissingSectionEnd { .. } => {
            let last = labels(bytes).last().unwrap_or_default();
            let known = last.len() < 40
                && last
                    .iter()
                    .all(|it| matches!(it, b' ' | b'0'..=b'9' | b'A'..=b'Z'));
            let last = if known {
                String::from_utf8_lossy(last)
            } else {
                "…".into()
            };
            format!("it isn't complete: the line \"-----END {last}-----\" is missing")
        }
        pem::Error::IllegalSectionStart { .. } => {
            "it is damaged: a line \"-----BEGIN …\" doesn't end with \"-----\"".into()
        }
        pem::Error::Base64Decode(_) => "it is damaged: a section isn't Base64".into(),
        _ => "it is damaged".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        use std::fmt::Write;
        // Base64 isn't what is tested here.
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = format!("-----BEGIN {label}-----\n");
        for three in der.chunks(3) {
            let bits = three
                .iter()
                .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
            let bits = bits << (8 * (3 - three.len()));
            for index in 0..4 {
                let at = (bits >> (18 - 6 * index)) as usize & 63;
                let digit = if index > three.len() {
                    '='
                } else {
                    char::from(ALPHABET[at])
                };
                text.push(digit);
            }
        }
        let _ = writeln!(text, "\n-----END {label}-----");
        text
    }

    #[test]
    fn certificates_and_keys_are_found_among_others() {
        let text = [
            "Subject: whatever\n".to_owned(),
            pem("CERTIFICATE", b"one"),
            pem("EC PARAMETERS", b"curve"),
            pem("EC PRIVATE KEY", b"key"),
            pem("CERTIFICATE", b"two"),
        ]
        .concat();
        for text in [
            &text,
            &text.replace('\n', "\r\n"),
            &format!("\u{feff}{text}"),
        ] {
            let found = certificates(text.as_bytes()).unwrap();
            assert_eq!(found, [b"one"[..].into(), b"two"[..].into()]);
            let found = key(text.as_bytes(), Wanted::KeyBesideCertificate).unwrap();
            assert!(matches!(&*found, PrivateKeyDer::Sec1(_)));
            assert_eq!(found.secret_der(), b"key");
        }
        let found = key(pem("RSA PRIVATE KEY", b"r").as_bytes(), Wanted::Key).unwrap();
        assert!(matches!(&*found, PrivateKeyDer::Pkcs1(_)));
        let found = key(pem("PRIVATE KEY", b"p").as_bytes(), Wanted::Key).unwrap();
        assert!(matches!(&*found, PrivateKeyDer::Pkcs8(_)));
        let found = lists(pem("X509 CRL", b"list").as_bytes()).unwrap();
        assert_eq!(found, [b"list"[..].into()]);
        assert_eq!(
            lists(b"\x30\x82\x01").unwrap(),
            [b"\x30\x82\x01"[..].into()]
        );
    }

    #[test]
    fn what_a_file_has_instead_of_certificates_is_said() {
        for (text, part) in [
            (
                pem("CERTIFICATE REQUEST", b"x"),
                "it has a certificate request",
            ),
            (
                pem("NEW CERTIFICATE REQUEST", b"x"),
                "it has a certificate request",
            ),
            (pem("PRIVATE KEY", b"x"), ": it has a private key"),
            (pem("ENCRYPTED PRIVATE KEY", b"x"), ": it has a private key"),
            (pem("X509 CRL", b"x"), "a list of revoked"),
            (pem("TRUSTED CERTIFICATE", b"x"), "openssl x509 -in"),
            (pem("PKCS7", b"x"), "openssl pkcs7 -print_certs"),
            (pem("DH PARAMETERS", b"x"), "there is no certificate in it"),
            ("hello".into(), "it isn't PEM"),
            (
                pem("CERTIFICATE", b"x").replace("-----END", "-----ENDE"),
                "END CERTIFICATE-----\" is missing",
            ),
            (
                pem("CERTIFICATE", b"x").replace("CERTIFICATE-----", "CERTIFICATE----"),
                "it isn't PEM",
            ),
            (
                pem("CERTIFICATE", b"xyz").replace("eH", "!!"),
                "isn't Base64",
            ),
        ] {
            let why = certificates(text.as_bytes()).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        let why = certificates(b"\x30\x82\x03\x01rest").unwrap_err();
        assert!(why.contains("openssl x509 -inform DER"), "{why}");
        let why = certificates(b"\x30\x82\x03\x01\x02\x01\x03").unwrap_err();
        assert!(why.contains("openssl pkcs12"), "{why}");
        assert!(lists(pem("CERTIFICATE", b"x").as_bytes()).is_err());
    }

    #[test]
    fn what_a_file_has_instead_of_a_key_is_said() {
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
                   -----END RSA PRIVATE KEY-----\n";
        for (text, part) in [
            (pem("CERTIFICATE", b"x"), ": it has a certificate"),
            (pem("PUBLIC KEY", b"x"), ": it has a public key"),
            (
                pem("CERTIFICATE REQUEST", b"x"),
                ": it has a certificate request",
            ),
            (pem("ENCRYPTED PRIVATE KEY", b"x"), "is encrypted"),
            (old.to_owned(), "is encrypted"),
            (
                pem("PRIVATE KEY", b"x").repeat(2),
                "there are 2 private keys in it",
            ),
            ("\n".into(), "there is no private key in it"),
        ] {
            let why = key(text.as_bytes(), Wanted::Key).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        let why = key(b"\x30\x82\x03\x01rest", Wanted::Key).unwrap_err();
        assert!(why.contains("openssl pkey -inform DER"), "{why}");
        let alone = pem("CERTIFICATE", b"x");
        let why = key(alone.as_bytes(), Wanted::KeyBesideCertificate).unwrap_err();
        assert!(
            why.ends_with("give the file with the key after a colon (CERT:KEY)"),
            "{why}"
        );
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(bytes: Vec<u8>, text in "(-----(BEGIN|END) [A-Z ]{0,12}-----[\n\r]|[A-Za-z=/+]{0,9}|[\n\r])*") {
            for bytes in [&bytes[..], text.as_bytes()] {
                let _ = certificates(bytes);
                let _ = key(bytes, Wanted::Key);
                let _ = lists(bytes);
            }
        }
    }
}
