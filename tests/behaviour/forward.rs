//! skd-forward: the program, run as a handler by skd and typed in a shell.

use crate::harness::{
    ClosedPort, DEADLINE, Directory, Running, Skd, Way, ask, assert_idle, built, close_udp,
    connect, descriptors, echo, requires_command, rss_anon, talk, time_limit, udp_client, wait_for,
    wait_until,
};
use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// The program, built if need be.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built(&["--package", "skd-forward"], "skd-forward"))
}

/// A skd that forwards its TCP clients, with these options of its own and these words of skd-forward.
#[track_caller]
fn forwarding(options: &[&str], words: &[&str]) -> Running {
    Skd::new(["-vt", "127.0.0.1:0"])
        .args(options)
        .run_with(program(), words)
}

/// A listener of the test's own, and its address as text.
fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[track_caller]
fn accept(listener: &TcpListener) -> TcpStream {
    let stream = wait_for("a connection to the target", || listener.accept().ok()).0;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A client, and the connection to the target that it got.
#[track_caller]
fn pair(options: &[&str], words: &[&str]) -> (Running, TcpStream, TcpStream) {
    let (listener, address) = listener();
    let skd = forwarding(options, &[words, &[&address]].concat());
    let client = skd.connect();
    let target = accept(&listener);
    (skd, client, target)
}

/// Has the close of a connection reset it.
fn reset(stream: TcpStream) {
    let linger = Some(Duration::ZERO);
    SockRef::from(&stream).set_linger(linger).unwrap();
}

/// How many bytes of an IPv4 connection the kernel has still to send, or may have to send again.
fn unacknowledged(stream: &TcpStream) -> usize {
    let in_table = |address| match address {
        SocketAddr::V4(it) => format!(
            "{:08X}:{:04X}",
            u32::from_ne_bytes(it.ip().octets()),
            it.port()
        ),
        SocketAddr::V6(_) => panic!("{address}"),
    };
    let own = in_table(stream.local_addr().unwrap());
    let theirs = in_table(stream.peer_addr().unwrap());
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let mut lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|it| it[1] == own && it[2] == theirs);
    let (unacknowledged, _) = line.expect("the connection")[4].split_once(':').unwrap();
    usize::from_str_radix(unacknowledged, 16).unwrap()
}

/// Reads to the end, which is a reset.
#[track_caller]
fn expect_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    bytes
}

/// Waits until all handlers have ended, each with this status.
#[track_caller]
fn all_ended(skd: &Running, status: i32, count: usize) {
    skd.wait_for_logs(&format!("exited with status {status}"), count);
    skd.wait_for_children(0);
}

/// Bytes that show what is lost, doubled or out of order.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// An echo server on all kinds of sockets that carry bytes, and its addresses.
fn echo_server(directory: &Directory) -> (Running, Vec<String>) {
    let path = directory.name("target");
    let name = format!("@{}", directory.name("name"));
    let skd = Skd::new(["-t", "127.0.0.1:0", "-l", &path, "-l", &name]).run("cat");
    let port = skd.port();
    let addresses = [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("tcp:[127.0.0.1]:{port}"),
        path.clone(),
        format!("unix:{path}"),
        format!("unix:{name}"),
        name,
    ];
    (skd, addresses.to_vec())
}

