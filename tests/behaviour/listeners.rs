//! What skd binds, where, and what it refuses.

use crate::harness::{
    Directory, Kind, Namespace, Running, Skd, Socket, ask_udp, ask_unix_datagram, close_unix,
    connect, connect_unix, datagram_echo, each_program, echo, requires_command, requires_root,
    sockets, talk, wait_until,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// The addresses at which `skd` has sockets of this kind, sorted.
fn bound(skd: &Running, kind: Kind) -> Vec<SocketAddr> {
    let found = sockets(skd.pid()).into_iter();
    let mut addresses: Vec<SocketAddr> = found
        .filter(|socket| socket.kind == kind && socket.is_open())
        .filter_map(|socket| socket.address)
        .collect();
    addresses.sort();
    addresses
}

fn v4(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address, port).into()
}

fn v6(address: Ipv6Addr, port: u16) -> SocketAddr {
    (address, port).into()
}

fn inode(path: impl AsRef<Path>) -> u64 {
    fs::symlink_metadata(path).expect("a file").ino()
}

/// A unix socket of any type, bound and not listening.
fn unix_socket(kind: SockType, path: &Path) -> OwnedFd {
    let made = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(made.as_raw_fd(), &UnixAddr::new(path).expect("a path")).expect("binding");
    made
}

// Internet addresses.

#[test]
fn a_bare_port_is_one_socket_for_ipv4_and_one_for_ipv6() {
    let (echo, args) = datagram_echo();
    for option in ["-t0", "-t:0", "-i0"] {
        let family = "-MSocket";
        let script = "print sockaddr_family(getpeername(STDIN)) == AF_INET ? 'IPv4' : 'IPv6'";
        let skd = Skd::new([option]).run_with("perl", [family, "-e", script]);
        let port = skd.port();
        assert_eq!(
            bound(&skd, Kind::Tcp),
            [
                v4(Ipv4Addr::UNSPECIFIED, port),
                v6(Ipv6Addr::UNSPECIFIED, port)
            ],
            "{option}"
        );
        // Not an IPv4-mapped IPv6 address, for the handler either.
        let [by_v4, by_v6] = [v4(Ipv4Addr::LOCALHOST, port), v6(Ipv6Addr::LOCALHOST, port)]
            .map(|address| talk(connect(address), b""));
        assert_eq!((by_v4, by_v6), (b"IPv4".to_vec(), b"IPv6".to_vec()));
        assert_eq!(skd.stdout_lines(), [port.to_string()]);
    }
    let skd = Skd::new(["-u", "0"]).run_with(echo, args);
    let port = skd.port();
    assert_eq!(
        bound(&skd, Kind::Udp),
        [
            v4(Ipv4Addr::UNSPECIFIED, port),
            v6(Ipv6Addr::UNSPECIFIED, port)
        ]
    );
    assert_eq!(ask_udp(v4(Ipv4Addr::LOCALHOST, port), b"4"), b"4");
    assert_eq!(ask_udp(v6(Ipv6Addr::LOCALHOST, port), b"6"), b"6");
    assert_eq!(skd.stdout_lines(), [port.to_string()]);
}

#[test]
fn the_ipv6_wildcard_leaves_ipv4_free() {
    let skd = Skd::new(["-t", "[::]:0"]).run("cat");
    let port = skd.port();
    assert_eq!(bound(&skd, Kind::Tcp), [v6(Ipv6Addr::UNSPECIFIED, port)]);
    let other = TcpListener::bind(v4(Ipv4Addr::UNSPECIFIED, port));
    other.expect("the port of IPv4 is free");
    assert_eq!(talk(connect(v6(Ipv6Addr::LOCALHOST, port)), b"6"), b"6");
}

