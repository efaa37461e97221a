//! The environment of a handler.

use crate::harness::{
    Directory, MARK, Namespace, Program, ServiceManager, Skd, ask_udp, ask_unix_datagram, connect,
    connect_unix, each_program, requires_command, requires_root, run_to_end, talk,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

/// Every name that skd sets or removes.
const RESERVED: &[&str] = &[
    "PROTO",
    "TCPLOCALIP",
    "TCPLOCALPORT",
    "TCPLOCALHOST",
    "TCPLOCALINFO",
    "TCPREMOTEIP",
    "TCPREMOTEPORT",
    "TCPREMOTEHOST",
    "TCPREMOTEINFO",
    "UDPLOCALIP",
    "UDPLOCALPORT",
    "UDPLOCALHOST",
    "UDPLOCALINFO",
    "UDPREMOTEIP",
    "UDPREMOTEPORT",
    "UDPREMOTEHOST",
    "UDPREMOTEINFO",
    "TCPCONNNUM",
    "TCPCONCURRENCY",
    "PEERPID",
    "PEERUID",
    "PEERGID",
    "UNIXLOCALPATH",
    "UNIXREMOTEPATH",
    "UNIXREMOTEPID",
    "UNIXREMOTEEUID",
    "UNIXREMOTEEGID",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "REMOTE_HOST",
    "REMOTE_USER",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "SKD_ANYTHING",
    "SKD_",
];

type Variables = BTreeMap<String, String>;

static MANAGER: LazyLock<ServiceManager> = LazyLock::new(ServiceManager::without_a_path);

/// skd with just PATH, one meaningless variable, and a false value for each reserved name.
fn lied_to(skd: Skd) -> Skd {
    let mut skd = skd
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("KEPT", "kept");
    for name in RESERVED {
        let lie = match *name {
            // skd itself reads these.
            "NOTIFY_SOCKET" => MANAGER.address(),
            "WATCHDOG_PID" | "WATCHDOG_USEC" => "4321",
            _ => "a lie",
        };
        skd = skd.env(name, lie);
    }
    skd
}

/// PROG with arguments that prints its environment as it is, NUL after each entry; a shell would add some.
const SHOW: (&str, [&str; 1]) = ("env", ["-0"]);

/// The same for datagrams: receives one, and sends its environment to the sender.
fn show_by_datagram() -> (&'static str, [&'static str; 2]) {
    requires_command("perl");
    const SHOW: &str = "defined(my $from = recv(STDIN, my $bytes, 65536, 0)) or die $!; \
                        my $all = join '', map { \"$_=$ENV{$_}\\0\" } keys %ENV; \
                        defined(send(STDOUT, $all, 0, $from)) or die $!;";
    ("perl", ["-e", SHOW])
}

/// Parses what was printed, without the two variables that all have.
fn read(bytes: &[u8]) -> Variables {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let mut seen = Variables::new();
    for entry in text.split_terminator('\0') {
        let (name, value) = entry.split_once('=').expect("NAME=VALUE");
        assert!(
            seen.insert(name.to_owned(), value.to_owned()).is_none(),
            "{name} twice"
        );
    }
    assert!(seen.remove("PATH").is_some());
    assert!(seen.remove(MARK).is_some());
    seen
}

#[track_caller]
fn expect(seen: Variables, expected: &[(&str, String)]) {
    let mut all: Variables = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    all.insert("KEPT".into(), "kept".into());
    assert_eq!(seen, all);
}

/// The variables of a handler of a TCP connection.
fn tcp(ours: SocketAddr, ip: &str, theirs: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("PROTO", "TCP".into()),
        ("TCPLOCALIP", ip.into()),
        ("TCPLOCALPORT", theirs.port().to_string()),
        ("TCPREMOTEIP", ip.into()),
        ("TCPREMOTEPORT", ours.port().to_string()),
        ("REMOTE_ADDR", ip.into()),
        ("REMOTE_PORT", ours.port().to_string()),
    ]
}

