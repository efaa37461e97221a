//! Version 2 of the PROXY protocol: a binary block.

use std::net::IpAddr;

use super::checksum::crc32c;
use crate::config::plain;
use crate::config::proxy_header::Header;

/// The first 12 bytes of the block.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The length in bytes of the part before the addresses, which ends with the length of the rest.
pub(super) const FIXED: usize = 16;

/// The maximum length of a header in bytes. The length field allows up to 65,551.
///
/// haproxy can send and receive no more than this, since a header must fit into one of its buffers.
/// It is enough for a client certificate, and the receive buffer has several times this size.
pub(super) const LONGEST: usize = 16 * 1024;

/// Parses a block. Returns the header and its length in bytes, or `None` if more bytes are needed.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
    // Check each field as soon as it is there, to refuse other protocols early.
    let fixed = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    let Some(&command) = fixed.first() else {
        return Ok(None);
    };
    let local = match command {
        0x20 => true,
        0x21 => false,
        0x22..=0x2f => return Err("its command is neither LOCAL nor PROXY"),
        _ => return Err("its version isn't 2"),
    };
    let Some(&family) = fixed.get(1) else {
        return Ok(None);
    };
    let addresses = match family {
        0x00 => 0,
        0x11 | 0x12 => 2 * (4 + 2),
        0x21 | 0x22 => 2 * (16 + 2),
        0x31 | 0x32 => 2 * 108,
        // LOCAL ignores the family.
        _ if local => 0,
        _ => return Err("its address family or protocol is unknown"),
    };
    let &[_, _, high, low, ref rest @ ..] = fixed else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = FIXED + length;
    // Ignored addresses and entries may be malformed.
    let ignored = local || family == 0;
    if !ignored && length < addresses {
        return Err("it is shorter than its addresses");
    }
    if whole > LONGEST {
        return Err("it is longer than 16 KiB");
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    match find_checksum(rest, addresses) {
        Ok(Some(at)) if !is_intact(&bytes[..whole], FIXED + at) => {
            return Err("its checksum is wrong");
        }
        Err(why) if !ignored => return Err(why),
        _ => {}
    }
    let header = match family {
        0x11 if !local => inet::<4>(rest),
        0x21 if !local => inet::<16>(rest),
        0x31 if !local => Some(Header::Unix),
        _ => Some(Header::Own),
    };
    Ok(header.map(|header| (header, whole)))
}

/// Parses two addresses and two ports.
fn inet<const N: usize>(bytes: &[u8]) -> Option<Header>
where
    IpAddr: From<[u8; N]>,
{
    let (&source, rest) = bytes.split_first_chunk::<N>()?;
    let (&destination, rest) = rest.split_first_chunk::<N>()?;
    let (&from, rest) = rest.split_first_chunk()?;
    let (&to, _) = rest.split_first_chunk()?;
    let socket = |address: [u8; N], port| plain((address, u16::from_be_bytes(port)).into());
    Some(Header::Inet {
        source: socket(source, from),
        destination: socket(destination, to),
    })
}

/// Returns the offset of the checksum among the type-length-value entries that follow the
/// addresses, if there is one.
fn find_checksum(bytes: &[u8], addresses: usize) -> Result<Option<usize>, &'static str> {
    const CRC32C: u8 = 0x03;
    const BROKEN: &str = "an entry after its addresses is longer than the rest";
    let mut found = None;
    let mut at = addresses;
    let mut rest = bytes.get(addresses..).ok_or(BROKEN)?;
    while !rest.is_empty() {
        let &[kind, high, low, ref values @ ..] = rest else {
            return Err(BROKEN);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        rest = values.get(length..).ok_or(BROKEN)?;
        if kind == CRC32C {
            if length != 4 {
                return Err("its checksum doesn't have 4 bytes");
            }
            if found.replace(at + 3).is_some() {
                return Err("it has two checksums");
            }
        }
        at += 3 + length;
    }
    Ok(found)
}

/// Whether the checksum at this offset is that of the whole header with the checksum set to zero.
fn is_intact(header: &[u8], at: usize) -> bool {
    let (before, rest) = header.split_at(at);
    let Some((&sum, after)) = rest.split_first_chunk::<4>() else {
        return false;
    };
    let all = [before, &[0; 4], after];
    let actual = all.iter().fold(!0, |sum, part| crc32c(sum, part));
    !actual == u32::from_be_bytes(sum)
}
