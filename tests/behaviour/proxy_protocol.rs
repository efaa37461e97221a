//! PROXY headers: which peers may and must send one, what it says, and that nothing else is taken for one. The parser's
//! own tests cover each of its bytes.

use crate::harness::{
    Conversation, DEADLINE, Directory, Namespace, Running, Skd, connect, connect_unix, echo,
    poll_for, requires_command, talk, try_talk, wait_for, wait_for_text,
};
use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Prints the variables of the connection, an empty line, and the input.
const SHOW: &str = "env | grep -E '^(PROTO|TCP|REMOTE_|UNIX|PEER|SKD_)' | LC_ALL=C sort; echo; cat";

const LOOPBACK: [&str; 3] = ["--proxy-protocol", "--proxy-from", "127.0.0.1"];

/// A listener of TCP behind proxies on this machine.
fn skd() -> Skd {
    Skd::new(["-vt", "127.0.0.1:0"]).args(LOOPBACK)
}

fn show(skd: Skd) -> Running {
    skd.run_with("sh", ["-c", SHOW])
}

/// Parses the output of [`SHOW`]: variables and input.
fn shown(answer: &[u8]) -> (Vec<String>, String) {
    let text = String::from_utf8_lossy(answer);
    let (variables, told) = text.split_once("\n\n").expect("an empty line");
    let variables = variables.lines().map(str::to_owned).collect();
    (variables, told.to_owned())
}

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let head = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length];
    [&head.concat(), rest].concat()
}

/// The same with a checksum as its last entry.
fn with_checksum(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = binary(command, family, &[rest, &[3, 0, 4, 0, 0, 0, 0]].concat());
    let sum = header.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 * (sum & 1))
        })
    });
    let at = header.len() - 4;
    header[at..].copy_from_slice(&(!sum).to_be_bytes());
    header
}

/// 192.0.2.1, port 1234, to 192.0.2.2, port 80.
const V4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x04, 0xd2, 0, 80];

/// The same of 2001:db8::1 and 2001:db8::2.
fn inet6() -> Vec<u8> {
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    [&ip("2001:db8::1")[..], &ip("2001:db8::2"), &V4[8..]].concat()
}

/// The variables for a client of these headers, without those of the proxy.
fn expected(client: &str, called: &str) -> Vec<String> {
    [
        "PROTO=TCP".into(),
        format!("REMOTE_ADDR={client}"),
        "REMOTE_PORT=1234".into(),
        format!("TCPLOCALIP={called}"),
        "TCPLOCALPORT=80".into(),
        format!("TCPREMOTEIP={client}"),
        "TCPREMOTEPORT=1234".into(),
    ]
    .into()
}

/// Headers with a client's address and its destination.
fn headers() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let (v4, v6) = (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"));
    let entries = [&V4[..], b"\x02\0\x0bexample.org\x04\0\0"].concat();
    let long = [&inet6()[..], &[0x20, 0x0f, 0xa0], &[b'x'; 4000]].concat();
    vec![
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n".into(),
            v4.0,
            v4.1,
        ),
        (
            b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 1234 80\r\n".into(),
            v6.0,
            v6.1,
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1234 80\r\n".into(),
            v4.0,
            v6.1,
        ),
        (binary(0x21, 0x11, &V4), v4.0, v4.1),
        (binary(0x21, 0x11, &entries), v4.0, v4.1),
        (binary(0x21, 0x21, &inet6()), v6.0, v6.1),
        (with_checksum(0x21, 0x11, &entries), v4.0, v4.1),
        (with_checksum(0x21, 0x21, &long), v6.0, v6.1),
    ]
}