#[test]
fn a_tcp_handler_has_the_variables_of_its_connection() {
    for (listener, address, ip) in [
        (
            "127.0.0.1:0",
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            "127.0.0.1",
        ),
        ("0", (Ipv4Addr::LOCALHOST, 0).into(), "127.0.0.1"),
        (
            "0.0.0.0:0",
            (Ipv4Addr::new(127, 0, 0, 1), 0).into(),
            "127.0.0.1",
        ),
        ("[::1]:0", (Ipv6Addr::LOCALHOST, 0).into(), "::1"),
        ("0", (Ipv6Addr::LOCALHOST, 0).into(), "::1"),
        ("[::]:0", (Ipv6Addr::LOCALHOST, 0).into(), "::1"),
    ] {
        let skd = lied_to(Skd::new(["-t", listener])).run_with(SHOW.0, SHOW.1);
        let theirs = SocketAddr::new(address.ip(), skd.port());
        let stream = connect(theirs);
        let ours = stream.local_addr().unwrap();
        expect(read(&talk(stream, b"")), &tcp(ours, ip, theirs));
    }
}

#[test]
fn each_connection_has_variables_of_its_own() {
    // One thread uses one environment for one connection after the other.
    let skd = Skd::new(["--threads", "1", "-t0"])
        .run_with("sh", ["-c", "echo $TCPREMOTEIP $TCPREMOTEPORT $TCPLOCALIP"]);
    let port = skd.port();
    for turn in 0..6 {
        let address = match turn % 3 {
            0 => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            1 => (Ipv6Addr::LOCALHOST, port).into(),
            _ => (Ipv4Addr::new(127, 0, 0, 9), port).into(),
        };
        let stream = connect(address);
        let ours = stream.local_addr().unwrap();
        let expected = format!("{} {} {}\n", ours.ip(), ours.port(), address.ip());
        assert_eq!(String::from_utf8_lossy(&talk(stream, b"")), expected);
    }
}

#[test]
fn a_link_local_address_has_its_interface() {
    requires_root();
    let namespace = Namespace::new();
    namespace.add_address("fe80::1/64");
    for listener in ["[fe80::1%lo]:0", "0"] {
        let skd = lied_to(Skd::new(["-vt", listener]))
            // Abstract names belong to a network namespace.
            .env_remove("NOTIFY_SOCKET")
            .inside(&namespace)
            .run_with(SHOW.0, SHOW.1);
        let port = skd.stdout_line().parse().unwrap();
        let address = SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, 1).into();
        let stream = skd.connect_to(address);
        let ours = stream.local_addr().unwrap();
        expect(read(&talk(stream, b"")), &tcp(ours, "fe80::1%lo", address));
        skd.wait_for_log(&format!(
            "Accepted connection from [fe80::1%lo]:{}",
            ours.port()
        ));
    }
}

#[test]
fn a_unix_handler_has_the_variables_of_its_connection() {
    let directory = Directory::new();
    let (path, name) = (
        directory.name("socket"),
        format!("@{}", directory.name("x")),
    );
    let skd = lied_to(Skd::new(["-l", &path, "-l", &name])).run_with(SHOW.0, SHOW.1);
    let pid = std::process::id().to_string();
    let (uid, gid) = (
        nix::unistd::geteuid().to_string(),
        nix::unistd::getegid().to_string(),
    );
    for path in [path, name] {
        let seen = read(&talk(connect_unix(&path), b""));
        let expected = [
            ("PROTO", "UNIX-STREAM".to_owned()),
            ("UNIXLOCALPATH", path),
            ("PEERPID", pid.clone()),
            ("PEERUID", uid.clone()),
            ("PEERGID", gid.clone()),
            ("UNIXREMOTEPID", pid.clone()),
            ("UNIXREMOTEEUID", uid.clone()),
            ("UNIXREMOTEEGID", gid.clone()),
        ];
        expect(seen, &expected);
    }
    drop(skd);
}

#[test]
fn the_user_of_a_unix_client_is_named() {
    requires_root();
    requires_command("perl");
    let directory = Directory::public();
    let path = directory.name("socket");
    let skd = Skd::new(["-v", "--unix-mode", "666", "-l", &path])
        .run_with("sh", ["-c", "echo $PEERPID $PEERUID $PEERGID"]);
    let script = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die $!; \
                  connect(S, pack_sockaddr_un($ARGV[0])) or die $!; shutdown(S, 1); print \"$$ \", <S>";
    let client = Skd::new(["-e", script, &path])
        .binary("/usr/bin/perl")
        .user(65534, 65533, [])
        .end();
    let mut words = client.stdout.split_whitespace();
    let client = words.next().unwrap();
    assert_eq!(words.collect::<Vec<_>>(), [client, "65534", "65533"]);
    skd.wait_for_log(&format!(
        "Accepted local connection from pid {client} (uid = 65534, gid = 65533)"
    ));
}

