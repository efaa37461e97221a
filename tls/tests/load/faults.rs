//! What is wrong with files is said in sentences that name the service, the option and the file.

use proptest::prelude::*;
use rcgen::KeyPair;
use skd_tls_protocol::{ClientCertificates, FileIndex};

use crate::made::{Folder, Made, alone, authority, between, server, signed};
use crate::rig::Rig;

fn made() -> Made {
    alone(&server(&["a.example"]), KeyPair::generate().unwrap())
}

/// What is said about a certificate and a key.
fn faults(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Vec<String> {
    let mut rig = Rig::default();
    let files = rig.two(chain, key);
    rig.service(vec![files]);
    rig.faults()
}

/// What is said about a file with both.
fn of_one(file: impl AsRef<[u8]>) -> Vec<String> {
    let mut rig = Rig::default();
    let files = rig.one("/etc/one.pem", file);
    rig.service(vec![files]);
    rig.faults()
}

#[test]
fn what_is_missing_is_said() {
    let made = made();
    let key = made.key.serialize_pem();
    assert_eq!(
        of_one(&made.pem),
        [
            "service web: --tls /etc/one.pem: there is no private key in it: give the file with the key after \
             a colon (CERT:KEY)"
        ]
    );
    assert_eq!(
        of_one(&key),
        ["service web: --tls /etc/one.pem: there is no certificate in it: it has a private key"]
    );
    // Exchanged.
    assert_eq!(
        faults(&key, &made.pem),
        [
            "service web: --tls /etc/cert.pem: there is no certificate in it: it has a private key",
            "service web: --tls /etc/key.pem: there is no private key in it: it has a certificate",
        ]
    );
    assert_eq!(of_one(""), ["service web: --tls /etc/one.pem: it is empty"]);
    let two = format!("{key}{}", KeyPair::generate().unwrap().serialize_pem());
    assert_eq!(
        faults(&made.pem, two),
        ["service web: --tls /etc/key.pem: there are 2 private keys in it, and one is wanted"]
    );
}

#[test]
fn other_forms_come_with_the_command_that_converts_them() {
    let folder = Folder::new();
    folder
        .openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 30 -subj /CN=a.example",
        )
        .openssl("pkey -in key -aes256 -passout pass:secret -out encrypted")
        .openssl("rsa -in key -aes256 -passout pass:secret -traditional -out old")
        .openssl("x509 -in cert -outform DER -out cert.der")
        .openssl("pkey -in key -outform DER -out key.der")
        .openssl("pkcs12 -export -in cert -inkey key -passout pass:secret -out both.p12")
        .openssl("crl2pkcs7 -nocrl -certfile cert -out both.p7")
        .openssl("x509 -in cert -trustout -addtrust serverAuth -out trusted")
        .openssl("req -new -key key -subj /CN=a.example -out request");
    let (cert, key) = (folder.read("cert"), folder.read("key"));
    for (chain, key, path, part) in [
        (
            &cert,
            &folder.read("encrypted"),
            "key",
            "its private key is encrypted, and there is nobody to ask",
        ),
        (
            &cert,
            &folder.read("old"),
            "key",
            "its private key is encrypted",
        ),
        (
            &folder.read("cert.der"),
            &key,
            "cert",
            "it is in DER, and PEM is wanted: convert it (openssl x509 -inform DER",
        ),
        (
            &cert,
            &folder.read("key.der"),
            "key",
            "it is in DER, and PEM is wanted: convert it (openssl pkey -inform DER",
        ),
        (
            &folder.read("both.p12"),
            &key,
            "cert",
            "it is a PKCS #12 file, and PEM is wanted: convert it (openssl pkcs12",
        ),
        (
            &folder.read("both.p7"),
            &key,
            "cert",
            "it is a PKCS #7 file: convert it (openssl pkcs7",
        ),
        (
            &folder.read("trusted"),
            &key,
            "cert",
            "its certificate is in a form of OpenSSL's own: convert it",
        ),
        (
            &folder.read("request"),
            &key,
            "cert",
            "there is no certificate in it: it has a certificate request",
        ),
    ] {
        let faults = faults(chain, key);
        assert_eq!(faults.len(), 1, "{faults:?}");
        let start = format!("service web: --tls /etc/{path}.pem: {part}");
        assert!(faults[0].starts_with(&start), "{} {start}", faults[0]);
    }
}