#[test]
fn an_address_is_bound_alone() {
    for (host, address) in [
        ("127.0.0.1", IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ("[127.0.0.1]", Ipv4Addr::LOCALHOST.into()),
        ("0.0.0.0", Ipv4Addr::UNSPECIFIED.into()),
        ("[::1]", Ipv6Addr::LOCALHOST.into()),
    ] {
        let skd = Skd::new(["-t", &format!("{host}:0"), "-u", &format!("{host}:0")]).run("cat");
        let ports: Vec<u16> = skd.addresses().iter().map(SocketAddr::port).collect();
        assert_eq!(
            bound(&skd, Kind::Tcp),
            [SocketAddr::new(address, ports[0])],
            "{host}"
        );
        assert_eq!(
            bound(&skd, Kind::Udp),
            [SocketAddr::new(address, ports[1])],
            "{host}"
        );
    }
}

#[test]
fn free_ports_are_printed_in_the_order_of_the_options() {
    let directory = Directory::new();
    let skd = Skd::new(["-i", "127.0.0.1:0", "-u", "127.0.0.1:0", "-l"])
        .arg(directory.join("socket"))
        .args(["--tcp=[::1]:0", "-t", "127.0.0.2:0", "-u0"])
        .run("cat");
    let printed: Vec<u16> = skd
        .stdout_lines()
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(printed.len(), 5, "{printed:?}");
    assert_eq!(
        bound(&skd, Kind::Tcp),
        [
            v4(Ipv4Addr::LOCALHOST, printed[0]),
            v4(Ipv4Addr::new(127, 0, 0, 2), printed[3]),
            v6(Ipv6Addr::LOCALHOST, printed[2]),
        ]
    );
    assert_eq!(
        bound(&skd, Kind::Udp),
        [
            v4(Ipv4Addr::UNSPECIFIED, printed[4]),
            v4(Ipv4Addr::LOCALHOST, printed[1]),
            v6(Ipv6Addr::UNSPECIFIED, printed[4]),
        ]
    );
}

#[test]
fn a_printed_port_can_be_connected_at_once() {
    for _ in 0..10 {
        // The harness connects as soon as it has read the number.
        let skd = Skd::new(["-t0", "-t0", "-t0", "-t0"]).run("cat");
        for address in skd.addresses().into_iter().rev() {
            assert_eq!(talk(connect(address), b"now"), b"now");
        }
    }
}

#[test]
fn an_explicit_port_is_not_printed() {
    let port = Skd::new(["-t", "127.0.0.1:0"]).run("cat").port();
    let skd = Skd::new(["-t", &format!("127.0.0.1:{port}")]).run("cat");
    assert_eq!(talk(skd.connect(), b"1"), b"1");
    assert_eq!(skd.stop().code(), Some(0));
    assert!(skd.stdout_lines().is_empty());
}

#[test]
fn a_name_is_bound_at_all_its_addresses() {
    requires_root();
    let namespace = Namespace::new();
    namespace.add_address("10.9.8.7/32");
    namespace.replace_file(
        "/etc/hosts",
        "10.9.8.7 several\n127.0.0.3 several\n::1 several\n10.9.8.6 several\n",
    );
    let skd = Skd::new(["-v", "-t", "several:0"])
        .inside(&namespace)
        .run("cat");
    let port = skd.stdout_line().parse().unwrap();
    let expected = [
        v4(Ipv4Addr::new(10, 9, 8, 7), port),
        v4(Ipv4Addr::new(127, 0, 0, 3), port),
        v6(Ipv6Addr::LOCALHOST, port),
    ];
    assert_eq!(bound(&skd, Kind::Tcp), expected);
    for address in expected {
        assert_eq!(talk(skd.connect_to(address), b"here"), b"here");
    }
    assert_eq!(skd.stdout_lines().len(), 1);
    // Addresses that this machine lacks are skipped and logged.
    let line = skd.wait_for_log("10.9.8.6");
    assert!(line.contains("Cannot assign requested address"), "{line}");
}

#[test]
fn skipped_addresses_are_logged_only_when_asked() {
    requires_root();
    let namespace = Namespace::new();
    namespace.replace_file("/etc/hosts", "127.0.0.1 partly\n10.9.8.6 partly\n");
    let skd = Skd::new(["-t", "partly:0"]).inside(&namespace).run("cat");
    let port = skd.stdout_line().parse().unwrap();
    assert_eq!(
        talk(skd.connect_to(v4(Ipv4Addr::LOCALHOST, port)), b"1"),
        b"1"
    );
    assert_eq!(skd.stop().code(), Some(0));
    assert!(skd.log_lines().is_empty());
}

#[test]
fn a_name_without_an_address_of_this_machine_is_refused() {
    let namespace = Namespace::new();
    namespace.replace_file("/etc/hosts", "10.9.8.6 elsewhere\n10.9.8.5 elsewhere\n");
    let output = Skd::new(["-t", "elsewhere:0", "cat"])
        .inside(&namespace)
        .end();
    output.expect_refusal(
        1,
        &[
            "--tcp elsewhere:0",
            "10.9.8.",
            "Cannot assign requested address",
        ],
    );
    let output = Skd::new(["-t", "10.9.8.6:0", "cat"])
        .inside(&namespace)
        .end();
    output.expect_refusal(1, &["10.9.8.6", "Cannot assign requested address"]);
}

#[test]
fn a_name_with_one_address_in_use_is_refused() {
    let namespace = Namespace::new();
    namespace.replace_file("/etc/hosts", "127.0.0.1 both\n127.0.0.2 both\n");
    let first = Skd::new(["-t", "127.0.0.2:7001"])
        .inside(&namespace)
        .run("cat");
    let output = Skd::new(["-t", "both:7001", "cat"])
        .inside(&namespace)
        .end();
    output.expect_refusal(1, &["127.0.0.2", "7001", "Address already in use"]);
    assert!(bound(&first, Kind::Tcp).len() == 1);
}

#[test]
fn a_free_port_is_free_at_all_addresses_of_a_name() {
    let namespace = Namespace::new();
    // Of the few ports that there are, all but one are taken at the second address. (That one is odd and in the
    // lower half, where the kernel looks first.)
    namespace.sysctl("net.ipv4.ip_local_port_range", "40000 40007");
    namespace.replace_file("/etc/hosts", "127.0.0.1 both\n127.0.0.2 both\n");
    let mut others = Skd::new([""; 0]);
    for port in (40000..40008).filter(|port| *port != 40001) {
        others = others.args(["-t", &format!("127.0.0.2:{port}")]);
    }
    let _others = others.inside(&namespace).run("cat");
    let skd = Skd::new(["-t", "both:0"]).inside(&namespace).run("cat");
    assert_eq!(skd.stdout_lines(), ["40001"]);
    assert_eq!(bound(&skd, Kind::Tcp).len(), 2);
}

#[test]
fn a_name_that_does_not_resolve_is_refused() {
    let namespace = Namespace::new();
    namespace.replace_file("/etc/nsswitch.conf", "hosts: files\n");
    for option in ["--tcp", "--udp", "--inet"] {
        let output = Skd::new([option, "nobody.example:0", "cat"])
            .inside(&namespace)
            .end();
        let reason = "Name or service not known";
        output.expect_refusal(1, &[&format!("{option} nobody.example:0"), reason]);
    }
}

#[test]
fn a_port_can_have_a_name_of_services() {
    let namespace = Namespace::new();
    namespace.replace_file(
        "/etc/services",
        "both 4321/tcp\nboth 4322/udp\nonly 4323/udp\n",
    );
    let skd = Skd::new(["-t", "127.0.0.1:both", "-u", "127.0.0.1:both"])
        .inside(&namespace)
        .run("cat");
    assert_eq!(bound(&skd, Kind::Tcp), [v4(Ipv4Addr::LOCALHOST, 4321)]);
    assert_eq!(bound(&skd, Kind::Udp), [v4(Ipv4Addr::LOCALHOST, 4322)]);
    let output = Skd::new(["-t", "only", "cat"]).inside(&namespace).end();
    output.expect_refusal(2, &["only", "--tcp", "65535"]);
    // The same name has another number for UDP, with -d too.
    let skd = Skd::new(["-di", "127.0.0.1:only"])
        .inside(&namespace)
        .run("cat");
    assert_eq!(bound(&skd, Kind::Udp), [v4(Ipv4Addr::LOCALHOST, 4323)]);
}

#[test]
fn a_link_local_address_has_its_interface() {
    requires_root();
    let namespace = Namespace::new();
    namespace.add_address("fe80::1/64");
    let address: Ipv6Addr = "fe80::1".parse().unwrap();
    for written in ["[fe80::1%lo]:0", "[fe80::1%1]:0"] {
        let skd = Skd::new(["-t", written]).inside(&namespace).run("cat");
        let port = skd.stdout_line().parse().unwrap();
        assert_eq!(bound(&skd, Kind::Tcp), [v6(address, port)], "{written}");
        // The loopback interface is the first in every network namespace.
        let here = SocketAddrV6::new(address, port, 0, 1);
        assert_eq!(talk(skd.connect_to(here.into()), b"here"), b"here");
    }
    let output = Skd::new(["-t", "[fe80::1%nothing0]:0", "cat"])
        .inside(&namespace)
        .end();
    output.expect_refusal(1, &["[fe80::1%nothing0]:0", "nothing0"]);
    // Not a number, though some parsers take it for one.
    let output = Skd::new(["-t", "[fe80::1%+1]:0", "cat"])
        .inside(&namespace)
        .end();
    output.expect_refusal(1, &["[fe80::1%+1]:0"]);
}

#[test]
fn an_ipv4_mapped_ipv6_address_is_ipv4() {
    for (option, kind) in [("-t", Kind::Tcp), ("-u", Kind::Udp)] {
        let skd = Skd::new([option, "[::ffff:127.0.0.1]:0"]).start("cat");
        let port = skd.stdout_line().parse().unwrap();
        assert_eq!(bound(&skd, kind), [v4(Ipv4Addr::LOCALHOST, port)]);
        if kind == Kind::Tcp {
            let stream = connect(v4(Ipv4Addr::LOCALHOST, port));
            assert_eq!(talk(stream, b"served"), b"served");
        }
    }
}

#[test]
fn a_port_in_use_is_refused_and_its_owner_undisturbed() {
    let first = Skd::new(["-vt", "127.0.0.1:0", "-u", "127.0.0.1:0"]).run("cat");
    for (option, address) in ["--tcp", "--udp"].into_iter().zip(first.addresses()) {
        let output = Skd::new([option, &address.to_string(), "cat"]).end();
        let port = address.port().to_string();
        output.expect_refusal(1, &[option, "127.0.0.1", &port, "Address already in use"]);
        output.expect_stderr(&[&format!("(process {}) has the port", first.pid())]);
        // All addresses of a bare port count.
        Skd::new([option, &port, "cat"])
            .end()
            .expect_refusal(1, &[&port, "in use"]);
    }
    assert_eq!(talk(first.connect(), b"still here"), b"still here");
    assert_eq!(first.wait_for_logs("Accepted", 1).len(), 1);
}

#[test]
fn a_tcp_port_is_free_again_at_once_after_a_connection() {
    let first = Skd::new(["-t", "127.0.0.1:0"]).run("cat");
    let address = first.address();
    // The handler closes first: the connection is in TIME_WAIT on this side.
    let mut stream = first.connect();
    echo(&mut stream, b"1");
    let handler = first.wait_for_children(1)[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(handler), Signal::SIGKILL).unwrap();
    first.wait_for_children(0);
    assert_eq!(talk(stream, b""), b"");
    assert_eq!(first.stop().code(), Some(0));
    let second = Skd::new(["-t", &address.to_string()]).run("cat");
    assert_eq!(talk(second.connect(), b"2"), b"2");
}

#[test]
fn a_low_port_needs_rights_and_the_error_says_so() {
    requires_root();
    let output = Skd::new(["-t", "127.0.0.1:81", "cat"])
        .user(65534, 65534, [])
        .end();
    let rights = "ports below 1024 need root, the capability CAP_NET_BIND_SERVICE, or a lower";
    output.expect_refusal(1, &["--tcp 127.0.0.1:81", "Permission denied", rights]);
}

/// The backlogs of all sockets on which `skd` listens, by ss(8): "Send-Q" of a listening socket.
fn backlogs(skd: &Running) -> Vec<u32> {
    requires_command("ss");
    let list = std::process::Command::new("ss")
        .args(["-Hltxnp"])
        .output()
        .expect("ss(8)");
    let list = String::from_utf8(list.stdout).unwrap();
    let pid = format!("pid={},", skd.pid());
    let mut found: Vec<u32> = list
        .lines()
        .filter(|line| line.contains(&pid) && line.contains("LISTEN"))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let state = words.iter().position(|word| *word == "LISTEN").unwrap();
            words[state + 2].parse().unwrap()
        })
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn the_backlog_is_as_requested_or_as_the_kernel_allows() {
    let directory = Directory::new();
    let most: u32 = fs::read_to_string("/proc/sys/net/core/somaxconn")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let listeners = ["-t", "127.0.0.1:0", "-l", &directory.name("socket")];
    let skd = Skd::new(["-b", "7"]).args(listeners).run("cat");
    assert_eq!(backlogs(&skd), [7, 7]);
    drop(skd);
    for options in [&[][..], &["-b", "2147483647"]] {
        let skd = Skd::new(options).args(listeners).run("cat");
        assert_eq!(backlogs(&skd), [most, most], "{options:?}");
    }
}

