//! Why a handshake has failed, in a sentence for the log. The client is its subject.

use std::borrow::Cow;

use rustls::pki_types::UnixTime;
use rustls::{
    AlertDescription, CertRevocationListError, CertificateError, Error, InvalidMessage,
    PeerIncompatible,
};
use skd_tls_protocol::{Failure, FailureKind};

use super::alert::{is_no_name, old_version};
use crate::load::date;

type Why = (FailureKind, Cow<'static, str>);

/// Returns why a handshake has failed. `first` is what the client has sent first, as far as it is known; a dozen
/// bytes are enough.
pub fn failure(error: &Error, first: &[u8]) -> Failure<'static> {
    let (kind, why) = match error {
        Error::AlertReceived(alert) => alert_received(*alert),
        error if is_no_name(error) => (
            FailureKind::NoName,
            "it has asked for a name that there is no certificate for (--tls-strict-sni)".into(),
        ),
        // Whatever rustls says about them: they never were records of TLS.
        Error::InvalidMessage(_)
        | Error::PeerSentOversizedRecord
        | Error::InappropriateMessage { .. }
            if isnt_a_record(first) =>
        {
            not_tls(first)
        }
        Error::InvalidMessage(why) => invalid(why),
        Error::PeerIncompatible(why) => incompatible(why, first),
        Error::NoApplicationProtocol => (
            FailureKind::NothingInCommon,
            "none of the protocols that it offers is one of the service's (--tls-alpn)".into(),
        ),
        Error::NoCertificatesPresented => (
            FailureKind::Certificate,
            "it has sent no certificate, and must have one".into(),
        ),
        Error::InvalidCertificate(why) => (FailureKind::Certificate, certificate(why)),
        Error::InvalidCertRevocationList(why) => (FailureKind::Certificate, list(why)),
        Error::PeerMisbehaved(why) => (
            FailureKind::Other,
            format!("it has broken the rules of TLS ({why:?})").into(),
        ),
        Error::InappropriateMessage { got_type, .. } => (
            FailureKind::Other,
            format!("it has sent a message out of turn ({got_type:?})").into(),
        ),
        Error::InappropriateHandshakeMessage { got_type, .. } => (
            FailureKind::Other,
            format!("it has sent a message out of turn ({got_type:?})").into(),
        ),
        Error::DecryptError => (
            FailureKind::Other,
            "what it has sent can't be decrypted".into(),
        ),
        Error::PeerSentOversizedRecord => (
            FailureKind::Other,
            "it has sent a record that is too long".into(),
        ),
        Error::FailedToGetCurrentTime => (FailureKind::Other, "the time isn't known here".into()),
        Error::FailedToGetRandomBytes => (
            FailureKind::Other,
            "the kernel has given no random bytes".into(),
        ),
        other => (FailureKind::Other, bounded(&other.to_string()).into()),
    };
    Failure { kind, why }
}

/// Whether what a client has sent is known, and isn't the beginning of a record of TLS.
fn isnt_a_record(first: &[u8]) -> bool {
    !matches!(first, [] | [20..=23] | [20..=23, 3, ..])
}

/// Returns what a client speaks instead of TLS.
fn not_tls(first: &[u8]) -> Why {
    const METHODS: [&[u8]; 10] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"CONNECT ",
        b"PATCH ",
        b"TRACE ",
        b"PRI ",
    ];
    // As much of a word as there is.
    let begins = |word: &&[u8]| {
        let length = first.len().min(word.len());
        length >= 3 && first[..length] == word[..length]
    };
    let what = if METHODS.iter().any(begins) {
        "it has sent a request of HTTP without TLS"
    } else if begins(&&b"PROXY "[..]) || begins(&&b"\r\n\r\n\0\r\nQUIT\n"[..]) {
        "it has sent a PROXY header, which the service doesn't expect (--proxy)"
    } else if begins(&&b"SSH-"[..]) {
        "it speaks SSH, not TLS"
    } else if [&b"EHLO "[..], b"HELO ", b"LHLO "].iter().any(begins) {
        "it speaks SMTP without TLS"
    } else if matches!(first, [length, _, 1, ..] if *length >= 0x80) {
        return (
            FailureKind::NothingInCommon,
            "it has sent a hello of SSL 2.0, and TLS 1.2 is the least".into(),
        );
    } else {
        "what it has sent isn't TLS"
    };
    (FailureKind::NotTls, what.into())
}

