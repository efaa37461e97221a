//! Certificates of clients: who is let in, and what is said about the others.

use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint,
    KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};
use skd_tls_protocol::{ClientCertificates, FailureKind, Version};

use crate::made::{Authority, Made, alone, authority, between, client as named, server, signed};
use crate::rig::{Rig, Shaken, client, client_with, openssl, shake};

/// A service that asks its clients for certificates.
struct Web {
    server: Authority,
    rig: Rig,
}

impl Web {
    fn new(asked: ClientCertificates, authorities: &[&Authority], lists: &[String]) -> Self {
        let server_root = authority("Server Root");
        let mut rig = Rig::web(&[&signed(&server(&["a.example"]), &server_root)]);
        let text: String = authorities.iter().map(|it| it.pem()).collect();
        let ca = rig.file("/etc/ca.pem", text);
        let lists = lists.iter().enumerate();
        let lists: Vec<_> = lists
            .map(|(index, it)| rig.file(&format!("/etc/{index}.crl"), it))
            .collect();
        let web = rig.web_service();
        (web.client, web.client_ca, web.crl) = (asked, vec![ca], lists);
        Self {
            server: server_root,
            rig,
        }
    }

    fn with(&self, own: &Made, between: &[&Authority]) -> Shaken {
        let client = client_with(&[&self.server], own, between);
        shake(&self.rig.load(), &client, "a.example")
    }

    fn without(&self) -> Shaken {
        shake(&self.rig.load(), &client(&[&self.server]), "a.example")
    }
}

/// A list of these numbers, until this year, as PEM.
fn list(by: &Authority, numbers: &[u64], until: i32) -> String {
    list_of(by, numbers, until, None)
}

fn list_of(by: &Authority, numbers: &[u64], until: i32, part: Option<&str>) -> String {
    let revoked = numbers.iter().map(|number| RevokedCertParams {
        serial_number: (*number).into(),
        revocation_time: date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: part.map(|uri| CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec![uri.to_owned()],
            },
            scope: None,
        }),
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(by).unwrap().pem().unwrap()
}

fn numbered(number: u64, by: &Authority) -> Made {
    let mut params = named("alice");
    params.serial_number = Some(number.into());
    signed(&params, by)
}

#[track_caller]
fn refused(shaken: &Shaken, start: &str) {
    let (kind, why) = shaken.failure();
    assert_eq!(kind, FailureKind::Certificate, "{why}");
    assert!(why.starts_with(start), "{why}");
}

const UNKNOWN: &str = "its certificate is from an authority that isn't in --tls-client-ca";

#[test]
fn a_verified_client_is_described() {
    let root = authority("Client Root");
    let alice = signed(&named("alice"), &root);
    for asked in [ClientCertificates::Optional, ClientCertificates::Required] {
        let shaken = Web::new(asked, &[&root], &[]).with(&alice, &[]);
        let session = shaken.session();
        assert!(session.verified && !session.resumed);
        assert_eq!(session.peer_subject, "CN=alice,O=Example\\, Inc");
        assert_eq!(session.peer_common_name, "alice");
        assert!(session.peer_hash.starts_with("SHA256:") && session.peer_hash.len() == 71);
        shaken.client.clone().unwrap();
    }
    // As sha256sum has it.
    let folder = crate::made::Folder::new();
    folder
        .write("der", &alice.der)
        .openssl("dgst -sha256 -out sum der");
    let sum = String::from_utf8(folder.read("sum")).unwrap();
    let shaken = Web::new(ClientCertificates::Required, &[&root], &[]).with(&alice, &[]);
    let hash = shaken
        .session()
        .peer_hash
        .strip_prefix("SHA256:")
        .unwrap()
        .to_owned();
    assert!(sum.contains(&hash), "{sum} {hash}");
}

#[test]
fn a_client_without_a_certificate_is_let_in_if_it_may_have_none() {
    let root = authority("Client Root");
    let shaken = Web::new(ClientCertificates::Optional, &[&root], &[]).without();
    let session = shaken.session();
    assert!(!session.verified && session.peer_subject.is_empty());
    refused(
        &Web::new(ClientCertificates::Required, &[&root], &[]).without(),
        "it has sent no certificate, and must have one",
    );
    let mut old = Web::new(ClientCertificates::Required, &[&root], &[]);
    old.rig.web_service().min = Version::Tls12;
    let (served, text) = openssl(&old.rig.load(), "-tls1_2");
    assert_eq!(served.unwrap_err().0, FailureKind::Certificate, "{text}");
    // Clients are told which authorities count.
    assert!(text.contains("CN = Client Root"), "{text}");
}

#[test]
fn a_bad_certificate_is_refused_even_where_none_is_needed() {
    let root = authority("Client Root");
    let web = Web::new(ClientCertificates::Optional, &[&root], &[]);
    let made = |change: fn(&mut rcgen::CertificateParams)| {
        let mut params = named("alice");
        change(&mut params);
        signed(&params, &root)
    };
    refused(
        &web.with(&signed(&named("alice"), &authority("Client Root")), &[]),
        "its certificate",
    );
    refused(
        &web.with(&signed(&named("alice"), &authority("Other")), &[]),
        UNKNOWN,
    );
    refused(
        &web.with(&alone(&named("alice"), KeyPair::generate().unwrap()), &[]),
        UNKNOWN,
    );
    refused(
        &web.with(&made(|it| it.not_after = date_time_ymd(2020, 1, 31)), &[]),
        "its certificate, or one above it, has ended on 2020-01-31",
    );
    refused(
        &web.with(&made(|it| it.not_before = date_time_ymd(2100, 1, 1)), &[]),
        "its certificate, or one above it, isn't valid before 2100-01-01",
    );
    refused(
        &web.with(
            &made(|it| it.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]),
            &[],
        ),
        "its certificate isn't for clients (extendedKeyUsage)",
    );
}