#[test]
fn nodelay_is_set_on_every_tcp_connection_from_the_first() {
    requires_command("perl");
    let script = "print unpack 'i', getsockopt(STDIN, IPPROTO_TCP, TCP_NODELAY)";
    let args = ["-MSocket=:all", "-e", script];
    for (option, expected) in [("-nt", "1"), ("-t", "0")] {
        let skd = Skd::new([option, "0"]).run_with("perl", args);
        let port = skd.port();
        for _ in 0..2 {
            for address in [v4(Ipv4Addr::LOCALHOST, port), v6(Ipv6Addr::LOCALHOST, port)] {
                let shown = talk(connect(address), b"");
                assert_eq!(String::from_utf8_lossy(&shown), expected, "{option}");
            }
        }
    }
}

#[test]
fn nodelay_does_no_harm_to_other_sockets() {
    let directory = Directory::new();
    let skd = Skd::new(["-nl", &directory.name("socket"), "-u", "127.0.0.1:0"]).run("cat");
    assert_eq!(talk(skd.connect_unix(), b"1"), b"1");
}

// Unix sockets.

#[test]
fn unix_sockets_of_either_style_are_served() {
    each_program(|program| {
        let directory = Directory::new();
        let path = directory.name("socket");
        let skd = program.skd(["-x", &path]).run("cat");
        assert_eq!(talk(skd.connect_unix(), b"stream"), b"stream");
        drop(skd);
        let (prog, args) = datagram_echo();
        let skd = program.skd(["-d", "-l", &path]).run_with(prog, args);
        let answer = ask_unix_datagram(directory.join("client"), skd.path(), b"datagram");
        assert_eq!(answer, b"datagram");
    });
}

