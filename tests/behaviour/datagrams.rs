//! Datagram sockets: a program on the listening socket itself, one at a time.

use crate::harness::{
    Directory, Running, Skd, ask, ask_udp, ask_unix_datagram, assert_idle, datagram_echo,
    descriptors, each_program, echo, requires_command, send_unix_datagram, sockets, udp_client,
    unix_datagram_client,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::unistd::Pid;
use std::fs;
use std::io::{IoSlice, PipeReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// A handler in perl. `script` can call `take`, which receives a datagram, and `give`, which sends to the sender of
/// the last one.
fn perl(options: Skd, script: &str) -> Running {
    requires_command("perl");
    let functions = "use Socket; my $from; \
         sub take { defined($from = recv(STDIN, my $bytes, 200000, 0)) or die $!; $bytes } \
         sub give { defined(send(STDOUT, $_[0], 0, $from)) or die $!; } ";
    options.run_with("perl", ["-e", &format!("{functions}{script}")])
}

/// A handler that leaves its datagram unread until a file `go` exists in `directory`; then it
/// echoes.
fn unwilling(skd: Skd, directory: &Directory) -> Running {
    unwilling_with(skd, directory, "")
}

/// The same, and before it echoes, it does what `first` says in perl.
fn unwilling_with(skd: Skd, directory: &Directory, first: &str) -> Running {
    let (prog, [option, script]) = datagram_echo();
    let script = &format!("{first}{script}");
    let line = "echo started >&2; test -e \"$1\" || exit 0; shift; exec \"$@\"";
    let go = directory.name("go");
    skd.run_with("sh", ["-c", line, "sh", &go, prog, option, script])
}

/// The number of starts for an unread datagram before skd discards it.
const STARTS: usize = 8;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_datagram_starts_a_handler_that_answers() {
    each_program(|program| {
        let (prog, args) = datagram_echo();
        let skd = program.skd(["-u", "127.0.0.1:0"]).run_with(prog, args);
        for request in [&b"one"[..], b"two", b"three"] {
            assert_eq!(ask_udp(skd.address(), request), request);
        }
        skd.wait_until("handlers are reaped", || skd.children().is_empty());
    });
}

#[test]
fn a_handler_has_the_listening_socket_and_nothing_else() {
    each_program(|program| {
        let skd = perl(program.skd(["-u", "127.0.0.1:0"]), "give(take) while 1");
        let socket = udp_client(skd.address());
        ask(&socket, b"1");
        let handler = skd.wait_for_children(1)[0];
        let open = descriptors(handler);
        assert_eq!(open.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        let bound = sockets(skd.pid());
        assert_eq!(bound.len(), 1);
        for number in [0, 1] {
            assert_eq!(open[&number], format!("socket:[{}]", bound[0].inode));
        }
    });
}

#[test]
fn a_handler_gets_all_datagrams_until_it_ends() {
    each_program(|program| {
        let skd = perl(
            program.skd(["-u", "127.0.0.1:0"]),
            "for (1 .. 3) { give(\"$$ \" . take) }",
        );
        let mut handlers = Vec::new();
        for turn in 0..6 {
            let answer = ask_udp(skd.address(), turn.to_string().as_bytes());
            let (pid, request) = text(&answer).split_once(' ').unwrap();
            assert_eq!(request, turn.to_string());
            handlers.push(pid.to_owned());
        }
        assert!(
            handlers[..3].iter().all(|pid| *pid == handlers[0]),
            "{handlers:?}"
        );
        assert!(
            handlers[3..].iter().all(|pid| *pid == handlers[3]),
            "{handlers:?}"
        );
        assert_ne!(handlers[0], handlers[3]);
    });
}

#[test]
fn one_handler_runs_at_a_time() {
    each_program(|program| {
        // It works for a while after it has taken the datagram, while the next one waits.
        let script = "print STDERR \"start\\n\"; my $bytes = take; select undef, undef, undef, 0.01; \
                      give($bytes); print STDERR \"end\\n\"";
        let skd = perl(program.skd(["-u", "127.0.0.1:0"]), script);
        let clients: Vec<UdpSocket> = (0..10).map(|_| udp_client(skd.address())).collect();
        for client in &clients {
            client.send(b".").unwrap();
        }
        skd.wait_for_logs("end", 10);
        let lines = skd.log_lines();
        assert_eq!(lines.len(), 20, "{lines:?}");
        assert!(
            lines.chunks(2).all(|pair| pair == ["start", "end"]),
            "{lines:?}"
        );
    });
}

#[test]
fn sockets_are_independent_of_one_another() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = perl(
        Skd::new(["-u", "0", "-dl", &path, "-t", "127.0.0.1:0"]),
        "give(\"$$\") while take",
    );
    // One handler each: two for the bare port, one for the path, all at once.
    let port = skd.port();
    let mut handlers = [
        ask_udp((Ipv4Addr::LOCALHOST, port).into(), b"4"),
        ask_udp((Ipv6Addr::LOCALHOST, port).into(), b"6"),
        ask_unix_datagram(directory.join("client"), &path, b"unix"),
    ]
    .map(|pid| text(&pid).parse::<i32>().unwrap());
    handlers.sort_unstable();
    assert_eq!(skd.wait_for_children(3), handlers);
    // Nor does a stream wait for them.
    let _stream = skd.connect_to(skd.addresses()[1]);
    skd.wait_for_children(4);
}

#[test]
fn the_limit_of_clients_excludes_datagrams() {
    let skd = perl(
        Skd::new(["-c1", "-u", "127.0.0.1:0", "-u", "127.0.0.1:0"]),
        "give(take) while 1",
    );
    for address in skd.addresses() {
        assert_eq!(ask_udp(address, b"served"), b"served");
    }
    skd.wait_for_children(2);
}

#[test]
fn a_handler_of_datagrams_takes_no_slot_of_a_stream() {
    let line = "test $PROTO = TCP && exec cat; exec cat > /dev/null";
    let skd =
        Skd::new(["-c1", "-u", "127.0.0.1:0", "-t", "127.0.0.1:0"]).run_with("sh", ["-c", line]);
    udp_client(skd.addresses()[0]).send(b"1").unwrap();
    skd.wait_for_children(1);
    let mut stream = skd.connect_to(skd.addresses()[1]);
    echo(&mut stream, b"served");
}

// Unread datagrams.

#[test]
fn an_unread_datagram_starts_a_few_handlers_and_is_then_discarded() {
    let directory = Directory::new();
    let skd = unwilling(Skd::new(["-u", "127.0.0.1:0"]), &directory);
    let client = udp_client(skd.address());
    client.send(b"12345").unwrap();
    let line = skd.wait_for_log("skd: ");
    let sender = client.local_addr().unwrap().port();
    for part in [
        "'sh'",
        "8 times",
        &format!("[127.0.0.1]:{sender}"),
        "unread",
        "5 bytes",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(
        skd.log_lines()
            .iter()
            .filter(|line| *line == "started")
            .count(),
        STARTS,
        "{:?}",
        skd.log_lines()
    );
    // The service is as before.
    directory.write("go", "");
    assert_eq!(ask(&client, b"next"), b"next");
    assert_eq!(skd.logged("started").len(), STARTS + 1);
    assert_eq!(skd.logged("skd: ").len(), 1);
}

#[test]
fn each_of_several_unread_datagrams_gets_its_starts() {
    let directory = Directory::new();
    let skd = unwilling(Skd::new(["-u", "127.0.0.1:0"]), &directory);
    let client = udp_client(skd.address());
    for _ in 0..2 {
        client.send(b"the same").unwrap();
    }
    let lines = skd.wait_for_logs("skd: ", 2);
    assert_eq!(lines[0], lines[1]);
    let started = skd
        .log_lines()
        .iter()
        .filter(|line| *line == "started")
        .count();
    assert_eq!(started, 2 * STARTS);
    directory.write("go", "");
    assert_eq!(ask(&client, b"next"), b"next");
}

#[test]
fn an_unread_datagram_of_a_unix_socket_is_discarded_too() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = unwilling(Skd::new(["-dl", &path]), &directory);
    send_unix_datagram(&path, b"1234567");
    let line = skd.wait_for_log("skd: ");
    assert!(
        line.contains(&path) && line.contains("local datagram") && line.contains("7 bytes"),
        "{line}"
    );
    directory.write("go", "");
    assert_eq!(
        ask_unix_datagram(directory.join("client"), &path, b"next"),
        b"next"
    );
}

#[test]
fn unread_datagrams_of_several_sockets_are_all_reported() {
    let directory = Directory::new();
    let skd = unwilling(Skd::new(["-u", "0"]), &directory);
    let port = skd.port();
    let by_v4 = udp_client((Ipv4Addr::LOCALHOST, port).into());
    let by_v6 = udp_client((Ipv6Addr::LOCALHOST, port).into());
    // Sent together, so that they are discarded together.
    by_v4.send(b"four").unwrap();
    by_v6.send(b"six").unwrap();
    skd.wait_for_log("unread, 4 bytes");
    skd.wait_for_log("unread, 3 bytes");
}

#[test]
fn a_socket_that_a_handler_has_shut_down_is_reported_and_costs_nothing() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = perl(
        Skd::new(["-u", "127.0.0.1:0", "-dl", &path]).throttle(Duration::from_millis(100)),
        "take; shutdown(STDIN, 2)",
    );
    udp_client(skd.address()).send(b"1").unwrap();
    skd.wait_for_logs("a handler has shut the socket down", 3);
    assert_idle(&[skd.pid()]);
    // The other socket is as before.
    send_unix_datagram(&path, b"2");
    skd.wait_for_children(0);
}

#[test]
fn a_datagram_that_the_last_handler_reads_is_not_discarded() {
    let directory = Directory::new();
    let skd = unwilling(Skd::new(["-u", "127.0.0.1:0"]), &directory);
    let client = udp_client(skd.address());
    client.send(b"datagram").unwrap();
    skd.wait_for_logs("started", 3);
    directory.write("go", "");
    let mut answer = [0; 100];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"datagram");
    // The next one is new, with all its starts.
    fs::remove_file(directory.join("go")).unwrap();
    let before = skd.logged("started").len();
    client.send(b"unread").unwrap();
    skd.wait_for_log("unread, 6 bytes");
    assert_eq!(
        skd.log_lines()
            .iter()
            .filter(|line| *line == "started")
            .count(),
        before + STARTS
    );
}

