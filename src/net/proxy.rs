//! The PROXY protocol, versions 1 and 2, as haproxy's doc/proxy-protocol.txt has it: a header
//! in front of all else that a connection carries, in which a proxy says who its client is.
//!
//! A header is looked at where it lies (recv(2), `MSG_PEEK`), nobody waits for it, and once
//! it is there it is taken away to the byte: what follows is the handler's. So the whole of it
//! has to fit into the receive buffer. What doesn't fit together comes to its end by the time
//! limit, as what never comes does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use socket2::Socket;

use crate::config::{decimal, plain};
use crate::sys::sockets::{is_shut_down, receive_now};

pub use crate::config::proxy_header::{Fault, Header};

/// What was found at the beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A header, now taken away.
    Header(Header),
    /// Not all of one yet, or nothing.
    Incomplete {
        /// Whether any byte has come.
        begun: bool,
    },
    /// None, and there will be none.
    Fault(Fault),
}

/// Version 1: a line, of which this is the beginning, and how long it may be with its end.
const LINE: &[u8] = b"PROXY ";
const LONGEST_LINE: usize = 107;

/// Version 2: 16 bytes with the length of what follows, of which these are the first.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;

/// The longest header that is taken, where the length field would allow 65,551 bytes: as much
/// as haproxy, in which it must fit into one buffer, can itself send or receive. It
/// leaves room for a certificate of the client's, and a receive buffer of the usual size holds
/// it several times.
const LONGEST: usize = 16 * 1024;

/// What hardly any header exceeds: the protocol wants one to fit into the smallest segment that
/// every host takes.
const USUAL: usize = 536;

/// The beginning of a connection, read as a header: what it says and how long it is, or
/// nothing if more must come.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let agrees = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    let parsed = if agrees(SIGNATURE) {
        binary(bytes)
    } else if agrees(LINE) {
        line(bytes)
    } else {
        Err("it begins as neither version does")
    };
    parsed.map_err(Fault::Malformed)
}

type Parsed = Result<Option<(Header, usize)>, &'static str>;

fn line(bytes: &[u8]) -> Parsed {
    let bytes = &bytes[..bytes.len().min(LONGEST_LINE)];
    let full = bytes.len() == LONGEST_LINE;
    // Looked for together: neither ends the line without the other, or is part of it.
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
    let text = &bytes[LINE.len()..end];
    let header = if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        Header::Own
    } else {
        known(text)?
    };
    Ok(Some((header, end + 2)))
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, or the same of TCP6.
fn known(text: &[u8]) -> Result<Header, &'static str> {
    let text = str::from_utf8(text).map_err(|_| "its line isn't in ASCII")?;
    let mut words = [""; 5];
    let mut rest = text.split(' ');
    for word in &mut words {
        *word = rest.next().ok_or("its line has too few words")?;
    }
    if rest.next().is_some() {
        return Err("its line has too many words, or blanks");
    }
    let [family, source, destination, from, to] = words;
    let address: fn(&str) -> Option<IpAddr> = match family {
        "TCP4" => address::<Ipv4Addr>,
        // haproxy, too, writes ::ffff:192.0.2.1 where one side of a connection is IPv4.
        "TCP6" => address::<Ipv6Addr>,
        _ => return Err("its protocol is none of TCP4, TCP6 and UNKNOWN"),
    };
    let address = |text| address(text).ok_or("an address is none of its family");
    let port = |text| port(text).ok_or("a port is no number from 0 to 65535");
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