fn invalid(why: &InvalidMessage) -> Why {
    let text = match why {
        InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion => {
            return (FailureKind::NotTls, "what it has sent isn't TLS".into());
        }
        InvalidMessage::InvalidServerName => {
            "the name that it has asked for isn't one of a host".into()
        }
        InvalidMessage::CertificatePayloadTooLarge => "its certificates are too large".into(),
        InvalidMessage::NoSignatureSchemes | InvalidMessage::MissingKeyExchange => {
            return (
                FailureKind::NothingInCommon,
                format!("its hello has no offer ({why:?})").into(),
            );
        }
        why => bounded(&format!(
            "it has sent a message that isn't in order ({why:?})"
        ))
        .into(),
    };
    (FailureKind::Other, text)
}

fn incompatible(why: &PeerIncompatible, first: &[u8]) -> Why {
    use PeerIncompatible as It;
    // Whatever else it lacks.
    let old = old_version(first);
    let text = match why {
        _ if old.is_some() => {
            let version = old.unwrap_or_default();
            format!("it offers {version} at most, and TLS 1.2 is the least").into()
        }
        It::Tls12NotOffered => "it offers no version from TLS 1.2 on".into(),
        It::Tls12NotOfferedOrEnabled
        | It::ServerDoesNotSupportTls12Or13
        | It::ServerTlsVersionIsDisabledByOurConfig => {
            "it offers no version of TLS that the service accepts (--tls-min)".into()
        }
        It::SupportedVersionsExtensionRequired => {
            "it offers TLS 1.2 at most, and the service needs TLS 1.3 (--tls-min)".into()
        }
        It::NoCipherSuitesInCommon => "it offers no cipher suite that the service has".into(),
        It::NoKxGroupsInCommon
        | It::NamedGroupsExtensionRequired
        | It::NoEcPointFormatsInCommon
        | It::KeyShareExtensionRequired
        | It::EcPointsExtensionRequired
        | It::UncompressedEcPointsRequired => {
            "it offers no key exchange that the service has".into()
        }
        It::NoSignatureSchemesInCommon | It::SignatureAlgorithmsExtensionRequired => {
            "it accepts no kind of signature that the service's certificate can make".into()
        }
        It::NoCertificateRequestSignatureSchemesInCommon => {
            "its certificate is of a kind that isn't supported".into()
        }
        why => bounded(&format!("it lacks what the service needs ({why:?})")).into(),
    };
    (FailureKind::NothingInCommon, text)
}

