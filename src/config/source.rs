//! Sources: clients that count as one for limits and in the log.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::admission::SourcePrefix;
use super::nat64::{Nat64, untranslated};
use super::peer::Peer;
use crate::sys::sockets::Credentials;

/// The clients that count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    kind: Kind,
    /// How many bits of an address.
    length: u8,
    /// An address whose other bits are zero, or a user's id.
    bytes: [u8; 16],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    V4,
    V6,
    User,
    Unknown,
}

impl Source {
    /// All clients of unix sockets whose user is unknown. They share one limit: otherwise, users
    /// that can't be told apart would have none.
    pub const UNKNOWN: Self = Self {
        kind: Kind::Unknown,
        length: 0,
        bytes: [0; 16],
    };

    /// Returns the source that this client belongs to, by its IPv4 address if it is behind one of
    /// the translators.
    pub fn of(peer: &Peer, prefix: SourcePrefix, translators: &[Nat64]) -> Self {
        match peer {
            Peer::UnixStream(credentials) => match credentials {
                Some(Credentials { uid: Some(uid), .. }) => Self::user(*uid),
                _ => Self::UNKNOWN,
            },
            peer => match peer.address() {
                Some(address) => Self::address(untranslated(address.ip(), translators), prefix),
                None => Self::UNKNOWN,
            },
        }
    }

    /// Returns the clients whose addresses have the prefix of this one. An IPv4 address in its
    /// IPv6 form is the IPv4 address; link-local ones are the same on every interface.
    pub fn address(address: IpAddr, prefix: SourcePrefix) -> Self {
        let (kind, length, bits) = match address.to_canonical() {
            IpAddr::V4(v4) => (
                Kind::V4,
                prefix.v4.min(32),
                u128::from(v4.to_bits()) << (128 - 32),
            ),
            IpAddr::V6(v6) => (Kind::V6, prefix.v6.min(128), v6.to_bits()),
        };
        // A shift by all bits is none to Rust.
        let mask = u128::MAX
            .checked_shl(128 - u32::from(length))
            .unwrap_or_default();
        Self {
            kind,
            length,
            bytes: (bits & mask).to_be_bytes(),
        }
    }

    /// Returns the user, if it is one.
    pub fn uid(self) -> Option<u32> {
        let [a, b, c, d, ..] = self.bytes;
        (self.kind == Kind::User).then(|| u32::from_be_bytes([a, b, c, d]))
    }

    /// Whether it is an address or a prefix.
    pub fn is_address(self) -> bool {
        matches!(self.kind, Kind::V4 | Kind::V6)
    }

    /// Returns the source with an address that has no more bits than this prefix.
    #[must_use]
    pub fn within(self, prefix: SourcePrefix) -> Self {
        let [a, b, c, d, ..] = self.bytes;
        let address = match self.kind {
            Kind::V4 => IpAddr::from([a, b, c, d]),
            Kind::V6 => IpAddr::from(self.bytes),
            Kind::User | Kind::Unknown => return self,
        };
        let (v4, v6) = (prefix.v4.min(self.length), prefix.v6.min(self.length));
        Self::address(address, SourcePrefix { v4, v6 })
    }

    /// Returns the clients of unix sockets that run as this user.
    pub fn user(uid: u32) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&uid.to_be_bytes());
        Self {
            kind: Kind::User,
            length: 32,
            bytes,
        }
    }
}

impl Source {
    /// Returns the first eight bytes, for comparing many sources at once. Some have them in common.
    pub fn mark(&self) -> u64 {
        self.bytes
            .first_chunk()
            .copied()
            .map_or(0, u64::from_ne_bytes)
    }

    /// Returns it as text for another process, in as few bytes as that takes.
    pub fn save(&self) -> String {
        let kind = match self.kind {
            Kind::V4 => '4',
            Kind::V6 => '6',
            Kind::User => 'u',
            Kind::Unknown => '?',
        };
        let bytes = &self.bytes[..usize::from(self.length).div_ceil(8)];
        let mut text = format!("{kind}{:02x}", self.length);
        for byte in bytes {
            let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        }
        text
    }

