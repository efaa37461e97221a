//! What a client gets, and what is said if it gets nothing.

use std::io::Read;

use rcgen::KeyPair;
use rustls::AlertDescription;
use skd_tls_protocol::{FailureKind, Version};

use crate::made::{Made, alone, authority, server, signed};
use crate::rig::{Rig, client, openssl, say, shake};

fn own(names: &[&str]) -> Made {
    alone(&server(names), KeyPair::generate().unwrap())
}

#[test]
fn a_session_is_described_as_openssl_and_s6_do() {
    let root = authority("Root");
    let web = Rig::web(&[&signed(&server(&["a.example"]), &root)]).load();
    let shaken = shake(&web, &client(&[&root]), "A.example");
    shaken.client.clone().unwrap();
    let session = shaken.session();
    assert_eq!(session.protocol, "TLSv1.3");
    assert_eq!(session.cipher, "TLS_AES_256_GCM_SHA384");
    assert_eq!(session.server_name, "a.example");
    assert!(!session.resumed && !session.verified);
    assert_eq!(
        (&*session.alpn, &*session.peer_hash, &*session.peer_subject),
        ("", "", "")
    );

    for (words, protocol, cipher) in [
        (
            "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256",
            "TLSv1.2",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        (
            "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256",
            "TLSv1.3",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
    ] {
        let (served, text) = openssl(&web, &format!("{words} -servername a.example"));
        let session = served.unwrap();
        assert_eq!((&*session.protocol, &*session.cipher), (protocol, cipher));
        // As openssl says it itself.
        assert!(text.contains(cipher), "{text}");
    }
}

#[test]
fn the_service_chooses_the_cipher() {
    let web = Rig::web(&[&own(&["a.example"])]).load();
    let ciphers = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
    let (served, _) = openssl(&web, &format!("-ciphersuites {ciphers}"));
    assert_eq!(served.unwrap().cipher, "TLS_AES_256_GCM_SHA384");
}

#[test]
fn clients_get_the_certificate_for_the_name() {
    let root = authority("Root");
    let all = [
        &["a.example", "first.example"][..],
        &["*.a.example"],
        &["x.a.example", "example.org"],
    ];
    let all = all.map(|names| signed(&server(names), &root));
    let web = Rig::web(&[&all[0], &all[1], &all[2]]).load();
    for (name, index) in [
        ("a.example", 0),
        ("y.a.example", 1),
        ("x.a.example", 2),
        ("EXAMPLE.org", 2),
        ("unknown.example", 0),
        // No name is asked for.
        ("192.0.2.1", 0),
    ] {
        let shaken = shake(&web, &client(&[&root]), name);
        let is_for = match name {
            "unknown.example" | "192.0.2.1" => shaken.client.is_err(),
            _ => {
                assert_eq!(shaken.certificate.as_ref(), Some(&all[index].der), "{name}");
                shaken.client.is_ok()
            }
        };
        assert!(is_for, "{name} {shaken:?}");
    }
    // A client that doesn't look at it gets the first one.
    let (served, text) = openssl(&web, "-noservername");
    assert!(served.unwrap().server_name.is_empty());
    assert!(text.contains("subject=CN = a.example"), "{text}");
}

#[test]
fn clients_get_the_kind_of_key_that_they_accept() {
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = alone(&server(&["a.example"]), rsa);
    let web = Rig::web(&[&rsa, &own(&["a.example"])]).load();
    for (words, sign) in [
        ("", "Peer signature type: ECDSA"),
        ("-sigalgs RSA-PSS+SHA256", "Peer signature type: RSA-PSS"),
        (
            "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256",
            "Peer signature type: RSA-PSS",
        ),
        (
            "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256",
            "Peer signature type: ECDSA",
        ),
    ] {
        let (served, text) = openssl(&web, &format!("-servername a.example {words}"));
        served.unwrap();
        assert!(text.contains(sign), "{words} {text}");
    }
    let only_rsa = Rig::web(&[&rsa]).load();
    let (served, _) = openssl(&only_rsa, "-sigalgs ECDSA+SHA256");
    let (kind, why) = served.unwrap_err();
    assert_eq!(kind, FailureKind::NothingInCommon);
    assert_eq!(
        why,
        "it accepts no kind of signature that the service's certificate can make"
    );
}

#[test]
fn a_strict_service_refuses_other_names_with_the_right_alert() {
    let root = authority("Root");
    let mut rig = Rig::web(&[&signed(&server(&["a.example", "*.b.example"]), &root)]);
    rig.web_service().strict_sni = true;
    let web = rig.load();
    for name in ["a.example", "x.b.example"] {
        shake(&web, &client(&[&root]), name).session();
    }
    for name in ["b.example", "unknown.example", "192.0.2.1"] {
        let shaken = shake(&web, &client(&[&root]), name);
        let why = "it has asked for a name that there is no certificate for (--tls-strict-sni)";
        assert_eq!(shaken.failure(), (FailureKind::NoName, why));
        let alert = rustls::Error::AlertReceived(AlertDescription::UnrecognisedName);
        assert_eq!(shaken.client, Err(alert), "{name}");
    }
    let (_, text) = openssl(&web, "-noservername");
    assert!(text.contains("unrecognized name"), "{text}");
}

#[test]
fn protocols_are_agreed_on_or_refused() {
    let root = authority("Root");
    let mut rig = Rig::web(&[&signed(&server(&["a.example"]), &root)]);
    rig.web_service().alpn = vec!["h2".into(), "http/1.1".into()];
    let web = rig.load();
    let offering = |all: &[&str]| {
        let mut client = client(&[&root]);
        client.alpn_protocols = all.iter().map(|it| it.as_bytes().to_vec()).collect();
        shake(&web, &client, "a.example")
    };
    // The service's order counts.
    let shaken = offering(&["http/1.1", "x", "h2"]);
    assert_eq!(shaken.session().alpn, "h2");
    assert_eq!(shaken.alpn.as_deref(), Some(&b"h2"[..]));
    // None is offered: the client knows what is spoken.
    assert_eq!(offering(&[]).session().alpn, "");
    let shaken = offering(&["imap", "x"]);
    let why = "none of the protocols that it offers is one of the service's (--tls-alpn)";
    assert_eq!(shaken.failure(), (FailureKind::NothingInCommon, why));
    let alert = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    assert_eq!(shaken.client, Err(alert));
}

#[test]
fn versions_and_ciphers_that_arent_there_are_named() {
    let mut rig = Rig::web(&[&own(&["a.example"])]);
    let web = rig.load();
    rig.web_service().min = Version::Tls13;
    let newest = rig.load();
    openssl(&newest, "-tls1_3").0.unwrap();
    for (service, words, why) in [
        (
            &web,
            "-tls1 -cipher DEFAULT@SECLEVEL=0",
            "it offers TLS 1.0 at most, and TLS 1.2 is the least",
        ),
        (
            &web,
            "-tls1_1 -cipher DEFAULT@SECLEVEL=0",
            "it offers TLS 1.1 at most, and TLS 1.2 is the least",
        ),
        (
            &newest,
            "-tls1_2",
            "it offers TLS 1.2 at most, and the service needs TLS 1.3 (--tls-min)",
        ),
        (
            &web,
            "-tls1_2 -cipher ECDHE-ECDSA-AES256-SHA384:AES128-SHA",
            "it offers no cipher suite that the service has",
        ),
        (
            &web,
            "-tls1_2 -curves secp521r1",
            "it offers no key exchange that the service has",
        ),
        (
            &web,
            "-tls1_3 -curves X448",
            "it offers no key exchange that the service has",
        ),
    ] {
        let (served, text) = openssl(service, words);
        assert_eq!(
            served,
            Err((FailureKind::NothingInCommon, why.to_owned())),
            "{words} {text}"
        );
        let is_old = words.contains("SECLEVEL") || words == "-tls1_2";
        assert_eq!(text.contains("alert protocol version"), is_old, "{text}");
    }
}

#[test]
fn clients_that_refuse_the_certificate_say_so_by_an_alert() {
    let root = authority("Root");
    let web = Rig::web(&[&signed(&server(&["a.example"]), &root)]).load();
    let why = "it has sent the alert unknown_ca: it doesn't know the authority of the service's certificate, or \
               one between the two is missing";
    let shaken = shake(&web, &client(&[&authority("Other")]), "a.example");
    assert_eq!(shaken.failure(), (FailureKind::Alert, why));
    let shaken = shake(&web, &client(&[&root]), "other.example");
    let (kind, text) = shaken.failure();
    assert_eq!(kind, FailureKind::Alert);
    assert!(
        text.starts_with("it has sent the alert bad_certificate: "),
        "{text}"
    );
}

#[test]
fn what_isnt_tls_is_named() {
    let web = Rig::web(&[&own(&["a.example"])]).load();
    let not_tls = |bytes: &[u8], why: &str| {
        assert_eq!(
            say(&web, bytes),
            (FailureKind::NotTls, why.to_owned()),
            "{bytes:?}"
        );
    };
    let http = "it has sent a request of HTTP without TLS";
    not_tls(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", http);
    not_tls(b"OPTIONS * HTTP/1.1\r\n\r\n", http);
    not_tls(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", http);
    let proxy = "it has sent a PROXY header, which the service doesn't expect (--proxy)";
    not_tls(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", proxy);
    not_tls(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", proxy);
    not_tls(b"SSH-2.0-OpenSSH_9.2\r\n", "it speaks SSH, not TLS");
    not_tls(b"EHLO a.example\r\n", "it speaks SMTP without TLS");
    not_tls(b"\0\0\0\0\0\0\0\0\0\0", "what it has sent isn't TLS");
    not_tls(&[0xff; 100], "what it has sent isn't TLS");
    let (kind, why) = say(&web, b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10");
    assert_eq!(kind, FailureKind::NothingInCommon);
    assert_eq!(
        why,
        "it has sent a hello of SSL 2.0, and TLS 1.2 is the least"
    );
    // A record that has nothing sensible in it.
    let (kind, why) = say(&web, b"\x16\x03\x01\x00\x04\x01\xff\xff\xff");
    assert!(kind != FailureKind::NotTls, "{why}");
}

#[test]
fn secrets_are_logged_if_that_is_asked_for() {
    let root = authority("Root");
    let mut rig = Rig::web(&[&signed(&server(&["a.example"]), &root)]);
    let path = tempfile::NamedTempFile::new().unwrap();
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(path.path())
        .unwrap();
    let log = rig.descriptor("/var/log/keys", file.into());
    rig.settings.keylog = Some(log);
    shake(&rig.load(), &client(&[&root]), "a.example").session();
    let mut text = String::new();
    path.reopen().unwrap().read_to_string(&mut text).unwrap();
    for label in [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
    ] {
        let line = text
            .lines()
            .find(|it| it.starts_with(label))
            .unwrap_or_else(|| panic!("{text}"));
        let words: Vec<_> = line.split(' ').collect();
        let is_hex = |it: &&str| it.len() >= 64 && it.bytes().all(|it| it.is_ascii_hexdigit());
        assert!(words.len() == 3 && words[1..].iter().all(is_hex), "{line}");
    }
}