/// Sends bytes, and asserts that no handler answers: an end, or a reset since input wasn't read.
#[track_caller]
fn refused(stream: impl Conversation, bytes: &[u8]) {
    match try_talk(stream, bytes) {
        Ok(answer) => assert_eq!(String::from_utf8_lossy(&answer), ""),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Sends bytes from a port, whose refusal the log explains.
#[track_caller]
fn refused_for(skd: &Running, bytes: &[u8], why: &str) {
    let stream = skd.connect();
    let from = stream.local_addr().unwrap();
    refused(stream, bytes);
    let expected = format!(
        "Refused connection from [{}]:{}: {why}",
        from.ip(),
        from.port()
    );
    skd.wait_for_log(&expected);
}

/// From another address of this machine.
fn connect_from(address: &str, to: SocketAddr) -> TcpStream {
    let from: SocketAddr = format!("{address}:0").parse().unwrap();
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.into()
}

#[test]
fn a_header_names_the_client_and_the_handler_gets_all_bytes_after_it() {
    let skd = show(skd());
    for (header, client, called) in headers() {
        for follows in [
            "",
            "\n",
            "PROXY TCP4 192.0.2.9 192.0.2.9 9 9\r\n",
            "GET /\r\n\r\n\0\r\nQUIT\n",
        ] {
            let stream = skd.connect();
            let proxy = stream.local_addr().unwrap().port();
            let answer = talk(stream, &[&header, follows.as_bytes()].concat());
            let (variables, told) = shown(&answer);
            let mut expected = expected(client, called);
            expected.splice(
                3..3,
                [
                    "SKD_PROXYIP=127.0.0.1".into(),
                    format!("SKD_PROXYPORT={proxy}"),
                ],
            );
            assert_eq!(variables, expected);
            assert_eq!(told, follows);
        }
        skd.wait_for_log(&format!("Accepted connection from [{client}]:1234"));
        skd.wait_for_log(&format!("Closed connection from [{client}]:1234: pid "));
    }
    assert_eq!(skd.logged("127.0.0.1"), [""; 0], "the proxy is no client");
    assert_eq!(skd.logged("Refused"), [""; 0]);
}

#[test]
fn a_header_may_come_byte_by_byte_with_one_look_for_each() {
    requires_command("strace");
    let directory = Directory::new();
    let calls = directory.name("calls");
    let skd = skd()
        .wrapper(["strace", "-f", "-qq", "-e", "trace=recvfrom", "-o", &calls])
        .run_with("sh", ["-c", SHOW]);
    let mut sent = 0;
    for (header, client, _) in headers() {
        if header.len() > 200 {
            continue;
        }
        sent += header.len();
        let mut stream = skd.connect();
        stream.set_nodelay(true).unwrap();
        for byte in &header {
            stream.write_all(&[*byte]).unwrap();
            std::thread::yield_now();
        }
        let (variables, told) = shown(&talk(stream, b"x"));
        assert!(
            variables.contains(&format!("TCPREMOTEIP={client}")),
            "{variables:?}"
        );
        assert_eq!(told, "x");
    }
    // A part stays unread for some time, during which skd must do nothing.
    let mut stream = skd.connect();
    stream.write_all(b"PROXY TCP4 ").unwrap();
    assert!(
        poll_for(Duration::from_millis(300), || (!skd
            .logged("Refused")
            .is_empty())
        .then_some(()))
        .is_none()
    );
    let (_, told) = shown(&talk(stream, b"192.0.2.1 192.0.2.2 1 2\r\nx"));
    assert_eq!(told, "x");
    let looks = fs::read_to_string(calls).unwrap();
    let looks = looks
        .lines()
        .filter(|line| line.contains("MSG_PEEK"))
        .count();
    // Each byte, the arrival, and the moment when skd begins to wait for it.
    assert!(
        looks <= sent + 3 * (headers().len() + 1) + 30,
        "{looks} of {sent}"
    );
}

#[test]
fn a_trusted_peer_that_sends_no_valid_header_is_refused_and_the_log_says_why() {
    let mut broken = with_checksum(0x21, 0x11, &V4);
    *broken.last_mut().unwrap() ^= 1;
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat();
    let mut cases: Vec<(&[u8], &str)> = vec![
        (
            b"GET / HTTP/1.1\r\n\r\n",
            "no PROXY header: it begins like neither version",
        ),
        (b"\x16\x03\x01", "no PROXY header: it begins like"),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 080\r\n",
            "no PROXY header: a port is not a number",
        ),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\n",
            "no PROXY header: its line doesn't end in CR LF",
        ),
        (
            b"PROXY TCP4 2001:db8::1 192.0.2.2 1234 80\r\n",
            "no PROXY header: an address is not of its",
        ),
        (&long, "no PROXY header: its line is too long"),
        (&broken, "no PROXY header: its checksum is wrong"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11",
            "no PROXY header: its version isn't 2",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            "no PROXY header: it is longer than 16 KiB",
        ),
        (
            b"",
            "the connection ended before the end of its PROXY header",
        ),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r",
            "the connection ended before the end of its PROXY header",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0",
            "the connection ended before the end of its PROXY header",
        ),
    ];
    // More of these in a second wouldn't get a line each.
    let half = cases.split_off(cases.len() / 2);
    for cases in [cases, half] {
        for some in cases.chunks(3) {
            let skd = show(skd());
            for (bytes, why) in some {
                refused_for(&skd, bytes, why);
            }
            assert_eq!(skd.logged("Accepted"), [""; 0]);
            assert_eq!(skd.children(), [0; 0]);
        }
    }
}