    /// Restores it from [`Self::save`].
    pub fn restore(saved: &str) -> Option<Self> {
        let kind = match saved.get(..1)? {
            "4" => Kind::V4,
            "6" => Kind::V6,
            "u" => Kind::User,
            "?" => Kind::Unknown,
            _ => return None,
        };
        let byte = |index: usize| u8::from_str_radix(saved.get(index..index + 2)?, 16).ok();
        let length = byte(1)?;
        let count = usize::from(length).div_ceil(8);
        let mut bytes = [0; 16];
        for (index, to) in bytes.get_mut(..count)?.iter_mut().enumerate() {
            *to = byte(3 + 2 * index)?;
        }
        (saved.len() == 3 + 2 * count).then_some(Self {
            kind,
            length,
            bytes,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.bytes;
        match (self.kind, self.length) {
            (Kind::V4, 32) => write!(f, "{}", Ipv4Addr::new(a, b, c, d)),
            (Kind::V4, length) => write!(f, "{}/{length}", Ipv4Addr::new(a, b, c, d)),
            (Kind::V6, 128) => write!(f, "{}", Ipv6Addr::from(self.bytes)),
            (Kind::V6, length) => write!(f, "{}/{length}", Ipv6Addr::from(self.bytes)),
            (Kind::User, _) => write!(f, "uid {}", u32::from_be_bytes([a, b, c, d])),
            (Kind::Unknown, _) => f.write_str("unknown users"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_counts_as_one() {
        let of = |text: &str, v4, v6| {
            Source::address(text.parse().unwrap(), SourcePrefix { v4, v6 }).to_string()
        };
        assert_eq!(of("192.0.2.7", 32, 64), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7", 24, 64), "192.0.2.0/24");
        assert_eq!(of("192.0.2.7", 0, 0), "0.0.0.0/0");
        assert_eq!(of("2001:db8:1:2:3::4", 32, 64), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2:3::4", 32, 128), "2001:db8:1:2:3::4");
        assert_eq!(of("2001:db8:1:2:3::4", 32, 0), "::/0");
        let user = |uid| {
            Peer::UnixStream(Some(Credentials {
                pid: 3,
                uid,
                gid: Some(4),
            }))
        };
        let source = |peer| Source::of(&peer, SourcePrefix::default(), &[]);
        assert_eq!(source(user(Some(1000))).to_string(), "uid 1000");
        assert_eq!(source(user(None)), Source::UNKNOWN);
        assert_eq!(source(Peer::UnixStream(None)), Source::UNKNOWN);
        assert_ne!(
            Source::user(0),
            Source::address(
                Ipv4Addr::UNSPECIFIED.into(),
                SourcePrefix { v4: 32, v6: 64 }
            )
        );
    }

    #[test]
    fn a_damaged_source_is_none() {
        for saved in [
            "",
            "4",
            "420",
            "4207f0000",
            "9207f000001",
            "4ff",
            "é207f",
            "420é",
            "u2000",
        ] {
            assert_eq!(Source::restore(saved), None, "{saved}");
        }
    }

    proptest! {
        #[test]
        fn a_saved_source_is_restored(
            address in any::<IpAddr>(),
            v4 in 0..=32_u8,
            v6 in 0..=128_u8,
            user in any::<u32>(),
        ) {
            let address = Source::address(address, SourcePrefix { v4, v6 });
            for source in [address, Source::user(user), Source::UNKNOWN] {
                prop_assert_eq!(Source::restore(&source.save()), Some(source));
            }
        }

        #[test]
        fn addresses_are_one_source_when_they_agree_in_the_prefix(
            first in any::<IpAddr>(),
            second in any::<u128>(),
            v4 in 0..=32_u8,
            v6 in 0..=128_u8,
            same in 0..=128_u32,
        ) {
            let prefix = SourcePrefix { v4, v6 };
            let first = first.to_canonical();
            // The first bits of the one, the other bits of another.
            let mix = |first: u128, bits: u32| {
                let mask = u128::MAX.checked_shr(same.min(bits)).unwrap_or(0);
                (first & !mask) | (second & mask)
            };
            let (second, length) = match first {
                IpAddr::V4(v4) => {
                    let bits = mix(u128::from(v4.to_bits()) << 96, 32) >> 96;
                    (IpAddr::from(Ipv4Addr::from_bits(bits as u32)), u32::from(prefix.v4))
                }
                IpAddr::V6(v6) => {
                    let bits = mix(v6.to_bits(), 128);
                    (IpAddr::from(Ipv6Addr::from_bits(bits)), u32::from(prefix.v6))
                }
            };
            prop_assume!(first.is_ipv4() == second.to_canonical().is_ipv4());
            let bits = |address| match address {
                IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
                IpAddr::V6(v6) => v6.to_bits(),
            };
            let agree = (bits(first) ^ bits(second)).leading_zeros() >= length;
            let source = |address| Source::address(address, prefix);
            prop_assert_eq!(source(first) == source(second), agree);
        }
    }
}