/// Returns why a client's certificate isn't accepted.
fn certificate(why: &CertificateError) -> Cow<'static, str> {
    use CertificateError as It;
    let day = |time: &UnixTime| date::date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match why {
        It::Expired => "its certificate has ended".into(),
        It::ExpiredContext { not_after, .. } => {
            format!("its certificate, or one above it, has ended on {}", day(not_after)).into()
        }
        It::NotValidYet => "its certificate isn't valid yet".into(),
        It::NotValidYetContext { not_before, .. } => {
            format!("its certificate, or one above it, isn't valid before {}", day(not_before)).into()
        }
        It::Revoked => "its certificate, or one above it, is revoked (--tls-crl)".into(),
        It::UnknownIssuer => {
            "its certificate is from an authority that isn't in --tls-client-ca, or one between the two is missing"
                .into()
        }
        It::UnknownRevocationStatus => {
            "no list of its certificate's issuer in --tls-crl says whether it is revoked".into()
        }
        It::ExpiredRevocationList => {
            "the list of revoked certificates of its certificate's issuer has ended (--tls-crl)".into()
        }
        It::ExpiredRevocationListContext { next_update, .. } => format!(
            "the list of revoked certificates of its certificate's issuer has ended on {} (--tls-crl)",
            day(next_update)
        )
        .into(),
        It::InvalidPurpose | It::InvalidPurposeContext { .. } => {
            "its certificate isn't for clients (extendedKeyUsage)".into()
        }
        It::BadSignature => "its certificate, or what it has signed, isn't signed by the right key".into(),
        It::BadEncoding => "its certificate is damaged".into(),
        It::UnsupportedSignatureAlgorithmContext { .. }
        | It::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its certificate is signed in a way that isn't supported".into()
        }
        It::UnhandledCriticalExtension => {
            "its certificate has an extension that isn't supported, and says that it matters".into()
        }
        It::Other(other) => {
            // webpki's words for what rustls has none for.
            match other.to_string() {
                text if text.contains("CaUsedAsEndEntity") => {
                    "its certificate is that of an authority, and not of a client: it needs basicConstraints=CA:FALSE"
                        .into()
                }
                text if text.contains("MaximumPathDepthExceeded") => {
                    "there are too many certificates between its certificate and the authority".into()
                }
                text => bounded(&format!("its certificate isn't accepted ({text})")).into(),
            }
        }
        why => bounded(&format!("its certificate isn't accepted ({why})")).into(),
    }
}

/// Returns why a list of revoked certificates can't be used for a client's certificate.
fn list(why: &CertRevocationListError) -> Cow<'static, str> {
    match why {
        CertRevocationListError::BadSignature => {
            "the list of revoked certificates of its certificate's issuer isn't signed by that (--tls-crl)".into()
        }
        CertRevocationListError::IssuerInvalidForCrl => {
            "its certificate's issuer may not sign lists of revoked certificates, and has (--tls-crl)".into()
        }
        why => bounded(&format!(
            "the list of revoked certificates of its certificate's issuer can't be used ({why:?}; --tls-crl)"
        ))
        .into(),
    }
}

/// Returns what an alert of a client means.
fn alert_received(alert: AlertDescription) -> Why {
    use AlertDescription as It;
    let (name, meaning) = match alert {
        It::CloseNotify | It::UserCanceled => {
            return (
                FailureKind::Closed,
                "it has closed the connection in the handshake".into(),
            );
        }
        It::UnknownCA => (
            "unknown_ca",
            "it doesn't know the authority of the service's certificate, or one between the two is missing",
        ),
        It::BadCertificate => (
            "bad_certificate",
            "it doesn't accept the service's certificate",
        ),
        It::CertificateUnknown => (
            "certificate_unknown",
            "it doesn't accept the service's certificate",
        ),
        It::UnsupportedCertificate => (
            "unsupported_certificate",
            "it doesn't accept the kind of the service's certificate",
        ),
        It::CertificateExpired => (
            "certificate_expired",
            "the service's certificate has ended, for its clock",
        ),
        It::CertificateRevoked => (
            "certificate_revoked",
            "the service's certificate is revoked",
        ),
        It::BadCertificateStatusResponse => (
            "bad_certificate_status_response",
            "it doesn't accept the OCSP response (--tls-ocsp)",
        ),
        It::HandshakeFailure => ("handshake_failure", "it can't agree with the service"),
        It::ProtocolVersion => ("protocol_version", "it doesn't accept the version of TLS"),
        It::InsufficientSecurity => ("insufficient_security", "it asks for stronger ciphers"),
        It::DecryptError => ("decrypt_error", "a signature or a key isn't right for it"),
        It::BadRecordMac => ("bad_record_mac", "it couldn't decrypt what it has received"),
        It::UnexpectedMessage => (
            "unexpected_message",
            "it has received what it didn't expect",
        ),
        It::RecordOverflow => (
            "record_overflow",
            "it has received a record that is too long",
        ),
        It::DecodeError => ("decode_error", "it couldn't read what it has received"),
        It::IllegalParameter => ("illegal_parameter", "it has received what isn't allowed"),
        It::AccessDenied => ("access_denied", "it doesn't want to go on"),
        It::InternalError => ("internal_error", "something went wrong in it"),
        It::NoRenegotiation => ("no_renegotiation", "it doesn't want to go on"),
        It::UnsupportedExtension => (
            "unsupported_extension",
            "it has received an extension that it doesn't know",
        ),
        It::UnrecognisedName => ("unrecognized_name", "the name isn't right for it"),
        It::NoApplicationProtocol => (
            "no_application_protocol",
            "it doesn't accept the protocol (--tls-alpn)",
        ),
        other => {
            return (
                FailureKind::Alert,
                format!("it has sent the alert {}", u8::from(other)).into(),
            );
        }
    };
    let why = format!("it has sent the alert {name}: {meaning}");
    (FailureKind::Alert, why.into())
}