#[test]
fn a_program_that_cannot_be_run_causes_no_storm() {
    let directory = Directory::new();
    let (prog, [option, script]) = datagram_echo();
    let handler = directory.script("handler", "#!/bin/sh\nexec \"$@\"\n");
    let skd = Skd::new(["-u", "127.0.0.1:0"])
        .throttle(Duration::from_secs(3600))
        .run_with(&handler, [prog, option, script]);
    fs::rename(&handler, directory.join("away")).unwrap();
    let client = udp_client(skd.address());
    client.send(b"123").unwrap();
    let why = format!(
        "skd: '{}' can't be run: No such file or directory",
        handler.display()
    );
    skd.wait_for_log(&why);
    skd.wait_for_log("unread, 3 bytes");
    // Eight attempts, which take nearly two seconds.
    let most = if cfg!(debug_assertions) { 1 } else { 3 };
    assert!(skd.logged(&why).len() <= most, "{:?}", skd.log_lines());
    fs::rename(directory.join("away"), &handler).unwrap();
    assert_eq!(ask(&client, b"next"), b"next");
}

// Ancillary data of a datagram, and the state that a handler leaves.

/// Sends a datagram together with a descriptor, the writing end of a pipe whose reading end is returned.
fn send_with_a_descriptor(path: &str, bytes: &[u8]) -> PipeReader {
    let (reader, writer) = std::io::pipe().unwrap();
    let descriptors = [writer.as_raw_fd()];
    sendmsg(
        UnixDatagram::unbound().unwrap().as_raw_fd(),
        &[IoSlice::new(bytes)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        Some(&UnixAddr::new(path).unwrap()),
    )
    .expect("sending a descriptor");
    reader
}

/// Whether no process has the writing end of a pipe that nothing was written to.
fn is_at_its_end(pipe: &PipeReader) -> bool {
    let mut wanted = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut wanted, PollTimeout::ZERO) == Ok(1)
}