#[test]
fn a_header_that_does_not_come_in_time_is_not_waited_for() {
    let skd = show(skd().args(["--proxy-timeout", "1s"]));
    // Three, for each of which there is a line in a second.
    for part in [
        &b""[..],
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r",
        b"\r\n\r\n\0",
    ] {
        let mut stream = skd.connect();
        let from = stream.local_addr().unwrap().port();
        stream.write_all(part).unwrap();
        // The client doesn't end the connection.
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert_eq!(answer, b""),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        let line = skd.wait_for_log(&format!("Refused connection from [127.0.0.1]:{from}: "));
        assert!(line.contains("PROXY header"), "{line}");
    }
    assert_eq!(skd.logged("Accepted"), [""; 0]);
    // The timeout ends with the header.
    let mut stream = skd.connect();
    stream.write_all(&headers()[0].0).unwrap();
    skd.wait_for_log("Accepted connection from [192.0.2.1]:1234");
    assert!(poll_for(Duration::from_millis(1_500), || skd.logged("Closed").pop()).is_none());
    let (_, told) = shown(&talk(stream, b"late"));
    assert_eq!(told, "late");
}

#[test]
fn an_untrusted_peer_is_refused_whatever_it_sends() {
    let skd = show(skd().args(["--proxy-from", "192.0.2.0/24", "--proxy-from", "unix"]));
    let forged = [
        &b"PROXY TCP4 127.0.0.1 127.0.0.1 1234 80\r\n"[..],
        &binary(0x21, 0x11, &[127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2]),
        &binary(0x20, 0, b""),
        b"hello",
        b"",
    ];
    for (number, bytes) in forged.into_iter().enumerate() {
        let stream = connect_from(&format!("127.0.0.{}", number + 2), skd.address());
        let from = stream.local_addr().unwrap();
        refused(stream, bytes);
        let (ip, port) = (from.ip(), from.port());
        skd.wait_for_log(&format!(
            "Refused connection from [{ip}]:{port}: it is none of --proxy-from"
        ));
    }
    assert_eq!(skd.logged("Accepted"), [""; 0]);
    let (variables, _) = shown(&talk(skd.connect(), &headers()[0].0));
    assert!(variables.contains(&"TCPREMOTEIP=192.0.2.1".into()));
}

#[test]
fn a_proxy_that_connects_for_itself_is_the_client() {
    let skd = show(skd());
    let port = skd.port();
    for header in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1234 80\r\n",
        &binary(0x20, 0, b""),
        &binary(0x20, 0x11, &V4),
        &with_checksum(0x20, 0, b""),
        &binary(0x21, 0, b""),
        &binary(0x21, 0, b"whatever"),
        &binary(0x21, 0x12, &V4),
    ] {
        let stream = skd.connect();
        let own = stream.local_addr().unwrap().port();
        let (variables, told) = shown(&talk(stream, &[header, b"x"].concat()));
        let expected = [
            "PROTO=TCP".into(),
            "REMOTE_ADDR=127.0.0.1".into(),
            format!("REMOTE_PORT={own}"),
            "TCPLOCALIP=127.0.0.1".into(),
            format!("TCPLOCALPORT={port}"),
            "TCPREMOTEIP=127.0.0.1".into(),
            format!("TCPREMOTEPORT={own}"),
        ];
        assert_eq!(variables, expected);
        assert_eq!(told, "x");
        skd.wait_for_log(&format!("Accepted connection from [127.0.0.1]:{own}"));
    }
}

