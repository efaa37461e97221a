//! Alerts of our own.

use rustls::Error;

/// Returns what is sent to a client instead of what rustls has to send, if that isn't right. `first` is what
/// the client has sent first. At that time nothing is encrypted.
///
/// - A client that asks for a name that there is no certificate for gets `unrecognized_name` (RFC 6066), and not
///   `access_denied`.
/// - A client that is too old gets `protocol_version` (RFC 8446, appendix D.2), and not `handshake_failure`,
///   which rustls sends if it misses an extension first.
pub fn alert(error: &Error, first: &[u8]) -> Option<[u8; 7]> {
    let number = if is_no_name(error) {
        112
    } else if matches!(error, Error::PeerIncompatible(_)) && old_version(first).is_some() {
        70
    } else {
        return None;
    };
    // A record: an alert, of TLS 1.2 as all of them say, two bytes long, fatal, and which one.
    Some([21, 3, 3, 0, 2, 2, number])
}

/// Whether the resolver has had no certificate.
pub(super) fn is_no_name(error: &Error) -> bool {
    matches!(error, Error::General(why) if why == "no server certificate chain resolved")
}

/// Returns the version of a client that is older than TLS 1.2: its hello has no other place for it.
pub(super) fn old_version(first: &[u8]) -> Option<&'static str> {
    let [22, _, _, _, _, 1, _, _, _, high, low, ..] = first else {
        return None;
    };
    match (high, low) {
        (3, 0) => Some("SSL 3.0"),
        (3, 1) => Some("TLS 1.0"),
        (3, 2) => Some("TLS 1.1"),
        _ => None,
    }
}