#[test]
fn every_address_can_be_the_target() {
    let directory = Directory::new();
    let (_target, addresses) = echo_server(&directory);
    for address in &addresses {
        let skd = forwarding(&[], &[address]);
        let mut client = skd.connect();
        echo(&mut client, b"a");
        echo(&mut client, b"some more");
        assert_eq!(talk(client, b"the end"), b"the end", "{address}");
        all_ended(&skd, 0, 1);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn unix_clients_are_forwarded() {
    let directory = Directory::new();
    let (_target, addresses) = echo_server(&directory);
    for address in [&addresses[0], &addresses[3]] {
        let front = directory.name("front");
        let skd = Skd::new(["-vl", &front]).run_with(program(), [address]);
        let bytes = pattern(300_000);
        assert!(talk(skd.connect_unix(), &bytes) == bytes);
    }
}

#[test]
fn every_way_of_starting_serves_and_prestarted_programs_wait_at_their_client() {
    let directory = Directory::new();
    let (_target, addresses) = echo_server(&directory);
    for way in Way::ALL {
        let options = way.options();
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        // Through the resolver, which every handler asks itself.
        let skd = forwarding(&options, &[&addresses[1]]);
        way.ready(&skd);
        if matches!(way, Way::Warm(_) | Way::Fork | Way::Shared) {
            let line = skd.wait_for_log("' is parked at ");
            assert!(line.contains("is parked at getsockopt"), "{way:?}: {line}");
        }
        for count in 1..=10 {
            let bytes = format!("{way:?} {count}");
            assert_eq!(talk(skd.connect(), bytes.as_bytes()), bytes.as_bytes());
        }
        skd.wait_for_logs("exited with status 0", 10);
        assert_eq!(skd.troubles(), [""; 0], "{way:?}");
    }
}

#[test]
fn large_amounts_pass_both_ways_at_once_unchanged() {
    let directory = Directory::new();
    let (_target, addresses) = echo_server(&directory);
    let bytes = pattern(32 << 20);
    for address in [&addresses[0], &addresses[3]] {
        let skd = forwarding(&[], &[address]);
        assert!(talk(skd.connect(), &bytes) == bytes, "{address}");
        all_ended(&skd, 0, 1);
    }
}

#[test]
fn an_urgent_byte_does_not_stop_what_follows() {
    let (skd, mut client, mut target) = pair(&[], &[]);
    // Enough for splice(2), which urgent bytes stop.
    let bytes = pattern(1 << 20);
    for _ in 0..2 {
        thread::scope(|scope| {
            scope.spawn(|| client.write_all(&bytes).unwrap());
            let mut received = vec![0; bytes.len()];
            target.read_exact(&mut received).unwrap();
            assert!(received == bytes);
        });
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(b"what follows").unwrap();
        let mut received = [0; 12];
        target.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"what follows");
        (client, target) = (target, client);
    }
    // Before the end, too.
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    assert_eq!(talk_to(client, b"the end", &mut target), b"the end");
    drop(target);
    all_ended(&skd, 0, 1);
}

/// Writes the last bytes to one side, and returns what the other one reads.
fn talk_to(mut from: TcpStream, bytes: &[u8], to: &mut TcpStream) -> Vec<u8> {
    from.write_all(bytes).unwrap();
    from.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    to.read_to_end(&mut received).unwrap();
    received
}

#[test]
fn a_kernel_without_splice_or_pipes_copies() {
    let directory = Directory::new();
    let (_target, addresses) = echo_server(&directory);
    let bytes = pattern(4 << 20);
    for (call, errno) in [
        (libc::SYS_splice, nix::errno::Errno::EINVAL),
        (libc::SYS_pipe2, nix::errno::Errno::EMFILE),
    ] {
        // skd itself needs pipes: the filter is that of the handlers.
        let front = Skd::new([
            "-c",
            &format!("exec {} {}", program().display(), addresses[0]),
        ])
        .binary("/bin/sh")
        .refusing(call, errno);
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let front = front.stdin(other.try_clone().unwrap()).stdout(other);
        let handler = front.start_bare();
        assert!(talk(one, &bytes) == bytes, "{call}");
        assert!(handler.wait().success());
    }
}

#[test]
fn each_side_may_close_its_direction_first() {
    let (skd, mut client, mut target) = pair(&[], &[]);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    target.read_to_string(&mut text).unwrap();
    assert_eq!(text, "question");
    assert_idle(&skd.children());
    target.write_all(b"answer").unwrap();
    drop(target);
    text.clear();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
    all_ended(&skd, 0, 1);

    let (skd, mut client, mut target) = pair(&[], &[]);
    target.write_all(b"greeting").unwrap();
    target.shutdown(Shutdown::Write).unwrap();
    text.clear();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "greeting");
    assert_idle(&skd.children());
    client.write_all(b"thanks").unwrap();
    drop(client);
    text.clear();
    target.read_to_string(&mut text).unwrap();
    assert_eq!(text, "thanks");
    all_ended(&skd, 0, 1);
}

#[test]
fn a_client_that_closes_at_once_leaves_nothing() {
    let (skd, client, mut target) = pair(&[], &[]);
    drop(client);
    assert_eq!(target.read(&mut [0; 1]).unwrap(), 0);
    drop(target);
    all_ended(&skd, 0, 1);
    assert_eq!(skd.troubles(), [""; 0]);
}