#[test]
fn abstract_unix_sockets_have_no_file() {
    let directory = Directory::new();
    // A name that no other test has.
    let name = format!("@{}", directory.name("x"));
    let stream = Skd::new(["-l", &name]).cwd(directory.path()).run("cat");
    assert_eq!(talk(stream.connect_unix(), b"stream"), b"stream");
    let output = Skd::new(["-l", &name, "cat"]).end();
    output.expect_refusal(1, &[&format!("--unix {name}"), "Address already in use"]);
    assert_eq!(talk(stream.connect_unix(), b"still"), b"still");
    assert_eq!(stream.stop().code(), Some(0));
    // It disappears with its last descriptor.
    let (prog, args) = datagram_echo();
    let skd = Skd::new(["-dl", &name])
        .cwd(directory.path())
        .run_with(prog, args);
    assert_eq!(
        ask_unix_datagram(format!("{name}.client"), &name, b"datagram"),
        b"datagram"
    );
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    drop(skd);
}

#[test]
fn a_relative_path_is_relative_to_the_working_directory() {
    let directory = Directory::new();
    let skd = Skd::new(["-l", "socket"])
        .cwd(directory.path())
        .run_with("sh", ["-c", "echo $UNIXLOCALPATH"]);
    assert_eq!(
        talk(connect_unix(directory.join("socket")), b""),
        b"socket\n"
    );
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!directory.join("socket").exists());
}

