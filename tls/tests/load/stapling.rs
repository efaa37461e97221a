//! OCSP responses, as OpenSSL makes them.

use skd_tls_protocol::Certificate;

use crate::made::Folder;
use crate::rig::{Rig, openssl};

/// An authority with certificates, in the files of OpenSSL.
fn authority() -> Folder {
    let folder = Folder::new();
    folder.openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 300 \
         -subj /CN=Root",
    );
    for (name, serial, more) in [
        ("one", "0x8001", ""),
        ("other", "2", ""),
        ("must", "3", "tlsfeature=status_request\n"),
    ] {
        folder
            .write("extensions", format!("subjectAltName=DNS:{name}.example\n{more}"))
            .openssl(&format!(
                "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out request \
                 -subj /CN={name}.example"
            ))
            .openssl(&format!(
                "x509 -req -in request -CA ca.pem -CAkey ca.key -days 90 -set_serial {serial} -extfile extensions \
                 -out {name}.pem"
            ));
    }
    folder
}

/// Makes a response about a certificate, with this line of OpenSSL's index for it.
fn respond(folder: &Folder, about: &str, state: &str, hash: &str) -> Vec<u8> {
    folder
        .write("index", state.replace(' ', "\t"))
        .openssl(&format!("ocsp {hash} -issuer ca.pem -cert {about}.pem -reqout request.der"))
        .openssl(
            "ocsp -index index -CA ca.pem -rsigner ca.pem -rkey ca.key -reqin request.der -respout response \
             -ndays 7",
        );
    folder.read("response")
}

fn rig(folder: &Folder, names: &[&str], responses: &[&[u8]]) -> Rig {
    let mut rig = Rig::default();
    let all = names.iter().map(|name| {
        let parts = ["key", "pem"].map(|it| folder.read(&format!("{name}.{it}")));
        rig.one(
            &format!("/etc/{name}.pem"),
            [parts.concat(), folder.read("ca.pem")].concat(),
        )
    });
    let all = all.collect();
    let responses = responses.iter().map(|it| rig.file("/etc/response", it));
    let responses = responses.collect();
    rig.service(all).ocsp = responses;
    rig
}

fn warnings(rig: &Rig, file: &str) -> Vec<String> {
    let reports = rig.reports().into_iter();
    let those = reports.filter(|it: &Certificate| it.file == file);
    those.filter_map(|it| it.warning).collect()
}

const GOOD: &str = "V 400101000000Z  8001 unknown /CN=one.example\n";
const REVOKED: &str = "R 400101000000Z 250101000000Z 8001 unknown /CN=one.example\n";

fn staples(rig: &Rig, name: &str) -> bool {
    let (served, text) = openssl(&rig.load(), &format!("-servername {name} -status"));
    served.unwrap();
    assert!(text.contains("OCSP response: "), "{text}");
    text.contains("OCSP Response Status: successful") && text.contains("Cert Status: good")
}

#[test]
fn a_response_goes_with_the_certificate_that_it_is_about() {
    let folder = authority();
    for hash in ["-sha1", "-sha256"] {
        let response = respond(&folder, "one", GOOD, hash);
        let rig = rig(&folder, &["other", "one"], &[&response]);
        assert_eq!(warnings(&rig, "/etc/response"), [""; 0]);
        assert!(staples(&rig, "one.example"));
        assert!(!staples(&rig, "other.example"));
    }
}

