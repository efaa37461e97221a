//! The syntax of addresses to connect to: those of skd-forward, and of `forward` in service files.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use super::{Host, InetAddress, Port, Refused, UnixAddress};

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `HOST:PORT`.
    Tcp(InetAddress),
    /// `udp:HOST:PORT`.
    Udp(InetAddress),
    /// `/PATH`, `unix:PATH` or `unix:@NAME`.
    Unix(UnixAddress),
}

impl Target {
    /// Parses an address. A host named like a prefix needs that prefix too: `tcp:udp:80`.
    pub fn parse(word: &OsStr) -> Result<Self, Refused> {
        let bytes = word.as_bytes();
        if let Some(rest) = bytes.strip_prefix(b"unix:") {
            return Ok(Self::Unix(UnixAddress::parse(OsStr::from_bytes(rest))?));
        }
        // A host name has neither of these.
        if bytes.contains(&b'/') && !bytes.windows(3).any(|part| part == b"://")
            || bytes.starts_with(b"@")
        {
            return Ok(Self::Unix(UnixAddress::parse(word)?));
        }
        let Some(text) = word.to_str() else {
            return Err(Refused::because("a host name has ASCII letters only"));
        };
        match text.split_once(':') {
            Some(("udp", rest)) => Ok(Self::Udp(inet(rest)?)),
            Some(("tcp", rest)) => Ok(Self::Tcp(inet(rest)?)),
            _ => Ok(Self::Tcp(inet(text)?)),
        }
    }
}

fn inet(text: &str) -> Result<InetAddress, Refused> {
    let address: InetAddress = text.parse()?;
    match (&address.host, &address.port) {
        (Host::Any, Port::Service(_)) => Err(Refused::because(format!(
            "it takes HOST:PORT, as in {text}:80"
        ))),
        (Host::Any, _) => Err(Refused::because(format!(
            "the host is missing, as in localhost:{}",
            text.trim_start_matches(':')
        ))),
        (_, Port::Number(0)) => Err(Refused::because("there is no port 0 to connect to")),
        _ => Ok(address),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Target, Refused> {
        Target::parse(OsStr::new(text))
    }

    #[test]
    fn every_form_is_read() {
        let inet = |text: &str| text.parse::<InetAddress>().unwrap();
        let unix = |text: &str| Target::Unix(UnixAddress::parse(OsStr::new(text)).unwrap());
        for (text, expected) in [
            ("localhost:80", Target::Tcp(inet("localhost:80"))),
            ("tcp:localhost:http", Target::Tcp(inet("localhost:http"))),
            ("tcp:udp:53", Target::Tcp(inet("udp:53"))),
            ("[fe80::1%lo]:80", Target::Tcp(inet("[fe80::1%lo]:80"))),
            ("udp:[::1]:53", Target::Udp(inet("[::1]:53"))),
            ("/run/x", unix("/run/x")),
            ("./x", unix("./x")),
            ("unix:x", unix("x")),
            ("unix:@x", unix("@x")),
            ("@x", unix("@x")),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused() {
        for text in [
            "",
            "80",
            ":80",
            "udp:80",
            "udp:",
            "tcp:",
            "unix:",
            "unix:@",
            "@",
            "a:0",
            "a",
            "a:",
            "::1:80",
            "http://a:80",
            "http://a/",
            "/run/",
            "a b:80",
            "sctp:a:80",
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_reads_the_same(
            text in "(udp:|tcp:|unix:)?[\\[a-z0-9./@:%\\]-]{1,20}|.{0,12}",
        ) {
            if let Ok(target) = parse(&text) {
                // A path without a slash needs its prefix.
                let written = match &target {
                    Target::Unix(_) => format!("unix:{target}"),
                    _ => target.to_string(),
                };
                let written = if matches!(target, Target::Tcp(_)) { format!("tcp:{written}") } else { written };
                prop_assert_eq!(parse(&written), Ok(target));
            }
        }
    }
}