/// Writes until the connection has taken nothing for a while, and returns how much it took.
fn fill(stream: &mut TcpStream) -> usize {
    let mut sent = 0;
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let chunk = [b'x'; 65_536];
    loop {
        match stream.write(&chunk) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    sent
}

#[test]
fn a_slow_side_stops_the_other_and_costs_no_memory() {
    for from_client in [true, false] {
        let (skd, client, target) = pair(&[], &[]);
        let (mut fast, mut slow) = match from_client {
            true => (client, target),
            false => (target, client),
        };
        let sent = fill(&mut fast);
        let handlers = skd.children();
        assert_idle(&handlers);
        let memory = rss_anon(handlers[0]);
        assert!(memory < 600, "{memory} KiB");
        // The other direction isn't affected.
        slow.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        fast.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
        fast.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        slow.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent);
        drop(slow);
        all_ended(&skd, 0, 1);
    }
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    // Both directions of an idle connection, and of a connection that has moved bytes.
    for used in [false, true] {
        let (skd, mut client, mut target) = pair(&[], &[]);
        if used {
            client.write_all(b"x").unwrap();
            target.read_exact(&mut [0; 1]).unwrap();
        }
        reset(client);
        assert_eq!(expect_reset(&mut target), b"");
        all_ended(&skd, 0, 1);
        assert_eq!(skd.troubles(), [""; 0]);

        let (skd, mut client, mut target) = pair(&[], &[]);
        // As much as the kernel takes for a reader that is slow.
        let answer = if used { pattern(60_000) } else { Vec::new() };
        target.write_all(&answer).unwrap();
        if used {
            // Closed with unread input: the kernel sends a reset after the answer, of which it sends no
            // more then.
            client.write_all(b"unread").unwrap();
            target.peek(&mut [0; 1]).unwrap();
            wait_until("the answer has arrived", || unacknowledged(&target) == 0);
            drop(target);
        } else {
            reset(target);
        }
        assert!(expect_reset(&mut client) == answer);
        all_ended(&skd, 0, 1);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn a_reset_is_seen_while_the_other_side_is_full() {
    let (skd, mut client, target) = pair(&[], &[]);
    fill(&mut client);
    let handlers = skd.children();
    reset(client);
    // It neither spins nor forgets.
    assert_idle(&handlers);
    drop(target);
    all_ended(&skd, 0, 1);

    // Seen by a write: no end of file comes before the reset.
    let (skd, mut client, target) = pair(&[], &[]);
    fill(&mut client);
    reset(target);
    assert_eq!(expect_reset(&mut client), b"");
    all_ended(&skd, 0, 1);
}

#[test]
fn a_target_that_cannot_be_reached_is_a_line_and_status_1() {
    let port = ClosedPort::new();
    let closed = port.address().to_string();
    let directory = Directory::new();
    let nothing = directory.name("nothing");
    let skd = forwarding(&[], &[&closed, &nothing]);
    assert_eq!(talk(skd.connect(), b""), b"");
    skd.wait_for_log(&format!(
        "skd-forward: can't connect to {closed}: Connection refused"
    ));
    skd.wait_for_log(&format!(
        "skd-forward: can't connect to {nothing}: there is no such socket"
    ));
    all_ended(&skd, 1, 1);
}

/// A listener whose backlog is full, so that connecting to it takes forever.
fn black_hole() -> (Socket, Vec<TcpStream>, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the backlog has no end");
    }
    (socket, waiting, address.to_string())
}

#[test]
fn a_target_that_does_not_answer_gets_its_share_of_the_time() {
    let (_socket, _waiting, address) = black_hole();
    let directory = Directory::new();
    let (_target, addresses) = echo_server(&directory);
    let skd = forwarding(&[], &["--connect-timeout=200ms", &address]);
    assert_eq!(talk(skd.connect(), b""), b"");
    let line = format!("skd-forward: can't connect to {address}: no answer within 200ms");
    skd.wait_for_log(&line);
    all_ended(&skd, 1, 1);

    // The next one has the rest of it.
    let skd = forwarding(
        &[],
        &["--connect-timeout", "400ms", &address, &addresses[0]],
    );
    assert_eq!(talk(skd.connect(), b"x"), b"x");
    assert_eq!(skd.logged("can't connect"), [""; 0]);

    // A unix socket with a full backlog is no different.
    let path = directory.name("full");
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    full.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    full.listen(0).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let skd = forwarding(&[], &["--connect-timeout=200ms", &path]);
    assert_eq!(talk(skd.connect(), b""), b"");
    skd.wait_for_log(&format!(
        "can't connect to {path}: its backlog was full for 200ms"
    ));
}

#[test]
fn addresses_are_tried_in_turn() {
    let port = ClosedPort::new();
    let closed = port.address().to_string();
    let directory = Directory::new();
    let (_target, addresses) = echo_server(&directory);
    for address in [&addresses[0], &addresses[3]] {
        let skd = forwarding(
            &[],
            &[&closed, "no-such-name.invalid:1", "@nobody", address],
        );
        assert_eq!(talk(skd.connect(), b"x"), b"x");
        all_ended(&skd, 0, 1);
        assert_eq!(skd.logged("can't"), [""; 0]);
    }
}

/// A skd behind a proxy on this machine, whose handlers print what they know of their client.
fn receiver(listener: &[&str]) -> Running {
    let show = "env | grep -E '^(PROTO|TCP|SKD_PROXYIP)' | LC_ALL=C sort; echo; cat";
    Skd::new([
        "-v",
        "--proxy-protocol",
        "--proxy-from",
        "127.0.0.1",
        "--proxy-from",
        "unix",
    ])
    .args(listener)
    .run_with("sh", ["-c", show])
}

/// What such a handler prints of a client at `client` that has called `called`.
fn variables(client: SocketAddr, called: SocketAddr) -> String {
    format!(
        "PROTO=TCP\nSKD_PROXYIP=127.0.0.1\nTCPLOCALIP={}\nTCPLOCALPORT={}\n\
         TCPREMOTEIP={}\nTCPREMOTEPORT={}\n\nhello",
        called.ip(),
        called.port(),
        client.ip(),
        client.port()
    )
}

#[test]
fn the_target_learns_the_client_from_a_proxy_header() {
    let target = receiver(&["-t", "127.0.0.1:0"]);
    let address = format!("127.0.0.1:{}", target.port());
    for &way in Way::KINDS {
        for version in ["v1", "v2"] {
            for front in ["127.0.0.1:0", "[::1]:0"] {
                let skd = Skd::new(["-vt", front])
                    .args(way.options())
                    .run_with(program(), ["--send-proxy", version, &address]);
                way.ready(&skd);
                let client = skd.connect();
                let (own, called) = (client.local_addr().unwrap(), skd.address());
                let shown = talk(client, b"hello");
                let shown = String::from_utf8(shown).unwrap();
                assert_eq!(shown, variables(own, called), "{way:?} {version}");
            }
        }
    }
}

#[test]
fn a_proxy_header_is_that_of_the_proxy_before() {
    let target = receiver(&["-t", "127.0.0.1:0"]);
    let address = format!("127.0.0.1:{}", target.port());
    for version in ["v1", "v2"] {
        let skd = Skd::new([
            "-vt",
            "127.0.0.1:0",
            "--proxy-protocol",
            "--proxy-from",
            "127.0.0.1",
        ])
        .run_with(program(), ["--send-proxy", version, &address]);
        let header = "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\nhello";
        let shown = String::from_utf8(talk(skd.connect(), header.as_bytes())).unwrap();
        let (client, called) = ("192.0.2.1:1234", "192.0.2.2:80");
        assert_eq!(
            shown,
            variables(client.parse().unwrap(), called.parse().unwrap())
        );
    }
}

#[test]
fn haproxy_understands_both_headers() {
    requires_command("haproxy");
    let directory = Directory::new();
    let back = receiver(&["-t", "127.0.0.1:0"]);
    let configuration = format!(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 10s\n timeout server 10s\n\
         listen one\n bind unix@{} accept-proxy\n server one 127.0.0.1:{} send-proxy\n",
        directory.name("front"),
        back.port()
    );
    let file = directory.write("haproxy.cfg", configuration);
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-db", "-f"]).arg(file).stdout(Stdio::null());
    let _haproxy = Ended(haproxy.spawn().expect("haproxy"));
    wait_until("haproxy listens", || directory.join("front").exists());
    for version in ["v1", "v2"] {
        let words = ["--send-proxy", version, &directory.name("front")];
        let skd = forwarding(&[], &words);
        let client = skd.connect();
        let own = client.local_addr().unwrap();
        let shown = String::from_utf8(talk(client, b"hello")).unwrap();
        assert_eq!(shown, variables(own, skd.address()), "{version}");
    }
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_proxy_header_of_a_client_without_an_address_says_so() {
    let directory = Directory::new();
    let front = directory.name("front");
    for (version, start) in [
        ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8".to_vec()),
    ] {
        let (listener, address) = listener();
        let skd =
            Skd::new(["-vl", &front]).run_with(program(), ["--send-proxy", version, &address]);
        let mut client = skd.connect_unix();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        accept(&listener).read_to_end(&mut received).unwrap();
        assert!(received.starts_with(&start), "{version}: {received:?}");
        assert!(received.ends_with(b"hello"), "{version}: {received:?}");
        // The path that the client called is behind its own name, which is empty.
        if version == "v2" {
            assert_eq!(received.len(), 16 + 216 + 5);
            assert!(received[16..124].iter().all(|byte| *byte == 0));
            assert!(received[124..].starts_with(front.as_bytes()));
        }
        let skd = receiver(&["-l", &directory.name("back")]);
        let run = run(&["--send-proxy", version, skd.path()], b"hello");
        let shown = String::from_utf8(run.stdout).unwrap();
        assert!(shown.ends_with("\n\nhello"), "{shown}");
    }
}

/// Runs the program with pipes, as in a shell.
#[track_caller]
fn run(words: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program());
    command.args(words).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

#[test]
fn in_a_shell_it_connects_pipes_and_files() {
    let directory = Directory::new();
    let (_target, addresses) = echo_server(&directory);
    let bytes = pattern(1 << 20);
    for address in [&addresses[0], &addresses[3]] {
        let output = run(&[address], &bytes);
        assert!(output.status.success());
        assert!(output.stdout == bytes);
        let file = directory.write("input", &bytes);
        let mut command = Command::new(program());
        command.arg(address).stdin(fs::File::open(file).unwrap());
        command.stdout(fs::File::create(directory.join("output")).unwrap());
        assert!(command.status().unwrap().success());
        assert!(fs::read(directory.join("output")).unwrap() == bytes);
    }
    // Without a reader it ends.
    let line = format!("yes | {} {} | head -c 3", program().display(), addresses[0]);
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(output.stdout, b"y\ny");
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_wrong_command_line_is_status_2() {
    for (words, part) in [
        (&[][..], "an address is missing"),
        (&["80"], "invalid address '80'"),
        (
            &["--send-proxy=3", "a:1"],
            "invalid value '3' of --send-proxy",
        ),
        (
            &["--connect-timeout=x", "a:1"],
            "invalid value 'x' of --connect-timeout",
        ),
        (&["--fast", "a:1"], "unknown option '--fast'"),
    ] {
        let output = run(words, b"");
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.starts_with("skd-forward: ") && said.contains(part),
            "{said}"
        );
        assert!(said.ends_with("\nTry 'skd-forward --help'.\n"), "{said}");
    }
    let output = run(&["--version"], b"");
    let version = concat!("skd-forward ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(output.stdout, version.as_bytes());
    let help = String::from_utf8(run(&["--help"], b"").stdout).unwrap();
    let page = fs::read_to_string("man/skd-forward.1")
        .unwrap()
        .replace("\\-", "-");
    for option in help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
    {
        assert!(
            page.contains(&format!("\\fB{option}\\fR")),
            "{option} isn't in the manual"
        );
    }
}

#[test]
fn term_ends_it_at_once() {
    let (skd, mut client, _target) = pair(&[], &[]);
    let handler = skd.wait_for_children(1)[0];
    let pid = nix::unistd::Pid::from_raw(handler);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    skd.wait_for_log("Closed connection");
}

/// An echo server of datagrams that answers until the test ends.
fn datagram_server() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    address
}

const PER_PEER: [&str; 4] = ["-vu", "127.0.0.1:0", "--datagram-mode", "per-peer"];

#[test]
fn datagrams_of_each_sender_and_their_answers_stay_whole() {
    let address = format!("udp:{}", datagram_server());
    let skd = Skd::new(PER_PEER).run_with(program(), [&address]);
    let clients = [udp_client(skd.address()), udp_client(skd.address())];
    for length in [1, 2, 1_000, 9_000, 65_507, 3] {
        for (client, letter) in clients.iter().zip(b"ab") {
            let bytes = vec![*letter; length];
            assert!(ask(client, &bytes) == bytes, "{length}");
        }
    }
    for client in &clients {
        for number in 0..20 {
            client
                .send(format!("datagram {number}").as_bytes())
                .unwrap();
        }
        for number in 0..20 {
            let mut buffer = [0; 100];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], *format!("datagram {number}").as_bytes());
        }
    }
    let handlers = skd.children();
    assert_eq!(handlers.len(), 2);
    assert_idle(&handlers);
    skd.stop();
}