#[test]
fn the_client_of_a_proxy_on_a_unix_socket_is_that_of_the_header() {
    let directory = Directory::new();
    let socket = directory.name("socket");
    let unix = |from: &str| {
        let options = ["-vl", &socket, "--proxy-protocol", "--proxy-from", from];
        show(Skd::new(options))
    };
    let skd = unix("unix");
    for (header, client, called) in headers() {
        let (variables, told) = shown(&talk(skd.connect_unix(), &[&header, &b"x"[..]].concat()));
        assert_eq!(variables, expected(client, called));
        assert_eq!(told, "x");
        skd.wait_for_log(&format!("Accepted connection from [{client}]:1234"));
    }
    // The proxy itself is identified as usual.
    let (variables, _) = shown(&talk(skd.connect_unix(), b"PROXY UNKNOWN\r\n"));
    let pid = std::process::id();
    for line in [
        format!("PEERPID={pid}"),
        format!("UNIXLOCALPATH={socket}"),
        "PROTO=UNIX-STREAM".into(),
    ] {
        assert!(variables.contains(&line), "{variables:?}");
    }
    skd.wait_for_log(&format!("Accepted local connection from pid {pid} "));
    skd.stop();

    let skd = unix("0.0.0.0/0");
    refused(skd.connect_unix(), &headers()[0].0);
    let line = skd.wait_for_log(&format!("Refused local connection from pid {pid} "));
    assert!(line.ends_with(": it is none of --proxy-from"), "{line}");
}

#[test]
fn a_client_of_a_unix_socket_of_the_proxy_is_unknown() {
    let directory = Directory::new();
    let socket = directory.name("socket");
    let skd = show(skd().args(["-l", &socket, "--proxy-from", "unix"]));
    let mut addresses = [0; 216];
    addresses[..9].copy_from_slice(b"/run/some");
    let header = binary(0x21, 0x31, &addresses);
    let (variables, _) = shown(&talk(connect_unix(&socket), &header));
    assert_eq!(variables, ["PROTO=UNIX-STREAM"]);
    let stream = skd.connect();
    let proxy = stream.local_addr().unwrap().port();
    let (variables, _) = shown(&talk(stream, &header));
    let port = format!("SKD_PROXYPORT={proxy}");
    assert_eq!(
        variables,
        ["PROTO=UNIX-STREAM", "SKD_PROXYIP=127.0.0.1", &port]
    );
    let lines = skd.wait_for_logs("Accepted", 2);
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("Accepted local connection on ")),
        "{lines:?}"
    );
}

#[test]
fn proxies_are_recognised_over_ipv6_and_on_sockets_of_both_families() {
    let skd = show(Skd::new([
        "-vt",
        "[::1]:0",
        "--proxy-protocol",
        "--proxy-from",
        "::1/128",
    ]));
    let (variables, _) = shown(&talk(skd.connect(), &headers()[0].0));
    assert!(
        variables.contains(&"SKD_PROXYIP=::1".into()),
        "{variables:?}"
    );
    assert!(variables.contains(&"TCPREMOTEIP=192.0.2.1".into()));
    skd.stop();

    // One socket for each family, or an inherited one for both.
    let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    both.set_only_v6(false).unwrap();
    let any: SocketAddr = "[::]:0".parse().unwrap();
    both.bind(&SockAddr::from(any)).unwrap();
    both.listen(16).unwrap();
    let port = both.local_addr().unwrap().as_socket().unwrap().port();
    let given = Skd::new(["-v", "--listen-fd", "3"]).descriptor(3, OwnedFd::from(both));
    for (skd, port) in [(Skd::new(["-vt", "0"]), None), (given, Some(port))] {
        let skd = show(skd.args(LOOPBACK));
        let port = port.unwrap_or_else(|| skd.port());
        let (variables, _) = shown(&talk(
            connect(([127, 0, 0, 1], port).into()),
            &headers()[0].0,
        ));
        assert!(
            variables.contains(&"SKD_PROXYIP=127.0.0.1".into()),
            "{variables:?}"
        );
        assert!(variables.contains(&"TCPLOCALIP=192.0.2.2".into()));
        refused(connect((Ipv6Addr::LOCALHOST, port).into()), &headers()[0].0);
        let line = skd.wait_for_log("Refused connection from [::1]:");
        assert!(line.ends_with(": it is none of --proxy-from"), "{line}");
    }
}

#[test]
fn a_late_header_delays_no_other_client() {
    let skd = skd()
        .args(["--threads", "1", "--max-clients", "1"])
        .run("cat");
    let mut silent: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = skd.connect();
            stream
                .write_all(&b"PROXY TCP4 192."[..number % 16])
                .unwrap();
            stream
        })
        .collect();
    let mut stream = skd.connect();
    stream.write_all(&headers()[0].0).unwrap();
    echo(&mut stream, b"served");
    drop(stream);
    skd.wait_for_log("Closed");
    // The client that waited is served.
    let mut last = silent.pop().unwrap();
    last.write_all(&b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n"[99 % 16..])
        .unwrap();
    echo(&mut last, b"served too");
}