fn binary(bytes: &[u8]) -> Parsed {
    // Each field as soon as it is there: what is none ends at once.
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
        // It is ignored there.
        _ if local => 0,
        _ => return Err("its family and protocol are none that there are"),
    };
    let &[_, _, high, low, ref rest @ ..] = fixed else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = FIXED + length;
    // What is ignored needn't be what it says.
    let ignored = local || family == 0;
    if !ignored && length < addresses {
        return Err("its length is less than that of its addresses");
    }
    if whole > LONGEST {
        return Err("it has more than 16 KiB");
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    match find_checksum(rest, addresses) {
        Ok(Some(at)) if !is_intact(&bytes[..whole], FIXED + at) => {
            return Err("its checksum isn't that of what it says");
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

/// Two addresses and two ports.
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

/// Goes through the type-length-value entries that follow the addresses; says where the
/// checksum is, if there is one.
fn find_checksum(bytes: &[u8], addresses: usize) -> Result<Option<usize>, &'static str> {
    const CRC32C: u8 = 0x03;
    const BROKEN: &str = "an entry behind its addresses is longer than what is left";
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

/// Whether the checksum at this place is that of the whole header, itself being zero.
fn is_intact(header: &[u8], at: usize) -> bool {
    let (before, rest) = header.split_at(at);
    let Some((&sum, after)) = rest.split_first_chunk::<4>() else {
        return false;
    };
    let all = [before, &[0; 4], after];
    let actual = all.iter().fold(!0, |sum, part| crc32c(sum, part));
    !actual == u32::from_be_bytes(sum)
}

/// Goes on with a checksum (RFC 3720, 12.1, which begins and ends with all bits turned).
fn crc32c(sum: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut sum = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
                bit += 1;
            }
            table[byte] = sum;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(sum, |sum, byte| {
        (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)]
    })
}

/// Takes the header at the beginning of a connection if all of it has come. To be called when
/// the connection may have become readable; whatever comes makes one edge (epoll(7),
/// `EPOLLET`), though nothing is taken away, and so does the end.
pub fn receive(connection: &Socket) -> Received {
    let result = match take::<USUAL>(connection) {
        Ok(Taken::Short) => take::<LONGEST>(connection),
        result => result,
    };
    match result {
        Ok(Taken::Header(header)) => Received::Header(header),
        Ok(Taken::Incomplete { begun }) => Received::Incomplete { begun },
        // It can't be: what is longer isn't waited for.
        Ok(Taken::Short) => Received::Fault(Fault::Failed(Errno::EMSGSIZE)),
        Err(fault) => Received::Fault(fault),
    }
}

enum Taken {
    Header(Header),
    Incomplete {
        begun: bool,
    },
    /// The room was too small for what has come.
    Short,
}

/// Never inlined: the room is on the stack for as long as it is needed.
#[inline(never)]
fn take<const ROOM: usize>(connection: &Socket) -> Result<Taken, Fault> {
    let mut room = [0; ROOM];
    let mut ended = false;
    loop {
        let seen = match receive_now(connection, &mut room, MsgFlags::MSG_PEEK) {
            Ok(0) => return Err(Fault::Ended),
            Ok(seen) => seen,
            Err(Errno::EAGAIN) => return Ok(Taken::Incomplete { begun: false }),
            Err(errno) => return Err(Fault::Failed(errno)),
        };
        if let Some((header, length)) = parse(&room[..seen])? {
            consume(connection, &mut room[..length])?;
            return Ok(Taken::Header(header));
        }
        if seen == ROOM {
            return Ok(Taken::Short);
        }
        // An end behind a part looks like no end. What came before it came before it was seen,
        // so after that one more look sees all there will ever be.
        if ended {
            return Err(Fault::Ended);
        }
        ended = is_shut_down(connection);
        if !ended {
            return Ok(Taken::Incomplete { begun: true });
        }
    }
}

/// Takes away what was seen, and so is there.
fn consume(connection: &Socket, mut header: &mut [u8]) -> Result<(), Fault> {
    while !header.is_empty() {
        let taken = receive_now(connection, header, MsgFlags::empty()).map_err(Fault::Failed)?;
        if taken == 0 {
            return Err(Fault::Ended);
        }
        header = &mut header[taken..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use crate::sys::events::{Interest, Poller, no_events};

    /// A header of version 2 without its entries.
    #[derive(Clone, Debug)]
    struct Binary {
        command: u8,
        family: u8,
        addresses: Vec<u8>,
    }

    impl Binary {
        fn with(&self, entries: &[u8]) -> Vec<u8> {
            let length = u16::try_from(self.addresses.len() + entries.len()).unwrap();
            [
                SIGNATURE,
                &[self.command, self.family],
                &length.to_be_bytes(),
                &self.addresses,
                entries,
            ]
            .concat()
        }

        /// Between two lots of entries, the checksum.
        fn with_checksum(&self, before: &[u8], after: &[u8]) -> Vec<u8> {
            let entries = [before, &[3, 0, 4, 0, 0, 0, 0], after].concat();
            let mut header = self.with(&entries);
            let at = header.len() - after.len() - 4;
            let sum = bitwise(&header);
            header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
            header
        }
    }

    /// The checksum by its definition.
    fn bitwise(bytes: &[u8]) -> u32 {
        let mut sum = !0_u32;
        for byte in bytes {
            for bit in 0..8 {
                let odd = (sum ^ u32::from(byte >> bit)) & 1 == 1;
                sum = (sum >> 1) ^ if odd { 0x82f6_3b78 } else { 0 };
            }
        }
        !sum
    }

    fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap();
        [&[kind], &length.to_be_bytes()[..], value].concat()
    }

    fn inet(source: SocketAddr, destination: SocketAddr) -> Binary {
        let mut addresses = Vec::new();
        for address in [source, destination] {
            match address.ip() {
                IpAddr::V4(v4) => addresses.extend(v4.octets()),
                IpAddr::V6(v6) => addresses.extend(v6.octets()),
            }
        }
        addresses.extend(source.port().to_be_bytes());
        addresses.extend(destination.port().to_be_bytes());
        Binary {
            command: 0x21,
            family: if source.is_ipv4() { 0x11 } else { 0x21 },
            addresses,
        }
    }

    fn text(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let family = if source.is_ipv4() { 4 } else { 6 };
        let (from, to) = (source.port(), destination.port());
        let (source, destination) = (source.ip(), destination.ip());
        format!("PROXY TCP{family} {source} {destination} {from} {to}\r\n").into_bytes()
    }

    fn pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let v6 = prop_oneof![
            any::<[u8; 16]>(),
            any::<[u8; 4]>().prop_map(|v4| Ipv4Addr::from(v4).to_ipv6_mapped().octets()),
        ];
        let v4 = any::<(([u8; 4], u16), ([u8; 4], u16))>()
            .prop_map(|(one, other)| (SocketAddr::from(one), SocketAddr::from(other)));
        let v6 = ((v6.clone(), any::<u16>()), (v6, any::<u16>()))
            .prop_map(|(one, other)| (SocketAddr::from(one), SocketAddr::from(other)));
        prop_oneof![v4, v6]
    }

    /// Entries that are none of the checksum.
    fn entries() -> impl Strategy<Value = Vec<u8>> {
        let kind = any::<u8>().prop_filter("a checksum", |kind| *kind != 3);
        let one = (kind, prop::collection::vec(any::<u8>(), 0..20));
        prop::collection::vec(one, 0..4).prop_map(|all| {
            all.iter()
                .flat_map(|(kind, value)| entry(*kind, value))
                .collect()
        })
    }

    /// Any header, and what it says.
    fn header() -> impl Strategy<Value = (Vec<u8>, Header)> {
        let said = |(source, destination): (SocketAddr, SocketAddr)| Header::Inet {
            source: plain(source),
            destination: plain(destination),
        };
        let known = move |pair, datagram| match datagram {
            true => Header::Own,
            false => said(pair),
        };
        let unix = |datagram| match datagram {
            true => Header::Own,
            false => Header::Unix,
        };
        let finish = |binary: &Binary, entries: &(Vec<u8>, Vec<u8>), sum| match sum {
            true => binary.with_checksum(&entries.0, &entries.1),
            false => binary.with(&entries.0),
        };
        let both = || (entries(), entries());
        prop_oneof![
            pair().prop_map(move |pair| (text(pair.0, pair.1), said(pair))),
            "PROXY UNKNOWN( [^\r\n\u{80}-\u{10ffff}]{0,91})?\r\n"
                .prop_map(|line| (line.into_bytes(), Header::Own)),
            (pair(), both(), any::<bool>(), any::<bool>()).prop_map(
                move |(pair, entries, sum, datagram)| {
                    let mut binary = inet(pair.0, pair.1);
                    binary.family += u8::from(datagram);
                    (finish(&binary, &entries, sum), known(pair, datagram))
                }
            ),
            (
                any::<[[u8; 108]; 2]>(),
                both(),
                any::<bool>(),
                any::<bool>()
            )
                .prop_map(move |(addresses, entries, sum, datagram)| {
                    let binary = Binary {
                        command: 0x21,
                        family: 0x31 + u8::from(datagram),
                        addresses: addresses.concat(),
                    };
                    (finish(&binary, &entries, sum), unix(datagram))
                }),
            (both(), any::<bool>(), any::<bool>()).prop_map(move |(entries, sum, local)| {
                let binary = Binary {
                    command: 0x21 - u8::from(local),
                    family: 0,
                    addresses: Vec::new(),
                };
                (finish(&binary, &entries, sum), Header::Own)
            }),
        ]
    }

    fn read(bytes: impl AsRef<[u8]>) -> Result<Option<(Header, usize)>, Fault> {
        parse(bytes.as_ref())
    }

    fn refusal(bytes: impl AsRef<[u8]>) -> String {
        read(bytes).expect_err("it was taken").to_string()
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_whatever_follows_and_every_part_of_it_is_incomplete(
            (header, said) in header(),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let whole = [&*header, &rest].concat();
            prop_assert_eq!(read(&whole), Ok(Some((said, header.len()))));
            for end in 0..header.len() {
                prop_assert_eq!(read(&header[..end]), Ok(None), "{}", end);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            for start in [&b""[..], SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0", LINE, b"PROXY TCP4 "] {
                let bytes = [start, &bytes].concat();
                if let Ok(Some((_, length))) = read(&bytes) {
                    prop_assert!(length <= bytes.len());
                    // What follows has no part in it.
                    prop_assert_eq!(read(&bytes[..length]), read(&bytes));
                    prop_assert_eq!(read(&bytes[..length - 1]), Ok(None));
                } else if read(&bytes).is_err() {
                    // More can't make it better.
                    prop_assert_eq!(read([&*bytes, b"\r\n\0"].concat()), read(&bytes));
                }
            }
        }

        #[test]
        fn what_the_checksum_covers_can_not_be_changed(
            (source, destination) in pair(),
            value in prop::collection::vec(any::<u8>(), 1..40),
            at in any::<prop::sample::Index>(),
            bit in 0..8,
        ) {
            let binary = inet(source, destination);
            let mut header = binary.with_checksum(&entry(2, &value), &entry(5, &value));
            prop_assert!(matches!(read(&header), Ok(Some(_))));
            // Values only: another length or type can move the checksum out of sight.
            let entries = FIXED + binary.addresses.len();
            let sum = entries + 3 + value.len();
            let values: Vec<usize> = (FIXED..entries)
                .chain(entries + 3..sum)
                .chain(sum + 3..sum + 7)
                .chain(sum + 10..header.len())
                .collect();
            header[*at.get(&values)] ^= 1_u8 << bit;
            prop_assert!(refusal(&header).contains("checksum"));
        }
    }

    #[test]
    fn no_bit_of_a_header_with_a_checksum_can_be_turned() {
        let (v4, v6) = ("192.0.2.1:1", "[2001:db8:1:2:3:4:5:6]:1");
        let mut all: Vec<Binary> = [v4, v6]
            .map(|text| inet(text.parse().unwrap(), text.parse().unwrap()))
            .into();
        all.push(Binary {
            command: 0x21,
            family: 0x31,
            addresses: vec![b'x'; 216],
        });
        all.push(Binary {
            command: 0x20,
            family: 0,
            addresses: Vec::new(),
        });
        for binary in all {
            let header = binary.with_checksum(b"", b"");
            assert!(matches!(read(&header), Ok(Some(_))));
            let kind = header.len() - 7;
            for bit in 0..header.len() * 8 {
                let mut turned = header.clone();
                turned[bit / 8] ^= 1 << (bit % 8);
                match read(&turned) {
                    Err(_) => {}
                    // Longer, as it says now.
                    Ok(None) => assert!(bit / 8 == 14 || bit / 8 == 15, "{bit}"),
                    // Another type makes it something else; and where nobody says that there
                    // are entries, other lengths.
                    Ok(Some(_)) => {
                        let at = bit / 8;
                        let length = [14, 15, kind + 1, kind + 2].contains(&at);
                        let may = at == kind || binary.family == 0 && length;
                        assert!(may, "bit {bit} of {header:x?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        // RFC 3720, B.4.
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(bitwise(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_lines_of_the_specification_are_read() {
        let line = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        let said = Header::Inet {
            source: "192.168.0.1:56324".parse().unwrap(),
            destination: "192.168.0.11:443".parse().unwrap(),
        };
        let with_request = format!("{line}GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n");
        assert_eq!(read(with_request), Ok(Some((said, line.len()))));
        let f = "ffff:".repeat(7) + "ffff";
        let longest = format!("PROXY UNKNOWN {f} {f} 65535 65535\r\n");
        assert_eq!(longest.len(), 107);
        assert_eq!(read(&longest), Ok(Some((Header::Own, 107))));
        let mapped = "PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:C000:202 0 65535\r\n";
        let Ok(Some((
            Header::Inet {
                source,
                destination,
            },
            _,
        ))) = read(mapped)
        else {
            panic!("{:?}", read(mapped));
        };
        assert_eq!(source, "192.0.2.1:0".parse().unwrap());
        assert_eq!(destination, "192.0.2.2:65535".parse().unwrap());
    }

    #[test]
    fn a_line_that_is_not_exactly_one_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r ",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 2001:db8::1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 2001:db8::1%lo 2001:db8::2 1 2\r\n",
            "PROXY TCP6 2001:db8:::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 1:2:3:4:5:6:7 2001:db8::2 1 2\r\n",
            "PROXY TCP6 1:2:3:4:5:6:7:8:9 2001:db8::2 1 2\r\n",
            "PROXY TCP6 [2001:db8::1] 2001:db8::2 1 2\r\n",
            "PROXY TCP6 12345:: 2001:db8::2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 00 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 0x1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2  \r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY \r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN x\n\r\n",
            "PROXY UNKNOWN x\ry\r\n",
            "proxy UNKNOWN\r\n",
            "PROXY UNKNOWN\n",
            "PROXYUNKNOWN\r\n",
            " PROXY UNKNOWN\r\n",
            "GET / HTTP/1.1\r\n",
            "\r\n\r\nPROXY",
            "P ",
        ] {
            assert!(refusal(line).starts_with("no PROXY header: "), "{line:?}");
        }
        let long = |length: usize| format!("PROXY UNKNOWN {}", "x".repeat(length - 14));
        assert_eq!(read(long(106)), Ok(None));
        assert_eq!(read(long(105) + "\r"), Ok(None));
        for (line, end) in [(long(107), ""), (long(106), "\r\n"), (long(106), "\r")] {
            assert!(refusal(line + end).contains("too long"), "{end:?}");
        }
    }

    #[test]
    fn a_block_that_is_not_exactly_one_is_refused_as_early_as_that_can_be_seen() {
        let v4 = inet(
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.2:2".parse().unwrap(),
        );
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut header = v4.with(&entry(4, b"xyz"));
            change(&mut header);
            header
        };
        for (header, seen, why) in [
            (with(&|header| header[0] = b'\n'), 1, "neither version"),
            (with(&|header| header[11] = b'\r'), 12, "neither version"),
            (with(&|header| header[12] = 0x11), 13, "version isn't 2"),
            (with(&|header| header[12] = 0x31), 13, "version isn't 2"),
            (with(&|header| header[12] = 0x22), 13, "neither LOCAL nor"),
            (with(&|header| header[12] = 0x2f), 13, "neither LOCAL nor"),
            (with(&|header| header[13] = 0x10), 14, "family"),
            (with(&|header| header[13] = 0x01), 14, "family"),
            (with(&|header| header[13] = 0x13), 14, "family"),
            (with(&|header| header[13] = 0x41), 14, "family"),
            (
                with(&|header| header[15] = 11),
                16,
                "less than that of its addr",
            ),
            (
                with(&|header| header[13] = 0x21),
                16,
                "less than that of its addr",
            ),
            (
                with(&|header| header[13] = 0x32),
                16,
                "less than that of its addr",
            ),
            (with(&|header| header[14] = 0x40), 16, "16 KiB"),
            (
                with(&|header| header[30] = 4),
                34,
                "longer than what is left",
            ),
            (
                with(&|header| header[15] -= 1),
                33,
                "longer than what is left",
            ),
            (v4.with(&[4]), 29, "longer than what is left"),
            (v4.with(&[4, 0]), 30, "longer than what is left"),
            (v4.with(&[3, 0, 3, 0, 0, 0]), 34, "doesn't have 4"),
            (v4.with(&[3, 0, 4, 0, 0, 0, 0]), 35, "isn't that of what"),
            (v4.with_checksum(b"", &[3, 0, 4, 0, 0, 0, 0]), 42, "two"),
        ] {
            assert_eq!(read(&header[..seen - 1]), Ok(None), "{why}");
            assert!(
                refusal(&header[..seen]).contains(why),
                "{}",
                refusal(&header)
            );
        }
        // A length that is too great is no reason to wait.
        let largest = Binary {
            addresses: vec![0; LONGEST - FIXED],
            ..v4.clone()
        };
        let largest = Binary {
            command: 0x20,
            ..largest
        };
        assert_eq!(read(largest.with(b"")), Ok(Some((Header::Own, LONGEST))));
        assert!(refusal(&largest.with(b"x")[..16]).contains("16 KiB"));
    }

    #[test]
    fn what_is_local_is_the_proxy_s_own_whatever_else_it_says() {
        for (command, family, rest) in [
            (0x20, 0x00, &b""[..]),
            (0x20, 0x11, b""),
            (0x20, 0x11, &[192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2]),
            (0x20, 0xff, b"whatever it is"),
            (0x20, 0x00, b"no entries"),
            (0x21, 0x00, b""),
            (0x21, 0x00, b"some address of another world"),
            (0x21, 0x12, &[192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2]),
        ] {
            let addresses = rest.to_vec();
            let header = Binary {
                command,
                family,
                addresses,
            }
            .with(b"");
            assert_eq!(read(&header), Ok(Some((Header::Own, header.len()))));
        }
        // haproxy's, for a check of health, may have a checksum.
        let own = Binary {
            command: 0x20,
            family: 0,
            addresses: Vec::new(),
        };
        let mut header = own.with_checksum(b"", b"");
        assert_eq!(read(&header), Ok(Some((Header::Own, 23))));
        header[22] ^= 1;
        assert!(refusal(&header).contains("checksum"));
    }

    fn tcp() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().unwrap().0.into())
    }

    fn unix() -> (UnixStream, Socket) {
        let (client, server) = UnixStream::pair().unwrap();
        (client, server.into())
    }

    /// Waits for an edge, as the room does.
    fn edge(poller: &Poller) {
        let mut events = no_events();
        let found = poller.wait(&mut events, Some(Duration::from_secs(60)));
        assert_eq!(found.unwrap().count(), 1, "no edge");
    }

    fn watched(connection: &Socket) -> Poller {
        let poller = Poller::new().unwrap();
        poller.add(connection, Interest::ReadableEdge, 0).unwrap();
        poller
    }

    fn rest(mut connection: Socket) -> String {
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    }

    fn samples() -> Vec<Vec<u8>> {
        let (v4, v6) = (
            "192.0.2.1:1".parse().unwrap(),
            "[2001:db8::1]:2".parse().unwrap(),
        );
        vec![
            text(v4, v4),
            text(v6, v6),
            b"PROXY UNKNOWN\r\n".to_vec(),
            inet(v4, v4).with(b""),
            inet(v6, v6).with_checksum(&entry(2, b"example.org"), b""),
        ]
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn exactly_the_header_is_taken() {
        for header in samples() {
            let said = Received::Header(read(&header).unwrap().unwrap().0);
            for follows in ["", "\r\n", "PROXY UNKNOWN\r\n", "abc"] {
                let whole = [&*header, follows.as_bytes()].concat();
                let (mut client, connection) = tcp();
                let poller = watched(&connection);
                client.write_all(&whole).unwrap();
                edge(&poller);
                assert_eq!(receive(&connection), said);
                drop(client);
                assert_eq!(rest(connection), follows);

                let (mut client, connection) = unix();
                client.write_all(&whole).unwrap();
                assert_eq!(receive(&connection), said);
                drop(client);
                assert_eq!(rest(connection), follows);
            }
        }
    }

    fn byte_by_byte<S: Write>(header: &[u8], (mut client, connection): (S, Socket)) {
        let poller = watched(&connection);
        assert_eq!(receive(&connection), Received::Incomplete { begun: false });
        let (last, first) = header.split_last().unwrap();
        for byte in first {
            client.write_all(&[*byte]).unwrap();
            edge(&poller);
            assert_eq!(receive(&connection), Received::Incomplete { begun: true });
            // Told once, though it stays there.
            let mut events = no_events();
            let more = poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
            assert_eq!(more.count(), 0);
        }
        client.write_all(&[*last]).unwrap();
        edge(&poller);
        let said = Received::Header(read(header).unwrap().unwrap().0);
        assert_eq!(receive(&connection), said);
        client.write_all(b"x").unwrap();
        drop(client);
        assert_eq!(rest(connection), "x");
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn each_byte_of_a_header_makes_one_edge() {
        for header in samples() {
            byte_by_byte(&header, tcp());
            byte_by_byte(&header, unix());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn the_longest_header_is_taken_whole_or_in_pieces() {
        let own = Binary {
            command: 0x20,
            family: 0,
            addresses: Vec::new(),
        };
        let header = own.with_checksum(&entry(4, &vec![b'x'; LONGEST - FIXED - 7 - 3]), b"");
        assert_eq!(header.len(), LONGEST);
        fn pieces<S: Write>(header: &[u8], size: usize, (mut client, connection): (S, Socket)) {
            let poller = watched(&connection);
            let mut received = Received::Incomplete { begun: false };
            for piece in header.chunks(size) {
                assert!(matches!(received, Received::Incomplete { .. }));
                client.write_all(piece).unwrap();
                edge(&poller);
                received = receive(&connection);
            }
            // Its last bytes may come in another segment.
            while let Received::Incomplete { .. } = received {
                edge(&poller);
                received = receive(&connection);
            }
            assert_eq!(received, Received::Header(Header::Own));
            client.write_all(b"x").unwrap();
            drop(client);
            assert_eq!(rest(connection), "x");
        }
        for size in [LONGEST, 1000, 536, 535, 100] {
            pieces(&header, size, tcp());
            pieces(&header, size, unix());
        }
        pieces(&header, 10, tcp());
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn an_end_or_a_reset_is_told_from_what_comes_later() {
        let header = samples().remove(0);
        for part in [0, 1, 5, header.len() - 1] {
            let (mut client, connection) = tcp();
            let poller = watched(&connection);
            if part > 0 {
                client.write_all(&header[..part]).unwrap();
                edge(&poller);
                assert_eq!(receive(&connection), Received::Incomplete { begun: true });
            }
            client.shutdown(Shutdown::Write).unwrap();
            edge(&poller);
            assert_eq!(receive(&connection), Received::Fault(Fault::Ended));

            let (mut client, connection) = unix();
            client.write_all(&header[..part]).unwrap();
            drop(client);
            assert_eq!(receive(&connection), Received::Fault(Fault::Ended));

            let (mut client, connection) = tcp();
            let poller = watched(&connection);
            client.write_all(&header[..part]).unwrap();
            let client = Socket::from(client);
            client.set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            edge(&poller);
            // A part that has come can still be seen.
            let found = receive(&connection);
            let Received::Fault(Fault::Ended | Fault::Failed(Errno::ECONNRESET)) = found else {
                panic!("{found:?}");
            };
        }
        // An end behind the header is the handler's business.
        let (mut client, connection) = tcp();
        let poller = watched(&connection);
        client.write_all(&header).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        edge(&poller);
        assert!(matches!(receive(&connection), Received::Header(_)));
        assert_eq!(rest(connection), "");
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn what_is_no_header_is_left_where_it_is() {
        let (mut client, connection) = unix();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let Received::Fault(Fault::Malformed(_)) = receive(&connection) else {
            panic!();
        };
        drop(client);
        assert_eq!(rest(connection), "GET / HTTP/1.1\r\n\r\n");
    }
}
