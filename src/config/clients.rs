//! Clients that are named together by an administrator: all in a prefix, or of a user.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::nat64::{Nat64, untranslated};
use super::{Peer, Prefix, Refused};
use crate::sys::sockets::Credentials;

/// Clients that are named together, as `192.0.2.0/24` or `uid:1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Clients {
    /// Clients whose addresses have a prefix.
    Prefix(Prefix),
    /// Clients of unix sockets that run as this user.
    User(u32),
}

/// What a client is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownBy {
    /// An address; of clients behind a translator, the IPv4 address.
    Address(IpAddr),
    /// A user id.
    User(u32),
    /// Nothing that could be named.
    Nothing,
}

impl KnownBy {
    /// Returns what a client is known by, by its IPv4 address if it is behind one of the
    /// translators.
    pub fn of(peer: &Peer, translators: &[Nat64]) -> Self {
        match peer {
            Peer::UnixStream(Some(Credentials { uid: Some(uid), .. })) => Self::User(*uid),
            Peer::UnixStream(_) => Self::Nothing,
            peer => match peer.address() {
                Some(address) => Self::address(address.ip(), translators),
                None => Self::Nothing,
            },
        }
    }

    /// Returns all that a client can be named by: behind a translator, the IPv4 address and the
    /// address that the log has.
    pub fn all_of(peer: &Peer, translators: &[Nat64]) -> [Self; 2] {
        [Self::of(peer, translators), Self::of(peer, &[])]
    }

    /// Returns what a client with this address is known by.
    pub fn address(address: IpAddr, translators: &[Nat64]) -> Self {
        Self::Address(untranslated(address, translators).to_canonical())
    }
}

impl Clients {
    /// Returns whether a client is one of these.
    pub fn include(&self, client: KnownBy) -> bool {
        match (self, client) {
            (Self::Prefix(prefix), KnownBy::Address(address)) => prefix.contains(address),
            (Self::User(user), KnownBy::User(uid)) => *user == uid,
            _ => false,
        }
    }

    /// Returns whether a client is one of these by anything that it can be named by.
    pub fn include_peer(&self, peer: &Peer, translators: &[Nat64]) -> bool {
        let all = KnownBy::all_of(peer, translators);
        all.into_iter().any(|client| self.include(client))
    }
}

impl FromStr for Clients {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let Some(uid) = text.strip_prefix("uid:") else {
            return text.parse().map(Self::Prefix);
        };
        let digits = !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_digit());
        // The last number stands for no user.
        let uid = uid.parse().ok().filter(|uid| digits && *uid < u32::MAX);
        uid.map(Self::User).ok_or_else(|| {
            Refused("after uid: comes the decimal number of a user, as in uid:1000".into())
        })
    }
}

/// Formats clients in the form in which they are parsed.
impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::User(uid) => write!(f, "uid:{uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_read_as_they_are_written() {
        for (text, again) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("uid:0", "uid:0"),
            ("uid:1000", "uid:1000"),
        ] {
            let clients: Clients = text.parse().unwrap();
            assert_eq!(clients.to_string(), again);
        }
        for text in [
            "",
            "uid:",
            "uid:+1",
            "uid:4294967295",
            "uid:root",
            "192.0.2.1/24",
            "host",
        ] {
            assert!(text.parse::<Clients>().is_err(), "{text}");
        }
    }

    #[test]
    fn clients_are_found_by_address_behind_translators_too_or_by_user() {
        let tcp = |text: &str| Peer::Tcp {
            remote: text.parse().unwrap(),
            local: None,
        };
        let clients: Clients = "192.0.2.0/24".parse().unwrap();
        let translators = ["64:ff9b::/96".parse().unwrap()];
        for (peer, included) in [
            (tcp("192.0.2.9:1"), true),
            (tcp("[::ffff:192.0.2.9]:1"), true),
            (tcp("[64:ff9b::192.0.2.9]:1"), true),
            (tcp("192.0.3.9:1"), false),
            (Peer::UnixStream(None), false),
        ] {
            assert_eq!(clients.include_peer(&peer, &translators), included);
        }
        // As the log has it.
        let own: Clients = "64:ff9b::c000:209".parse().unwrap();
        assert!(own.include_peer(&tcp("[64:ff9b::192.0.2.9]:1"), &translators));
        assert!(!own.include_peer(&tcp("192.0.2.9:1"), &translators));
        let user = |uid| {
            Peer::UnixStream(Some(Credentials {
                pid: 3,
                uid,
                gid: None,
            }))
        };
        let is_root = |peer| Clients::User(0).include(KnownBy::of(&peer, &[]));
        assert!(is_root(user(Some(0))));
        assert!(!is_root(user(Some(1))) && !is_root(user(None)) && !is_root(tcp("0.0.0.0:0")));
    }
}