#[test]
fn authorities_between_are_sent_by_the_client() {
    let root = authority("Client Root");
    let middle = between("Middle", &root);
    let alice = signed(&named("alice"), &middle);
    let web = Web::new(ClientCertificates::Required, &[&root], &[]);
    web.with(&alice, &[&middle]).session();
    refused(&web.with(&alice, &[]), UNKNOWN);
    // Or the service has it.
    Web::new(ClientCertificates::Required, &[&middle], &[])
        .with(&alice, &[])
        .session();
}

#[test]
fn revoked_certificates_are_refused() {
    let (root, other) = (authority("Client Root"), authority("Other Root"));
    let required = ClientCertificates::Required;
    let web = Web::new(required, &[&root, &other], &[list(&root, &[7], 2100)]);
    web.with(&numbered(8, &root), &[]).session();
    let revoked = "its certificate, or one above it, is revoked (--tls-crl)";
    refused(&web.with(&numbered(7, &root), &[]), revoked);
    // Of the other authority there is no list.
    web.with(&numbered(7, &other), &[]).session();
    // A list that another key has signed by the same name.
    let forged = list(&authority("Client Root"), &[], 2100);
    let web = Web::new(required, &[&root], &[forged]);
    refused(
        &web.with(&numbered(7, &root), &[]),
        "the list of revoked certificates of its certificate's issuer isn't signed by that",
    );
    // As authorities publish it.
    let mut der = Web::new(required, &[&root], &[]);
    let bytes = pem_bytes(&list(&root, &[7], 2100));
    let file = der.rig.file("/etc/list.crl", bytes);
    der.rig.web_service().crl = vec![file];
    refused(&der.with(&numbered(7, &root), &[]), revoked);
    der.with(&numbered(8, &root), &[]).session();
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    use rustls::pki_types::CertificateRevocationListDer;
    use rustls::pki_types::pem::PemObject;
    CertificateRevocationListDer::from_pem_slice(pem.as_bytes())
        .unwrap()
        .to_vec()
}

#[test]
fn the_whole_chain_is_looked_up() {
    let root = authority("Client Root");
    let mut params = named("Middle");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    params.serial_number = Some(77.into());
    let middle = Authority::signed_by(params, KeyPair::generate().unwrap(), &root).unwrap();
    let alice = numbered(1, &middle);
    let required = ClientCertificates::Required;
    let revoked = "its certificate, or one above it, is revoked";
    // A list of the root alone: of the middle one there is none, and that is no fault.
    Web::new(required, &[&root], &[list(&root, &[1], 2100)])
        .with(&alice, &[&middle])
        .session();
    refused(
        &Web::new(required, &[&root], &[list(&root, &[77], 2100)]).with(&alice, &[&middle]),
        revoked,
    );
    let both = [list(&root, &[], 2100), list(&middle, &[1], 2100)];
    refused(
        &Web::new(required, &[&root], &both).with(&alice, &[&middle]),
        revoked,
    );
}

#[test]
fn a_list_that_has_ended_counts_no_more_and_is_warned_of() {
    let root = authority("Client Root");
    let web = Web::new(
        ClientCertificates::Required,
        &[&root],
        &[list(&root, &[7], 2021)],
    );
    for number in [7, 8] {
        refused(
            &web.with(&numbered(number, &root), &[]),
            "the list of revoked certificates of its certificate's issuer has ended on 2021-01-01 (--tls-crl)",
        );
    }
    let reports = web.rig.reports();
    let report = reports.iter().find(|it| it.file == "/etc/0.crl").unwrap();
    assert_eq!(
        report.warning.as_deref(),
        Some(
            "the list of CN=Client Root in it has ended on 2021-01-01: clients with certificates from that \
             authority are refused until there is a new one"
        )
    );
    assert_eq!(report.not_after, 1_609_459_200);
}

#[test]
fn an_issuer_with_lists_must_have_one_about_the_certificate() {
    let root = authority("Client Root");
    let part = |name: &str| format!("http://a.example/{name}.crl");
    let web = Web::new(
        ClientCertificates::Required,
        &[&root],
        &[list_of(&root, &[7], 2100, Some(&part("one")))],
    );
    let pointing = |name: &str, number: u64| {
        let mut params = named("alice");
        params.serial_number = Some(number.into());
        params.crl_distribution_points = vec![CrlDistributionPoint {
            uris: vec![part(name)],
        }];
        signed(&params, &root)
    };
    web.with(&pointing("one", 8), &[]).session();
    refused(
        &web.with(&pointing("one", 7), &[]),
        "its certificate, or one above it, is revoked",
    );
    // Its list is another one, which isn't here.
    refused(
        &web.with(&pointing("two", 8), &[]),
        "no list of its certificate's issuer in --tls-crl says whether it is revoked",
    );
}

#[test]
fn lists_of_unknown_issuers_are_warned_of() {
    let (root, other) = (authority("Client Root"), authority("Other Root"));
    let web = Web::new(
        ClientCertificates::Required,
        &[&root],
        &[list(&other, &[], 2100)],
    );
    let reports = web.rig.reports();
    let report = reports.iter().find(|it| it.file == "/etc/0.crl").unwrap();
    let warning = report.warning.as_deref().unwrap();
    assert!(
        warning.starts_with(
            "the list is from CN=Other Root, whose certificate isn't in --tls-client-ca"
        )
    );
    web.with(&numbered(7, &root), &[]).session();
}