/// Returns text without control characters, and not too long for a line: parts of it may be the client's.
fn bounded(text: &str) -> String {
    let plain = text
        .chars()
        .map(|it| if it.is_control() { ' ' } else { it });
    plain.take(200).collect()
}

#[cfg(test)]
mod tests {
    use rustls::{InvalidMessage, OtherError, PeerMisbehaved};

    use super::*;

    #[test]
    fn all_alerts_are_named_as_in_the_standard() {
        for number in 0..=255 {
            let alert = AlertDescription::from(number);
            let Failure { kind, why } = failure(&Error::AlertReceived(alert), &[]);
            let is_end = matches!(number, 0 | 90);
            assert_eq!(
                kind,
                if is_end {
                    FailureKind::Closed
                } else {
                    FailureKind::Alert
                }
            );
            // Those that OpenSSL and browsers send in a handshake.
            let is_usual = matches!(
                number,
                10 | 20 | 22 | 40 | 42..=51 | 70 | 71 | 80 | 110 | 112 | 113 | 120
            );
            assert!(!is_usual || why.contains(": "), "{number} {why}");
        }
    }

    #[test]
    fn every_error_becomes_a_sentence_that_fits_into_a_line() {
        let long = "x\n\u{1b}".repeat(1000);
        for error in [
            Error::General(long.clone()),
            Error::Other(OtherError(std::sync::Arc::new(std::io::Error::other(
                long.clone(),
            )))),
            Error::InvalidCertificate(CertificateError::Other(OtherError(std::sync::Arc::new(
                std::io::Error::other(long),
            )))),
            Error::InvalidMessage(InvalidMessage::TrailingData("ClientHello")),
            Error::InvalidMessage(InvalidMessage::InvalidServerName),
            Error::PeerMisbehaved(PeerMisbehaved::IncorrectBinder),
            Error::DecryptError,
            Error::PeerSentOversizedRecord,
            Error::FailedToGetCurrentTime,
            Error::FailedToGetRandomBytes,
            Error::HandshakeNotComplete,
            Error::EncryptError,
        ] {
            let Failure { why, .. } = failure(&error, b"\x16\x03\x01");
            assert!(!why.is_empty() && why.chars().count() <= 300, "{why}");
            assert!(
                !why.ends_with('.') && !why.contains(char::is_control),
                "{why:?}"
            );
        }
    }

    #[test]
    fn what_came_first_says_more_than_the_error() {
        let error = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        for (first, kind) in [
            (&b"GET"[..], FailureKind::NotTls),
            (b"GET / HTTP/1.1", FailureKind::NotTls),
            (b"", FailureKind::NotTls),
            (b"\x80\x2e\x01", FailureKind::NothingInCommon),
        ] {
            assert_eq!(failure(&error, first).kind, kind, "{first:?}");
        }
        let why = failure(&error, b"PU").why;
        assert_eq!(why, "what it has sent isn't TLS");
    }
}
