//! Inherited sockets: `--systemd` and `--listen-fd`.

use crate::harness::{
    Directory, MARK, Program, Running, Skd, ask, assert_idle, connect, connect_unix, datagram_echo,
    descriptors, echo, environment, ids, receive, requires_command, requires_root, talk,
    udp_client, wait_for,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, SockRef, Type};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

const ACTIVATE: &str = "systemd-socket-activate";

/// A service manager that binds sockets, waits for the first client, and then becomes skd.
fn activate<A: AsRef<OsStr>>(
    listen: impl IntoIterator<Item = A>,
    skd: impl IntoIterator<Item = A>,
) -> Skd {
    requires_command(ACTIVATE);
    // It passes on only variables that it is told of.
    Skd::new(["-E", MARK, "-E", "UID", "-E", "GID"])
        .binary(format!("/usr/bin/{ACTIVATE}"))
        .args(listen)
        .arg(Program::Ours.path())
        .args(skd)
}

/// An address for one test, different in each run of the tests: the manager takes no port 0.
fn address(test: u16) -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    ([127, high, middle, low], 4300 + test).into()
}

/// Waits until the manager has bound `count` sockets.
fn wait_bound(manager: &Running, count: usize) {
    manager.wait_for_logs(" as ", count);
}

#[test]
fn a_service_manager_passes_a_tcp_socket() {
    let address = address(1);
    let listen = ["-l", &address.to_string()].map(str::to_owned);
    let words = ["-v", "--linger=0s", "--systemd", "cat"].map(str::to_owned);
    let skd = activate(listen, words).start_bare();
    wait_bound(&skd, 1);
    let mut first = connect(address);
    echo(&mut first, b"started by this");
    skd.wait_for_log("Accepted connection from [127.");
    assert_eq!(talk(connect(address), b"another"), b"another");
    let handler = skd.wait_for_children(1)[0];
    assert_eq!(
        descriptors(handler).into_keys().collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let variables = environment(handler);
    assert!(
        !variables.keys().any(|name| name.starts_with("LISTEN_")),
        "{variables:?}"
    );
    assert_eq!(variables["TCPLOCALPORT"], address.port().to_string());
    assert_eq!(variables["TCPLOCALIP"], address.ip().to_string());
    // The service is the process that the manager knows, and it has the socket once.
    let held = descriptors(skd.pid());
    assert_eq!(
        held.values()
            .filter(|what| what.starts_with("socket:"))
            .count(),
        1,
        "{held:?}"
    );
    assert_eq!(skd.stop().code(), Some(0));
    assert!(
        TcpStream::connect(address).is_err(),
        "the socket is still open"
    );
}

#[test]
fn a_service_manager_passes_datagram_sockets() {
    let (prog, [option, script]) = datagram_echo();
    let words = ["--systemd", "-v", prog, option, script];
    let address = address(2);
    let skd = activate(["-d", "-l", &address.to_string()], words).start_bare();
    wait_bound(&skd, 1);
    let client = udp_client(address);
    for request in [&b"one"[..], b"two"] {
        assert_eq!(ask(&client, request), request);
    }
    assert_eq!(skd.logged("Received initial datagram").len(), 2);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn several_sockets_are_inherited_beside_bound_ones() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let address = address(3);
    let tcp = address.to_string();
    let listen = ["-l", &tcp, "-l", &path, "--fdname=web:local"];
    let words = ["-vv", "--systemd", "-t", "127.0.0.1:0", "cat"];
    let skd = activate(listen, words).start_bare();
    wait_bound(&skd, 2);
    assert_eq!(talk(connect_unix(&path), b"unix"), b"unix");
    assert_eq!(talk(connect(address), b"tcp"), b"tcp");
    // Only a port that the kernel has chosen for skd is printed.
    let own: u16 = skd.stdout_line().parse().unwrap();
    assert_ne!(own, address.port());
    assert_eq!(talk(connect(([127, 0, 0, 1], own).into()), b"own"), b"own");
    assert_eq!(
        skd.logged("Listening on TCP"),
        [
            format!("Listening on TCP [{}]:{}", address.ip(), address.port()),
            format!("Listening on TCP [127.0.0.1]:{own}"),
        ]
    );
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(skd.stdout_lines().len(), 1);
    // The socket file belongs to the program that bound it.
    assert_eq!(directory.names(), ["socket"]);
}

#[test]
fn in_the_background_and_without_privileges() {
    requires_root();
    let directory = Directory::public();
    let pidfile = directory.name("pid");
    let words = ["-UBP", &pidfile, "--systemd", "cat"];
    let address = address(4);
    let skd = activate(["-l", &address.to_string()], words)
        .env("UID", "61234")
        .env("GID", "61235")
        .start_bare();
    wait_bound(&skd, 1);
    let mut client = connect(address);
    echo(&mut client, b"hello");
    assert_eq!(skd.wait().code(), Some(0));
    let daemon: i32 = directory.read("pid").trim().parse().unwrap();
    assert_eq!(ids(daemon).0, [61234; 4]);
    let handler = crate::harness::children(daemon);
    assert_eq!(handler.len(), 1);
    assert_eq!(ids(handler[0]).0, [61234; 4]);
    assert_eq!(
        descriptors(handler[0]).into_keys().collect::<Vec<_>>(),
        [0, 1, 2]
    );
}

#[test]
fn wrong_variables_are_refused() {
    let refused = |assignments: &str, texts: &[&str]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Skd::new(["--systemd", "cat"])
            .wrapper(["sh", "-c", &format!("{assignments} exec \"$@\""), "sh"])
            .descriptor(3, listener)
            .end()
            .expect_refusal(2, &[&["--systemd"], texts].concat());
    };
    refused("", &["$LISTEN_PID isn't set"]);
    refused("LISTEN_PID=$$", &["$LISTEN_FDS isn't set"]);
    refused("LISTEN_FDS=1", &["$LISTEN_PID isn't set"]);
    refused("LISTEN_FDS=1 LISTEN_PID=1", &["$LISTEN_PID is 1,"]);
    refused("LISTEN_FDS=1 LISTEN_PID=", &["$LISTEN_PID is ''"]);
    refused("LISTEN_FDS=1 LISTEN_PID=+$$", &["$LISTEN_PID is '+"]);
    refused("LISTEN_FDS=0 LISTEN_PID=$$", &["$LISTEN_FDS is 0"]);
    for wrong in ["x", "1x", "-1", "0x1", "1.", "99999999999"] {
        let words = format!("LISTEN_FDS={wrong} LISTEN_PID=$$");
        refused(&words, &[&format!("$LISTEN_FDS is '{wrong}'")]);
    }
    for many in ["2", "1000000", "2147483647", "4294967295"] {
        let words = format!("LISTEN_FDS={many} LISTEN_PID=$$");
        refused(
            &words,
            &[&format!("$LISTEN_FDS is {many}"), "fewer descriptors"],
        );
    }
    refused(
        "LISTEN_FDS=1 LISTEN_FDNAMES=a:b LISTEN_PID=$$",
        &["$LISTEN_FDNAMES is 2", "$LISTEN_FDS is 1"],
    );
}