#[test]
fn a_silent_sender_ends_its_handler() {
    let address = format!("udp:{}", datagram_server());
    let skd = Skd::new(PER_PEER)
        .args(["--idle-timeout", "1s"])
        .run_with(program(), [&address]);
    assert_eq!(ask(&udp_client(skd.address()), b"x"), b"x");
    all_ended(&skd, 0, 1);
}

#[test]
fn a_datagram_that_nothing_receives_is_reported_once_and_the_next_one_arrives() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = close_udp(socket);
    let skd = Skd::new(PER_PEER).run_with(program(), [format!("udp:{address}")]);
    let client = udp_client(skd.address());
    client.send(b"lost").unwrap();
    skd.wait_for_log("skd-forward: a datagram was lost: Connection refused");
    let server = UdpSocket::bind(address).unwrap();
    server
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut buffer = [0; 100];
    let (_, from) = wait_for("a datagram", || {
        client.send(b"found").unwrap();
        server.recv_from(&mut buffer).ok()
    });
    assert_eq!(buffer[..5], *b"found");
    server.send_to(b"answer", from).unwrap();
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], *b"answer");
    assert_eq!(skd.logged("a datagram was lost").len(), 1);
}

#[test]
fn datagrams_in_other_modes_get_their_answer_too() {
    let address = format!("udp:{}", datagram_server());
    // For so long another answer is awaited after the last datagram.
    let limit = time_limit(1);
    let words = ["--connect-timeout", &limit, &address];
    let skd = Skd::new(["-vu", "127.0.0.1:0", "--datagram-mode", "per-packet"])
        .run_with(program(), words);
    let client = udp_client(skd.address());
    assert_eq!(ask(&client, b"one"), b"one");
    assert_eq!(ask(&client, b"two"), b"two");
    all_ended(&skd, 0, 2);
    // And in a shell.
    assert_eq!(run(&words, b"hello").stdout, b"hello");

    // There the handler has the socket of all senders.
    let skd =
        Skd::new(["-vu", "127.0.0.1:0", "--datagram-mode", "wait"]).run_with(program(), [&address]);
    udp_client(skd.address()).send(b"x").unwrap();
    skd.wait_for_log("run skd with --datagram-mode per-peer");
}

