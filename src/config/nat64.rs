//! Prefixes of translators between IPv4 and IPv6: an address in one of them is an IPv4 address
//! (NAT64, RFC 6146; SIIT, RFC 7915).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Prefix, Refused};

/// The prefix of a translator, in whose addresses IPv4 addresses are embedded (RFC 6052, 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat64 {
    prefix: Prefix,
    /// How many bits the prefix has.
    length: u8,
}

/// The lengths that a prefix may have.
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

impl Nat64 {
    /// Returns the IPv4 address that is embedded in an address, if the address has the prefix.
    pub fn embedded(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.prefix.contains(address.into()) {
            return None;
        }
        let bits = address.to_bits();
        // Without the octet of bits 64 to 71, which no IPv4 address reaches into. Neither it nor
        // what follows the IPv4 address is looked at: a client could set them to be another.
        let high = bits >> 64 << 64;
        let joined = match self.length {
            96 => bits,
            _ => high | (bits & ((1 << 56) - 1)) << 8,
        };
        let embedded = joined << self.length >> 96;
        Some(Ipv4Addr::from_bits(embedded as u32))
    }
}

/// Returns the address of a client behind any of these translators, or else the address itself.
pub fn untranslated(address: IpAddr, translators: &[Nat64]) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let mut translators = translators.iter();
    translators
        .find_map(|translator| translator.embedded(v6))
        .map_or(address, IpAddr::V4)
}

impl FromStr for Nat64 {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let refused = || {
            Refused(
                "it takes an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits, like 64:ff9b::/96"
                    .into(),
            )
        };
        let prefix: Prefix = text.parse()?;
        let (first, last) = prefix.range();
        let (IpAddr::V6(first), IpAddr::V6(last)) = (first, last) else {
            return Err(refused());
        };
        let length = (first.to_bits() ^ last.to_bits()).leading_zeros() as u8;
        if !LENGTHS.contains(&length) {
            return Err(refused());
        }
        Ok(Self { prefix, length })
    }
}

impl fmt::Display for Nat64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_rfc_6052_are_read() {
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
            // Of SIIT, and with other bits set.
            ("::ffff:0:0:0/96", "::ffff:0:192.0.2.33"),
            ("2001:db8::/32", "2001:db8:c000:221:ffff:ffff:ffff:ffff"),
        ] {
            let translator: Nat64 = prefix.parse().unwrap();
            assert_eq!(translator.to_string(), prefix);
            let embedded = translator.embedded(address.parse().unwrap());
            assert_eq!(embedded, Some(Ipv4Addr::new(192, 0, 2, 33)), "{address}");
        }
    }

    #[test]
    fn what_is_no_prefix_of_a_translator_is_refused() {
        for text in [
            "",
            "64:ff9b::",
            "64:ff9b::/95",
            "64:ff9b::/128",
            "::/0",
            "2001:db8::/33",
            "64:ff9b::1/96",
            "192.0.2.0/24",
            "::ffff:0:0/96",
        ] {
            assert!(text.parse::<Nat64>().is_err(), "{text}");
        }
    }

    /// Embeds an address as RFC 6052 says, octet by octet.
    fn embed(prefix: Ipv6Addr, length: u8, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = prefix.octets();
        let mut at = usize::from(length / 8);
        for octet in address.octets() {
            if at == 8 && length < 96 {
                at += 1;
            }
            octets[at] = octet;
            at += 1;
        }
        octets.into()
    }

    proptest! {
        #[test]
        fn what_was_embedded_is_found_and_nothing_outside_of_the_prefix(
            bits in any::<u128>(),
            length in prop::sample::select(&LENGTHS[..]),
            address in any::<Ipv4Addr>(),
            other in any::<Ipv6Addr>(),
        ) {
            let first = Ipv6Addr::from_bits(bits >> (128 - u32::from(length)) << (128 - u32::from(length)));
            prop_assume!(first.to_ipv4_mapped().is_none());
            let translator: Nat64 = format!("{first}/{length}").parse().unwrap();
            let embedded = embed(first, length, address);
            prop_assert_eq!(translator.embedded(embedded), Some(address));
            let list = [translator];
            prop_assert_eq!(untranslated(embedded.into(), &list), IpAddr::V4(address));
            prop_assert_eq!(untranslated(embedded.into(), &[]), IpAddr::V6(embedded));
            prop_assert_eq!(untranslated(address.into(), &list), IpAddr::V4(address));
            if !translator.prefix.contains(other.into()) {
                prop_assert_eq!(untranslated(other.into(), &list), IpAddr::V6(other));
            }
        }
    }
}
