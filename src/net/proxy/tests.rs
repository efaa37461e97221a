//! Tests of parsing and receiving headers.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use proptest::prelude::*;
use socket2::Socket;

use super::checksum::crc32c;
use super::v1::PREFIX;
use super::v2::{FIXED, LONGEST, SIGNATURE};
use super::{Fault, Header, Received, parse, receive};
use crate::config::plain;
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

    /// The block with these entries and a checksum between them.
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

/// Entries other than a checksum.
fn entries() -> impl Strategy<Value = Vec<u8>> {
    let kind = any::<u8>().prop_filter("a checksum", |kind| *kind != 3);
    let one = (kind, prop::collection::vec(any::<u8>(), 0..20));
    prop::collection::vec(one, 0..4).prop_map(|all| {
        all.iter()
            .flat_map(|(kind, value)| entry(*kind, value))
            .collect()
    })
}

/// Any header as bytes, and what it means.
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
        for start in [&b""[..], SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0", PREFIX, b"PROXY TCP4 "] {
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
            "shorter than its addresses",
        ),
        (
            with(&|header| header[13] = 0x21),
            16,
            "shorter than its addresses",
        ),
        (
            with(&|header| header[13] = 0x32),
            16,
            "shorter than its addresses",
        ),
        (with(&|header| header[14] = 0x40), 16, "16 KiB"),
        (with(&|header| header[30] = 4), 34, "longer than the rest"),
        (with(&|header| header[15] -= 1), 33, "longer than the rest"),
        (v4.with(&[4]), 29, "longer than the rest"),
        (v4.with(&[4, 0]), 30, "longer than the rest"),
        (v4.with(&[3, 0, 3, 0, 0, 0]), 34, "doesn't have 4"),
        (v4.with(&[3, 0, 4, 0, 0, 0, 0]), 35, "checksum is wrong"),
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

/// Waits for an edge, like a thread that serves.
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
