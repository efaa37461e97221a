//! Socket options: what the kernel reports of the listener, and of the connection of a handler.

use crate::harness::{
    Directory, Namespace, Running, Skd, ask, ask_unix_datagram, connect, receive, requires_command,
    requires_root, run_to_end, talk, udp_client,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, IoSliceMut, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

const UID: u32 = 61234;
const GID: u32 = 61235;

/// A handler that prints options of its socket: for each argument, LEVEL:NAME, the value. For a listener, the
/// values of the connection that is accepted there follow.
const ASK: &str = r#"
    sub show {
        my ($socket) = @_;
        join " ", map {
            my $value = getsockopt($socket, $1, $2) if /(.*):(.*)/;
            !defined $value ? "-" : $_ eq "1:25" ? unpack("Z*", $value) : unpack("i", $value);
        } @ARGV;
    }
    my $said = show(STDIN);
    if (unpack "i", getsockopt(STDIN, 1, 30)) {
        accept(my $connection, STDIN) or die $!;
        sysread $connection, my $bytes, 1;
        syswrite $connection, "$said | " . show($connection);
    } elsif (unpack("i", getsockopt(STDIN, 1, 3)) == 2) {
        my $from = recv(STDIN, my $bytes, 99, 0) // die $!;
        send(STDOUT, $said, 0, $from) or die $!;
    } else {
        sysread STDIN, my $bytes, 1;
        syswrite STDOUT, $said;
    }
"#;

/// Level and name of socket options, and their expected values.
type Expected<'a> = &'a [(&'a str, &'a str)];

const KEEPALIVE: &str = "1:9";
const KEEP_IDLE: &str = "6:4";
const KEEP_INTERVAL: &str = "6:5";
const KEEP_COUNT: &str = "6:6";
const NODELAY: &str = "6:1";
const USER_TIMEOUT: &str = "6:18";
const DEFER_ACCEPT: &str = "6:9";
const FAST_OPEN: &str = "6:23";
const REUSE_PORT: &str = "1:15";
const FREEBIND: &str = "0:15";
const FREEBIND_6: &str = "41:78";
const DEVICE: &str = "1:25";
const TOS: &str = "0:1";
const TRAFFIC_CLASS: &str = "41:67";
const MARK: &str = "1:36";
const SEND_BUFFER: &str = "1:7";
const RECEIVE_BUFFER: &str = "1:8";

fn serve(skd: Skd, expected: Expected<'_>) -> Running {
    requires_command("perl");
    let names = expected.iter().map(|(name, _)| *name);
    skd.run_with("perl", ["-e", ASK].into_iter().chain(names))
}

fn values(expected: Expected<'_>) -> String {
    let values: Vec<_> = expected.iter().map(|(_, value)| *value).collect();
    values.join(" ")
}

fn say(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts the options of a listener at this host and of its connections: accepted by skd, and by PROG.
#[track_caller]
fn tcp(option: &str, host: &str, listener: Expected<'_>, connection: Expected<'_>) {
    let listen = ["-t", &format!("{host}:0")].map(str::to_owned);
    let skd = serve(Skd::new([option]).args(&listen), connection);
    for _ in 0..2 {
        let said = talk(skd.connect(), b"x");
        assert_eq!(say(&said), values(connection), "{option} {host}");
    }
    let skd = serve(Skd::new([option, "--wait"]).args(&listen), listener);
    let said = say(&talk(skd.connect(), b"x"));
    let (said, _) = said.split_once(" | ").unwrap();
    assert_eq!(said, values(listener), "{option} {host}: the listener");
}

#[track_caller]
fn both(option: &str, host: &str, expected: Expected<'_>) {
    tcp(option, host, expected, expected);
}

#[track_caller]
fn udp(option: &str, host: &str, expected: Expected<'_>) {
    let skd = serve(Skd::new([option, "-u", &format!("{host}:0")]), expected);
    let said = ask(&udp_client(skd.address()), b"x");
    assert_eq!(say(&said), values(expected), "{option} {host}");
}

const HOSTS: [&str; 2] = ["127.0.0.1", "[::1]"];

#[test]
fn connections_inherit_the_options_of_their_listener() {
    let time = fs::read_to_string("/proc/sys/net/ipv4/tcp_keepalive_time").unwrap();
    let time = [(KEEPALIVE, "1"), (KEEP_IDLE, time.trim())];
    for host in HOSTS {
        both("--keepalive", host, &time);
        both(
            "--keepalive=10m:30s:4",
            host,
            &[
                (KEEPALIVE, "1"),
                (KEEP_IDLE, "600"),
                (KEEP_INTERVAL, "30"),
                (KEEP_COUNT, "4"),
            ],
        );
        both("--user-timeout=30s", host, &[(USER_TIMEOUT, "30000")]);
        // The number of retransmissions that take so long. A connection has no such option.
        tcp("--defer-accept=5s", host, &[(DEFER_ACCEPT, "7")], &[]);
        tcp("--fast-open=16", host, &[(FAST_OPEN, "16")], &[]);
        both("--nodelay", host, &[(NODELAY, "1"), (KEEPALIVE, "0")]);
        both("--device=lo", host, &[(DEVICE, "lo")]);
        both("--reuse-port", host, &[(REUSE_PORT, "1")]);
        both("--send-buffer=100K", host, &[(SEND_BUFFER, "204800")]);
        both(
            "--receive-buffer=50000",
            host,
            &[(RECEIVE_BUFFER, "100000")],
        );
    }
    for (value, byte) in [("ef", "184"), ("0x28", "40"), ("32", "32"), ("LE", "4")] {
        let option = format!("--tos={value}");
        both(&option, HOSTS[0], &[(TOS, byte)]);
        both(&option, HOSTS[1], &[(TRAFFIC_CLASS, byte)]);
    }
    both("--freebind", HOSTS[0], &[(FREEBIND, "1")]);
    both("--freebind", HOSTS[1], &[(FREEBIND_6, "1")]);
}

#[test]
fn datagram_sockets_have_their_options() {
    for host in HOSTS {
        udp("--device=lo", host, &[(DEVICE, "lo")]);
        udp("--reuse-port", host, &[(REUSE_PORT, "1")]);
        udp("--send-buffer=100K", host, &[(SEND_BUFFER, "204800")]);
        udp("--receive-buffer=1M", host, &[(RECEIVE_BUFFER, "2097152")]);
    }
    udp("--tos=af41", HOSTS[0], &[(TOS, "136")]);
    udp("--tos=af41", HOSTS[1], &[(TRAFFIC_CLASS, "136")]);
    udp("--freebind", HOSTS[0], &[(FREEBIND, "1")]);
    udp("--freebind", HOSTS[1], &[(FREEBIND_6, "1")]);
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new(["--send-buffer=100K", "-dl", &path]);
    let skd = serve(skd, &[(SEND_BUFFER, "204800")]);
    let said = ask_unix_datagram(directory.join("client"), skd.path(), b"x");
    assert_eq!(say(&said), "204800");
}

#[test]
fn a_mark_is_set_with_the_capability_for_it() {
    requires_root();
    for host in HOSTS {
        both("--mark=0x1f", host, &[(MARK, "31")]);
        udp("--mark=4294967295", host, &[(MARK, "-1")]);
    }
    for listen in ["-t", "-u"] {
        for check in [&["--check"][..], &[]] {
            Skd::new(check)
                .args(["--mark=1", listen, "127.0.0.1:4242", "cat"])
                .user(UID, GID, [GID])
                .end()
                .expect_refusal(
                    1,
                    &[
                        "--mark can't be set on ",
                        "[127.0.0.1]:4242",
                        "CAP_NET_ADMIN",
                    ],
                );
        }
    }
}

#[test]
fn each_listener_has_the_options_of_its_kind() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new([
        "--keepalive",
        "--tos=cs1",
        "--send-buffer=100K",
        "-l",
        &path,
    ])
    .args(["-t", "127.0.0.1:0"]);
    let expected = [(KEEPALIVE, "1"), (TOS, "32"), (SEND_BUFFER, "204800")];
    let skd = serve(skd, &expected);
    assert_eq!(say(&talk(skd.connect(), b"x")), values(&expected));
    // The kernel makes connections of unix sockets anew.
    let said = say(&talk(skd.connect_unix(), b"x"));
    assert!(
        said.starts_with("0 - ") && !said.ends_with(" 204800"),
        "{said}"
    );
}

#[test]
fn packets_bear_their_type_of_service() {
    let skd = serve(Skd::new(["--tos=ef", "-u", "127.0.0.1:0"]), &[]);
    let client = udp_client(skd.address());
    setsockopt(&client, sockopt::IpRecvTos, &true).unwrap();
    client.send(b"x").unwrap();
    let mut bytes = [0; 100];
    let mut control = nix::cmsg_space!(u32);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(
        client.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    );
    let found: Vec<_> = message.unwrap().cmsgs().unwrap().collect();
    assert!(
        matches!(found[..], [ControlMessageOwned::Ipv4Tos(0xb8)]),
        "{found:?}"
    );
}

#[test]
fn buffers_exceed_the_limit_with_the_capability_for_it() {
    requires_root();
    let limit = |name: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/sys/net/core/{name}_max")).unwrap();
        text.trim().parse().unwrap()
    };
    for (option, name, value) in [
        ("--send-buffer", "wmem", SEND_BUFFER),
        ("--receive-buffer", "rmem", RECEIVE_BUFFER),
    ] {
        let limit = limit(name);
        let wanted = limit + 4096;
        let words = [format!("{option}={wanted}"), "-t127.0.0.1:0".into()];
        let silent = Skd::new(["--check"]).args(&words).arg("cat").end();
        assert_eq!(silent.expect_code(0).stderr, "");
        both(&words[0], HOSTS[0], &[(value, &(2 * wanted).to_string())]);
        // Cut to the limit without the capability, and logged with -v.
        let skd = Skd::new(&words).user(UID, GID, [GID]);
        let skd = serve(skd, &[(value, "")]);
        assert_eq!(say(&talk(skd.connect(), b"x")), (2 * limit).to_string());
        let checked = Skd::new(["--check"]).args(&words).arg("cat");
        let checked = checked.user(UID, GID, [GID]).end();
        let note = format!(
            "skd: note: {option} {wanted}: the kernel makes it {limit}; net.core.{name}_max is the limit \
             without CAP_NET_ADMIN\n"
        );
        assert_eq!(checked.expect_code(0).stderr, note);
    }
}