#[test]
fn a_stale_unix_socket_is_replaced() {
    let (prog, args) = datagram_echo();
    for kind in [SockType::Stream, SockType::Datagram, SockType::SeqPacket] {
        let directory = Directory::new();
        let path = directory.join("socket");
        close_unix(unix_socket(kind, &path), &path);
        assert!(path.exists());
        let skd = Skd::new(["-l"]).arg(&path).run("cat");
        assert_eq!(talk(skd.connect_unix(), b"new"), b"new", "after {kind:?}");
        drop(skd);
        // That skd was killed, so its socket is stale now.
        assert!(path.exists());
        let skd = Skd::new(["-dl"]).arg(&path).run_with(prog, args);
        assert_eq!(
            ask_unix_datagram(directory.join("client"), &path, b"new"),
            b"new"
        );
        drop(skd);
    }
}

#[test]
fn a_stale_socket_of_a_daemon_whose_handler_lives_is_replaced() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let first = Skd::new(["-l"]).arg(&path).run("cat");
    let mut stream = first.connect_unix();
    echo(&mut stream, b"1");
    first.signal(Signal::SIGKILL);
    first.wait();
    // The handler keeps the old connection.
    let second = Skd::new(["-l"]).arg(&path).run("cat");
    assert_eq!(talk(second.connect_unix(), b"2"), b"2");
    echo(&mut stream, b"3");
}

/// Tries to start on `path`, and asserts that skd refuses and leaves the file alone.
#[track_caller]
fn refused_at(path: &Path, why: &str) {
    let before = fs::symlink_metadata(path).unwrap();
    for style in ["-l", "-dl"] {
        let output = Skd::new([style]).arg(path).arg("cat").end();
        output.expect_refusal(1, &[&format!("--unix {}", path.display()), why]);
    }
    let after = fs::symlink_metadata(path).unwrap();
    assert_eq!(
        (before.ino(), before.mode(), before.len()),
        (after.ino(), after.mode(), after.len())
    );
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

const IN_USE: &str = "another program has a socket there";

#[test]
fn a_live_unix_socket_is_refused_whatever_its_type() {
    let directory = Directory::new();
    for (name, kind) in [
        ("stream", SockType::Stream),
        ("datagram", SockType::Datagram),
        ("seqpacket", SockType::SeqPacket),
    ] {
        let path = directory.join(name);
        // Bound and, in the case of a stream, not yet listening: another start may be at that point.
        let made = unix_socket(kind, &path);
        refused_at(&path, IN_USE);
        if kind != SockType::Datagram {
            listen(&made, Backlog::new(1).unwrap()).unwrap();
            refused_at(&path, IN_USE);
        }
    }
}

#[test]
fn a_unix_socket_with_a_full_backlog_is_live() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let made = unix_socket(SockType::Stream, &path);
    listen(&made, Backlog::new(0).unwrap()).unwrap();
    let waiting = UnixStream::connect(&path).unwrap();
    refused_at(&path, IN_USE);
    drop(waiting);
}