#[test]
fn a_datagram_with_a_descriptor_is_handled_like_others() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new(["-dl", &path, "--accept-descriptors"]);
    let skd = unwilling(skd, &directory);
    // Peeked at several times, and discarded, by skd alone: it takes the datagram and leaves the descriptor.
    let pipe = send_with_a_descriptor(&path, b"unread");
    assert!(!is_at_its_end(&pipe));
    skd.wait_for_log("unread, 6 bytes");
    skd.wait_until("the descriptor is gone", || is_at_its_end(&pipe));
    directory.write("go", "");
    let pipe = send_with_a_descriptor(&path, b"taken");
    assert_eq!(
        ask_unix_datagram(directory.join("client"), &path, b"next"),
        b"next"
    );
    skd.wait_until("the descriptor is gone", || is_at_its_end(&pipe));
    assert_eq!(skd.logged("skd: ").len(), 1, "{:?}", skd.log_lines());
}

#[test]
fn socket_options_that_a_handler_sets_do_no_harm() {
    for (listener, options) in [
        (
            "-u127.0.0.1:0",
            &[
                (libc::IPPROTO_IP, libc::IP_PKTINFO),
                (libc::IPPROTO_IP, libc::IP_RECVTOS),
            ][..],
        ),
        (
            "-u[::1]:0",
            &[
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
            ],
        ),
        ("-dl", &[(libc::SOL_SOCKET, libc::SO_PASSCRED)]),
    ] {
        let directory = Directory::new();
        let path = directory.join("socket");
        let mut set = String::new();
        for (level, name) in options {
            set += &format!("setsockopt(STDIN, {level}, {name}, 1) or die $!; ");
        }
        let mut skd = Skd::new([listener]);
        let unix = listener == "-dl";
        if unix {
            skd = skd.arg(&path);
        }
        let skd = unwilling_with(skd, &directory, &set);
        let answer = |request: &str| {
            if unix {
                ask_unix_datagram(directory.join(request), &path, request.as_bytes())
            } else {
                ask_udp(skd.address(), request.as_bytes())
            }
        };
        directory.write("go", "");
        for request in ["one", "two", "three"] {
            assert_eq!(text(&answer(request)), request, "{listener}");
        }
        // They are still told apart by their timestamps, too.
        fs::remove_file(directory.join("go")).unwrap();
        skd.wait_until("the last one has ended", || skd.children().is_empty());
        let before = skd.log_lines().len();
        for _ in 0..2 {
            if unix {
                send_unix_datagram(&path, b"unread");
            } else {
                udp_client(skd.address()).send(b"unread").unwrap();
            }
        }
        skd.wait_for_logs("unread, 6 bytes", 2);
        assert_eq!(skd.log_lines().len() - before, 2 * (STARTS + 1));
        directory.write("go", "");
        assert_eq!(text(&answer("four")), "four", "{listener}");
    }
}

