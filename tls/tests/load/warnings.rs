//! What is no fault, and is said all the same.

use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use skd_tls_protocol::{Certificate, ClientCertificates};

use crate::made::{Folder, Made, alone, authority, between, ended_authority, server, signed};
use crate::rig::Rig;

fn report(rig: &Rig) -> Certificate {
    let reports = rig.reports();
    let [report] = &reports[..] else {
        panic!("{reports:?}");
    };
    report.clone()
}

fn warning(made: &Made) -> String {
    report(&Rig::web(&[made])).warning.unwrap_or_default()
}

fn own(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Made {
    let mut params = server(&["a.example", "*.b.example", "::1"]);
    change(&mut params);
    alone(&params, KeyPair::generate().unwrap())
}

#[test]
fn a_good_certificate_is_reported_without_a_warning() {
    let report = report(&Rig::web(&[&own(|it| {
        it.not_after = date_time_ymd(2100, 1, 1)
    })]));
    let expected = Certificate {
        service: "web".into(),
        file: "/etc/0.pem".into(),
        names: ["a.example", "*.b.example", "::1"].map(Into::into).into(),
        not_after: 4_102_444_800,
        warning: None,
    };
    assert_eq!(report, expected);
}

#[test]
fn ends_are_warned_of() {
    let ended = own(|it| it.not_after = date_time_ymd(2020, 1, 31));
    let text = warning(&ended);
    assert!(text.starts_with("it has ended on 2020-01-31, "), "{text}");
    assert!(text.ends_with(" days ago: clients refuse it"), "{text}");
    let early = own(|it| it.not_before = date_time_ymd(2100, 1, 1));
    assert!(warning(&early).starts_with("it isn't valid before 2100-01-01"));
    // Looked at again, it is the same.
    let loaded = Rig::web(&[&ended]).try_load().unwrap();
    assert_eq!(loaded.watch.look(), loaded.certificates);
}

#[test]
fn what_clients_refuse_is_warned_of() {
    assert_eq!(
        warning(&own(|it| it.subject_alt_names.clear())),
        "it has no subjectAltName: clients refuse it"
    );
    assert_eq!(
        warning(&own(
            |it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]
        )),
        "its extendedKeyUsage isn't for servers: clients refuse it"
    );
    let both = own(|it| {
        it.subject_alt_names.clear();
        it.not_after = date_time_ymd(2020, 1, 1);
    });
    let text = warning(&both);
    assert!(
        text.contains("has ended") && text.contains("; it has no subjectAltName"),
        "{text}"
    );
}

#[test]
fn chains_are_looked_at() {
    let root = authority("Root");
    let (middle, other) = (between("Middle", &root), between("Other", &root));
    let lowest = between("Lowest", &middle);
    let own = signed(&server(&["a.example"]), &lowest);
    let warning_of = |it: &Made, above: &[String]| {
        let mut rig = Rig::default();
        let files = rig.one("/etc/one.pem", format!("{}{}", it.both(), above.concat()));
        rig.service(vec![files]);
        report(&rig).warning.unwrap_or_default()
    };
    let warning = |above: &[String]| warning_of(&own, above);
    let lowest_authority = lowest;
    let lowest = &lowest_authority;
    let [root, middle, other, lowest] = [root.pem(), middle.pem(), other.pem(), lowest.pem()];
    assert_eq!(warning(&[lowest.clone(), middle.clone()]), "");
    assert_eq!(warning(&[lowest.clone(), middle.clone(), root.clone()]), "");
    // From a private authority it may be all that there is to it.
    assert_eq!(warning(&[]), "");
    let mut public = server(&["a.example"]);
    // caIssuers, and the URI "http://a".
    let location = [48, 22, 48, 20, 6, 8, 43, 6, 1, 5, 5, 7, 48, 2, 134, 8];
    let location = [&location[..], b"http://a"].concat();
    let access = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], location);
    public.custom_extensions.push(access);
    let public = signed(&public, &lowest_authority);
    assert_eq!(
        warning_of(&public, &[]),
        "the certificate of its issuer (CN=Lowest) isn't in it: append that, unless clients have it"
    );
    assert_eq!(
        warning(&[middle.clone(), lowest.clone()]),
        "the order of its certificates is wrong: the one of CN=Lowest has to come right after that of \
         CN=a.example"
    );
    assert_eq!(
        warning(&[lowest.clone(), other]),
        "the certificate of CN=Middle isn't in it, which has issued that of CN=Lowest: append that, unless \
         clients have it"
    );
}

#[test]
fn an_ended_certificate_in_a_chain_is_warned_of() {
    let old = ended_authority("Old");
    let own = signed(&server(&["a.example"]), &old);
    let mut rig = Rig::default();
    let files = rig.one("/etc/one.pem", format!("{}{}", own.both(), old.pem()));
    rig.service(vec![files]);
    let text = report(&rig).warning.unwrap();
    assert!(
        text.starts_with("the certificate of CN=Old in it has ended on 2020-01-31"),
        "{text}"
    );
}

#[test]
fn names_that_are_in_several_certificates_are_warned_of() {
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = alone(&server(&["a.example"]), rsa);
    let ecdsa = || alone(&server(&["a.example"]), KeyPair::generate().unwrap());
    let reports = Rig::web(&[&ecdsa(), &rsa, &ecdsa()]).reports();
    let warnings: Vec<_> = reports.into_iter().map(|it| it.warning).collect();
    assert_eq!(
        warnings,
        [
            None,
            None,
            Some("a.example is in /etc/0.pem too, whose key is of the same kind: clients get that certificate".into())
        ]
    );
}

#[test]
fn keys_that_every_user_may_read_are_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let made = own(|_| {});
    let folder = Folder::new();
    folder.write("one", made.both());
    let path = folder.path().join("one");
    for (mode, is_warned) in [(0o644, true), (0o640, false), (0o600, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut rig = Rig::default();
        let file = skd_tls_protocol::FileIndex(0);
        rig.service(vec![skd_tls_protocol::CertificateFiles {
            chain: file,
            key: file,
        }]);
        rig.settings.files = vec!["/etc/one.pem".into()];
        let files = [std::fs::File::open(&path).unwrap().into()];
        let loaded =
            skd_tls::load::load(&rig.settings, &files, &std::sync::Arc::default()).unwrap();
        let text = loaded.certificates[0].warning.clone().unwrap_or_default();
        assert_eq!(
            text.starts_with("every user may read it"),
            is_warned,
            "{mode:o} {text}"
        );
    }
}

#[test]
fn files_about_clients_are_reported_if_there_is_something_to_be_said() {
    let root = authority("Root");
    let mut rig = Rig::web(&[&own(|_| {})]);
    let ca = rig.file("/etc/ca.pem", format!("{}{}", root.pem(), own(|_| {}).pem));
    let web = rig.web_service();
    web.client = ClientCertificates::Optional;
    web.client_ca = vec![ca];
    let reports = rig.reports();
    assert_eq!(reports.len(), 2, "{reports:?}");
    let other = &reports[1];
    assert_eq!(
        (other.file.as_str(), &other.names[..], other.not_after),
        ("/etc/ca.pem", &[][..], 0)
    );
    assert_eq!(
        other.warning.as_deref(),
        Some(
            "the certificate of CN=a.example in it isn't one of an authority: no certificate of a client is \
             from there"
        )
    );
}