#[test]
fn a_silent_client_is_not_accepted_with_deferred_accept() {
    let skd = Skd::new(["-v", "--defer-accept=1h", "-t", "127.0.0.1:0"]).run("cat");
    let mut silent = skd.connect();
    assert_eq!(talk(skd.connect(), b"first"), b"first");
    assert_eq!(skd.logged("Accepted connection").len(), 1);
    silent.write_all(b"second").unwrap();
    assert_eq!(receive(&mut silent, 6), b"second");
    assert_eq!(skd.logged("Accepted connection").len(), 2);
}

#[test]
fn several_daemons_share_a_port() {
    // Each server names itself.
    let who = "$p = recv(STDIN, $_, 9, 0); send(STDOUT, getppid, 0, $p)";
    for (listen, script) in [("-t", "syswrite STDOUT, getppid"), ("-u", who)] {
        let start = |port: u16, options: &[&str]| {
            let skd = Skd::new(options).args([listen, &format!("127.0.0.1:{port}")]);
            skd.run_with("perl", ["-e", script])
        };
        let one = start(0, &["--reuse-port"]);
        let other = start(one.port(), &["--reuse-port"]);
        let both = BTreeSet::from([one.pid(), other.pid()].map(|pid| pid.to_string()));
        let mut seen = BTreeSet::new();
        // The kernel chooses by the client's port: 200 clients of one daemon would be very unlikely.
        for _ in 0..200 {
            let said = match listen {
                "-t" => talk(one.connect(), b""),
                _ => ask(&udp_client(one.address()), b"x"),
            };
            seen.insert(say(&said));
            if seen == both {
                break;
            }
        }
        assert_eq!(seen, both);
        Skd::new([listen, &format!("127.0.0.1:{}", one.port()), "cat"])
            .end()
            .expect_refusal(1, &["can't bind", "has the port"]);
        // After one has ended, the other serves on.
        assert_eq!(one.stop().code(), Some(0));
        let said = match listen {
            "-t" => talk(other.connect(), b""),
            _ => ask(&udp_client(other.address()), b"x"),
        };
        assert_eq!(say(&said), other.pid().to_string());
    }
}