#[test]
fn a_socket_that_cannot_be_probed_is_left_alone() {
    requires_root();
    let directory = Directory::public();
    // skd could not remove it.
    directory.chmod("", 0o777);
    let path = directory.join("socket");
    close_unix(unix_socket(SockType::Stream, &path), &path);
    directory.chmod("socket", 0o700);
    let before = fs::symlink_metadata(&path).unwrap();
    for style in ["-l", "-dl"] {
        let option = format!("--unix {}", path.display());
        Skd::new([style])
            .arg(&path)
            .user(65534, 65534, [])
            .start("cat")
            .expect_refusal(
                1,
                &[&option, "can't find out", "Permission denied", "left alone"],
            );
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()));
        assert_eq!(directory.names(), ["socket"]);
    }
    // Root can, and does.
    let skd = Skd::new(["-l"]).arg(&path).run("cat");
    assert_eq!(talk(skd.connect_unix(), b"new"), b"new");
}

#[test]
fn a_probe_for_a_live_socket_is_no_client() {
    let directory = Directory::new();
    let path = directory.join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    refused_at(&path, IN_USE);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

    let path = directory.join("receiver");
    let receiver = UnixDatagram::bind(&path).unwrap();
    receiver.set_nonblocking(true).unwrap();
    refused_at(&path, IN_USE);
    assert_eq!(
        receiver.recv(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );

    // Another skd logs nothing about it, and starts no handler.
    for style in ["-vvl", "-vvdl"] {
        let path = directory.join("skd");
        let first = Skd::new([style])
            .arg(&path)
            .run_with("sh", ["-c", "echo started >&2"]);
        first.wait_for_log("Listening on unix");
        let before = first.log_lines();
        refused_at(&path, IN_USE);
        assert_eq!(first.log_lines(), before);
        assert!(first.children().is_empty());
        assert_eq!(first.stop().code(), Some(0));
    }
}

#[test]
fn a_file_that_is_no_socket_is_refused_and_left_alone() {
    let directory = Directory::new();
    let file = directory.write("file", "precious");
    let why = "isn't a socket";
    refused_at(&file, why);
    assert_eq!(directory.read("file"), "precious");
    fs::create_dir(directory.join("directory")).unwrap();
    refused_at(&directory.join("directory"), why);
    nix::unistd::mkfifo(&directory.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused_at(&directory.join("fifo"), why);
    // Nor the target of a link: a stale socket, a file, or nothing.
    close_unix(
        unix_socket(SockType::Stream, &directory.join("stale")),
        directory.join("stale"),
    );
    let stale = inode(directory.join("stale"));
    for (name, target) in [
        ("to-stale", "stale"),
        ("to-file", "file"),
        ("to-nothing", "nothing"),
    ] {
        symlink(target, directory.join(name)).unwrap();
        refused_at(&directory.join(name), why);
        assert_eq!(
            fs::read_link(directory.join(name)).unwrap(),
            Path::new(target)
        );
    }
    assert_eq!(inode(directory.join("stale")), stale);
    assert!(!directory.join("nothing").exists());
    Skd::new(["-l"])
        .arg(directory.join("absent/socket"))
        .arg("cat")
        .end()
        .expect_refusal(1, &["absent", "No such file or directory"]);
}

#[test]
fn exactly_one_of_simultaneous_starts_on_a_stale_path_wins() {
    for round in 0..10 {
        let directory = Directory::new();
        let path = directory.join("socket");
        close_unix(unix_socket(SockType::Stream, &path), &path);
        let starts: Vec<Running> = (0..4)
            .map(|_| Skd::new(["-l"]).arg(&path).start("cat"))
            .collect();
        let mut ended = Vec::new();
        wait_until("all but one have ended", || {
            ended = starts
                .iter()
                .filter_map(|skd| skd.try_wait(Duration::ZERO))
                .collect();
            ended.len() >= 3
        });
        assert!(
            ended.iter().all(|status| status.code() == Some(1)),
            "round {round}: {ended:?}"
        );
        let winner = starts
            .iter()
            .find(|skd| skd.try_wait(Duration::ZERO).is_none());
        let winner = winner.expect("a start that succeeds");
        winner.wait_ready();
        assert_eq!(talk(connect_unix(&path), b"one"), b"one");
        assert!(
            starts
                .iter()
                .filter(|skd| skd.logged(IN_USE).len() == 1)
                .count()
                == 3
        );
        assert_eq!(winner.stop().code(), Some(0));
        assert!(!path.exists());
    }
}

#[test]
fn a_start_while_another_skd_ends_serves_or_is_refused() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let mut current = Skd::new(["-l"]).arg(&path).run("cat");
    for _ in 0..20 {
        current.signal(Signal::SIGTERM);
        let next = Skd::new(["-l"]).arg(&path).start("cat");
        assert_eq!(current.wait().code(), Some(0));
        let mut refused = None;
        wait_until("the next one serves or ends", || {
            refused = next.try_wait(Duration::ZERO);
            refused.is_some() || UnixStream::connect(&path).is_ok()
        });
        current = match refused {
            Some(status) => {
                assert_eq!(status.code(), Some(1));
                assert_eq!(next.logged(IN_USE).len(), 1);
                Skd::new(["-l"]).arg(&path).run("cat")
            }
            None => next,
        };
        // Clients reach the skd that serves.
        assert_eq!(talk(connect_unix(&path), b"one"), b"one");
    }
}

#[test]
fn no_lock_on_the_directory_prevents_a_start() {
    let directory = Directory::public();
    let path = directory.join("socket");
    let lock = fs::File::open(directory.path()).unwrap();
    lock.lock().unwrap();
    for _ in 0..2 {
        let skd = Skd::new(["-l"]).arg(&path).run("cat");
        assert_eq!(talk(skd.connect_unix(), b"there"), b"there");
        // Killed, and so stale for the next one.
        drop(skd);
        assert!(path.exists());
    }
    close_unix(
        unix_socket(SockType::Stream, &directory.join("other")),
        directory.join("other"),
    );
    assert_eq!(directory.names(), ["other", "socket"]);
}

#[test]
fn a_start_that_replaces_a_stale_socket_waits_for_another_one() {
    let directory = Directory::new();
    let path = directory.join("socket");
    close_unix(unix_socket(SockType::Stream, &path), &path);
    let lock = directory.write("socket.lock", "");
    directory.chmod("socket.lock", 0o600);
    let lock = fs::File::open(lock).unwrap();
    lock.lock().unwrap();
    let output = Skd::new(["-l"])
        .arg(&path)
        .arg("cat")
        .deadline(Duration::from_secs(30))
        .end();
    output.expect_refusal(1, &["--unix", "socket.lock has been locked"]);
    assert!(path.exists());
    let waiting = Skd::new(["-l"]).arg(&path).start("cat");
    wait_until("it waits for the lock", || {
        crate::harness::is_in_call(waiting.pid(), libc::SYS_clock_nanosleep)
    });
    drop(lock);
    waiting.wait_ready();
    assert_eq!(talk(connect_unix(&path), b"there"), b"there");
    assert_eq!(directory.names(), ["socket"]);
}

#[test]
fn the_kernel_knows_a_socket_by_its_path() {
    requires_command("ss");
    let directory = Directory::new();
    let path = directory.join("socket");
    close_unix(unix_socket(SockType::Stream, &path), &path);
    let _skd = Skd::new(["-l"]).arg(&path).run("cat");
    let output = std::process::Command::new("ss").arg("-xlH").output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let path = path.to_str().unwrap();
    assert!(text.split_whitespace().any(|word| word == path), "{text}");
}

#[test]
fn a_socket_file_has_the_requested_mode() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    for (umask, options, expected) in [
        (0o22, &[][..], 0o755),
        (0o77, &[], 0o700),
        (0o777, &["--unix-mode", "640"], 0o640),
        (0, &["--unix-mode=0"], 0),
        (0o22, &["--unix-mode=0777"], 0o777),
    ] {
        for style in ["-l", "-dl"] {
            let skd = Skd::new([style, &path])
                .args(options)
                .umask(umask)
                .run("cat");
            assert_eq!(mode(), expected, "{umask:o} {options:?}");
            assert_eq!(skd.stop().code(), Some(0));
        }
    }
}

