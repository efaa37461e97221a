//! Datagrams that claim to come from skd's own sockets (CVE-2024-2169).

use crate::harness::{Namespace, Running, Skd, ask_udp, requires_root};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A packet with a UDP datagram (RFC 791, RFC 8200, RFC 768) and any source address.
fn packet(from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let length = 8 + bytes.len() as u16;
    let ips = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => panic!("{from} and {to} are of different families"),
    };
    let mut udp = [from.port(), to.port(), length, 0]
        .map(u16::to_be_bytes)
        .concat();
    udp.extend(bytes);
    // IPv6 needs the checksum, with which the sum of all is zero.
    let mut all = [&ips[..], &[0, 17], &length.to_be_bytes(), &udp].concat();
    all.resize(all.len().next_multiple_of(2), 0);
    let words = all
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    udp[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut packet = match from {
        // The kernel fills in the length and the checksum of the packet.
        SocketAddr::V4(_) => vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0],
        SocketAddr::V6(_) => {
            let [high, low] = length.to_be_bytes();
            vec![0x60, 0, 0, 0, high, low, 17, 64]
        }
    };
    packet.extend(ips);
    packet.extend(udp);
    packet
}

fn forge(from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let raw = Socket::new(Domain::for_address(to), Type::RAW, Some(raw)).unwrap();
    // The port of a raw address means something else.
    let address = SocketAddr::new(to.ip(), 0);
    raw.send_to(&packet(from, to, bytes), &address.into())
        .unwrap();
}

fn echo(namespace: &Namespace, mode: &str, listeners: &[&str]) -> Running {
    let listeners = listeners.iter().flat_map(|listener| ["-u", listener]);
    let program = match mode {
        "per-packet" => "cat",
        _ => "$| = 1; while (sysread(STDIN, my $bytes, 9000)) { syswrite(STDOUT, $bytes) }",
    };
    let skd = Skd::new(["-v", "--datagram-mode", mode])
        .args(listeners)
        .throttle(Duration::from_millis(10))
        .inside(namespace);
    match mode {
        "per-packet" => skd.run(program),
        _ => skd.run_with("perl", ["-e", program]),
    }
}

/// Sends datagrams that are dropped, and then others that are answered.
#[track_caller]
fn expect_dropped(namespace: &Namespace, skd: &Running, pairs: &[(&str, &str)]) {
    for (from, to) in pairs {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        namespace.enter(|| forge(from, to, b"forged"));
    }
    let dropped = || {
        let lines = skd.logged("to come from skd's own sockets");
        let count = |line: &String| line.split(' ').nth(1)?.parse::<usize>().ok();
        lines.iter().filter_map(count).sum::<usize>()
    };
    skd.wait_until("all are dropped, once each", || dropped() == pairs.len());
    for address in skd.addresses() {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(ip) if ip.is_unspecified() => "::1".parse().unwrap(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, address.port());
        assert_eq!(namespace.enter(|| ask_udp(address, b"own")), b"own");
    }
    // None came back as an answer to one of them.
    assert_eq!(dropped(), pairs.len());
    for (from, _) in pairs {
        let from: SocketAddr = from.parse().unwrap();
        let sender = format!(" from [{}]:{}", from.ip(), from.port());
        assert_eq!(skd.logged(&sender), [""; 0]);
    }
}

#[test]
fn a_service_does_not_answer_itself_or_another_of_the_same_skd() {
    requires_root();
    for mode in ["per-packet", "per-peer"] {
        let namespace = Namespace::new();
        namespace.add_address("192.0.2.1/32");
        let listeners = ["127.0.0.1:7007", "192.0.2.1:7008", "[::1]:7007"];
        let skd = echo(&namespace, mode, &listeners);
        expect_dropped(
            &namespace,
            &skd,
            &[
                ("127.0.0.1:7007", "127.0.0.1:7007"),
                ("192.0.2.1:7008", "127.0.0.1:7007"),
                ("127.0.0.1:7007", "192.0.2.1:7008"),
                ("[::1]:7007", "[::1]:7007"),
            ],
        );
        // Neither the port nor the address alone makes one.
        for from in ["127.0.0.2:7007", "127.0.0.1:7009"] {
            let from = from.parse().unwrap();
            namespace.enter(|| forge(from, "127.0.0.1:7007".parse().unwrap(), b"other"));
            skd.wait_for_log(&format!(
                "Accepted datagram from [{}]:{}",
                from.ip(),
                from.port()
            ));
        }
    }
}

#[test]
fn a_service_on_all_addresses_knows_them() {
    requires_root();
    for mode in ["per-packet", "per-peer"] {
        let namespace = Namespace::new();
        namespace.add_address("192.0.2.1/32");
        let skd = echo(&namespace, mode, &["7007"]);
        expect_dropped(
            &namespace,
            &skd,
            &[
                ("127.0.0.1:7007", "127.0.0.1:7007"),
                ("127.0.0.9:7007", "127.0.0.1:7007"),
                ("192.0.2.1:7007", "192.0.2.1:7007"),
                ("192.0.2.1:7007", "127.0.0.1:7007"),
                ("[::1]:7007", "[::1]:7007"),
            ],
        );
        let from: SocketAddr = "192.0.2.9:7007".parse().unwrap();
        namespace.enter(|| forge(from, "127.0.0.1:7007".parse().unwrap(), b"other"));
        skd.wait_for_log("Accepted datagram from [192.0.2.9]:7007");
    }
}