#[test]
fn listeners_of_one_command_line_share_a_port_too() {
    let namespace = Namespace::new();
    for listen in ["-t", "-u"] {
        let words = [listen, "80", listen, "127.0.0.1:80"];
        for check in [&["--check"][..], &[]] {
            let skd = Skd::new(check).args(words).arg("cat").inside(&namespace);
            skd.end().expect_refusal(1, &[]);
        }
        let skd = Skd::new(["--check", "--reuse-port"]).args(words).arg("cat");
        let output = skd.inside(&namespace).end();
        assert_eq!(output.expect_code(0).stderr, "");
        let skd = Skd::new(["--reuse-port"]).args(words).inside(&namespace);
        assert_eq!(skd.run("cat").stop().code(), Some(0));
    }
}

#[test]
fn a_free_port_is_not_shared_yet() {
    let namespace = Namespace::new();
    namespace.sysctl("net/ipv4/ip_local_port_range", "40000 40003");
    for listen in ["-t", "-u"] {
        let skd = Skd::new(["--reuse-port"]).args([listen, "127.0.0.1:0"].repeat(4));
        let skd = skd.inside(&namespace).run("cat");
        let ports = BTreeSet::from_iter(skd.stdout_lines());
        assert_eq!(ports.len(), 4, "{listen} {ports:?}");
    }
}

