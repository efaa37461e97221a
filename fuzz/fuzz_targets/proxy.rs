//! PROXY headers of both versions. Any bytes are a header, the beginning of one, or malformed, whatever follows. A
//! parsed header is written so that it parses to the same, and its checksum covers it.

#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use skd::net::proxy::{Fault, Header, parse};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|data: &[u8]| {
    match parse(data) {
        Ok(Some((header, length))) => {
            assert!(length <= data.len() && length <= 16 * 1024);
            assert!(length >= 15, "{header:?}");
            for end in [0, 1, length / 2, length - 2, length - 1] {
                assert_eq!(parse(&data[..end]), Ok(None), "{end}");
            }
            assert_eq!(parse(&data[..length]), Ok(Some((header, length))));
            reads_as_the_same(header);
            if data.starts_with(SIGNATURE) {
                checksum(&data[..length], header);
            } else {
                assert!(length <= 107 && data[..length].ends_with(b"\r\n"));
                assert_ne!(header, Header::Unix);
            }
        }
        // The longest header, for which skd would still wait.
        Ok(None) => assert!(data.len() < 16 * 1024),
        Err(Fault::Malformed(why)) => {
            assert!(!why.is_empty() && !why.ends_with('.'));
            // More bytes don't change that, and some prefix already shows it.
            let more = [data, b"\r\n"].concat();
            assert_eq!(parse(&more), Err(Fault::Malformed(why)));
            let seen = (1..=data.len()).find_map(|end| parse(&data[..end]).err());
            assert_eq!(seen, Some(Fault::Malformed(why)));
        }
        Err(other) => panic!("{other:?} of nothing but bytes"),
    }
});

fn reads_as_the_same(header: Header) {
    let Header::Inet {
        source,
        destination,
    } = header
    else {
        return;
    };
    for address in [source, destination] {
        assert_eq!(address.ip().to_canonical(), address.ip(), "a mapped one");
    }
    let v4 = source.is_ipv4() && destination.is_ipv4();
    let address = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) if !v4 => ip.to_ipv6_mapped().into(),
        ip => ip,
    };
    let (one, other) = (address(source), address(destination));
    let (from, to) = (source.port(), destination.port());
    let family = if v4 { 4 } else { 6 };
    let line = format!("PROXY TCP{family} {one} {other} {from} {to}\r\n");
    assert_eq!(parse(line.as_bytes()), Ok(Some((header, line.len()))));

    let mut block = [SIGNATURE, &[0x21, if v4 { 0x11 } else { 0x21 }, 0]].concat();
    block.push(if v4 { 12 } else { 36 });
    for ip in [one, other] {
        match ip {
            IpAddr::V4(ip) => block.extend(ip.octets()),
            IpAddr::V6(ip) => block.extend(ip.octets()),
        }
    }
    block.extend(from.to_be_bytes());
    block.extend(to.to_be_bytes());
    assert_eq!(parse(&block), Ok(Some((header, block.len()))));
}

/// Appends a checksum to a well-formed header. A header that has one already then has two. A LOCAL header may have
/// any bytes after its addresses.
fn checksum(header: &[u8], said: Header) {
    let mut with = [header, &[3, 0, 4, 0, 0, 0, 0]].concat();
    let length = u16::from_be_bytes([with[14], with[15]]) + 7;
    if usize::from(length) + 16 > 16 * 1024 {
        return;
    }
    with[14..16].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c(&with);
    let at = with.len() - 4;
    with[at..].copy_from_slice(&sum.to_be_bytes());
    let whole = with.len();
    match parse(&with) {
        Ok(found) => assert_eq!(found, Some((said, whole))),
        Err(Fault::Malformed(why)) => assert!(why.contains("checksum"), "{why}"),
        Err(other) => panic!("{other:?}"),
    }
    if said != Header::Own && parse(&with).is_ok() {
        for at in [16, whole - 1] {
            with[at] ^= 0x40;
            assert!(parse(&with).is_err(), "{at}");
            with[at] ^= 0x40;
        }
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let sum = bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 * (sum & 1))
        })
    });
    !sum
}