#[test]
fn the_mode_of_a_socket_leaves_the_umask_of_handlers_alone() {
    let directory = Directory::new();
    let skd = Skd::new(["--unix-mode", "600", "-l", &directory.name("socket")])
        .umask(0o27)
        .run_with("sh", ["-c", "umask"]);
    assert_eq!(talk(skd.connect_unix(), b""), b"0027\n");
}

#[test]
fn a_socket_file_has_the_requested_owner() {
    requires_root();
    let directory = Directory::new();
    let path = directory.name("socket");
    for (owner, expected) in [
        ("65534", (65534, 0)),
        ("65533:65532", (65533, 65532)),
        ("daemon", (1, 0)),
        ("daemon:bin", (1, 2)),
    ] {
        let skd = Skd::new(["--unix-owner", owner, "-l", &path]).run("cat");
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.uid(), file.gid()), expected, "{owner}");
        assert_eq!(skd.stop().code(), Some(0));
        assert!(!Path::new(&path).exists());
    }
}

#[test]
fn an_owner_that_cannot_be_set_leaves_no_socket() {
    requires_root();
    let directory = Directory::public();
    directory.chmod("", 0o777);
    let path = directory.join("socket");
    let output = Skd::new(["--unix-owner", "1", "-l"])
        .arg(&path)
        .arg("cat")
        .user(65534, 65534, [])
        .end();
    output.expect_refusal(1, &["--unix", "owner", "Operation not permitted"]);
    assert!(!path.exists());
}

