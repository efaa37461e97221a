//! Why there is no session with a server, in words.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use crate::engine::Fault;

/// Returns a clause that says why.
pub(super) fn why(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => {
            format!("its certificate isn't accepted: {}", of_certificate(why))
        }
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::InvalidMessage(_) => "it doesn't speak TLS".to_owned(),
        Error::PeerIncompatible(_) => {
            "there is no version of TLS, or no cipher suite, that both accept".to_owned()
        }
        Error::NoApplicationProtocol => "it speaks none of the protocols of --alpn".to_owned(),
        Error::PeerMisbehaved(_) => format!("it breaks the rules of TLS ({error})"),
        Error::DecryptError => "bytes were changed on their way".to_owned(),
        other => other.to_string(),
    }
}

/// Returns a clause for what the engine has found.
pub(super) fn of_fault(fault: &Fault) -> String {
    match fault {
        Fault::Refused(error) => why(error),
        Fault::Closed {
            errno: Some(errno), ..
        } => format!("the connection failed: {}", errno.desc()),
        Fault::Closed { errno: None, .. } => {
            "the server has ended the connection in the handshake: does it speak TLS?".to_owned()
        }
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "no authority that is trusted has signed it; --ca trusts another one".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names = match presented.as_slice() {
                [] => "no name".to_owned(),
                names => names
                    .iter()
                    .map(|name| plain(name))
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            format!(
                "it is for {names}, and not for {}; --name asks for another name",
                expected.to_str()
            )
        }
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("it has expired {} ago", days(*not_after, *time))
        }
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "it will be valid in {}: is the clock of this machine right?",
            days(*time, *not_before)
        ),
        CertificateError::NotValidYet => "it isn't valid yet".to_owned(),
        CertificateError::Revoked => "it is revoked".to_owned(),
        CertificateError::BadSignature => "a signature in it is wrong".to_owned(),
        CertificateError::BadEncoding => "it is damaged".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it isn't for servers (extended key usage)".to_owned()
        }
        CertificateError::Other(other) => {
            // webpki's words for what rustls has none for.
            match other.to_string() {
                text if text.contains("CaUsedAsEndEntity") => {
                    "it is that of an authority, and not of a server: it needs basicConstraints=CA:FALSE"
                        .to_owned()
                }
                text => text,
            }
        }
        other => other.to_string(),
    }
}

/// How webpki writes a name in a certificate: `DnsName("example.org")`.
fn plain(name: &str) -> String {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}

fn of_alert(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::CertificateRequired => "it wants a certificate of the client (--cert)",
        AlertDescription::UnknownCA => "it doesn't know the authority of the client's certificate",
        AlertDescription::BadCertificate
        | AlertDescription::DecryptError
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => "it doesn't accept the client's certificate",
        AlertDescription::CertificateExpired => "the client's certificate has expired",
        AlertDescription::CertificateRevoked => "the client's certificate is revoked",
        AlertDescription::AccessDenied => "it denies access to the client's certificate",
        AlertDescription::UnrecognisedName => "it has no certificate for the name (--name)",
        AlertDescription::NoApplicationProtocol => "it speaks none of the protocols of --alpn",
        AlertDescription::ProtocolVersion => "it speaks no version of TLS that is accepted here",
        AlertDescription::HandshakeFailure => {
            "there is no cipher suite that both accept, or it wants a certificate of the client (--cert)"
        }
        other => return format!("it has refused the session ({other:?})"),
    };
    why.to_owned()
}

/// The time between two points in days, or in hours if that is less than two days.
fn days(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    let hours = Duration::from_secs(seconds).as_secs() / 3600;
    match hours {
        0 => "less than an hour".to_owned(),
        1 => "1 hour".to_owned(),
        2..48 => format!("{hours} hours"),
        _ => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert_eq!(plain("DnsName(\"example.org\")"), "example.org");
        assert_eq!(plain("IpAddress(127.0.0.1)"), "127.0.0.1");
        assert_eq!(plain("other"), "other");
    }

    #[test]
    fn times_are_in_words() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        for (seconds, text) in [
            (10, "less than an hour"),
            (3_600, "1 hour"),
            (86_400, "24 hours"),
            (200_000, "2 days"),
        ] {
            assert_eq!(days(at(1_000), at(1_000 + seconds)), text);
        }
    }
}