#[test]
fn a_descriptor_is_served_under_any_number() {
    for number in [3, 7, 64, 100] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let skd = Skd::new(["--linger=0s", "--listen-fd", &number.to_string()])
            .descriptor(number, listener)
            .start("cat");
        assert_eq!(talk(connect(address), b"hello"), b"hello");
        let open = descriptors(skd.pid());
        assert_eq!(
            open.values().filter(|it| it.starts_with("socket:")).count(),
            1,
            "{open:?}"
        );
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn standard_input_can_be_a_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let skd = Skd::new(["--listen-fd=0"])
        .stdin(OwnedFd::from(listener))
        .start("cat");
    assert_eq!(talk(connect(address), b"hello"), b"hello");
    assert_eq!(descriptors(skd.pid())[&0], "/dev/null");
}

#[test]
fn many_descriptors_take_their_order_from_the_command_line() {
    let directory = Directory::new();
    let listener = UnixListener::bind(directory.join("a")).unwrap();
    let datagrams = UnixDatagram::bind(directory.join("b")).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    let skd = Skd::new([
        "-vv",
        "--listen-fd",
        "5",
        "--listen-fd",
        "3",
        "--listen-fd",
        "4",
    ])
    .descriptor(3, listener)
    .descriptor(4, datagrams)
    .descriptor(5, udp)
    .start("cat");
    let a = directory.name("a");
    let b = directory.name("b");
    skd.wait_for_logs("Listening on", 3);
    assert_eq!(
        skd.logged("Listening on"),
        [
            // Those with connections come first, in their order.
            format!("Listening on unix stream {a}"),
            format!("Listening on UDP [127.0.0.1]:{port}"),
            format!("Listening on unix datagram {b}"),
        ]
    );
    assert_eq!(talk(connect_unix(&a), b"hello"), b"hello");
}