#[test]
fn a_key_of_another_certificate_is_seen() {
    let (one, other) = (made(), made());
    assert_eq!(
        faults(&one.pem, other.key.serialize_pem()),
        [
            "service web: --tls /etc/cert.pem:/etc/key.pem: the private key doesn't belong to the certificate \
             of CN=a.example"
        ]
    );
    // The certificate of the authority is before that of the service.
    let root = authority("Root");
    let middle = between("Middle", &root);
    let own = signed(&server(&["a.example"]), &middle);
    assert_eq!(
        of_one(format!("{}{}", middle.pem(), own.both())),
        [
            "service web: --tls /etc/one.pem: the private key belongs to the certificate of CN=a.example, which \
             isn't the first one: that is of CN=Middle, and has to come after it"
        ]
    );
}

#[test]
fn damaged_certificates_and_keys_are_refused() {
    let folder = Folder::new();
    folder
        .openssl("req -new -newkey rsa:2048 -nodes -keyout key -out request -subj /CN=a.example")
        // Without extensions it is of version 1.
        .openssl("x509 -req -in request -signkey key -days 30 -out cert");
    let faults_of_old = faults(folder.read("cert"), folder.read("key"));
    assert_eq!(faults_of_old.len(), 1);
    assert!(
        faults_of_old[0]
            .starts_with("service web: --tls /etc/cert.pem: the certificate can't be used: "),
        "{faults_of_old:?}"
    );
    let damaged = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
    let made = made();
    let key = made.key.serialize_pem();
    assert_eq!(
        faults(damaged, &key),
        ["service web: --tls /etc/cert.pem: its certificate is damaged"]
    );
    assert_eq!(
        faults(format!("{}{damaged}", made.pem), &key),
        ["service web: --tls /etc/cert.pem: certificate 2 in it is damaged"]
    );
    let damaged = "-----BEGIN PRIVATE KEY-----\nMAAA\n-----END PRIVATE KEY-----\n";
    assert_eq!(
        faults(&made.pem, damaged),
        [
            "service web: --tls /etc/key.pem: its private key is damaged, or of a size or curve that isn't \
             supported"
        ]
    );
    let half = &made.pem[..made.pem.len() / 2];
    assert_eq!(
        faults(half, &key),
        [
            "service web: --tls /etc/cert.pem: it isn't complete: the line \"-----END CERTIFICATE-----\" is \
             missing"
        ]
    );
}

#[test]
fn all_faults_are_said_at_once_and_each_once() {
    let made = made();
    let mut rig = Rig::default();
    let good = rig.one("/etc/good.pem", made.both());
    let bad = rig.one("/etc/bad.pem", "nothing");
    let [ca, crl, ocsp] =
        ["ca", "crl", "ocsp"].map(|it| rig.file(&format!("/etc/{it}.pem"), "nothing"));
    let web = rig.service(vec![good, bad]);
    web.client = ClientCertificates::Required;
    web.client_ca = vec![ca, FileIndex(99)];
    web.crl = vec![crl];
    web.ocsp = vec![ocsp];
    rig.service(vec![bad]).name = "mail".into();
    rig.service(vec![]).name = "none".into();
    let other = rig.service(vec![good]);
    other.name = "other".into();
    other.client = ClientCertificates::Optional;
    let faults = rig.faults();
    let starts = [
        "service web: --tls /etc/bad.pem: there is no certificate in it: it isn't PEM",
        "service web: --tls-client-ca /etc/ca.pem: there is no certificate in it",
        "service web: --tls-client-ca a file that wasn't sent: it wasn't sent",
        "service web: --tls-crl /etc/crl.pem: there is no list of revoked certificates in it",
        "service web: --tls-ocsp /etc/ocsp.pem: it is no OCSP response",
        "service none: --tls: it needs a certificate",
        "service other: --tls-client: it needs the certificates of the authorities",
    ];
    let mut sorted = faults.clone();
    sorted.sort();
    // The file without anything is said to have no key, too.
    let rest: Vec<_> = faults
        .iter()
        .filter(|it| !starts.iter().any(|start| it.starts_with(start)))
        .collect();
    assert!(
        rest.iter()
            .all(|it| it.contains("/etc/bad.pem: there is no private key")),
        "{rest:?}"
    );
    for start in starts {
        let count = faults.iter().filter(|it| it.starts_with(start)).count();
        assert_eq!(count, 1, "{start}: {faults:#?}");
    }
}

