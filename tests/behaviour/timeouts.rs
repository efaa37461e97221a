//! `--timeout` and `--idle-timeout`: handlers that run too long get TERM, and are then killed.

use crate::harness::{
    DEADLINE, Directory, Namespace, Running, Skd, children, cpu_ticks, descriptors, echo, exists,
    process_group, receive, requires_descriptors, requires_root, run_to_end, settled_descriptors,
    sockets, talk, wait_until,
};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Prints a line, and ignores every signal that can be ignored; so does its child.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 1000; done";

/// Does as the client says: sends a byte every now and then, receives, or does neither.
const OBEDIENT: &str = "read word; echo ready; case $word in \
                        send) while :; do echo; sleep 0.1; done;; \
                        receive) exec cat >/dev/null;; \
                        *) exec sleep 1000;; esac";

const TOLD: &str = ": TERM is sent to it";
const KILLED: &str = " has not ended: KILL is sent to it";

// The limits are long enough for a handler to start on a loaded machine.
fn skd(options: &[&str]) -> Skd {
    Skd::new(["-v", "-t", "127.0.0.1:0"]).args(options)
}

fn shell(options: &[&str], script: &str) -> Running {
    skd(options).run_with("sh", ["-c", script])
}

/// The log line about the end of a handler of this client.
fn line(pid: i32, client: &TcpStream, why: &str) -> String {
    let address = client.local_addr().unwrap();
    let (ip, port) = (address.ip().to_canonical(), address.port());
    format!("skd: handler {pid} of connection from [{ip}]:{port} has {why}: TERM is sent to it")
}

/// Waits until the connection is closed, or reset.
#[track_caller]
fn ends(client: &mut TcpStream) {
    let mut byte = [0];
    loop {
        match client.read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the connection doesn't end: {error}"),
        }
    }
}

#[test]
fn a_handler_that_runs_too_long_is_told_to_end_with_all_of_its_group() {
    let skd = shell(&["--timeout=2s"], "sleep 1000 & echo ready; wait");
    let mut client = skd.connect();
    receive(&mut client, 6);
    let handler = skd.wait_for_children(1)[0];
    let child = children(handler)[0];
    assert_eq!(process_group(child), Some(handler));
    ends(&mut client);
    skd.wait_for_log(&line(handler, &client, "run for 2s"));
    let end = format!("pid {handler} was terminated by signal 15 after ");
    let closed = skd.wait_for_log(&end);
    let seconds = closed.rsplit_once(' ').unwrap().1.trim_end_matches('s');
    assert!(seconds.parse::<f64>().unwrap() >= 2.0, "{closed}");
    wait_until("both end", || !exists(handler) && !exists(child));
    assert_eq!(skd.logged(TOLD).len(), 1);
    assert_eq!(skd.logged(KILLED), [""; 0]);
    // The entry in the table belongs to another handler now, with a timeout of its own.
    let mut client = skd.connect();
    receive(&mut client, 6);
    ends(&mut client);
    skd.wait_for_logs("was terminated by signal 15", 2);
}

#[test]
fn a_handler_that_ignores_term_is_killed_with_all_of_its_group() {
    let skd = shell(&["--timeout=2s", "--kill-after=100ms"], STUBBORN);
    let mut client = skd.connect();
    receive(&mut client, 6);
    let handler = skd.wait_for_children(1)[0];
    let child = children(handler)[0];
    ends(&mut client);
    skd.wait_for_log(&line(handler, &client, "run for 2s"));
    skd.wait_for_log(&format!("skd: handler {handler} of connection from ["));
    skd.wait_for_log(KILLED);
    skd.wait_for_log(&format!("pid {handler} was terminated by signal 9 after "));
    wait_until("both end", || !exists(handler) && !exists(child));
    assert_eq!((skd.logged(TOLD).len(), skd.logged(KILLED).len()), (1, 1));
}

