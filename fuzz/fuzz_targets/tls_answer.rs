//! What skd reads from the plain side: an answer of skd-tls, or its beginning, before what the client says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skd_tls_protocol::{Answer, Found, MAX_ANSWER, Session};

fuzz_target!(|bytes: &[u8]| {
    let Ok(found) = Found::read(bytes) else {
        // What is refused is refused with more behind it.
        assert!(Found::read(&[bytes, b"more"].concat()).is_err());
        return;
    };
    let Found::Answer(answer, length) = found else {
        // No more than an answer is waited for.
        assert!(bytes.len() < MAX_ANSWER);
        return;
    };
    assert!(length <= bytes.len().min(MAX_ANSWER));
    // What the client says changes nothing, and neither does what hasn't come yet.
    assert_eq!(
        Found::read(&bytes[..length]),
        Ok(Found::Answer(answer.clone(), length))
    );
    assert_eq!(Found::read(&bytes[..length - 1]), Ok(Found::Incomplete));
    for text in texts(&answer) {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    // Written again, it is the same, unless a text is longer than skd-tls writes them.
    if texts(&answer).iter().all(|text| text.len() <= 1000) {
        let written = answer.bytes();
        assert_eq!(
            Found::read(&written),
            Ok(Found::Answer(answer, written.len()))
        );
    }
});

fn texts<'a>(answer: &'a Answer<'_>) -> Vec<&'a str> {
    match answer {
        Answer::Failed(failure) => vec![&failure.why],
        Answer::Established(Session {
            protocol,
            cipher,
            server_name,
            alpn,
            peer_hash,
            peer_subject,
            peer_common_name,
            resumed: _,
            verified: _,
        }) => vec![
            protocol,
            cipher,
            server_name,
            alpn,
            peer_hash,
            peer_subject,
            peer_common_name,
        ],
    }
}