#[test]
fn an_address_is_bound_before_it_exists() {
    requires_root();
    let namespace = Namespace::new();
    for (host, address) in [
        ("192.0.2.1", "192.0.2.1/32"),
        ("[2001:db8::1]", "2001:db8::1/128"),
    ] {
        let listen = ["-t", &format!("{host}:4242")].map(str::to_owned);
        let refused = Skd::new(&listen).arg("cat").inside(&namespace).end();
        refused.expect_refusal(1, &["can't bind"]);
        let words = ["--freebind", "-u", &format!("{host}:4242")].map(str::to_owned);
        let checked = Skd::new(["--check"]).args(&words).args(&listen).arg("cat");
        let checked = checked.inside(&namespace).end();
        assert_eq!(checked.expect_code(0).stderr, "");
        let skd = Skd::new(words).args(&listen).inside(&namespace).run("cat");
        namespace.add_address(address);
        let to: SocketAddr = format!("{host}:4242").parse().unwrap();
        assert_eq!(talk(skd.connect_to(to), b"here"), b"here");
    }
}

#[test]
fn only_datagrams_of_the_interface_are_received() {
    let namespace = Namespace::new();
    for (listen, shown) in [("-t", "TCP"), ("-u", "UDP")] {
        for check in [&["--check"][..], &[]] {
            let words = ["--device", "no-such-if", listen, "127.0.0.1:4242", "cat"];
            Skd::new(check)
                .args(words)
                .inside(&namespace)
                .end()
                .expect_refusal(
                    1,
                    &[
                        &format!("--device can't be set on {shown} [127.0.0.1]:4242: "),
                        "there is no interface 'no-such-if'",
                    ],
                );
        }
    }
    // All or nothing.
    let directory = Directory::new();
    Skd::new(["-l", &directory.name("socket"), "--device=no-such-if"])
        .args(["-t", "127.0.0.1:0", "cat"])
        .end()
        .expect_refusal(1, &["no-such-if"]);
    assert_eq!(directory.names(), [""; 0]);
    namespace.shell("ip link add one type veth peer name two && ip link set one up");
    namespace.shell("ip address add 192.0.2.1/32 dev one");
    // The kernel assigns a local datagram to the interface of its destination address.
    for (device, host, heard) in [
        ("one", "192.0.2.1", true),
        ("lo", "127.0.0.1", true),
        ("one", "127.0.0.1", false),
        ("lo", "192.0.2.1", false),
    ] {
        let address: SocketAddr = format!("{host}:4242").parse().unwrap();
        let skd = Skd::new(["--device", device, "-t", &address.to_string()]);
        let skd = skd.inside(&namespace).run("cat");
        if heard {
            assert_eq!(talk(skd.connect_to(address), b"heard"), b"heard");
            continue;
        }
        let refused = namespace.enter(|| TcpStream::connect(address));
        let reason = refused.map(drop).unwrap_err().kind();
        assert_eq!(reason, ErrorKind::ConnectionRefused, "{device} {host}");
    }
}

