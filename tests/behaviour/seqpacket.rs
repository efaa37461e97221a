//! `--seqpacket`: unix sockets of sequential packets, served like streams.

use crate::harness::{
    DEADLINE, Directory, Instance, Kind, Skd, close_unix, descriptors, environment, poll_for,
    requires_command, run_to_end, sockets,
};
use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixStream};

/// Skd with `-vv` and a socket at this path.
fn with(path: &str) -> Skd {
    Skd::new(["-vv", "--seqpacket", "-l", path])
}

/// A client of such a socket, with time limits; `@NAME` is an abstract one.
#[track_caller]
fn connect(path: &str) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    let address = match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(path),
    };
    let connected = socket.connect(&address.unwrap());
    connected.unwrap_or_else(|reason| panic!("connecting to {path}: {reason}"));
    socket
}

/// Reads the next packet; the end is an empty one.
fn packet(mut client: &Socket) -> io::Result<Vec<u8>> {
    let mut room = [0; 65_536];
    let length = client.read(&mut room)?;
    Ok(room[..length].to_vec())
}

/// Sends a packet to a handler that is `cat`, and reads it back.
#[track_caller]
fn echo(client: &Socket, bytes: &[u8]) {
    assert_eq!(client.send(bytes).unwrap(), bytes.len());
    assert_eq!(packet(client).unwrap(), bytes);
}

/// A bound socket, to be passed to skd as an inherited one.
fn bound(path: &str) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    socket
}

#[test]
fn connections_have_a_handler_each_and_packets_stay_whole() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let name = format!("@{}", directory.name("whole"));
    for path in [&path, &name] {
        let skd = with(path).run("cat");
        assert_eq!(sockets(skd.pid())[0].kind, Kind::UnixSeqpacket);
        skd.wait_for_log(&format!("Listening on unix seqpacket {path}"));
        let clients = [connect(path), connect(path)];
        for client in &clients {
            echo(client, b"hello");
        }
        for packet in [&b"one"[..], b"two", b"three"] {
            clients[0].send(packet).unwrap();
        }
        for expected in [&b"one"[..], b"two", b"three"] {
            assert_eq!(packet(&clients[0]).unwrap(), expected);
        }
        let handlers = skd.wait_for_children(2);
        for handler in handlers {
            let variables = environment(handler);
            assert_eq!(variables["PROTO"], "UNIX-SEQPACKET");
            assert_eq!(&variables["UNIXLOCALPATH"], path);
            let own = std::process::id().to_string();
            assert_eq!(variables["PEERPID"], own);
            assert_eq!(variables["UNIXREMOTEPID"], own);
            let open = descriptors(handler);
            assert_eq!(open.len(), 3, "{open:?}");
            assert_eq!(open[&0], open[&1]);
        }
        let peer = format!("local connection from pid {}", std::process::id());
        skd.wait_for_logs(&format!("Accepted {peer}"), 2);
        clients[0].shutdown(Shutdown::Write).unwrap();
        assert_eq!(packet(&clients[0]).unwrap(), b"");
        skd.wait_for_log(&format!("Closed {peer}"));
        assert_eq!(skd.stop().code(), Some(0));
    }
    assert_eq!(directory.names(), [""; 0], "its file is gone");
}

#[test]
fn a_stale_file_is_replaced_and_one_in_use_is_left_alone() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let stale = bound(&path);
    Skd::new(["--seqpacket", "-l", &path, "cat"])
        .end()
        .expect_refusal(1, &[&path, "another program has"]);
    close_unix(stale, &path);
    let skd = with(&path).args(["--unix-mode=600"]).run("cat");
    echo(&connect(&path), b"replaced");
    drop(skd);
}

#[test]
fn the_last_style_option_counts() {
    let directory = Directory::new();
    let path = directory.name("socket");
    for (options, kind) in [
        (["-s", "-d", "--seqpacket"], Kind::UnixSeqpacket),
        (["--seqpacket", "-d", "-s"], Kind::UnixStream),
        (["-s", "--seqpacket", "-d"], Kind::UnixDatagram),
    ] {
        let skd = Skd::new(["-l", &path]).args(options).run("true");
        assert_eq!(sockets(skd.pid())[0].kind, kind, "{options:?}");
        assert_eq!(skd.stop().code(), Some(0));
    }
    let checked = run_to_end(["--check", "-v", "--seqpacket", "-l", &path, "cat"]);
    checked.expect_code(0);
    assert_eq!(
        checked.stderr,
        format!("Would listen on unix seqpacket {path}\n")
    );
}