#[test]
fn a_path_has_at_most_107_bytes() {
    let directory = Directory::new();
    let name = "x".repeat(107 - directory.name("").len());
    let longest = directory.name(&name);
    assert_eq!(longest.len(), 107);
    let skd = Skd::new(["-l", &longest]).run("cat");
    assert_eq!(talk(skd.connect_unix(), b"1"), b"1");
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!Path::new(&longest).exists());
    for style in ["-l", "-dl"] {
        let output = Skd::new([style, &format!("{longest}y"), "cat"]).end();
        output.expect_refusal(2, &["--unix", "108", "107"]);
    }
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
}

// The end, and failed starts.

#[test]
fn a_signal_that_ends_skd_removes_its_socket_files() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
    ] {
        let directory = Directory::new();
        let skd = Skd::new(["-l", &directory.name("one"), "-x", &directory.name("two")]).run("cat");
        let file = fs::metadata(directory.join("one")).unwrap();
        assert!(file.file_type().is_socket());
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0), "{signal}");
        assert!(
            fs::read_dir(directory.path()).unwrap().next().is_none(),
            "{signal}"
        );
    }
}

#[test]
fn a_socket_file_that_was_replaced_stays() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let skd = Skd::new(["-l"]).arg(&path).run("cat");
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    assert_eq!(skd.stop().code(), Some(0));
    UnixStream::connect(&path).expect("the other one's socket");
    drop(other);

    let skd = Skd::new(["-l"]).arg(directory.join("second")).run("cat");
    fs::remove_file(directory.join("second")).unwrap();
    directory.write("second", "a file");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.read("second"), "a file");
}

#[test]
fn a_failed_start_leaves_nothing() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    let directory = Directory::new();
    let file = directory.write("file", "");
    let (socket, pidfile) = (directory.name("socket"), directory.name("pid"));
    let made = ["-P", &pidfile, "-l", &socket];
    // Each fails later than the one before.
    for (rest, code) in [
        (&["-l", file.to_str().unwrap(), "cat"][..], 1),
        (&["-t", &in_use, "cat"], 1),
        (&["-L", ">/nonexistent/log", "cat"], 1),
        (&["/nonexistent/program"], 127),
        (&["--limit", "nofile=1:99999999999", "/bin/cat"], 1),
    ] {
        Skd::new(made).args(rest).end().expect_refusal(code, &[]);
        let left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .collect();
        assert_eq!(left, ["file"], "{rest:?}");
    }
    drop(taken);
}

#[test]
fn a_failed_start_prints_nothing() {
    let directory = Directory::new();
    let output = Skd::new(["-t", "127.0.0.1:0", "-l"])
        .arg(directory.write("file", ""))
        .arg("cat")
        .end();
    output.expect_refusal(1, &["isn't a socket"]);
    Skd::new(["-t", "127.0.0.1:0", "/nonexistent/program"])
        .end()
        .expect_refusal(127, &["/nonexistent"]);
}

#[test]
fn a_port_is_free_after_the_end() {
    let skd = Skd::new(["-t0", "-u0"]).run("cat");
    let addresses = skd.addresses();
    assert_eq!(skd.stop().code(), Some(0));
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, addresses[1].port())).unwrap();
    let next = Skd::new(["-t", &addresses[0].port().to_string()]).run("cat");
    assert_eq!(talk(next.connect(), b"1"), b"1");
}

#[test]
fn each_listener_has_its_own_clients_and_all_are_served() {
    let directory = Directory::new();
    let (path, name) = (
        directory.name("socket"),
        format!("@{}", directory.name("y")),
    );
    let skd = Skd::new([
        "-t",
        "127.0.0.1:0",
        "-i",
        "[::1]:0",
        "-l",
        &path,
        "-x",
        &name,
    ])
    .run_with(
        "sh",
        ["-c", "echo $PROTO $TCPLOCALPORT$UNIXLOCALPATH; exec cat"],
    );
    let addresses = skd.addresses();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    for address in addresses {
        let expected = format!("TCP {}\n", address.port());
        assert_eq!(text(talk(connect(address), b"")), expected);
    }
    for path in [&path, &name] {
        let expected = format!("UNIX-STREAM {path}\n");
        assert_eq!(text(talk(connect_unix(path), b"")), expected);
    }
    let found: Vec<Socket> = sockets(skd.pid());
    assert_eq!(found.len(), 4, "{found:#?}");
}