#[test]
fn short_handlers_are_left_alone_and_their_timers_are_removed() {
    let skd = skd(&["--timeout=2s", "--idle-timeout=2s", "--threads=1"]).run("cat");
    let mut long = skd.connect();
    echo(&mut long, b"this one stays");
    for number in 0..50 {
        let text = format!("{number}").into_bytes();
        assert_eq!(talk(skd.connect(), &text), text);
    }
    ends(&mut long);
    skd.wait_for_log("was terminated by signal 15");
    assert_eq!(skd.wait_for_logs("exited with status 0", 50).len(), 50);
    assert_eq!(skd.logged(TOLD).len(), 1, "{:?}", skd.log_lines());
}

#[test]
fn a_unix_connection_has_a_timeout_and_no_idle_timeout() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new(["-vl", &path, "--timeout=2s"]).run("cat");
    let mut client = skd.connect_unix();
    echo(&mut client, b".");
    skd.wait_for_log(" has run for 2s: TERM is sent to it");
    skd.wait_for_log("Closed local connection");
    drop(skd);

    let skd = self::skd(&["-l", &path, "--idle-timeout=2s"]).run("cat");
    let mut unix = skd.connect_unix();
    let mut tcp = skd.connect();
    echo(&mut unix, b".");
    for _ in 0..2 {
        echo(&mut tcp, b".");
        ends(&mut tcp);
        tcp = skd.connect();
    }
    echo(&mut unix, b".");
    assert_eq!(skd.logged("of local connection"), [""; 0]);
}

/// Asserts that an idle connection ends, and that active ones stay, whichever direction is used; for clients
/// that `connect` makes.
fn idle_connections_end(skd: &Running, connect: impl Fn() -> TcpStream) {
    let client = |word: &str| {
        let mut client = connect();
        writeln!(client, "{word}").unwrap();
        receive(&mut client, 6);
        client
    };
    let (mut sent_to, receiver) = (client("send"), client("receive"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                (&receiver).write_all(b".").unwrap();
                thread::sleep(Duration::from_millis(100));
            }
        });
        let before = skd.children();
        let mut idle = client("nothing");
        let handler = *skd
            .wait_for_children(3)
            .iter()
            .find(|pid| !before.contains(pid))
            .unwrap();
        let address = idle.local_addr().unwrap();
        ends(&mut idle);
        skd.wait_for_log(&format!("skd: handler {handler} of connection from ["));
        let told = skd.logged(TOLD);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(" has been idle for 3s"), "{told:?}");
        assert!(told[0].contains(&format!("]:{} ", address.port())));
        skd.wait_until("it has ended", || skd.children().len() == 2);
        over.store(true, Ordering::Relaxed);
    });
    receive(&mut sent_to, 1);
    assert_eq!(skd.logged(TOLD).len(), 1);
    // Now it is idle, and the other isn't.
    let mut receiver = receiver;
    ends(&mut receiver);
    assert_eq!(skd.wait_for_logs(TOLD, 2).len(), 2);
    receive(&mut sent_to, 1);
}

#[test]
fn idle_connections_end_and_slow_ones_do_not() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let skd =
            Skd::new(["-v", "-t", host, "--idle-timeout=3s"]).run_with("sh", ["-c", OBEDIENT]);
        idle_connections_end(&skd, || skd.connect());
    }
}

#[test]
fn ipv4_clients_of_a_dual_stack_socket_are_recognised_too() {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let skd = Skd::new(["-v", "--listen-fd=5", "--idle-timeout=3s"])
        .descriptor(5, listener)
        .run_with("sh", ["-c", OBEDIENT]);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    idle_connections_end(&skd, || skd.connect_to(address));
}

#[test]
fn link_local_clients_and_those_of_an_interface_are_recognised_too() {
    requires_root();
    let namespace = Namespace::new();
    namespace.add_address("fe80::1/64");
    let link_local = |port| SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, 1).into();
    for options in [
        &["-t", "[fe80::1%lo]:0"][..],
        &["-t", "0"],
        &["-t", "127.0.0.1:0", "--device=lo"],
    ] {
        let skd = Skd::new(["-v", "--idle-timeout=3s"])
            .args(options)
            .inside(&namespace)
            .run_with("sh", ["-c", OBEDIENT]);
        let port: u16 = skd.stdout_line().parse().unwrap();
        let address = match options.len() {
            2 => link_local(port),
            _ => SocketAddr::from(([127, 0, 0, 1], port)),
        };
        idle_connections_end(&skd, || skd.connect_to(address));
    }
}