#[test]
fn services_without_seqpacket_sockets_are_refused() {
    for (options, texts) in [
        (&["-t", "0"][..], &["--seqpacket", "-l and -x", "none"][..]),
        (&["-l", "@x", "-i", "0"], &["--seqpacket", "--inet (-i)"]),
        (
            &["-l", "@x", "--proxy-protocol", "--proxy-from=unix"],
            &["--proxy-protocol", "--seqpacket"],
        ),
        (
            &["-l", "@x", "--send-buffer=4K"],
            &["--send-buffer", "no use"],
        ),
        (
            &["-l", "@x", "--idle-timeout=1s"],
            &["--idle-timeout", "no use"],
        ),
    ] {
        let skd = Skd::new(["--seqpacket"]).args(options).args(["cat"]);
        skd.end().expect_refusal(2, texts);
    }
    let directory = Directory::new();
    Skd::new(["--listen-fd=3", "--proxy-protocol", "--proxy-from=unix"])
        .args(["cat"])
        .descriptor(3, bound(&directory.name("socket")))
        .end()
        .expect_refusal(1, &["--proxy-protocol", "unix seqpacket", "stream"]);
}

#[test]
fn inherited_seqpacket_sockets_are_recognised() {
    let directory = Directory::new();
    let path = directory.name("socket");
    for listens in [false, true] {
        for option in ["--listen-fd=3", "--systemd"] {
            let socket = bound(&path);
            if listens {
                socket.listen(5).unwrap();
            }
            let line = "LISTEN_FDS=1 LISTEN_FDNAMES=packets LISTEN_PID=$$ exec \"$@\"";
            let skd = Skd::new(["-vv", option])
                .wrapper(["sh", "-c", line, "sh"])
                .descriptor(3, socket)
                .start("cat");
            skd.wait_for_log(&format!("Listening on unix seqpacket {path}"));
            echo(&connect(&path), b"handed");
            assert_eq!(skd.stop().code(), Some(0));
            std::fs::remove_file(&path).unwrap();
        }
    }
    let (one, _other) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    Skd::new(["--listen-fd=3", "cat"])
        .descriptor(3, one)
        .end()
        .expect_refusal(1, &["it is a connection"]);
}

#[test]
fn limits_and_rules_apply_as_for_streams() {
    let directory = Directory::new();
    let path = directory.name("socket");
    // The message is one packet.
    let skd = with(&path)
        .args(["-c1", "--at-max=message:busy\\n"])
        .run("cat");
    let first = connect(&path);
    echo(&first, b"first");
    let second = connect(&path);
    assert_eq!(packet(&second).unwrap(), b"busy\n");
    assert_eq!(packet(&second).unwrap(), b"");
    drop(skd);

    let skd = with(&path)
        .args(["--max-per-source=1", "--at-source-max=queue:1h"])
        .run("cat");
    let first = connect(&path);
    echo(&first, b"first");
    let second = connect(&path);
    second.send(b"waits").unwrap();
    assert_eq!(skd.wait_for_children(1).len(), 1);
    drop(first);
    assert_eq!(packet(&second).unwrap(), b"waits");
    drop(skd);

    let own = nix::unistd::geteuid();
    let group = nix::unistd::getegid();
    for (deny, served) in [
        ("unix".to_owned(), false),
        (format!("uid={own}"), false),
        (format!("gid={group}"), false),
        ("uid=54321".to_owned(), true),
        ("0.0.0.0/0".to_owned(), true),
    ] {
        let skd = with(&path).args(["--deny", &deny]).run("cat");
        let client = connect(&path);
        if served {
            echo(&client, b"served");
        } else {
            assert_eq!(packet(&client).unwrap(), b"", "{deny}");
            assert_eq!(skd.children(), [0; 0]);
        }
    }
}

#[test]
fn an_empty_packet_may_be_the_first_byte() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = with(&path)
        .args(["--first-byte=1h"])
        .run_with("sh", ["-c", "echo served"]);
    let silent = connect(&path);
    let gone = connect(&path);
    gone.shutdown(Shutdown::Write).unwrap();
    assert_eq!(packet(&gone).unwrap(), b"");
    for first in [&b"x"[..], b""] {
        let client = connect(&path);
        client.send(first).unwrap();
        // Input that the handler left unread causes an error before the answer is read.
        let answer = packet(&client).or_else(|_| packet(&client)).unwrap();
        assert_eq!(answer, b"served\n");
    }
    assert_eq!(skd.wait_for_logs("Accepted", 2).len(), 2);
    silent.send(b"at last").unwrap();
    let answer = packet(&silent).or_else(|_| packet(&silent)).unwrap();
    assert_eq!(answer, b"served\n");
}

