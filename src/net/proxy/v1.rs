//! Version 1 of the PROXY protocol: a line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::config::proxy_header::Header;
use crate::config::{decimal, plain};

/// The beginning of the line.
pub(super) const PREFIX: &[u8] = b"PROXY ";

/// The maximum length of the line in bytes, with its end.
const LONGEST: usize = 107;

/// Parses a line. Returns the header and its length in bytes, or `None` if more bytes are needed.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let full = bytes.len() == LONGEST;
    // The line contains neither byte before its end.
    let Some(end) = bytes.iter().position(|byte| b"\r\n".contains(byte)) else {
        return if full {
            Err("its line is too long")
        } else {
            Ok(None)
        };
    };
    match &bytes[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if !full => return Ok(None),
        [b'\r'] => return Err("its line is too long"),
        _ => return Err("its line doesn't end in CR LF"),
    }
    let text = &bytes[PREFIX.len()..end];
    let header = if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        Header::Own
    } else {
        inet(text)?
    };
    Ok(Some((header, end + 2)))
}

/// Parses `TCP4 SOURCE DESTINATION PORT PORT`, or the same with TCP6.
fn inet(text: &[u8]) -> Result<Header, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "its line isn't in ASCII")?;
    let mut words = [""; 5];
    let mut rest = text.split(' ');
    for word in &mut words {
        *word = rest.next().ok_or("its line has too few words")?;
    }
    if rest.next().is_some() {
        return Err("its line has too many words or spaces");
    }
    let [family, source, destination, from, to] = words;
    let address: fn(&str) -> Option<IpAddr> = match family {
        "TCP4" => address::<Ipv4Addr>,
        // haproxy writes ::ffff:192.0.2.1 if one of the two addresses is IPv4.
        "TCP6" => address::<Ipv6Addr>,
        _ => return Err("its protocol is not TCP4, TCP6 or UNKNOWN"),
    };
    let address = |text| address(text).ok_or("an address is not of its family");
    let port = |text| port(text).ok_or("a port is not a number from 0 to 65535");
    Ok(Header::Inet {
        source: plain((address(source)?, port(from)?).into()),
        destination: plain((address(destination)?, port(to)?).into()),
    })
}

fn address<T: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<T>().ok().map(Into::into)
}

fn port(text: &str) -> Option<u16> {
    if text.len() > 1 && text.starts_with('0') {
        return None;
    }
    decimal(text.as_ref())
}