#[test]
fn each_datagram_has_its_proxy_header() {
    let address = format!("udp:{}", datagram_server());
    let skd = Skd::new(PER_PEER).run_with(program(), ["--send-proxy", "v2", &address]);
    let client = udp_client(skd.address());
    let ports = [client.local_addr().unwrap().port(), skd.port()].map(u16::to_be_bytes);
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c";
    let header = [
        &signature[..],
        &[127, 0, 0, 1, 127, 0, 0, 1],
        &ports.concat(),
    ]
    .concat();
    for text in ["one", "two"] {
        let expected = [&header, text.as_bytes()].concat();
        assert_eq!(ask(&client, text.as_bytes()), expected);
    }
    let output = run(&["--send-proxy=v1", &address], b"");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn dns_is_forwarded() {
    requires_command("dig");
    requires_command("perl");
    // Answers each question with no record and the flags of an answer.
    let answer =
        "while (sysread STDIN, $_, 512) { substr $_, 2, 2, qq(\\x81\\x80); syswrite STDOUT, $_ }";
    let server = Skd::new(PER_PEER).run_with("perl", ["-e", answer]);
    let skd = Skd::new(PER_PEER).run_with(program(), [format!("udp:{}", server.address())]);
    let port = skd.port().to_string();
    let mut dig = Command::new("dig");
    dig.args([
        "@127.0.0.1",
        "-p",
        &port,
        "+noedns",
        "+tries=1",
        "example.org",
    ]);
    let output = String::from_utf8(dig.output().expect("dig").stdout).unwrap();
    assert!(output.contains("status: NOERROR"), "{output}");
}

fn seqpacket(path: &str) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(&SockAddr::unix(path).unwrap()).unwrap();
    socket
}