#[test]
fn rules_and_limits_apply_to_the_client_and_not_to_the_proxy() {
    let options = [
        "--deny",
        "192.0.2.0/24",
        "--deny",
        "127.0.0.0/8",
        "--max-per-source",
        "1",
    ];
    let skd = skd().args(options).run("cat");
    let named = |last: u8| {
        let mut addresses = inet6();
        addresses[14..16].copy_from_slice(&[last, last]);
        // Of a network of its own, which counts as a source.
        addresses[7] = last;
        binary(0x21, 0x21, &addresses)
    };
    refused(skd.connect(), &headers()[0].0);
    skd.wait_for_log("Refused connection from [192.0.2.1]:1234: denied by ");
    // Its IPv6 form is the same address.
    refused(skd.connect(), &headers()[2].0);
    skd.wait_for_logs("Refused connection from [192.0.2.1]:1234: denied by ", 2);
    // A rule denies the proxy itself.
    let own = skd.connect();
    let port = own.local_addr().unwrap().port();
    refused(own, b"PROXY UNKNOWN\r\n");
    skd.wait_for_log(&format!(
        "Refused connection from [127.0.0.1]:{port}: denied by "
    ));
    let clients: Vec<TcpStream> = (1..4)
        .map(|last| {
            let mut stream = skd.connect();
            stream.write_all(&named(last)).unwrap();
            echo(&mut stream, b"one of each");
            stream
        })
        .collect();
    refused(skd.connect(), &named(2));
    skd.wait_for_log("Refused connection from [2001:db8:0:2::202]:1234: ");
    drop(clients);
}

#[test]
fn the_client_is_known_after_an_upgrade() {
    let skd = skd().run("cat");
    let mut stream = skd.connect();
    stream.write_all(&headers()[5].0).unwrap();
    echo(&mut stream, b"before");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from");
    echo(&mut stream, b"after");
    let mut next = skd.connect();
    next.write_all(&headers()[0].0).unwrap();
    echo(&mut next, b"hello");
    skd.wait_for_log("Accepted connection from [192.0.2.1]:1234");
    drop(stream);
    skd.wait_for_log("Closed connection from [2001:db8::1]:1234: pid ");
}

#[test]
fn options_that_do_not_fit_together_are_refused() {
    for (options, why) in [
        (
            &["-t", "0", "--proxy-protocol"][..],
            "--proxy-protocol needs --proxy-from",
        ),
        (
            &["-t", "0", "--proxy-from", "::1"],
            "--proxy-from has no use without --proxy-protocol",
        ),
        (
            &["-t", "0", "--proxy-timeout", "1s"],
            "--proxy-timeout has no use without --proxy-protocol",
        ),
        (
            &["-t", "0", "--proxy-protocol", "--proxy-from", "10.0.0.1/8"],
            "10.0.0.0/8",
        ),
        (
            &[
                "-t",
                "0",
                "--proxy-protocol",
                "--proxy-from",
                "proxy.example",
            ],
            "--proxy-from",
        ),
        (
            &["-t", "0", "--proxy-protocol", "--proxy-from", "Unix"],
            "it takes unix, an address",
        ),
        (
            &["-u", "0", "--proxy-protocol", "--proxy-from", "::1"],
            "--proxy-from has no use without a stream",
        ),
    ] {
        Skd::new(options).start("cat").expect_refusal(2, &[why]);
    }
}

/// A haproxy, which is ended on drop.
struct Haproxy(Child);

