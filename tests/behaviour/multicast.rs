//! `--multicast`: groups that UDP listeners join.

use crate::harness::{DEADLINE, Namespace, Skd, poll_for, requires_command};
use nix::sys::signal::Signal;

/// A network with two interfaces beside the loopback interface. Each of them loops back datagrams that are
/// sent to a group there.
fn network() -> Namespace {
    let network = Namespace::new();
    for interface in ["one", "two"] {
        let peer = format!("{interface}-peer");
        let pair = ["type", "veth", "peer", "name", &peer];
        network.run(["ip", "link", "add", interface].into_iter().chain(pair));
        network.run(["ip", "link", "set", interface, "up"]);
        network.run(["ip", "link", "set", &peer, "up"]);
    }
    network.run(["ip", "address", "add", "10.1.0.1/16", "dev", "one"]);
    network.run(["ip", "address", "add", "10.2.0.1/16", "dev", "two"]);
    for (address, interface) in [("fd01::1/64", "one"), ("fd02::1/64", "two")] {
        network.run(["ip", "address", "add", address, "dev", interface, "nodad"]);
    }
    network
}

/// The groups that a process has joined on an interface (ip-maddress(8)).
fn joined(network: &Namespace, interface: &str, group: &str) -> bool {
    let text = network.run(["ip", "maddress", "show", "dev", interface]);
    let mut words = text.split_whitespace();
    words.any(|word| word == group)
}

/// Sends a text to a group on an interface.
fn send(network: &Namespace, group: &str, interface: &str, text: &str) {
    let script = r#"
import socket, sys
group, interface, text = sys.argv[1:]
index = socket.if_nametoindex(interface)
if ":" in group:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
else:
    import struct
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
s.sendto(text.encode(), (group, 5353))
"#;
    network.run(["python3", "-c", script, group, interface, text]);
}

/// Writes each datagram to the log, and waits for more.
const TELLING: [&str; 2] = [
    "-e",
    "$| = 1; while (recv STDIN, my $text, 999, 0) { print STDERR \"heard $text\\n\" }",
];

#[test]
fn only_datagrams_to_the_joined_group_are_received() {
    requires_command("perl");
    requires_command("python3");
    let network = network();
    // Another program, which has joined another group.
    let other = Skd::new(["-u", "5354", "--multicast=239.9.9.9%one"])
        .args(["--multicast=ff02::99%one"])
        .inside(&network)
        .run("true");
    let skd = Skd::new(["-vv", "-u", "5353", "--multicast=239.1.2.3%one"])
        .args(["--multicast", "239.1.2.4%two", "--multicast=ff02::1:3%one"])
        .inside(&network)
        .run_with("perl", TELLING);
    for (interface, group) in [
        ("one", "239.1.2.3"),
        ("two", "239.1.2.4"),
        ("one", "ff02::1:3"),
        ("one", "239.9.9.9"),
        ("one", "ff02::99"),
    ] {
        assert!(joined(&network, interface, group), "{group}");
    }
    assert!(!joined(&network, "two", "239.1.2.3"));
    let before = |round: &str| {
        send(&network, "239.9.9.9", "one", "another's");
        send(&network, "ff02::99", "one", "another's");
        for (group, interface) in [
            ("239.1.2.3", "one"),
            ("239.1.2.4", "two"),
            ("ff02::1:3", "one"),
        ] {
            let text = format!("{round} {group}");
            send(&network, group, interface, &text);
            skd.wait_for_log(&format!("heard {text}"));
        }
    };
    before("before");
    // The address belongs to the socket.
    skd.signal(Signal::SIGUSR2);
    let upgraded = poll_for(3 * DEADLINE, || skd.logged("pgrade").into_iter().next());
    assert!(upgraded.unwrap().starts_with("Upgraded from"));
    assert!(joined(&network, "one", "239.1.2.3"));
    before("after");
    assert_eq!(skd.logged("another's"), [""; 0]);
    assert_eq!(skd.stop().code(), Some(0));
    drop(other);
    assert!(!joined(&network, "one", "239.1.2.3"));
}