#[test]
fn messages_of_unix_sockets_stay_whole() {
    let directory = Directory::new();
    let (front, back) = (directory.name("front"), directory.name("back"));
    let _target =
        Skd::new(["--seqpacket", "-l", &back]).run_with("dd", ["bs=200000", "status=none"]);
    let skd = Skd::new(["-v", "--seqpacket", "-l", &front]).run_with(program(), [&back]);
    let mut client = seqpacket(&front);
    let mut buffer = vec![0; 200_000];
    for length in [1, 100, 65_536, 150_000, 2] {
        let bytes = pattern(length);
        client.send(&bytes).unwrap();
        let received = client.read(&mut buffer).unwrap();
        assert!(buffer[..received] == bytes, "{length}: {received}");
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut buffer).unwrap(), 0);
    all_ended(&skd, 0, 1);
    skd.stop();

    // To a datagram socket, which answers by name.
    let path = directory.name("datagrams");
    let _target = Skd::new(["-d", "-l", &path, "--datagram-mode", "per-packet"])
        .run_with("tr", ["a-z", "A-Z"]);
    let skd = Skd::new(["-v", "--seqpacket", "-l", &front]).run_with(program(), [&path]);
    let mut client = seqpacket(&front);
    for text in ["one", "three"] {
        client.send(text.as_bytes()).unwrap();
        let received = client.read(&mut buffer).unwrap();
        assert_eq!(buffer[..received], *text.to_uppercase().as_bytes());
    }
    drop(client);
    all_ended(&skd, 0, 1);
}