// Telling datagrams apart.

#[test]
fn equal_datagrams_are_counted_one_by_one() {
    let skd = perl(
        Skd::new(["-u", "127.0.0.1:0"]),
        "print STDERR 'took ', take, \"\\n\"",
    );
    let client = udp_client(skd.address());
    for _ in 0..30 {
        client.send(b"the same").unwrap();
    }
    assert_eq!(skd.wait_for_logs("took the same", 30).len(), 30);
    skd.wait_until("the last one ends", || skd.children().is_empty());
    // None was taken for an unread one, nor waited for.
    assert_eq!(skd.log_lines().len(), 30);
}

#[test]
fn an_empty_datagram_is_handled_like_others() {
    each_program(|program| {
        let directory = Directory::new();
        let skd = perl(
            program.skd(["-u", "127.0.0.1:0"]),
            "give('length ' . length take)",
        );
        for request in [&b""[..], b"", b"1", b""] {
            let answer = ask_udp(skd.address(), request);
            assert_eq!(text(&answer), format!("length {}", request.len()));
        }
        drop(skd);
        let path = directory.name("socket");
        let skd = perl(program.skd(["-dl", &path]), "give('length ' . length take)");
        assert_eq!(
            ask_unix_datagram(directory.join("client"), &path, b""),
            b"length 0"
        );
        drop(skd);
    });
}

#[test]
fn an_unread_empty_datagram_is_discarded() {
    let directory = Directory::new();
    let skd = unwilling(Skd::new(["-u", "127.0.0.1:0"]), &directory);
    let client = udp_client(skd.address());
    client.send(b"").unwrap();
    skd.wait_for_log("unread, 0 bytes");
    directory.write("go", "");
    assert_eq!(ask(&client, b"next"), b"next");
}

#[test]
fn a_large_datagram_arrives_whole() {
    each_program(|program| {
        let directory = Directory::new();
        let bytes: Vec<u8> = (0..65_000_u32).map(|number| number as u8).collect();
        let skd = perl(program.skd(["-u", "127.0.0.1:0"]), "give(take)");
        assert!(ask_udp(skd.address(), &bytes) == bytes);
        drop(skd);
        let path = directory.name("socket");
        let skd = perl(program.skd(["-dl", &path]), "give(take)");
        assert!(ask_unix_datagram(directory.join("client"), &path, &bytes) == bytes);
        drop(skd);
    });
}