#[test]
fn a_listener_at_the_group_address_receives_its_datagrams() {
    requires_command("perl");
    requires_command("python3");
    let network = network();
    network.run(["ip", "route", "add", "239.0.0.0/8", "dev", "two"]);
    // Without an interface the route decides. A listener at an address of the machine receives no group.
    let skd = Skd::new(["-u239.1.2.3:5353", "-u10.1.0.1:5353"])
        .args(["-vv", "--multicast=239.1.2.3"])
        .inside(&network)
        .run_with("perl", TELLING);
    assert!(joined(&network, "two", "239.1.2.3"));
    assert!(!joined(&network, "one", "239.1.2.3"));
    send(&network, "239.1.2.3", "two", "own");
    skd.wait_for_log("heard own");
}

#[test]
fn an_inherited_socket_joins_too() {
    let network = network();
    let line = "import os, socket, sys; \
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
                s.bind(('0.0.0.0', 5353)); os.dup2(os.dup2(s.fileno(), 9), 3); \
                os.execvp(sys.argv[1], sys.argv[1:])";
    requires_command("python3");
    let given = Skd::new(["-vv", "--listen-fd=3", "--multicast=239.1.2.3%one"])
        .wrapper(["python3", "-c", line])
        .inside(&network);
    let skd = given.start("true");
    skd.wait_for_log("Listening on UDP");
    skd.wait_until("it is joined", || joined(&network, "one", "239.1.2.3"));
    drop(skd);
    // The other version of IP.
    Skd::new(["--listen-fd=3", "--multicast=ff02::99%one", "true"])
        .wrapper(["python3", "-c", line])
        .inside(&network)
        .end()
        .expect_refusal(1, &["ff02::99%one", "no UDP listener receives it", "IPv6"]);
}

#[test]
fn a_group_that_cannot_be_joined_is_refused_by_check_too() {
    let network = network();
    for (status, options, texts) in [
        (
            2,
            &["-t0", "--multicast=239.1.2.3"][..],
            &["--multicast", "no use without a UDP listener"][..],
        ),
        (
            2,
            &["-u0", "--multicast=10.1.2.3"],
            &["10.1.2.3", "--multicast", "a multicast address"],
        ),
        (
            2,
            &["-u0", "--multicast=239.1.2.3%"],
            &["239.1.2.3%", "interface"],
        ),
        (
            2,
            &["-u0", "--multicast=239.1.2.3", "--multicast=239.1.2.3"],
            &["--multicast 239.1.2.3 is given twice"],
        ),
        (
            1,
            &["-u5353", "--multicast=239.1.2.3%nowhere"],
            &["239.1.2.3%nowhere", "no interface 'nowhere'"],
        ),
        (
            1,
            &["-u5353", "--multicast=ff02::99%nowhere"],
            &["ff02::99%nowhere", "no interface 'nowhere'"],
        ),
        (
            1,
            &["-u0.0.0.0:5353", "--multicast=ff02::99%one"],
            &["ff02::99%one", "no UDP listener receives it", "IPv6"],
        ),
        (
            1,
            &["-u10.1.0.1:5353", "--multicast=239.1.2.3%one"],
            &["239.1.2.3%one", "no UDP listener receives it", "IPv4"],
        ),
    ] {
        for check in [&[][..], &["--check"]] {
            Skd::new(options)
                .args(check)
                .args(["true"])
                .inside(&network)
                .end()
                .expect_refusal(status, texts);
        }
    }
    let fine = Skd::new(["--check", "-u5353", "--multicast=239.1.2.3%one", "true"]);
    fine.inside(&network).end().expect_code(0);
    assert!(!joined(&network, "one", "239.1.2.3"));
    // This is only known when joining.
    network.run(["ip", "route", "flush", "table", "main"]);
    Skd::new(["-u5353", "--multicast=239.1.2.3", "true"])
        .inside(&network)
        .end()
        .expect_refusal(1, &["239.1.2.3 can't be joined on UDP", "239.1.2.3%IF"]);
}
