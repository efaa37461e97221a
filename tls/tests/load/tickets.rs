//! Sessions that are resumed: in the next process, but not where something else is asked of clients.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use skd_tls::load::{Service, Tickets};
use skd_tls_protocol::{ClientCertificates, FailureKind};

use crate::made::{Authority, Folder, Made, authority, client as named, server, signed};
use crate::rig::{Rig, client, client_with, openssl, shake};

/// The keys of processes that skd starts one after the other.
fn processes() -> [Arc<Tickets>; 2] {
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    [file.try_clone().unwrap(), file].map(|it| Arc::new(Tickets::new(it)))
}

fn web(own: &Made, change: impl FnOnce(&mut Rig)) -> Rig {
    let mut rig = Rig::web(&[own]);
    change(&mut rig);
    rig
}

fn is_resumed(service: &Service, client: &ClientConfig) -> bool {
    shake(service, client, "a.example").session().resumed
}

#[test]
fn sessions_are_resumed_in_the_next_process() {
    let root = authority("Root");
    let own = signed(&server(&["a.example"]), &root);
    let rig = web(&own, |_| {});
    let [first, second] = processes().map(|it| rig.load_with(&it));
    let client = client(&[&root]);
    assert!(!is_resumed(&first, &client));
    assert!(is_resumed(&first, &client));
    assert!(is_resumed(&second, &client));
    assert!(is_resumed(&first, &client));
    // Keys of its own.
    assert!(!is_resumed(&rig.load(), &client));
}

#[test]
fn openssl_resumes_both_versions() {
    let root = authority("Root");
    let rig = web(&signed(&server(&["a.example"]), &root), |_| {});
    let [first, second] = processes().map(|it| rig.load_with(&it));
    let folder = Folder::new();
    let path = folder.path().join("session");
    let path = path.to_str().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let words = format!("{version} -servername a.example");
        let (served, text) = openssl(&first, &format!("{words} -sess_out {path}"));
        assert!(!served.unwrap().resumed);
        assert!(std::fs::metadata(path).is_ok(), "{text}");
        let (served, text) = openssl(&second, &format!("{words} -sess_in {path}"));
        assert!(served.unwrap().resumed, "{version} {text}");
        assert!(text.contains("Reused"), "{text}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_new_certificate_of_the_service_leaves_sessions_alone() {
    let root = authority("Root");
    let [first, second] = processes();
    let one = web(&signed(&server(&["a.example"]), &root), |_| {}).load_with(&first);
    let other = web(&signed(&server(&["a.example"]), &root), |_| {}).load_with(&second);
    let client = client(&[&root]);
    assert!(!is_resumed(&one, &client));
    assert!(is_resumed(&other, &client));
}

#[test]
fn a_ticket_is_of_its_service_and_of_what_is_asked_of_clients() {
    let (root, people, others) = (authority("Root"), authority("People"), authority("Others"));
    let own = signed(&server(&["a.example"]), &root);
    let alice = signed(&named("alice"), &people);
    let asking = |asked: ClientCertificates, authorities: &[&Authority]| {
        web(&own, |rig| {
            let text: String = authorities.iter().map(|it| it.pem()).collect();
            let ca = rig.file("/etc/ca.pem", text);
            let web = rig.web_service();
            (web.client, web.client_ca) = (asked, vec![ca]);
        })
    };
    let [first, second] = processes();
    let load = |rig: &Rig| rig.load_with(&second);
    // Each client has a session of the first service, and comes to the second one.
    let first_service = asking(ClientCertificates::Optional, &[&people]).load_with(&first);
    let resumes = |service: &Service| {
        let client = client_with(&[&root], &alice, &[]);
        assert!(!is_resumed(&first_service, &client));
        let shaken = shake(service, &client, "a.example");
        let session = shaken.session();
        assert_eq!(session.peer_common_name.is_empty(), !session.verified);
        session.resumed
    };
    assert!(resumes(&load(&asking(
        ClientCertificates::Optional,
        &[&people]
    ))));
    assert!(!resumes(&load(&asking(
        ClientCertificates::Required,
        &[&people]
    ))));
    assert!(!resumes(&load(&asking(
        ClientCertificates::Optional,
        &[&people, &others]
    ))));
    assert!(!resumes(&load(&web(&own, |_| {}))));
    let mut renamed = asking(ClientCertificates::Optional, &[&people]);
    renamed.web_service().name = "mail".into();
    let loaded = renamed.try_load_with(&second).unwrap();
    assert!(!resumes(loaded.services.get("mail").unwrap()));
    // A client that was let in without a certificate isn't let in where one is needed.
    let anonymous = client(&[&root]);
    assert!(!is_resumed(&first_service, &anonymous));
    let required = load(&asking(ClientCertificates::Required, &[&people]));
    let shaken = shake(&required, &anonymous, "a.example");
    assert_eq!(shaken.failure().0, FailureKind::Certificate);
}

#[test]
fn a_resumed_session_keeps_the_clients_certificate_as_long_as_that_is_good() {
    let (root, people) = (authority("Root"), authority("People"));
    let mut rig = web(&signed(&server(&["a.example"]), &root), |_| {});
    let ca = rig.file("/etc/ca.pem", people.pem());
    let asked = rig.web_service();
    (asked.client, asked.client_ca) = (ClientCertificates::Required, vec![ca]);
    let service = rig.load();
    let mut params = named("alice");
    let end = SystemTime::now() + Duration::from_secs(4);
    params.not_after = end.into();
    let alice = signed(&params, &people);
    let client = client_with(&[&root], &alice, &[]);
    assert!(!is_resumed(&service, &client));
    let shaken = shake(&service, &client, "a.example");
    let session = shaken.session();
    assert!(session.resumed && session.verified);
    assert_eq!(session.peer_common_name, "alice");
    // The certificate ends, and each ticket is good for the next one.
    let wait = end.duration_since(SystemTime::now()).unwrap_or_default();
    std::thread::sleep(wait + Duration::from_millis(1100));
    let shaken = shake(&service, &client, "a.example");
    let (kind, why) = shaken.failure();
    assert_eq!(kind, FailureKind::Certificate);
    assert!(
        why.starts_with("its certificate, or one above it, has ended on "),
        "{why}"
    );
}