#[test]
fn idle_timeouts_need_no_privilege() {
    requires_root();
    let directory = Directory::public();
    let connections = |skd: &Running| {
        let mut client = skd.connect();
        receive(&mut client, 6);
        ends(&mut client);
        skd.wait_for_log(" has been idle for 2s: TERM is sent to it");
        skd.wait_for_log("was terminated by signal 15");
    };
    let script = ["-c", "echo ready; exec sleep 1000"];
    let options = &["--idle-timeout=2s"][..];
    let other = skd(options).user(65_534, 65_534, []).cwd(directory.path());
    connections(&other.run_with("sh", script));
    let dropped = skd(options).args(["--user", "nobody"]);
    connections(&dropped.run_with("sh", script));
}

#[test]
fn a_handler_that_has_closed_its_connection_is_not_idle() {
    let gone = "echo ready; exec <&- >&-; sleep 4; exit 7";
    let skd = shell(&["--idle-timeout=2s"], gone);
    let mut client = skd.connect();
    receive(&mut client, 6);
    ends(&mut client);
    let mut open = skd.connect();
    receive(&mut open, 6);
    // `open` is kept open by its client, and `client` is closed.
    drop(client);
    skd.wait_for_logs("exited with status 7", 2);
    assert_eq!(skd.logged(TOLD), [""; 0]);

    // With --linger skd has the connection too, and a handler that has closed it can't be told from a silent one.
    let skd = shell(&["--idle-timeout=2s", "--linger=1s"], gone);
    let mut client = skd.connect();
    receive(&mut client, 6);
    skd.wait_for_log(" has been idle for 2s: TERM is sent to it");
    ends(&mut client);

    // But it may run no longer than others.
    let skd = shell(&["--idle-timeout=2s", "--timeout=3s"], gone);
    let mut client = skd.connect();
    receive(&mut client, 6);
    skd.wait_for_log(" has run for 3s: TERM is sent to it");
    skd.wait_for_log("was terminated by signal 15");
}

#[test]
fn a_reset_connection_is_not_idle_and_a_half_closed_one_may_be() {
    let skd = shell(&["--idle-timeout=2s"], "echo ready; sleep 4; exit 7");
    let mut client = skd.connect();
    receive(&mut client, 6);
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    skd.wait_for_log("exited with status 7");
    assert_eq!(skd.logged(TOLD), [""; 0]);

    let mut client = skd.connect();
    receive(&mut client, 6);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    ends(&mut client);
    skd.wait_for_log(" has been idle for 2s: TERM is sent to it");
}

#[test]
fn only_the_handler_has_the_connection() {
    let skd = skd(&["--idle-timeout=1h", "--timeout=1h"]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b".");
    let open = settled_descriptors(skd.pid());
    let connections = sockets(skd.pid()).into_iter();
    assert_eq!(connections.filter(|socket| !socket.is_open()).count(), 0);
    drop(client);
    skd.wait_until("it is reaped", || skd.children().is_empty());
    skd.wait_until("its pidfd is the only new descriptor", || {
        descriptors(skd.pid()).len() == open.len() - 1
    });
}

#[test]
fn a_drain_keeps_the_timeouts() {
    for option in ["--timeout=3s", "--idle-timeout=3s"] {
        let options = &["--drain=1h", "--kill-after=100ms", option];
        let skd = shell(options, STUBBORN);
        let mut client = skd.connect();
        receive(&mut client, 6);
        skd.signal(Signal::SIGTERM);
        skd.wait_for_log("Draining: 1 handler");
        assert_eq!(skd.wait().code(), Some(0), "{option}");
        assert_eq!((skd.logged(TOLD).len(), skd.logged(KILLED).len()), (1, 1));
        skd.wait_for_log("was terminated by signal 9");
    }
}

/// An upgrade that succeeds.
#[track_caller]
fn upgrade(skd: &Running) {
    let before = skd.logged("Upgraded from skd ").len();
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_logs("Upgraded from skd ", before + 1);
}