#[test]
fn an_answer_arrives_before_the_end_with_linger() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let unread: [&[u8]; 4] = [b"", b"one", b"", b"two"];
    for lingers in [false, true] {
        let options: &[&str] = if lingers {
            &["--linger=1h"]
        } else {
            &["--linger=0s"]
        };
        // Nothing is read.
        let skd = with(&path).args(options).run_with(
            "sh",
            ["-c", "read line < \"$0\"; echo answer", &fifo(&directory)],
        );
        let client = connect(&path);
        for packet in unread {
            client.send(packet).unwrap();
        }
        std::fs::write(directory.name("go"), "\n").unwrap();
        skd.wait_for_log("Closed local connection");
        if lingers {
            assert_eq!(packet(&client).unwrap(), b"answer\n");
            assert_eq!(packet(&client).unwrap(), b"");
            // Input is drained until the client closes.
            client.send(b"").unwrap();
            client.send(b"more").unwrap();
            drop(client);
            skd.wait_until("it has left", || {
                sockets(skd.pid()).iter().all(|socket| socket.listening)
            });
        } else {
            let reason = packet(&client).unwrap_err();
            assert_eq!(reason.kind(), ErrorKind::ConnectionReset);
            assert_eq!(packet(&client).unwrap(), b"answer\n");
        }
        drop(skd);
    }
}

/// A FIFO by which a handler can be blocked.
fn fifo(directory: &Directory) -> String {
    let path = directory.name("go");
    let _ = std::fs::remove_file(&path);
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(path.as_str(), mode).unwrap();
    path
}

#[test]
fn a_program_that_accepts_gets_the_listener() {
    requires_command("perl");
    let directory = Directory::new();
    let path = directory.name("socket");
    let script = "use Socket; accept(my $c, STDIN) or die $!; \
                  syswrite $c, \"$ENV{PROTO} \" . ($ENV{LISTEN_FDNAMES} // 'alone')";
    for (option, expected) in [
        ("--wait", "UNIX-SEQPACKET alone"),
        ("-S", " unix-seqpacket"),
    ] {
        let skd = with(&path)
            .args([option])
            .start_with("perl", ["-e", script]);
        skd.wait_until("it listens", || {
            sockets(skd.pid()).iter().any(|socket| socket.listening)
        });
        for _ in 0..3 {
            let client = connect(&path);
            assert_eq!(packet(&client).unwrap(), expected.as_bytes(), "{option}");
            assert_eq!(packet(&client).unwrap(), b"");
        }
        assert_eq!(skd.logged("skd: "), [""; 0]);
        drop(skd);
        let _ = std::fs::remove_file(&path);
    }
}

#[test]
fn an_on_demand_program_ends_when_it_has_no_clients() {
    requires_command("perl");
    let directory = Directory::new();
    let path = directory.name("socket");
    let script = "use Socket; while (accept(my $c, STDIN)) { syswrite $c, $$; \
                  sysread $c, my $x, 9 }";
    let skd = with(&path)
        .args(["-S", "--on-demand", "--idle-exit=100ms"])
        .start_with("perl", ["-e", script]);
    skd.wait_until("it listens", || {
        sockets(skd.pid()).iter().any(|socket| socket.listening)
    });
    let mut seen = Vec::new();
    for _ in 0..2 {
        let client = connect(&path);
        let pid = String::from_utf8(packet(&client).unwrap()).unwrap();
        assert_eq!(skd.wait_for_children(1)[0].to_string(), pid);
        seen.push(pid);
        drop(client);
        skd.wait_for_children(0);
    }
    assert_ne!(seen[0], seen[1]);
}

#[track_caller]
fn upgrade(skd: &Instance) {
    let told = || skd.logged("pgrade").len();
    let before = told();
    skd.signal(Signal::SIGUSR2);
    // Longer than a preflight may take.
    poll_for(3 * DEADLINE, || (told() > before).then_some(())).unwrap();
    assert_eq!(skd.logged("no upgrade"), [""; 0]);
}

#[test]
fn an_upgrade_keeps_listeners_and_connections() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = with(&path)
        .args(["--linger=1h", "--first-byte=1h"])
        .run("cat");
    let (client, waiting) = (connect(&path), connect(&path));
    echo(&client, b"before");
    for _ in 0..2 {
        upgrade(&skd);
        echo(&client, b"after");
        echo(&connect(&path), b"new");
    }
    echo(&waiting, b"waited");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0], "its file is gone");
}

#[test]
fn a_drain_waits_for_served_clients_and_refuses_others() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = with(&path).args(["--drain=1h"]).run("cat");
    let clients = [connect(&path), connect(&path)];
    clients.iter().for_each(|client| echo(client, b"before"));
    skd.signal(Signal::SIGTERM);
    let socket = || {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.connect(&SockAddr::unix(&path).unwrap())
    };
    skd.wait_until("no client is accepted any more", || socket().is_err());
    clients.iter().for_each(|client| echo(client, b"still"));
    drop(clients);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn listeners_of_several_types_are_served_together() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new(["--seqpacket", "-l", &path, "-t", "127.0.0.1:0"])
        .run_with("sh", ["-c", "echo $PROTO"]);
    let client = connect(&path);
    assert_eq!(packet(&client).unwrap(), b"UNIX-SEQPACKET\n");
    let answer = crate::harness::talk(skd.connect(), b"");
    assert_eq!(answer, b"TCP\n");
    // A client of another type is refused.
    assert!(UnixStream::connect(&path).is_err());
    assert!(UnixDatagram::unbound().unwrap().connect(&path).is_err());
}