#[test]
fn fast_open_that_the_kernel_lacks_is_noted() {
    requires_root();
    let namespace = Namespace::new();
    for (allowed, notes) in [("1", true), ("3", false)] {
        namespace.sysctl("net/ipv4/tcp_fastopen", allowed);
        let skd = Skd::new(["--check", "--fast-open=9", "-t", "80", "cat"]);
        let output = skd.inside(&namespace).end();
        let note =
            "skd: note: --fast-open has no effect while net.ipv4.tcp_fastopen is 1; set it to 3\n";
        assert_eq!(output.expect_code(0).stderr, if notes { note } else { "" });
    }
}

// Inherited sockets.

#[test]
fn inherited_sockets_and_their_queued_connections_have_the_options() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let early = [(); 3].map(|()| connect(address));
    let expected = [
        (KEEPALIVE, "1"),
        (KEEP_IDLE, "60"),
        (TOS, "184"),
        (NODELAY, "1"),
        (USER_TIMEOUT, "1000"),
        (SEND_BUFFER, "204800"),
    ];
    requires_command("perl");
    let names = expected.iter().map(|(name, _)| *name);
    let skd = Skd::new(["--listen-fd=3", "--keepalive=1m:1s:3", "--tos=ef", "-n"])
        .args(["--user-timeout=1s", "--send-buffer=100K"])
        .descriptor(3, listener)
        .start_with("perl", ["-e", ASK].into_iter().chain(names));
    for client in early {
        assert_eq!(say(&talk(client, b"x")), values(&expected), "early");
    }
    for _ in 0..2 {
        assert_eq!(say(&talk(connect(address), b"x")), values(&expected));
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn options_for_binding_have_no_effect_on_inherited_sockets() {
    for option in ["--reuse-port", "--freebind", "--device=lo"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Skd::new(["--listen-fd=3", option, "cat"])
            .descriptor(3, listener)
            .end()
            .expect_refusal(
                2,
                &[option.split('=').next().unwrap(), "has no use", "is bound"],
            );
        // Beside a bound socket the option is for that.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let skd = Skd::new(["--listen-fd=3", option, "-t", "127.0.0.1:0"]);
        let skd = skd.descriptor(3, listener).run("cat");
        assert_eq!(talk(skd.connect(), b"served"), b"served");
    }
}

// After an upgrade.

#[test]
fn an_upgrade_keeps_the_options() {
    requires_root();
    let expected = [(KEEP_IDLE, "60"), (TOS, "184"), (MARK, "7")];
    // The new process hasn't the capability to set the mark.
    let skd = Skd::new(["-v", "--keepalive=1m:1s:3", "--tos=ef", "--mark=7"]);
    let skd = skd.args(["--user=61234:61235", "-t", "127.0.0.1:0"]);
    let skd = serve(skd, &expected);
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from skd ");
    for _ in 0..2 {
        assert_eq!(say(&talk(skd.connect(), b"x")), values(&expected));
    }
    assert_eq!(skd.stop().code(), Some(0));
}

// The cost.

/// The number of calls of skd itself in a trace of all processes, one per line.
fn calls(trace: &str, name: &str) -> usize {
    let begins = format!("{name}(");
    trace.lines().filter(|line| line.contains(&begins)).count()
}

/// Serves `clients` clients, one after the other, and returns the traced calls for socket options.
fn traced(options: &[&str], early: usize, clients: usize) -> String {
    requires_command("strace");
    let directory = Directory::new();
    let trace = directory.name("trace");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let early: Vec<_> = (0..early).map(|_| connect(address)).collect();
    let skd = Skd::new(options)
        .args(["--listen-fd=3", "-t", "127.0.0.1:0"])
        .descriptor(3, listener)
        .wrapper([
            "strace",
            "-f",
            "-qq",
            "-o",
            &trace,
            "-e",
            "trace=setsockopt,getsockopt,getpeername,getsockname,fcntl",
        ])
        .run("cat");
    for client in early {
        assert_eq!(talk(client, b"x"), b"x");
    }
    for _ in 0..clients {
        assert_eq!(talk(connect(address), b"x"), b"x");
        assert_eq!(talk(skd.connect(), b"x"), b"x");
    }
    assert_eq!(skd.stop().code(), Some(0));
    directory.read("trace")
}

const ALL: &[&str] = &[
    "-n",
    "--keepalive=1m:1s:3",
    "--user-timeout=1s",
    "--defer-accept=1s",
    "--fast-open=9",
    "--reuse-port",
    "--freebind",
    "--device=lo",
    "--tos=ef",
    "--send-buffer=100K",
    "--receive-buffer=100K",
];

#[test]
fn a_connection_costs_no_additional_calls() {
    let names = [
        "setsockopt",
        "getsockopt",
        "getpeername",
        "getsockname",
        "fcntl",
    ];
    let counts = |options, clients| {
        let trace = traced(options, 0, clients);
        names.map(|name| calls(&trace, name))
    };
    let (few, many) = (counts(ALL, 1), counts(ALL, 6));
    let (plain_few, plain_many) = (counts(&[], 1), counts(&[], 6));
    for (at, name) in names.iter().enumerate() {
        let (cost, plain) = (many[at] - few[at], plain_many[at] - plain_few[at]);
        assert_eq!(cost, plain, "{name}");
    }
    assert!(few[0] > plain_few[0]);
    // Only connections that had waited at an inherited socket get them.
    let nodelay = |early, clients| {
        let trace = traced(&["-n"], early, clients);
        trace.matches("TCP_NODELAY").count()
    };
    assert_eq!([nodelay(0, 2), nodelay(3, 2)], [2, 5]);
}

// Refusals.

#[test]
fn options_without_effect_are_refused() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let tcp = [
        "--keepalive",
        "--user-timeout=1s",
        "--defer-accept=1s",
        "--fast-open=1",
    ];
    let bound = ["--reuse-port", "--freebind", "--device=lo"];
    let inet = ["--tos=ef", "--mark=1", "--receive-buffer=1K"];
    let without: [&[&str]; 3] = [&[], &["-l", &path], &["-u", "0"]];
    for listen in without {
        let all = tcp.iter().chain(&bound).chain(&inet);
        let some = match listen {
            ["-u", _] => tcp.to_vec(),
            _ => all.chain(&["--send-buffer=1K"]).copied().collect(),
        };
        for option in some {
            for check in [&["--check"][..], &[]] {
                let skd = Skd::new(check).arg(option).args(listen).arg("cat");
                let name = option.split('=').next().unwrap();
                let text = format!("skd: {name} has no use without a TCP");
                skd.end().expect_refusal(2, &[&text]);
            }
        }
    }
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn values_out_of_range_are_refused() {
    for (option, values) in [
        (
            "keepalive",
            &["", "1m", "1m:1s", "0s:1s:1", "1s:1s:128", "10h:1s:1", "x"][..],
        ),
        ("user-timeout", &["", "0s", "25d", "30", "-1s"]),
        ("defer-accept", &["", "0s", "1500ms", "9h"]),
        ("fast-open", &["", "0", "-1", "2147483648", "x"]),
        ("device", &["", "sixteen-letters0", "a/b", "a b"]),
        ("tos", &["", "256", "-1", "cs8", "af14", "0x", "be"]),
        ("mark", &["", "-1", "4294967296", "x"]),
        ("send-buffer", &["", "0", "2G", "1k", "unlimited"]),
        ("receive-buffer", &["", "0", "2G", "-1"]),
    ] {
        for value in values {
            let text = format!("skd: invalid value '{value}' for --{option}: it takes ");
            run_to_end([&format!("--{option}={value}"), "-t", "0", "cat"])
                .expect_refusal(2, &[&text]);
        }
    }
    // The value of --keepalive is in the same word.
    let skd = Skd::new(["--check", "--keepalive", "-t", "0", "cat"]);
    assert_eq!(skd.end().expect_code(0).stderr, "");
    for flag in ["--reuse-port=1", "--freebind=1"] {
        run_to_end([flag, "-t", "0", "cat"]).expect_refusal(2, &["takes no value"]);
    }
}

#[test]
fn options_that_the_kernel_lacks_are_named() {
    requires_command("strace");
    for (option, name, number) in [
        ("--defer-accept=1s", "defer-accept", 1),
        ("--reuse-port", "reuse-port", 1),
    ] {
        // The first option that is set is SO_REUSEADDR.
        let inject = format!("inject=setsockopt:error=ENOPROTOOPT:when={}", number + 1);
        let output = Skd::new([option, "-t", "127.0.0.1:0", "cat"])
            .wrapper(["strace", "-qq", "-o", "/dev/null", "-e", &inject])
            .end();
        output.expect_refusal(
            1,
            &[
                &format!("skd: --{name} can't be set on TCP [127.0.0.1]:0: "),
                "the kernel doesn't have this option for such a socket",
            ],
        );
    }
}