#[test]
fn so_many_faults_are_said_that_they_fit_into_a_packet() {
    let mut rig = Rig::default();
    for number in 0..100 {
        let bad = rig.one(&format!("/etc/{number}.pem"), "");
        rig.service(vec![bad]);
    }
    let faults = rig.faults();
    assert_eq!(faults.len(), 17);
    assert_eq!(faults[16], "there are more faults: 84");
}

/// A service with all kinds of files.
fn rig_of(files: &[&[u8]; 5]) -> Rig {
    let mut rig = Rig::default();
    let [chain, key, ca, crl, ocsp] = files.map(|it| rig.file("/etc/file", it));
    let web = rig.service(vec![skd_tls_protocol::CertificateFiles { chain, key }]);
    web.client = ClientCertificates::Required;
    (web.client_ca, web.crl, web.ocsp) = (vec![ca], vec![crl], vec![ocsp]);
    rig
}

fn check(rig: &Rig) {
    if let Err(faults) = rig.try_load().map(|_| ()) {
        assert!(!faults.is_empty());
        for fault in faults {
            assert!(fault.starts_with("service web: --tls"), "{fault}");
            assert!(
                !fault.ends_with('.') && !fault.contains(char::is_control),
                "{fault:?}"
            );
        }
    }
}

/// The files of a service that can be loaded.
fn good() -> [Vec<u8>; 5] {
    let folder = Folder::new();
    folder
        .openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 \
             -subj /CN=Root -addext keyUsage=critical,keyCertSign,cRLSign",
        )
        .write("extensions", "subjectAltName=DNS:a.example\n")
        .openssl(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out request -subj /CN=a.example",
        )
        .openssl(
            "x509 -req -in request -CA ca.pem -CAkey ca.key -days 30 -set_serial 2 -extfile extensions -out cert",
        )
        .write("index", "V\t400101000000Z\t\t02\tunknown\t/CN=a.example\n")
        .write(
            "conf",
            "[ca]\ndefault_ca=it\n[it]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=30\ncrlnumber=number\n",
        )
        .write("number", "01\n")
        .openssl("ca -config conf -gencrl -keyfile ca.key -cert ca.pem -out list")
        .openssl("ocsp -issuer ca.pem -cert cert -reqout request.der")
        .openssl(
            "ocsp -index index -CA ca.pem -rsigner ca.pem -rkey ca.key -reqin request.der -respout response -ndays 7",
        );
    ["cert", "key", "ca.pem", "list", "response"].map(|it| folder.read(it))
}

#[test]
fn the_files_of_the_next_test_are_good() {
    let good = good();
    let rig = rig_of(&[&good[0], &good[1], &good[2], &good[3], &good[4]]);
    let reports = rig.try_load().unwrap().certificates;
    assert_eq!(reports.len(), 1, "{reports:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_a_load_panic(files: [Vec<u8>; 5]) {
        check(&rig_of(&[&files[0], &files[1], &files[2], &files[3], &files[4]]));
    }

    #[test]
    fn no_damage_makes_a_load_panic(
        which in 0..5_usize,
        at: prop::sample::Index,
        to: u8,
        cut: Option<prop::sample::Index>,
    ) {
        static GOOD: std::sync::LazyLock<[Vec<u8>; 5]> = std::sync::LazyLock::new(good);
        let mut files = GOOD.clone();
        let file = &mut files[which];
        let at = at.index(file.len());
        file[at] = to;
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        check(&rig_of(&[&files[0], &files[1], &files[2], &files[3], &files[4]]));
    }
}
