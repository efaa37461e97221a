//! What a handler is told about a session, and what the log is told about a handshake that has failed.

mod alert;
mod failure;

use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};
use skd_tls_protocol::{Failure, Session};
use x509_parser::parse_x509_certificate;

use crate::distinguished_name::{common_name, name};
use crate::load::Service;

pub use alert::alert;
pub use failure::failure;

/// Returns what is known of a session, whose client has asked for this name. Allocates; once for a
/// connection, beside the cost of a handshake that is nothing.
///
/// There is none if the session was resumed, and the client's certificate isn't accepted any more. No alert can
/// be sent for that: to rustls the handshake was a success.
pub fn session<'a>(
    service: &Service,
    state: &CommonState,
    server_name: Option<&'a str>,
) -> Result<Session<'a>, Failure<'static>> {
    service
        .verify_again(state)
        .map_err(|why| failure(&why, &[]))?;
    let suite = state.negotiated_cipher_suite();
    let mut session = Session {
        protocol: state.protocol_version().map_or("", protocol).into(),
        cipher: suite.map_or("", |it| cipher(it.suite())).into(),
        server_name: server_name.unwrap_or_default().into(),
        alpn: String::from_utf8_lossy(state.alpn_protocol().unwrap_or_default())
            .into_owned()
            .into(),
        resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        ..Session::default()
    };
    if let Some([certificate, ..]) = state.peer_certificates() {
        session.verified = true;
        session.peer_hash = hash(certificate).into();
        if let Ok((_, parsed)) = parse_x509_certificate(certificate) {
            session.peer_subject = name(parsed.subject()).into();
            session.peer_common_name = common_name(parsed.subject()).unwrap_or_default().into();
        }
    }
    Ok(session)
}

/// Returns the digest of a certificate, as s6-tlsd has it.
fn hash(certificate: &[u8]) -> String {
    use std::fmt::Write;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut text = String::with_capacity(71);
    text.push_str("SHA256:");
    for byte in digest.as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn protocol(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        // rustls has no others.
        _ => "",
    }
}

/// Returns the name that OpenSSL has for a cipher suite: programs know it from mod_ssl.
fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        // rustls has no others.
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_suites_of_rustls_have_a_name_of_openssl() {
        let output = std::process::Command::new("openssl")
            .args(["ciphers", "ALL"])
            .output()
            .unwrap();
        let known = String::from_utf8(output.stdout).unwrap();
        for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
            let name = cipher(suite.suite());
            assert!(
                known.trim().split(':').any(|it| it == name),
                "{suite:?} {name}"
            );
        }
    }
}
