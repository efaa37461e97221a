//! Keys of all forms and kinds that are supported.

use crate::made::Folder;
use crate::rig::{Rig, openssl};

/// Makes a key and a certificate of its own for it.
fn made(key: &str) -> Folder {
    let folder = Folder::new();
    folder.openssl(&format!("genpkey -out key {key}")).openssl(
        "req -x509 -new -key key -out cert -days 30 -subj /CN=a.example -addext subjectAltName=DNS:a.example",
    );
    folder
}

const KINDS: [&str; 6] = [
    "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
    "-algorithm RSA -pkeyopt rsa_keygen_bits:3072",
    "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
    "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    "-algorithm EC -pkeyopt ec_paramgen_curve:P-521",
    "-algorithm ED25519",
];

#[test]
fn all_kinds_are_served() {
    for kind in KINDS {
        let folder = made(kind);
        for (name, words) in [
            ("key", None),
            // PKCS #1, or SEC1 with the section of parameters before it.
            ("old", Some("pkey -in key -traditional -out old")),
        ] {
            if let Some(words) = words {
                if kind.ends_with("ED25519") {
                    // There is no older form of it.
                    continue;
                }
                folder.openssl(words);
            }
            let mut rig = Rig::default();
            let files = rig.two(folder.read("cert"), folder.read(name));
            rig.service(vec![files]);
            let (served, text) = openssl(&rig.load(), "-servername a.example");
            let session = served.unwrap_or_else(|why| panic!("{kind} {name} {why:?} {text}"));
            assert_eq!(session.protocol, "TLSv1.3");
            assert!(text.contains("hello\n"), "{text}");
        }
    }
}

#[test]
fn a_section_of_parameters_before_a_key_is_none() {
    let folder = Folder::new();
    folder.openssl("ecparam -name prime256v1 -genkey -out key").openssl(
        "req -x509 -new -key key -out cert -days 30 -subj /CN=a -addext subjectAltName=DNS:a.example",
    );
    let key = String::from_utf8(folder.read("key")).unwrap();
    assert!(key.contains("EC PARAMETERS") && key.contains("EC PRIVATE KEY"));
    let mut rig = Rig::default();
    let one = [folder.read("cert"), folder.read("key")].concat();
    let files = rig.one("/etc/one.pem", one);
    rig.service(vec![files]);
    rig.load();
}

#[test]
fn kinds_that_arent_supported_are_named() {
    for (kind, part) in [
        (
            "-algorithm RSA -pkeyopt rsa_keygen_bits:1024",
            "its RSA key has 1024 bits, and 2048 are the least",
        ),
        (
            "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "its kind of key (RSA-PSS) isn't supported",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            "its elliptic curve isn't supported: RSA of",
        ),
        (
            "-algorithm ED448",
            "its kind of key (Ed448) isn't supported",
        ),
    ] {
        let folder = made(kind);
        let mut rig = Rig::default();
        let files = rig.two(folder.read("cert"), folder.read("key"));
        rig.service(vec![files]);
        let faults = rig.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let start = format!("service web: --tls /etc/cert.pem: {part}");
        assert!(faults[0].starts_with(&start), "{faults:?}");
    }
}

#[test]
fn the_key_of_another_kind_than_the_certificate_is_seen() {
    let (rsa, unsupported) = (made(KINDS[0]), made("-algorithm ED448"));
    let mut rig = Rig::default();
    let files = rig.two(rsa.read("cert"), unsupported.read("key"));
    rig.service(vec![files]);
    assert_eq!(
        rig.faults(),
        [
            "service web: --tls /etc/key.pem: its private key is of a kind that isn't supported (1.3.101.113)"
        ]
    );
    let mut rig = Rig::default();
    let files = rig.two(rsa.read("cert"), made(KINDS[2]).read("key"));
    rig.service(vec![files]);
    assert_eq!(
        rig.faults(),
        [
            "service web: --tls /etc/cert.pem:/etc/key.pem: the private key doesn't belong to the certificate \
             of CN=a.example"
        ]
    );
}