// The state of the socket for the next handler.

#[test]
fn a_socket_left_non_blocking_is_blocking_for_the_next_handler() {
    each_program(|program| {
        let script = "use Fcntl; my $bytes = take; my $flags = fcntl(STDIN, F_GETFL, 0); \
                      fcntl(STDIN, F_SETFL, $flags | O_NONBLOCK) or die $!; \
                      give($flags & O_NONBLOCK ? 'non-blocking' : 'blocking')";
        let skd = perl(program.skd(["-u", "127.0.0.1:0"]), script);
        for _ in 0..3 {
            assert_eq!(text(&ask_udp(skd.address(), b"?")), "blocking");
        }
    });
}

#[test]
fn a_handler_s_own_datagrams_have_no_receive_timestamp() {
    let script = format!(
        "take; give(join ' ', map {{ unpack 'i', getsockopt(STDIN, SOL_SOCKET, $_) }} {}, {})",
        libc::SO_TIMESTAMPNS,
        libc::SO_TIMESTAMP,
    );
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = perl(Skd::new(["-u", "127.0.0.1:0", "-dl", &path]), &script);
    let client = udp_client(skd.address());
    for _ in 0..3 {
        assert_eq!(text(&ask(&client, b"?")), "0 0");
    }
    assert_eq!(
        text(&ask_unix_datagram(directory.join("client"), &path, b"?")),
        "0 0"
    );
}

#[test]
fn a_killed_handler_gives_the_socket_back() {
    let skd = perl(Skd::new(["-u", "127.0.0.1:0"]), "give(\"$$\") while take");
    let client = udp_client(skd.address());
    let first = ask(&client, b"1");
    kill(
        Pid::from_raw(text(&first).parse().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    skd.wait_for_children(0);
    assert_ne!(ask(&client, b"2"), first);
}

#[test]
fn many_datagrams_with_a_handler_each_are_all_answered() {
    let skd = perl(Skd::new(["-u", "127.0.0.1:0"]), "give(take)");
    let clients: Vec<UdpSocket> = (0..60).map(|_| udp_client(skd.address())).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(number.to_string().as_bytes()).unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        let mut answer = [0; 100];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(text(&answer[..length]), number.to_string());
    }
}

// The end.

#[test]
fn a_signal_that_ends_skd_ends_the_handler_of_datagrams_too() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let skd = perl(Skd::new(["-u", "127.0.0.1:0"]), "give(\"$$\") while take");
        let handler: i32 = text(&ask_udp(skd.address(), b"1")).parse().unwrap();
        let address = skd.address();
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0));
        skd.wait_until("the handler ends", || !crate::harness::exists(handler));
        // So the address is free.
        UdpSocket::bind(address).expect("a free address");
    }
}

#[test]
fn a_signal_that_ends_skd_ends_a_group_of_processes() {
    // The handler's own children hold the socket too.
    let script = "give(\"$$ \" . (fork // die)) while take; sleep 1000";
    let skd = perl(
        Skd::new(["-u", "127.0.0.1:0"]),
        &format!(
            "take; my $child = fork // die; give(\"$$ $child\") if $child; sleep 1000; {script}"
        ),
    );
    let answer = ask_udp(skd.address(), b"1");
    let pids: Vec<i32> = text(&answer)
        .split(' ')
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(skd.stop().code(), Some(0));
    skd.wait_until("both end", || {
        !pids.iter().any(|pid| crate::harness::exists(*pid))
    });
}

#[test]
fn a_unix_datagram_client_that_has_left_does_no_harm() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = perl(Skd::new(["-vdl", &path]), "give(take)");
    let gone = unix_datagram_client(directory.join("gone"), &path);
    gone.send(b"1").unwrap();
    drop(gone);
    fs::remove_file(directory.join("gone")).unwrap();
    skd.wait_for_log("Finished local datagram");
    assert_eq!(
        ask_unix_datagram(directory.join("client"), &path, b"2"),
        b"2"
    );
}

#[test]
fn a_datagram_from_ipv6_is_answered_over_ipv6() {
    let (prog, args) = datagram_echo();
    let skd = Skd::new(["-u", "[::1]:0"]).run_with(prog, args);
    let address: SocketAddr = (Ipv6Addr::LOCALHOST, skd.port()).into();
    assert_eq!(ask_udp(address, b"six"), b"six");
}