#[test]
fn responses_that_say_no_good_stay_here_and_are_warned_of() {
    let folder = authority();
    let revoked = respond(&folder, "one", REVOKED, "-sha1");
    let unknown = respond(
        &folder,
        "one",
        "V 400101000000Z  02 unknown /CN=other.example\n",
        "-sha1",
    );
    for (response, start) in [
        (
            revoked,
            "the authority has revoked the certificate of CN=one.example, says the OCSP response",
        ),
        (
            unknown,
            "the authority doesn't know the certificate of CN=one.example, says the OCSP response",
        ),
        // An answer without one: unauthorized.
        (
            vec![0x30, 3, 10, 1, 6],
            "it has no OCSP response, but the status 6 of an authority that gave none",
        ),
        (
            respond(
                &folder,
                "other",
                "V 400101000000Z  02 unknown /CN=other.example\n",
                "-sha1",
            ),
            "the OCSP response is about none of the service's certificates",
        ),
    ] {
        let rig = rig(&folder, &["one"], &[&response]);
        let warnings = warnings(&rig, "/etc/response");
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(start),
            "{warnings:?}"
        );
        assert!(!staples(&rig, "one.example"));
    }
}

#[test]
fn an_ended_response_stays_here_and_is_warned_of() {
    let folder = authority();
    folder
        .write("index", GOOD.replace(' ', "\t"))
        .openssl("ocsp -issuer ca.pem -cert one.pem -reqout request.der")
        // For a minute, in the past: OpenSSL can't do that itself.
        .openssl(
            "ocsp -index index -CA ca.pem -rsigner ca.pem -rkey ca.key -reqin request.der -respout response -nmin 5",
        );
    let response = folder.read("response");
    // Its times aren't signed for us: the second one is the end.
    let mut ended = response.clone();
    let offsets = response
        .windows(2)
        .enumerate()
        .filter(|(_, it)| *it == [0x18, 15]);
    let offsets: Vec<_> = offsets.map(|(at, _)| at).collect();
    let [_produced, from, until, ..] = offsets[..] else {
        panic!("{offsets:?}");
    };
    ended[from + 2..from + 17].copy_from_slice(b"20200101000000Z");
    ended[until + 2..until + 17].copy_from_slice(b"20200108000000Z");
    let rig = rig(&folder, &["one"], &[&ended]);
    assert_eq!(
        warnings(&rig, "/etc/response"),
        ["the OCSP response has ended on 2020-01-08: clients don't get it any more"]
    );
    assert!(!staples(&rig, "one.example"));
    // From tomorrow on.
    let mut early = response;
    early[from + 2..from + 17].copy_from_slice(b"21000101000000Z");
    early[until + 2..until + 17].copy_from_slice(b"21000108000000Z");
    let rig = super::stapling::rig(&folder, &["one"], &[&early]);
    let warnings = warnings(&rig, "/etc/response");
    assert_eq!(
        warnings,
        ["the OCSP response doesn't hold before 2100-01-01: clients don't get it"]
    );
}

#[test]
fn a_certificate_that_needs_a_response_is_warned_of_without_one() {
    let folder = authority();
    let needs = "clients refuse it without an OCSP response, and there is none (--tls-ocsp)";
    assert_eq!(
        warnings(&rig(&folder, &["must"], &[]), "/etc/must.pem"),
        [needs]
    );
    assert_eq!(
        warnings(&rig(&folder, &["one"], &[]), "/etc/one.pem"),
        [""; 0]
    );
    let response = respond(
        &folder,
        "must",
        "V 400101000000Z  03 unknown /CN=must.example\n",
        "-sha1",
    );
    assert_eq!(
        warnings(&rig(&folder, &["must"], &[&response]), "/etc/must.pem"),
        [""; 0]
    );
}

#[test]
fn what_is_no_response_is_a_fault() {
    let folder = authority();
    for (bytes, why) in [
        (
            folder.read("ca.pem"),
            "it is PEM, and DER is wanted, as \"openssl ocsp -respout FILE\" writes it",
        ),
        (b"junk".to_vec(), "it is no OCSP response"),
        (vec![0x30, 3, 10, 1, 0], "it is no OCSP response"),
    ] {
        let faults = rig(&folder, &["one"], &[&bytes]).faults();
        assert_eq!(
            faults,
            [format!("service web: --tls-ocsp /etc/response: {why}")]
        );
    }
}