/// The backlog of a listening port, as the kernel has it.
fn backlog(port: u16) -> u32 {
    requires_command("ss");
    let mut ss = std::process::Command::new("ss");
    let output = ss
        .args(["-Hltn", &format!("sport = :{port}")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let column = text.split_whitespace().nth(2);
    column
        .and_then(|it| it.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn the_backlog_is_that_of_the_inherited_socket_unless_changed() {
    let bind = || {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    };
    let serve = |socket: &socket2::Socket, address, options: &[&str]| {
        let _skd = Skd::new(["--listen-fd", "3"])
            .args(options)
            .descriptor(3, socket.try_clone().unwrap())
            .start("cat");
        assert_eq!(talk(connect(address), b"hello"), b"hello");
    };
    let (socket, address) = bind();
    socket.listen(7).unwrap();
    serve(&socket, address, &[]);
    assert_eq!(backlog(address.port()), 7);
    serve(&socket, address, &["-b", "9"]);
    assert_eq!(backlog(address.port()), 9);
    // A socket that doesn't listen yet is made to. A client that comes before is refused.
    let (socket, address) = bind();
    let skd = Skd::new(["-vvb", "5", "--listen-fd", "3"])
        .descriptor(3, socket)
        .start("cat");
    skd.wait_for_log("Listening on");
    assert_eq!(talk(connect(address), b"hello"), b"hello");
    assert_eq!(backlog(address.port()), 5);
}

#[test]
fn limits_and_options_apply_as_to_bound_sockets() {
    requires_command("perl");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kept = listener.try_clone().unwrap();
    let script = "$| = 1; print unpack('i', getsockopt(STDIN, 6, 1)); sleep 1000";
    let skd = Skd::new(["-nc1", "--listen-fd", "3"])
        .descriptor(3, listener)
        .start_with("perl", ["-e", script]);
    let mut first = connect(address);
    assert_eq!(receive(&mut first, 1), b"1", "TCP_NODELAY");
    let mut second = connect(address);
    skd.wait_for_log("the only slot is taken");
    wait_for("a slot", || {
        skd.children().first().map(|&pid| {
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        })
    });
    assert_eq!(receive(&mut second, 1), b"1");
    // As the manual says, for other processes that share the socket.
    let flags = fcntl(kept.as_fd(), FcntlArg::F_GETFL).unwrap();
    assert!(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
}

#[test]
fn no_connection_has_a_linger_time_that_another_program_has_set_on_the_listener() {
    requires_command("perl");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let set = Some(Duration::from_secs(60));
    SockRef::from(&listener).set_linger(set).unwrap();
    // It has inherited the time by now.
    let mut early = connect(address);
    let script = "print unpack('i', getsockopt(STDIN, 1, 13))";
    let skd = Skd::new(["-v", "--listen-fd", "3"])
        .descriptor(3, listener.try_clone().unwrap())
        .start_with("perl", ["-e", script]);
    assert_eq!(receive(&mut early, 1), b"0");
    assert_eq!(receive(&mut connect(address), 1), b"0");
    // Also what is set before an upgrade.
    SockRef::from(&listener).set_linger(set).unwrap();
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded");
    assert_eq!(receive(&mut connect(address), 1), b"0");
}

#[test]
fn a_linger_time_is_left_to_handlers_that_accept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let set = Some(Duration::from_secs(60));
    SockRef::from(&listener).set_linger(set).unwrap();
    let address = listener.local_addr().unwrap();
    let script = "accept(C, STDIN); print C join ' ', unpack('ii', getsockopt(C, 1, 13))";
    let _skd = Skd::new(["-v", "--wait", "--listen-fd", "3"])
        .descriptor(3, listener)
        .start_with("perl", ["-e", script]);
    assert_eq!(receive(&mut connect(address), 4), b"1 60");
}

#[test]
fn an_ipv4_client_of_a_dual_socket_is_plain() {
    let socket = socket2::Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
    socket.bind(&any.into()).unwrap();
    socket.listen(16).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let skd = Skd::new(["-v", "--listen-fd", "3"])
        .descriptor(3, socket)
        .start_with("sh", ["-c", "echo $PROTO $TCPLOCALIP $REMOTE_ADDR"]);
    let mut answer = String::new();
    let mut client = connect(([127, 0, 0, 1], port).into());
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "TCP 127.0.0.1 127.0.0.1\n");
    skd.wait_for_log("Accepted connection from [127.0.0.1]:");
}

#[test]
fn sockets_that_cannot_be_served_are_refused_by_name() {
    let refused = |descriptor: Option<OwnedFd>, text: &str| {
        let mut skd = Skd::new(["--listen-fd", "5", "cat"]);
        if let Some(descriptor) = descriptor {
            skd = skd.descriptor(5, descriptor);
        }
        skd.end().expect_refusal(1, &["--listen-fd 5", text]);
    };
    let socket = |domain, kind, protocol: Option<Protocol>| {
        OwnedFd::from(socket2::Socket::new(domain, kind, protocol).unwrap())
    };
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    refused(None, "no such descriptor is open");
    refused(Some(null()), "isn't a socket");
    refused(Some(std::io::pipe().unwrap().0.into()), "isn't a socket");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connection = listener.accept().unwrap().0;
    refused(Some(connection.into()), "it is a connection");
    refused(
        Some(UnixStream::pair().unwrap().0.into()),
        "it is a connection",
    );
    refused(
        Some(UnixDatagram::pair().unwrap().0.into()),
        "connected to one peer",
    );
    let one = UdpSocket::bind("127.0.0.1:0").unwrap();
    one.connect("127.0.0.1:9").unwrap();
    refused(Some(one.into()), "connected to one peer");
    refused(
        Some(socket(Domain::IPV4, Type::STREAM, None)),
        "has no address",
    );
    refused(
        Some(socket(Domain::IPV4, Type::DGRAM, None)),
        "has no address",
    );
    refused(
        Some(socket(Domain::UNIX, Type::STREAM, None)),
        "has no address",
    );
    refused(
        Some(socket(Domain::UNIX, Type::SEQPACKET, None)),
        "has no address",
    );
    let netlink = socket(Domain::from(libc::AF_NETLINK), Type::RAW, None);
    refused(
        Some(netlink),
        "neither an internet nor a unix-domain socket",
    );
    if nix::unistd::geteuid().is_root() {
        let raw = socket(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
        refused(Some(raw), "raw");
    }

    // By each of the options.
    let line = "LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$ exec \"$@\"";
    Skd::new(["--systemd", "cat"])
        .wrapper(["sh", "-c", line, "sh"])
        .descriptor(3, null())
        .end()
        .expect_refusal(1, &["--systemd, descriptor 3 (web): it isn't a socket"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Skd::new(["--systemd", "--listen-fd", "3", "cat"])
        .wrapper(["sh", "-c", line, "sh"])
        .descriptor(3, listener)
        .end()
        .expect_refusal(2, &["3", "takes it already"]);
    for number in ["1", "2", "-1", "x", "", "3x"] {
        Skd::new([&format!("--listen-fd={number}"), "cat"])
            .end()
            .expect_refusal(2, &[&format!("'{number}'"), "--listen-fd"]);
    }
}

#[test]
fn a_failed_start_leaves_the_sockets_unchanged() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kept = listener.try_clone().unwrap();
    let address = listener.local_addr().unwrap();
    let directory = Directory::new();
    directory.write("file", "");
    Skd::new([
        "-b9",
        "--listen-fd",
        "3",
        "-l",
        &directory.name("file"),
        "cat",
    ])
    .descriptor(3, listener)
    .end()
    .expect_refusal(1, &["file"]);
    let flags = fcntl(kept.as_fd(), FcntlArg::F_GETFL).unwrap();
    assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    assert_ne!(backlog(address.port()), 9);
    connect(address).write_all(b"still listening").unwrap();
}

#[test]
fn an_inherited_socket_that_is_shut_down_is_reported_and_costs_nothing() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [
        format!("unix stream {}", path.display()),
        format!("TCP [127.0.0.1]:{}", tcp.local_addr().unwrap().port()),
    ];
    let listeners: [OwnedFd; 2] = [unix.into(), tcp.into()];
    for (address, listener) in addresses.into_iter().zip(listeners) {
        let skd = Skd::new(["-vv", "--listen-fd", "3"])
            .throttle(Duration::from_millis(100))
            .descriptor(3, listener.try_clone().unwrap())
            .start("cat");
        skd.wait_for_log("Listening on ");
        socket2::Socket::from(listener)
            .shutdown(Shutdown::Both)
            .unwrap();
        let line = skd.wait_for_log(&format!("skd: a connection on {address} wasn't accepted: "));
        assert!(
            line.ends_with("shut the socket down; restart skd"),
            "{line}"
        );
        skd.wait_for_logs("shut the socket down", 2);
        assert_idle(&[skd.pid()]);
        assert_eq!(skd.stop().code(), Some(0));
    }
}
