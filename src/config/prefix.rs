//! Prefixes of internet addresses: `192.0.2.0/24`, `2001:db8::/32`, or a single address.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Refused, decimal};

/// The addresses that have their first bits in common. IPv4-mapped IPv6 addresses are the same as
/// IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Returns the prefix of this address and length in bits. Returns `None` if the address is
    /// shorter, or has bits set beyond the length.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= width(address) && masked(address, length) == address).then(|| {
            match address.to_canonical() {
                // All mapped addresses have their first 96 bits in common.
                IpAddr::V4(v4) if address.is_ipv6() => Self {
                    address: v4.into(),
                    length: length - 96,
                },
                address => Self { address, length },
            }
        })
    }

    /// Returns the prefix of a single address.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            length: width(address),
        }
    }

    /// Returns the prefix of this length that an address has. A prefix that is longer than the address
    /// is the address alone.
    pub fn around(address: IpAddr, length: u8) -> Self {
        let address = address.to_canonical();
        let length = length.min(width(address));
        Self {
            address: masked(address, length),
            length,
        }
    }

    /// Returns the length in bits.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Returns whether it is one of IPv4 addresses.
    pub fn is_v4(self) -> bool {
        self.address.is_ipv4()
    }

    /// Returns the first and the last address.
    pub fn range(self) -> (IpAddr, IpAddr) {
        let last = match self.address {
            IpAddr::V4(first) => {
                let rest = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                Ipv4Addr::from_bits(first.to_bits() | rest).into()
            }
            IpAddr::V6(first) => {
                let rest = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                Ipv6Addr::from_bits(first.to_bits() | rest).into()
            }
        };
        (self.address, last)
    }

    /// Whether it is a single address.
    pub fn is_one(self) -> bool {
        self.length == width(self.address)
    }

    /// Whether the prefix contains an address.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.length) == self.address
    }
}

/// Returns the number of bits of an address.
fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Clears all but the first bits of an address.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => {
            let rest = u32::MAX.checked_shr(length).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & !rest).into()
        }
        IpAddr::V6(v6) => {
            let rest = u128::MAX.checked_shr(length).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & !rest).into()
        }
    }
}

impl FromStr for Prefix {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            Refused(match address.contains('%') {
                true => "an address can't have an interface here".into(),
                false => {
                    "it takes an address, or a prefix like 192.0.2.0/24 or 2001:db8::/32".into()
                }
            })
        })?;
        let Some(length) = length else {
            return Ok(Self::of(address));
        };
        let most = width(address);
        let length = decimal::<u8>(OsStr::new(length))
            .filter(|length| *length <= most)
            .ok_or_else(|| {
                let family = if most == 32 { "IPv4" } else { "IPv6" };
                Refused(format!(
                    "after the slash of an {family} prefix comes a decimal number from 0 to {most}"
                ))
            })?;
        Self::new(address, length).ok_or_else(|| {
            let right = masked(address, length);
            Refused(format!(
                "{address}/{length} has bits set beyond its length; the prefix is \
                 {right}/{length}, the single address {address}"
            ))
        })
    }
}

/// Formats a prefix in the form in which it is parsed, a single address without its length.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.length < width(self.address) {
            write!(f, "/{}", self.length)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let prefix = text.parse::<Prefix>();
        prefix
            .map(|prefix| prefix.to_string())
            .map_err(|why| why.to_string())
    }

    #[test]
    fn prefixes_are_read() {
        for (text, again) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1/128", "::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(again), "{text}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10",
            "10/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "::/129",
            "10.0.0.0/8/8",
            "010.0.0.0/8",
            "[::1]",
            "fe80::1%lo",
            "::/+1",
            " ::1",
            "::1 ",
            "a.b",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bits_beyond_the_length_are_refused_and_the_right_prefix_is_named() {
        for (text, right) in [
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("1.2.3.4/0", "0.0.0.0/0"),
        ] {
            assert!(
                read(text).unwrap_err().contains(&format!("is {right},")),
                "{text}"
            );
        }
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (any::<IpAddr>(), 0..=128_u8).prop_map(|(address, length)| {
            let length = length.min(width(address));
            Prefix::new(masked(address, length), length).unwrap()
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(prefix in prefix()) {
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
        }

        #[test]
        fn those_between_the_first_and_the_last_are_in(prefix in prefix(), other in any::<IpAddr>()) {
            let (first, last) = prefix.range();
            // A mapped address is none of IPv6, wherever it stands.
            prop_assert!(prefix.contains(first));
            prop_assert_eq!(prefix.contains(last), last == last.to_canonical());
            let other = other.to_canonical();
            let between = other.is_ipv4() == first.is_ipv4() && first <= other && other <= last;
            prop_assert_eq!(prefix.contains(other), between);
        }

        #[test]
        fn what_is_read_reads_the_same_when_written_out(
            text in "[0-9]{1,2}(\\.[0-9]{1,2}){3}(/3[0-3])?|[0-9a-f]{0,2}(:[0-9a-f]{0,2}){2,7}(/12[5-9])?|.{0,8}",
        ) {
            if let Ok(prefix) = text.parse::<Prefix>() {
                prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            }
        }
    }
}