impl Haproxy {
    /// Starts it, and waits until it listens.
    fn start(namespace: &Namespace, directory: &Directory, configuration: &str) -> Self {
        requires_command("haproxy");
        let file = directory.write("haproxy.cfg", configuration);
        let log = File::create(directory.join("haproxy.log")).unwrap();
        let mut command = namespace.command("haproxy");
        command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let haproxy = Self(command.spawn().expect("haproxy"));
        wait_for("haproxy listens", || {
            directory.join("front").exists().then_some(())
        });
        haproxy
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn haproxy_passes_its_clients_on_and_its_checks_are_served() {
    let (namespace, directory) = (Namespace::new(), Directory::public());
    for address in ["192.0.2.5/32", "192.0.2.7/32", "fd00::5/128"] {
        namespace.add_address(address);
    }
    let (front, back) = (directory.name("front"), directory.name("back"));
    // A client of one of these has the same address.
    let skd = Skd::new(["-vt", "0.0.0.0:9000", "-l", &back, "--unix-mode", "666"])
        .args(LOOPBACK)
        .args(["--proxy-from", "unix"])
        .inside(&namespace)
        .run_with("sh", ["-c", SHOW]);
    let configuration = format!(
        "
global
    log stdout format raw local0
defaults
    mode tcp
    timeout connect 10s
    timeout client 10s
    timeout server 10s
    option log-health-checks
    option tcp-check
    tcp-check send hello
    tcp-check expect string hello
    unique-id-format %[uuid]
listen one
    bind 192.0.2.5:9001
    bind [fd00::5]:9001
    server one 127.0.0.1:9000 send-proxy check inter 500ms
listen two
    bind 192.0.2.5:9002
    bind [fd00::5]:9002
    server two 127.0.0.1:9000 send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 500ms
listen three
    bind 192.0.2.5:9003
    bind unix@{front} mode 666
    server three unix@{back} send-proxy-v2 proxy-v2-options crc32c
"
    );
    let _haproxy = Haproxy::start(&namespace, &directory, &configuration);

    for address in ["192.0.2.5", "fd00::5"] {
        for port in [9001, 9002] {
            let stream = skd.connect_to((address.parse::<IpAddr>().unwrap(), port).into());
            let own = stream.local_addr().unwrap().port();
            let (variables, told) = shown(&talk(stream, b"from a client"));
            assert_eq!(told, "from a client");
            let proxy = variables
                .iter()
                .find_map(|line| line.strip_prefix("SKD_PROXYPORT="));
            let expected = [
                "PROTO=TCP".into(),
                format!("REMOTE_ADDR={address}"),
                format!("REMOTE_PORT={own}"),
                "SKD_PROXYIP=127.0.0.1".into(),
                format!("SKD_PROXYPORT={}", proxy.expect("a port")),
                format!("TCPLOCALIP={address}"),
                format!("TCPLOCALPORT={port}"),
                format!("TCPREMOTEIP={address}"),
                format!("TCPREMOTEPORT={own}"),
            ];
            assert_eq!(variables, expected);
            assert_ne!(proxy, Some(&*own.to_string()));
            skd.wait_for_log(&format!("Accepted connection from [{address}]:{own}"));
            skd.wait_for_log(&format!("Closed connection from [{address}]:{own} on "));
        }
    }

    // Over a unix socket, of a client with an address, and of one without.
    let stream = skd.connect_to(([192, 0, 2, 5], 9003).into());
    let own = stream.local_addr().unwrap().port();
    let (variables, told) = shown(&talk(stream, b"x"));
    assert_eq!(told, "x");
    assert!(variables.contains(&format!("TCPREMOTEPORT={own}")));
    assert!(
        !variables
            .iter()
            .any(|line| line.starts_with("SKD_") || line.contains("PEER"))
    );
    let (variables, told) = shown(&talk(connect_unix(&front), b"y"));
    assert_eq!(told, "y");
    assert!(
        variables.contains(&format!("UNIXLOCALPATH={back}")),
        "{variables:?}"
    );

    // Health checks are haproxy's own connections.
    for server in ["one/one", "two/two"] {
        let log = wait_for_text(
            directory.join("haproxy.log"),
            &format!("Health check for server {server} succeeded"),
        );
        assert!(!log.contains("failed"), "{log}");
    }
    skd.wait_for_logs("Accepted connection from [127.0.0.1]:", 2);

    // A client that bypasses haproxy is refused.
    let stream = skd.connect_to(([192, 0, 2, 7], 9000).into());
    let from = stream.local_addr().unwrap();
    assert_eq!(from.ip().to_string(), "192.0.2.7");
    refused(stream, b"PROXY TCP4 192.0.2.5 192.0.2.5 1 2\r\n");
    let port = from.port();
    skd.wait_for_log(&format!(
        "Refused connection from [192.0.2.7]:{port} on TCP [0.0.0.0]:9000: it is none of --proxy-from"
    ));
    assert_eq!(skd.logged("Refused").len(), 1);
}