#[test]
fn an_invisible_client_has_no_pid() {
    requires_root();
    requires_command("unshare");
    let directory = Directory::new();
    let path = directory.join("socket");
    // In a pid namespace of its own, skd sees no process outside.
    let skd = lied_to(Skd::new(["-v", "-l"]).arg(&path))
        .wrapper(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .run_with(SHOW.0, SHOW.1);
    let seen = read(&talk(connect_unix(&path), b""));
    let expected = [
        "PROTO",
        "UNIXLOCALPATH",
        "PEERUID",
        "PEERGID",
        "UNIXREMOTEEUID",
        "UNIXREMOTEEGID",
        "KEPT",
    ];
    let mut names: Vec<&str> = seen.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(names, expected);
    skd.wait_for_log("Accepted local connection from pid 0 (uid = 0, gid = 0)");
}

#[test]
fn a_udp_handler_has_the_variables_of_its_socket() {
    let (prog, args) = show_by_datagram();
    for (listener, address, ip) in [
        (
            "127.0.0.1:0",
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            "127.0.0.1",
        ),
        ("0", (Ipv4Addr::LOCALHOST, 0).into(), "127.0.0.1"),
        ("[::1]:0", (Ipv6Addr::LOCALHOST, 0).into(), "::1"),
        ("0", (Ipv6Addr::LOCALHOST, 0).into(), "::1"),
    ] {
        let skd = lied_to(Skd::new(["-u", listener])).run_with(prog, args);
        let theirs = SocketAddr::new(address.ip(), skd.port());
        let socket = crate::harness::udp_client(theirs);
        let ours = socket.local_addr().unwrap();
        let seen = read(&crate::harness::ask(&socket, b"who am I?"));
        let expected = [
            ("PROTO", "UDP".to_owned()),
            ("UDPLOCALPORT", theirs.port().to_string()),
            ("UDPREMOTEIP", ip.to_owned()),
            ("UDPREMOTEPORT", ours.port().to_string()),
            ("REMOTE_ADDR", ip.to_owned()),
            ("REMOTE_PORT", ours.port().to_string()),
        ];
        expect(seen, &expected);
    }
}

#[test]
fn a_unix_datagram_handler_has_the_variables_of_its_socket() {
    let (prog, args) = show_by_datagram();
    let directory = Directory::new();
    for path in [
        directory.name("socket"),
        format!("@{}", directory.name("x")),
    ] {
        let skd = lied_to(Skd::new(["-dl", &path])).run_with(prog, args);
        let client = directory.join(format!("client{}", path.len()));
        let seen = read(&ask_unix_datagram(client, &path, b"who am I?"));
        expect(
            seen,
            &[("PROTO", "UNIX-DGRAM".to_owned()), ("UNIXLOCALPATH", path)],
        );
        drop(skd);
    }
}

#[test]
fn a_handler_of_several_datagrams_has_the_variables_of_the_first() {
    let (prog, args) = show_by_datagram();
    let skd = lied_to(Skd::new(["-u", "127.0.0.1:0"])).run_with(prog, args);
    for _ in 0..3 {
        let socket = crate::harness::udp_client(skd.address());
        let port = socket.local_addr().unwrap().port().to_string();
        assert_eq!(
            read(&crate::harness::ask(&socket, b"."))["REMOTE_PORT"],
            port
        );
    }
}

#[test]
fn variables_are_inherited_except_for_reserved_ones() {
    each_program(|program| {
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .env("ONE", "1")
            .env("EMPTY", "")
            .run_with(SHOW.0, SHOW.1);
        let seen = read(&talk(skd.connect(), b""));
        assert_eq!(seen["ONE"], "1");
        // Only reserved names are left out; a variable that the caller set to nothing is passed on.
        assert_eq!(seen["EMPTY"], "");
        assert_eq!(seen.contains_key("REMOTE_ADDR"), program == Program::Ours);
    });
}

#[test]
fn names_similar_to_reserved_ones_are_kept() {
    let alike = [
        "TCPLOCAL",
        "TCPLOCALIPX",
        "XTCPLOCALIP",
        "UDPREMOTE",
        "PROTOCOL",
        "LISTEN",
        "SKD",
        "REMOTE_ADDRESS",
        "skd_x",
        "WATCHDOG",
    ];
    let mut skd = Skd::new(["-t", "127.0.0.1:0"]);
    for name in alike {
        skd = skd.env(name, "kept");
    }
    let skd = skd.run_with(SHOW.0, SHOW.1);
    let seen = read(&talk(skd.connect(), b""));
    for name in alike {
        assert_eq!(seen.get(name).map(String::as_str), Some("kept"), "{name}");
    }
}

#[test]
fn names_that_are_not_utf8_are_left_out_or_kept_like_others() {
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .env(OsStr::from_bytes(b"SKD_\xff"), "a lie")
        .env(OsStr::from_bytes(b"SKD\xff"), "kept")
        .run_with(SHOW.0, SHOW.1);
    let seen = talk(skd.connect(), b"");
    let seen: Vec<&[u8]> = seen.split(|&byte| byte == 0).collect();
    assert!(seen.contains(&&b"SKD\xff=kept"[..]));
    assert!(!seen.iter().any(|entry| entry.starts_with(b"SKD_")));
}

#[test]
fn variables_can_be_changed_by_options() {
    let skd = Skd::new([
        "-t",
        "127.0.0.1:0",
        "--env",
        "SET=a=b c",
        "--env=EMPTY=",
        "--env",
        "GONE",
        "--env",
        "TWICE=1",
        "--env",
        "TWICE=2",
        "--env",
        "BACK",
        "--env",
        "BACK=again",
        "--env",
        "NEVER",
    ])
    .env("GONE", "1")
    .env("SET", "0")
    .env("BACK", "0")
    .run_with(SHOW.0, SHOW.1);
    let seen = read(&talk(skd.connect(), b""));
    assert_eq!(seen["SET"], "a=b c");
    assert_eq!(seen["EMPTY"], "");
    assert_eq!(seen["TWICE"], "2");
    assert_eq!(seen["BACK"], "again");
    assert!(
        !seen.contains_key("GONE") && !seen.contains_key("NEVER"),
        "{seen:?}"
    );
}

#[test]
fn a_handler_can_have_another_path() {
    let directory = Directory::new();
    directory.script("only-here", "#!/bin/sh\necho \"$PATH\"\n");
    let path = directory.path().to_str().unwrap();
    let skd = Skd::new(["-t", "127.0.0.1:0", "--env", &format!("PATH={path}")]).run("only-here");
    assert_eq!(
        String::from_utf8_lossy(&talk(skd.connect(), b"")),
        format!("{path}\n")
    );
}

#[test]
fn reserved_variables_cannot_be_forged() {
    for name in [
        "PROTO",
        "TCPREMOTEIP",
        "REMOTE_ADDR",
        "PEERUID",
        "UNIXLOCALPATH",
        "SKD_X",
        "LISTEN_FDS",
    ] {
        let value = format!("{name}=a lie");
        run_to_end(["-t", "127.0.0.1:0", "--env", &value, "cat"])
            .expect_refusal(2, &["--env", &value]);
    }
    for value in ["", "=x"] {
        run_to_end(["-t", "127.0.0.1:0", "--env", value, "cat"])
            .expect_refusal(2, &["--env", "NAME"]);
    }
}

#[test]
fn variables_without_a_listener_are_unchanged() {
    // LISTEN_* and NOTIFY_SOCKET are meant for the program that skd becomes.
    let names = [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "PROTO",
    ];
    let mut skd = Skd::new([SHOW.0, SHOW.1[0]]);
    for name in names {
        skd = skd.env(name, "kept");
    }
    let seen = read(skd.end().stdout.as_bytes());
    for name in names {
        assert_eq!(seen.get(name).map(String::as_str), Some("kept"), "{name}");
    }
}

#[test]
fn long_values_fit() {
    let long = "x".repeat(100_000);
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .env("LONG", &long)
        .run_with(SHOW.0, SHOW.1);
    for _ in 0..3 {
        assert_eq!(read(&talk(skd.connect(), b""))["LONG"], long);
    }
    assert_eq!(ask_udp_length(&long), long.len());
}

/// The length of a long variable as a datagram handler sees it.
fn ask_udp_length(value: &str) -> usize {
    requires_command("perl");
    let script = "my $from = recv(STDIN, my $x, 9, 0); send(STDOUT, length($ENV{LONG}), 0, $from)";
    let skd = Skd::new(["-u", "127.0.0.1:0"])
        .env("LONG", value)
        .run_with("perl", ["-e", script]);
    String::from_utf8(ask_udp(skd.address(), b"?"))
        .unwrap()
        .parse()
        .unwrap()
}