#[test]
fn an_empty_message_is_not_the_end() {
    let directory = Directory::new();
    let (front, back) = (directory.name("front"), directory.name("back"));
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    listener.bind(&SockAddr::unix(&back).unwrap()).unwrap();
    listener.listen(1).unwrap();
    let skd = Skd::new(["-v", "--seqpacket", "-l", &front]).run_with(program(), [&back]);
    let client = seqpacket(&front);
    let mut target = listener.accept().unwrap().0;
    target.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [1; 16];
    for text in ["a", "", "b"] {
        client.send(text.as_bytes()).unwrap();
        assert_eq!(target.read(&mut buffer).unwrap(), text.len());
    }
    // The last message comes with the end.
    client.send(b"").unwrap();
    client.send(b"c").unwrap();
    drop(client);
    for length in [0, 1, 0] {
        assert_eq!(target.read(&mut buffer).unwrap(), length);
    }
    drop(target);
    all_ended(&skd, 0, 1);
}

#[test]
fn datagrams_of_unix_sockets_may_be_longer_than_those_of_udp() {
    let directory = Directory::new();
    let path = directory.name("target");
    let target = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    target.set_read_timeout(Some(DEADLINE)).unwrap();
    let (client, handler) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let mut forward = Command::new(program())
        .arg(&path)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(
            handler.try_clone().unwrap(),
        )))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(handler)))
        .spawn()
        .unwrap();
    let mut buffer = vec![0; 200_000];
    for length in [0, 1, 65_507, 65_508, 150_000] {
        let bytes = pattern(length);
        client.send(&bytes).unwrap();
        let received = target.recv(&mut buffer).unwrap();
        assert!(buffer[..received] == bytes, "{length}: {received}");
    }
    forward.kill().unwrap();
    forward.wait().unwrap();
}

#[test]
fn an_idle_connection_has_neither_pipes_nor_wake_ups() {
    let (skd, mut client, mut target) = pair(&[], &[]);
    client.write_all(b"x").unwrap();
    target.read_exact(&mut [0; 1]).unwrap();
    let handlers = skd.wait_for_children(1);
    assert_idle(&handlers);
    // The client, standard error, and the target.
    assert_eq!(descriptors(handlers[0]).len(), 4);
    let _second = connect(skd.address());
}