#[test]
fn an_upgrade_keeps_the_timeouts() {
    for (option, why) in [
        ("--timeout=5s", "run for 5s"),
        ("--idle-timeout=5s", "been idle for 5s"),
    ] {
        let skd = skd(&[option]).run("cat");
        let mut client = skd.connect();
        echo(&mut client, b".");
        let handler = skd.wait_for_children(1)[0];
        upgrade(&skd);
        upgrade(&skd);
        assert_eq!(skd.wait_for_children(1), [handler]);
        ends(&mut client);
        skd.wait_for_log(&line(handler, &client, why));
        skd.wait_for_log("was terminated by signal 15");
        assert_eq!(skd.logged(TOLD).len(), 1);
    }
}

#[test]
fn a_handler_that_got_term_before_an_upgrade_gets_no_other_and_is_killed() {
    let skd = shell(&["--timeout=2s", "--kill-after=5s"], STUBBORN);
    let mut client = skd.connect();
    receive(&mut client, 6);
    skd.wait_for_log(TOLD);
    upgrade(&skd);
    skd.wait_for_log(KILLED);
    skd.wait_for_log("was terminated by signal 9");
    assert_eq!((skd.logged(TOLD).len(), skd.logged(KILLED).len()), (1, 1));
}

#[test]
fn a_thousand_idle_connections_at_once_cost_little() {
    const COUNT: usize = 1_000;
    requires_descriptors(COUNT);
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--idle-timeout=2s"])
        .deadline(6 * DEADLINE)
        .run_with("sleep", ["1000"]);
    let begin = Instant::now();
    let mut clients: Vec<_> = (0..COUNT).map(|_| skd.connect()).collect();
    let before = cpu_ticks(skd.pid());
    for client in &mut clients {
        client.set_read_timeout(Some(6 * DEADLINE)).unwrap();
        ends(client);
    }
    skd.wait_until("all are reaped", || skd.children().is_empty());
    let ticks = cpu_ticks(skd.pid()) - before;
    println!("{ticks} ticks for {COUNT}, all in {:?}", begin.elapsed());
    skd.wait_for_logs("was terminated by signal 15", COUNT);
    assert_eq!(skd.logged(" has been idle for 2s").len(), COUNT);
    // A look at all connections for each would take seconds, and so would spinning.
    assert!(ticks < 200, "{ticks}");
}

#[test]
fn a_kernel_that_reports_no_idle_times_fails_the_start() {
    let netlink = libc::AF_NETLINK as u32;
    for check in [None, Some("--check")] {
        let refused = Skd::new(check)
            .args(["-t", "127.0.0.1:0", "--idle-timeout=1s", "cat"])
            .refusing_bits(libc::SYS_socket, 0, netlink, Errno::EACCES)
            .end();
        refused.expect_refusal(1, &["--idle-timeout", "container", "ermission denied"]);
    }

    let directory = Directory::new();
    let listener = UnixListener::bind(directory.join("socket")).unwrap();
    let refused = Skd::new(["--listen-fd=3", "--idle-timeout=1s", "cat"])
        .descriptor(3, listener)
        .end();
    refused.expect_refusal(1, &["--idle-timeout", "TCP listener", "unix"]);

    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let refused = Skd::new(["--listen-fd=3", "--timeout=1s", "cat"])
        .descriptor(3, datagrams)
        .end();
    refused.expect_refusal(1, &["--timeout", "connections"]);

    requires_root();
    let namespace = Namespace::new();
    let foreign = namespace.enter(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let refused = Skd::new(["--listen-fd=3", "--idle-timeout=1s", "cat"])
        .descriptor(3, foreign)
        .end();
    refused.expect_refusal(1, &["--idle-timeout", "another network namespace"]);

    let path = directory.name("other");
    for options in [
        &["-l", &path, "--idle-timeout=1s"][..],
        &["-u", "127.0.0.1:0", "--idle-timeout=1s"],
        &["-u", "127.0.0.1:0", "--timeout=1s"],
        &["-t", "127.0.0.1:0", "--wait", "--timeout=1s"],
        &["-t", "127.0.0.1:0", "--timeout=0s"],
    ] {
        let refused = run_to_end(options.iter().chain(&["cat"]));
        refused.expect_refusal(2, &["timeout"]);
    }
}
