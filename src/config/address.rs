//! Parsing addresses: `[HOST:]PORT` and unix paths. Names are resolved later, before binding.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Refused;

/// `[HOST:]PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InetAddress {
    /// The part before the colon.
    pub host: Host,
    /// The part after the colon.
    pub port: Port,
}

/// The HOST of an internet address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// No host: all addresses of this machine, IPv4 and IPv6.
    Any,
    /// An address, with the interface name or number after `%` if there is one.
    Address(IpAddr, Option<String>),
    /// A name for the resolver.
    Name(String),
}

/// The PORT of an internet address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// 0 to 65535. 0 lets the kernel choose a free port.
    Number(u16),
    /// A name of services(5).
    Service(String),
}

fn wrong<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

impl FromStr for InetAddress {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        if text.contains("//") {
            return wrong("it takes [HOST:]PORT, and no URL");
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return wrong(format!("the port is missing, as in {address}:80"));
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return wrong(format!(
                "an IPv6 address needs brackets and a port, as in [{address}]:80"
            ));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let Some((inside, after)) = rest.split_once(']') else {
                return wrong("'[' without ']'");
            };
            let Some(port) = after.strip_prefix(':') else {
                return wrong("the port is missing: after [ADDRESS] comes :PORT, as in [::1]:80");
            };
            (bracketed(inside)?, port)
        } else if text.contains(['[', ']']) {
            return wrong("brackets enclose an address, as in [::1]:80");
        } else {
            match text.rsplit_once(':') {
                None | Some(("", _)) => (Host::Any, text.trim_start_matches(':')),
                Some((host, _)) if host.contains(':') => {
                    return wrong("an IPv6 address needs brackets, as in [::1]:80");
                }
                Some((host, port)) => (unbracketed(host)?, port),
            }
        };
        let port = port.parse()?;
        Ok(Self { host, port })
    }
}

fn bracketed(text: &str) -> Result<Host, Refused> {
    let (address, zone) = match text.split_once('%') {
        Some((_, "")) => return wrong("no interface after '%'"),
        Some((_, zone)) if zone.contains('\0') => {
            return wrong("an interface name can't contain a NUL byte");
        }
        Some((address, zone)) => (address, Some(zone.to_owned())),
        None => (text, None),
    };
    // ::ffff:a.b.c.d is an IPv4 address.
    let address = address
        .parse()
        .map(|address: IpAddr| address.to_canonical());
    match address {
        Ok(IpAddr::V4(_)) if zone.is_some() => wrong("an IPv4 address can't have '%INTERFACE'"),
        Ok(address) => Ok(Host::Address(address, zone)),
        Err(_) => wrong("brackets enclose an IPv6 or IPv4 address, as in [::1]:80"),
    }
}

fn unbracketed(text: &str) -> Result<Host, Refused> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into(), None));
    }
    // The resolver would accept 127.1, 0x7f.1 and 017700000001 as addresses.
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.starts_with(|first: char| first.is_ascii_digit()) && is_number(last) {
        return wrong("an IPv4 address has four decimal numbers, as in 127.0.0.1");
    }
    if text == "*" {
        return wrong("for all addresses, write the port alone, as in 80");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !text.bytes().all(fits) {
        return wrong("a host name has letters, digits, '-', '_' and '.' only");
    }
    Ok(Host::Name(text.to_owned()))
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match digits {
        Some(digits) => digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => text.bytes().all(|digit| digit.is_ascii_digit()),
    }
}

impl FromStr for Port {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        if text.is_empty() {
            return wrong("the port is missing");
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_+./*".contains(&byte);
        let fits = text.bytes().all(fits);
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return if fits && text.starts_with(|first: char| first.is_ascii_alphabetic()) {
                Ok(Self::Service(text.to_owned()))
            } else {
                wrong("a port is a number from 0 to 65535 or a service name")
            };
        }
        // Services such as 3com-tsmux begin with a digit.
        if fits && text.bytes().any(|byte| byte.is_ascii_alphabetic()) && text.contains('-') {
            return Ok(Self::Service(text.to_owned()));
        }
        match text.parse() {
            Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self::Number(number))
            }
            _ => wrong("a port is a decimal number from 0 to 65535 or a service name"),
        }
    }
}

impl fmt::Display for InetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => {}
            Host::Address(IpAddr::V4(address), _) => write!(f, "{address}:")?,
            Host::Address(IpAddr::V6(address), None) => write!(f, "[{address}]:")?,
            Host::Address(IpAddr::V6(address), Some(zone)) => write!(f, "[{address}%{zone}]:")?,
            Host::Name(name) => write!(f, "{name}:")?,
        }
        match &self.port {
            Port::Number(number) => write!(f, "{number}"),
            Port::Service(name) => f.write_str(name),
        }
    }
}

/// The address of a unix-domain socket (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixAddress {
    /// A path in the file system.
    Path(PathBuf),
    /// A name of the abstract namespace, written with a leading `@`.
    Abstract(Vec<u8>),
}

/// The maximum length of a path or abstract name in bytes: `sun_path` without its NUL.
const LONGEST: usize = 107;

impl UnixAddress {
    /// Parses PATH or `@NAME`.
    pub fn parse(text: &OsStr) -> Result<Self, Refused> {
        let bytes = text.as_bytes();
        let (address, length) = match bytes.strip_prefix(b"@") {
            Some(b"") => return wrong("an abstract name has at least one byte after '@'"),
            Some(name) => (Self::Abstract(name.to_vec()), name.len()),
            None => (Self::Path(PathBuf::from(text)), bytes.len()),
        };
        if length == 0 {
            return wrong("the path is empty");
        }
        if length > LONGEST {
            return wrong(format!(
                "it has {length} bytes, and the kernel allows {LONGEST} for a unix socket"
            ));
        }
        if bytes.ends_with(b"/") {
            return wrong("a socket can't be a directory");
        }
        if matches!(address, Self::Path(_)) && bytes.contains(&0) {
            return wrong("a path can't contain a NUL byte");
        }
        Ok(address)
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", Path::new(OsStr::from_bytes(name)).display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<InetAddress, String> {
        text.parse().map_err(|error: Refused| error.0)
    }

    fn number(host: Host, port: u16) -> InetAddress {
        InetAddress {
            host,
            port: Port::Number(port),
        }
    }

    fn ip(text: &str) -> Host {
        Host::Address(text.parse().unwrap(), None)
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        let name = Host::Name("mail.example".into());
        let scoped = Host::Address("fe80::1".parse().unwrap(), Some("eth0".into()));
        for (text, expected) in [
            ("80", number(Host::Any, 80)),
            (":80", number(Host::Any, 80)),
            ("0", number(Host::Any, 0)),
            ("65535", number(Host::Any, 65535)),
            ("127.0.0.1:80", number(ip("127.0.0.1"), 80)),
            ("[127.0.0.1]:80", number(ip("127.0.0.1"), 80)),
            ("[::ffff:127.0.0.1]:80", number(ip("127.0.0.1"), 80)),
            ("[::]:80", number(ip("::"), 80)),
            ("[fe80::1%eth0]:80", number(scoped, 80)),
            ("mail.example:80", number(name, 80)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        let service = parse("localhost:http").unwrap();
        assert_eq!(service.port, Port::Service("http".into()));
    }

    #[test]
    fn what_is_no_address_is_refused_and_never_guessed() {
        for text in [
            "",
            ":",
            "80x",
            "0x50",
            "-1",
            "+80",
            " 80",
            "65536",
            "99999",
            "[::1]",
            "[::1",
            "[::1]80",
            "::1]:80",
            "::1:80",
            "[mail]:80",
            "[::1%]:80",
            "[127.0.0.1%lo]:80",
            "[::ffff:127.0.0.1%lo]:80",
            "[fe80::1%\0]:80",
            "1-a b",
            "[::1]:1-a]",
            "127.1:80",
            "0x7f.1:80",
            "1.2.3.4.5:80",
            "256.0.0.1:80",
            "a b:80",
            "mail:",
            "mail:8 0",
            "*:80",
        ] {
            assert!(
                parse(text).is_err(),
                "{text} was taken as {:?}",
                parse(text)
            );
        }
    }

    #[test]
    fn unix_addresses_are_paths_or_abstract_names_of_at_most_107_bytes() {
        let parse = |text: &str| UnixAddress::parse(OsStr::new(text));
        assert_eq!(parse("/run/x"), Ok(UnixAddress::Path("/run/x".into())));
        assert_eq!(parse("@x"), Ok(UnixAddress::Abstract(b"x".to_vec())));
        assert!(parse(&"x".repeat(107)).is_ok());
        assert!(parse(&format!("@{}", "x".repeat(107))).is_ok());
        let too_long = parse(&"x".repeat(108)).unwrap_err();
        assert!(too_long.0.contains("107"), "{too_long}");
        assert!(parse("@a\0b").is_ok());
        for text in ["", "@", "/run/", "\0x", "/run/x\0"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(
            text in "[\\[a-z0-9.:%\\]-]{1,20}|.{0,12}(:.{0,5})?",
        ) {
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()), Ok(address));
            }
        }

        #[test]
        fn addresses_in_brackets_are_written_so_that_they_read_the_same(
            bits in any::<u128>(),
            mapped in any::<bool>(),
            zone in "(%[^\\]]{0,3})?",
            port in ".{0,5}",
        ) {
            let bits = if mapped { bits >> 96 | 0xffff << 32 } else { bits };
            let text = format!("[{}{zone}]:{port}", Ipv6Addr::from(bits));
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()), Ok(address));
            }
        }

        #[test]
        fn a_unix_address_is_written_as_it_was_read(text in "[@/.]?.{0,120}") {
            if let Ok(address) = UnixAddress::parse(OsStr::new(&text)) {
                prop_assert!(text.len() <= LONGEST + 1);
                prop_assert!(text.starts_with('@') || !text.contains('\0'));
                prop_assert_eq!(address.to_string(), text);
            }
        }

        #[test]
        fn numbers_are_ports_up_to_65535(number in 0_u32..200_000) {
            prop_assert_eq!(parse(&number.to_string()).is_ok(), number <= 65535);
        }
    }
}
